"""Gradient codecs as a whole: frames, exact k, conservation, telescoping, and what error feedback is for."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codec import make as codec
from engine.codec import names, sparse
from engine.errors import FrameError

NAMES = [n for n in names() if n not in ("pack", "rows")]
NAMES += ["topk | int8 | pack", "rows:width=1", "threshold:density=.05 | fp8"]


def data(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n).astype(np.float32)) ** 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 997, 5000])
def test_sent_and_residual_telescope(name, n):
    made = codec(name)
    state, sent, total = made.init(n), np.zeros(n, np.float32), np.zeros(n)
    for step in range(6):
        g = data(n, step)
        frame = made.encode(g, state, step)
        made.decode_add(frame, sent)
        total += g
    assert np.allclose(
        sent + state["residual"].astype(np.float64), total, atol=2e-5 * max(1.0, float(np.abs(total).max(initial=0)))
    )


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_refused_when_cut_flipped_or_foreign(name):
    made = codec(name)
    frame = made.encode(data(997), made.init(997), 0)
    acc = np.zeros(997, np.float32)
    for cut in range(0, len(frame), max(1, len(frame) // 40)):
        with pytest.raises(FrameError):
            made.decode_add(frame[:cut], acc)
    r = np.random.default_rng(0)
    for bit in r.integers(0, len(frame) * 8, 60):
        broken = bytearray(frame)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError):
            made.decode_add(bytes(broken), acc)
    with pytest.raises(FrameError):
        made.decode_add(frame, np.zeros(996, np.float32))
    with pytest.raises(FrameError):
        codec("int8" if name != "int8" else "topk").decode_add(frame, acc)
    assert not acc.any()


@pytest.mark.parametrize("name", NAMES)
def test_other_floats_in(name):
    import ml_dtypes

    made, g = codec(name), data(997)
    for dtype in (np.float64, ml_dtypes.bfloat16):
        state, acc = made.init(997), np.zeros(997, np.float32)
        made.decode_add(made.encode(g.astype(dtype), state, 0), acc)
        assert np.allclose(acc + state["residual"], g.astype(dtype).astype(np.float32), rtol=1e-5, atol=1e-5)


CASES = {
    "cube": data(200_000),
    "equal": np.full(100_000, 0.5, np.float32),
    "zero": np.zeros(100_000, np.float32),
    "narrow": 1 + np.random.default_rng(1).random(100_000, np.float32) * np.float32(1e-6),
    "sparse": np.where(np.random.default_rng(2).random(100_000) < 0.999, 0, data(100_000)).astype(np.float32),
    "tiny": data(100_000) * np.float32(1e-40) + 0,
}


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("k", [0, 1, 100, 3333, 10**6])
@pytest.mark.parametrize("t", [-1.0, 0.0, 1e-3, 1e30])
def test_topk_is_a_stable_sort(case, k, t):
    g = CASES[case]
    k = min(k, len(g))
    if t == 0 and k > 3333:
        return
    e = np.zeros_like(g)
    index, value, _, _ = sparse.topk_encode(g, e, k, t)
    want = np.sort(np.argsort(-np.abs(g), kind="stable")[:k])
    assert np.array_equal(index, want) and value.tobytes() == g[want].tobytes()
    e[index] += value
    assert np.array_equal(e, g)


def test_topk_skips_and_counts_what_is_not_finite():
    g = data(5000)
    g[[5, 6]] = np.nan, -np.inf
    e = np.full(5000, 1e-3, np.float32)
    index, _, _, bad = sparse.topk_encode(g, e, 50)
    assert bad == 2 and not set(index) & {5, 6} and np.isfinite(e).all()


def test_sizes_on_the_wire():
    n = 1 << 22
    bars = {"sign": 31.5, "int4": 7.8, "int8": 3.95}
    for name, bar in bars.items():
        made = codec(name)
        assert 4 * n / len(made.encode(data(n), made.init(n), 0)) >= bar
    for density, bar in ((0.01, 120), (0.001, 1100)):
        made = codec("topk", density=density)
        size = len(made.encode(data(n), made.init(n), 0))
        assert 4 * n / size >= bar, (density, 4 * n / size)
        assert made.ratio(n) == pytest.approx(4 * n / size, rel=0.05)


def test_topk_with_error_feedback_converges_and_without_stalls():
    n = 512
    curve = np.geomspace(1, 100, n).astype(np.float32)

    def run(feedback: bool) -> float:
        made = codec("topk", density=0.01)
        w, state = np.ones(n, np.float32), made.init(n)
        for step in range(4000):
            if not feedback:
                state["residual"][:] = 0
            move = np.zeros(n, np.float32)
            made.decode_add(made.encode(curve * w * np.float32(1e-3), state, step), move)
            w -= move
        return float(np.abs(w).max())

    assert run(True) < 0.05 and run(False) > 0.9


def test_sign_goes_the_wrong_way_without_error_feedback():
    """Gradients of 4 once in four, else -1: the mean is up, most signs are down (Karimireddy et al. 2019, sec. 3)."""
    made, r, n = codec("sign"), np.random.default_rng(0), 4096
    sent = {True: np.zeros(n, np.float32), False: np.zeros(n, np.float32)}
    for feedback, acc in sent.items():
        state = made.init(n)
        for step in range(300):
            if not feedback:
                state["residual"][:] = 0
            made.decode_add(made.encode(np.where(r.random(n) < 0.25, 4, -1).astype(np.float32), state, step), acc)
    assert sent[True].mean() / 300 == pytest.approx(0.25, abs=0.03) and sent[False].mean() / 300 < -0.5
