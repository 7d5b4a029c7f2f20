"""What each codec publishes, held to it: conservation, contraction or variance, bias, ratio; chains and what goes around."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from engine import codec
from engine.errors import FrameError
from engine.kernels import _native
from engine.kernels.plain.quant import payload_size

N = 6144
CODECS = [
    "sign", "ternary", "int2", "int4", "int8", "int2s", "int4s", "int8s", "bf16", "f32", "topk", "topk:values='f32'",
    "topk:density=.1 | int8", "topk:density=.1 | sign", "randomk:density=.2", "randomk:density=.2,scaled=True",
    "rows:width=16,density=.25", "rows:width=16", "lowrank:rank=8", "lowrank | bf16", "threshold", "shared", "fp16", "fp8",
]  # fmt: skip
EXACT = ["topk:values='f32'", "randomk:density=.2", "rows:width=16,density=.25", "rows:width=16", "threshold | f32", "f32"]


def data(kind: str, n: int = N, seed: int = 0) -> np.ndarray:
    r = np.random.default_rng(seed)
    x = r.standard_normal(n)
    made = {"gauss": x, "cube": x**3, "zeros90": np.where(r.random(n) < 0.9, 0, x), "equal": np.full(n, 0.3),
            "spike": np.eye(1, n, n // 2)[0] * 7}  # fmt: skip
    return made[kind].astype(np.float32)


def sent(made, g, step=0, state=None):
    acc = np.zeros_like(g)
    state = made.init(g.size) if state is None else state
    made.decode_add(made.encode(g, state, step), acc)
    return acc, state


def energy(x) -> float:
    return float(np.sum(np.asarray(x, np.float64) ** 2))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["cube", "zeros90", "equal", "spike"])
def test_sparse_codecs_conserve_mass_exactly(name, kind):
    made, g = codec.make(name), data(kind)
    first, state = sent(made, g)
    assert np.array_equal(first + state["residual"], g)
    before = g + state["residual"]
    second, _ = sent(made, g, 1, state)
    assert np.array_equal(second + state["residual"], before)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("kind", ["gauss", "cube", "zeros90", "spike", "equal"])
def test_contraction_and_variance_are_as_published(name, kind):
    made, g = codec.make(name), data(kind)
    bound, runs = made.contraction(N), 1 if not made.unbiased and "randomk" not in name else 60
    lost = np.mean([energy(g - sent(made, g, step)[0]) for step in range(runs)])
    assert lost <= (1 - bound) * energy(g) * (1 + (1e-5 if runs == 1 else 0.25))
    assert bound > 0 or made.unbiased or name in ("threshold", "shared", "fp16", "fp8", "lowrank:rank=8", "lowrank | bf16")
    assert (bound < 0) == made.unbiased


@pytest.mark.parametrize("name", ["int2s", "int4s", "int8s", "randomk:density=.2,scaled=True"])
def test_unbiased_codecs_are(name):
    """Each element's mean over draws is within 5.5 of its own standard errors; so is the mean over elements."""
    made, g, runs = codec.make(name), data("gauss", 2048), 400
    seen = np.array([sent(made, g, step)[0] for step in range(runs)], np.float64)
    step = np.abs(g).max() / {"int2s": 1, "int4s": 7, "int8s": 127}.get(name, np.inf)
    wide = np.sqrt((seen.var(axis=0) + (0.15 * step) ** 2) / runs) + 1e-6  # a rare step may not have been seen
    z = (seen.mean(axis=0) - g) / wide
    assert np.abs(z).max() < 5.5
    assert abs(z.mean()) < 5 / np.sqrt(len(z)) + 0.05
    apart = (seen - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-9)
    for lag in (1, 32):
        assert abs((apart[:, lag:] * apart[:, :-lag]).mean()) < 0.02 + 5 / np.sqrt(apart[:, lag:].size)


@pytest.mark.parametrize("name", CODECS)
def test_ratio_is_as_published(name):
    n = 1 << 18
    made = codec.make(name)
    size = len(made.encode(data("cube", n), made.init(n), 0))
    assert 4 * n / size == pytest.approx(made.ratio(n), rel=0.3 if name.startswith("threshold") else 0.12)


@pytest.mark.parametrize("name", ["topk:density=.05", "int2", "int4", "ternary", "topk:density=.1 | int4"])
def test_feedback_converges_where_its_absence_stalls(name):
    """A quadratic of condition 100 under noise that cancels over two steps: a compressor without memory sends only that."""
    n, steps, rate = 256, 2000, np.float32(2e-3)
    curve = np.random.default_rng(3).permutation(np.geomspace(1, 100, n)).astype(np.float32)

    def left(feedback: bool) -> float:
        made = codec.make(name)
        w, state = np.ones(n, np.float32), made.init(n)
        for step in range(steps):
            if not feedback:
                state["residual"][:] = 0
            g = curve * w
            g[: n // 8] += np.float32(60 if step % 2 else -60)
            move = np.zeros(n, np.float32)
            made.decode_add(made.encode(g * rate, state, step), move)
            w -= move
        return float(np.abs(w[n // 8 :]).mean())

    assert left(True) < 0.15 and left(False) > 0.5


def test_threads_split_by_block_give_the_same_bytes():
    n, block = 40 * 1024 + 77, 1024
    g = data("cube", n)
    for mode in ("int8s", "sign", "int4"):
        whole = [data("gauss", n, 1), np.zeros(payload_size(mode, n), np.uint8), np.zeros(-(-n // block), np.float32)]
        _native.quant_encode(mode, g, whole[0], block, *whole[1:], 9)
        for threads in (2, 3, 5):
            e, out, scales = data("gauss", n, 1), np.zeros_like(whole[1]), np.zeros_like(whole[2])
            edge = [min(n, block * (40 * t // threads + (t == threads))) for t in range(threads + 1)]
            edge[-1] = n

            def part(ends, mode=mode, e=e, out=out, scales=scales):
                a, b = ends
                at = slice(payload_size(mode, a), payload_size(mode, b))
                _native.quant_encode(mode, g[a:b], e[a:b], block, out[at], scales[a // block : -(-b // block)], 9, a)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, pairwise(edge)))
            assert [e.tobytes(), out.tobytes(), scales.tobytes()] == [a.tobytes() for a in whole]


def test_chains_are_fused_and_say_what_can_follow():
    g = data("cube")
    made = codec.make("topk:density=0.05 | int8 | pack:codec=lz4")
    fused = codec.make("topk", density=0.05, values="int8")
    left, right = made.init(N), fused.init(N)
    for step in range(3):  # lossless packing changes neither the values nor the feedback
        one, _ = sent(made, g, step, left)
        two, _ = sent(fused, g, step, right)
        assert one.tobytes() == two.tobytes() and left["residual"].tobytes() == right["residual"].tobytes()
    assert np.allclose(one + left["residual"] - two, right["residual"], atol=1e-6)
    for text in ("int8 | int4", "topk | int8 | bf16", "int8 | pack | pack", "int8 | topk", "topk:values='bf16' | int8"):
        with pytest.raises(ValueError, match=r"chain:|values"):
            codec.make(text)
    with pytest.raises(ValueError, match="one of"):
        codec.make("int9")
    with pytest.raises(ValueError, match="no codec by itself"):
        codec.make("pack").init(3)


def test_packing_shortens_what_can_be_and_refuses_lies():
    g = np.tile(data("gauss", 64), N // 64)
    plain, packed = codec.make("int8"), codec.make("int8 | pack")
    frame = packed.encode(g, packed.init(N), 0)
    assert len(frame) < len(plain.encode(g, plain.init(N), 0)) / 2
    with pytest.raises(FrameError):
        codec.make("int4 | pack").decode_add(frame, np.zeros(N, np.float32))


@pytest.mark.parametrize("name", ["fresh", "same"])
def test_warm_threshold_keeps_its_density(name):
    n, made, total = 1 << 16, codec.make("threshold:density=.01"), 0
    state = made.init(n)
    for step in range(40):
        frame = codec.decode_frame(made.encode(data("cube", n, step if name == "fresh" else 0), state, step))
        total += int.from_bytes(frame.ext[20:24], "little")
    assert total / 40 / n == pytest.approx(0.01, rel=0.15 if name == "fresh" else 0.5)


def test_momentum_and_ef21_speak_the_protocol():
    g = data("gauss")
    made = codec.Momentum(codec.make("topk:density=.1 | f32"), 0.5)
    state, acc = made.init(N), np.zeros(N, np.float32)
    frame = made.encode(g, state, 0)
    made.decode_add(frame, acc)
    gone = acc != 0
    assert gone.sum() == round(0.1 * N) and not state["velocity"][gone].any() and state["velocity"][~gone].all()
    made.encode(g, state, 1)
    assert np.isfinite(state["velocity"]).all()
    made = codec.Ef21(codec.make("int4"))
    state, acc = made.init(N), np.zeros(N, np.float32)
    for step in range(12):
        made.decode_add(made.encode(g, state, step), acc)
    assert energy(acc - g) < 1e-6 * energy(g) and acc.tobytes() == state["estimate"].tobytes()


def test_averaged_residuals_keep_the_iterate_when_ranks_change():
    parts = [{(0, 50): data("gauss", 50, rank)} for rank in range(4)]
    total = codec.gather(parts)[0, 50]
    after = codec.gather(codec.spread(codec.gather(parts), 6, before=4))[0, 50]
    assert np.allclose(after / 6, total / 4, rtol=1e-6, atol=1e-7)


def test_shared_scale_sums_like_mpi_does():
    ranks, made = 5, codec.Shared(bits=8, ranks=5)
    g = [data("cube", 999, rank) for rank in range(ranks)]
    states = [made.init(999) for _ in range(ranks)]
    top = max(made.peak(x, s) for x, s in zip(g, states, strict=True))
    total = np.sum([made.integers(x, s, top) for x, s in zip(g, states, strict=True)], axis=0, dtype=np.int8)
    acc = np.zeros(999, np.float32)
    made.add_sum(total, top, acc)
    assert np.allclose(acc + sum(s["residual"] for s in states), sum(g), atol=1e-4)
    with pytest.raises(ValueError, match="use 16 bits"):
        codec.Shared(bits=8, ranks=128)


def test_targets_that_would_lose_the_sum_are_refused():
    made = codec.make("int8")
    frame = made.encode(data("gauss"), made.init(N), 0)
    for acc in (np.zeros((2, N), np.float32)[:, ::2], np.zeros(N), np.zeros(2 * N, np.float32)[::2]):
        with pytest.raises(ValueError, match="contiguous float32"):
            made.decode_add(frame, acc)


@pytest.mark.parametrize("name", sorted(set(codec.names()) - {"pack", "rows"}))
@pytest.mark.parametrize("n", [0, 1, 61])
def test_zeros_denormals_and_signs_are_defined(name, n):
    made = codec.make(name)
    for value in (0.0, -0.0, 1e-42, -3e38):
        g = np.full(n, value, np.float32)
        acc, state = sent(made, g)
        assert np.isfinite(acc).all() and np.isfinite(state["residual"]).all()


def available_gb() -> float:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6


@pytest.mark.long
def test_more_than_two_to_the_31_elements():
    n = (1 << 31) + 65
    if available_gb() < 14:
        pytest.skip(f"needs 14 GB of memory, found {available_gb():.0f}")
    e = np.zeros(n, np.float32)
    e[-70:] = np.arange(70) - 35
    out, scales = np.zeros(payload_size("sign", n), np.uint8), np.zeros(-(-n // 2304), np.float32)
    _native.quant_encode("sign", None, e, 2304, out, scales)
    back = np.unpackbits(out[-24:], bitorder="little")[: n - (n - 65) // 64 * 64 + 64]
    assert scales[-1] > 0 and not scales[:-2].any() and back.sum() == 35
    index, value = np.zeros(200, np.uint32), np.zeros(200, np.float32)
    at, count, bad = _native.threshold_encode(None, e, 0, 20.0, index, value)
    assert (at, bad) == (n, 0) and count > 0 and (index[:count] >= n - 70).all() and index[count - 1] == n - 1
