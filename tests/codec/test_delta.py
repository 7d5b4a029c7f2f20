"""Deltas: exact for every dtype and change, bounded where asked, refused on another base, repaired chunk by chunk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import delta as codec
from engine.codec.delta import (
    ChunkError,
    delta_apply,
    delta_check,
    delta_commit,
    delta_compact,
    delta_encode,
    delta_hash,
    delta_head,
    delta_repair,
    hash_rows,
)
from engine.codec.frame import DTYPES, decode_frame, numpy_dtype
from engine.errors import FrameError
from engine.kernels import _native

REAL = ("float16", "bfloat16", "float32", "float64")
ODD = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-40, -1e-40, 5e-324, 3.4e38, 65504.0]


def bits(data):
    return data.reshape(-1).view(np.uint8)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def pair(dtype, n, share, seed, step=1e-4):
    """Base and new: a `share` of elements moves by a little, some by a lot, some to and from special values."""
    draw = np.random.default_rng(seed)
    kind = numpy_dtype(dtype)
    base = (draw.standard_normal(n) * 50).astype(kind)
    with np.errstate(all="ignore"):
        moved = base.astype(np.float64) * (1 + step * draw.standard_normal(n)) if dtype in REAL else base.astype(np.int64) + 3
        new = np.where(draw.random(n) < share, moved.astype(kind), base)
        for one in (base, new):
            at = draw.integers(0, max(1, n), min(n, 8))
            one[at[: len(at) // 2]] = np.array(draw.choice(ODD, len(at) // 2)).astype(kind)
    return base, new


@settings(max_examples=60)
@given(st.sampled_from(DTYPES[1:]), st.sampled_from([0, 1, 2, 3, 511, 4099, 66000]), st.sampled_from([0, 0.001, 0.2, 0.7, 1]),
       st.booleans(), st.integers(0, 99))
def test_exact(dtype, n, share, fast, seed):
    base, new = pair(dtype, n, share, seed)
    kept = base.copy()
    frame = delta_encode(new, base, fast=fast, base_version=7)
    assert same(delta_apply(base, frame, base_version=7), new) and same(base, kept)
    head = delta_head(frame)
    assert (head.base_hash, head.result_hash) == (delta_hash(base), delta_hash(new))
    assert (head.base_version, head.new_version) == (7, 8)
    assert delta_commit(base, frame) == delta_hash(new) and same(base, new)


@settings(max_examples=30)
@given(st.sampled_from(["float32", "float64", "bfloat16"]), st.integers(0, 3000), st.integers(0, 9))
def test_any_bits(dtype, n, seed):
    draw = np.random.default_rng(seed)
    kind = numpy_dtype(dtype)
    base, new = (np.frombuffer(draw.bytes(n * kind.itemsize), kind) for _ in range(2))
    assert same(delta_apply(base, delta_encode(new, base)), new)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "uint8"])
@pytest.mark.parametrize("share", [0.002, 0.3, 1])
@pytest.mark.parametrize("fast", [False, True])
def test_every_path_gives_the_same_bytes(dtype, share, fast, monkeypatch):
    base, new = pair(dtype, 140_000, share, 5)
    frames, found = [], []
    for isa in _native.isa_runs():
        for name in ("delta_encode", "delta_decode"):
            native = getattr(_native, name)
            monkeypatch.setattr(codec._native, name, lambda *a, native=native, isa=isa: native(*a, isa=isa))
        frames.append(delta_encode(new, base, fast=fast))
        found.append(delta_apply(base, frames[-1]))
        monkeypatch.undo()
    assert all(np.array_equal(frame, frames[0]) for frame in frames) and all(same(one, new) for one in found)


def modes(frame):
    return [codec.MODES[entry.mode & 255] for entry in decode_frame(frame).chunks]


def test_modes_follow_the_data():
    draw = np.random.default_rng(3)
    n = codec.SMALL
    base = draw.standard_normal(6 * n).astype(np.float32)
    new = base.copy()
    new[n : 2 * n] *= np.float32(1 + 1e-5)
    new[2 * n : 2 * n + 9000] *= np.float32(1 + 1e-5)
    new[3 * n : 4 * n] = draw.integers(0, 2**32, n, np.uint32).view(np.float32)
    new[4 * n : 5 * n] = 1.5
    new[5 * n + 7] = -0.0
    assert modes(delta_encode(new, base)) == ["zero", "dense", "sparse", "raw", "keyframe", "sparse"]
    assert modes(delta_encode(new, base, fast=True))[1:4] == ["packed", "packed", "raw"]
    assert set(modes(delta_encode(new, None))) == {"keyframe", "raw"}
    frame = delta_encode(new[: 6 * n : 1], base)
    assert same(delta_apply(base, frame), new)
    few = np.tile(base, 6)
    one = few.copy()
    one[5] += 1
    large = delta_encode(one, few)
    assert delta_head(large).chunk == codec.LARGE and len(large) < 400 and same(delta_apply(few, large), one)
    rows = few.reshape(-1, 64).copy()
    rows[[3, 400, 20_000]] += 1
    assert len(delta_encode(rows.reshape(-1), few)) < 3 * 64 * 4 + 600


def test_a_keyframe_needs_no_base():
    new = np.arange(100_000, dtype=np.float32).reshape(100, 1000)
    for how in ("zstd", "lz4", "lzma", "none"):
        frame = delta_encode(new, None, new_version=3, keyframe=how)
        assert same(delta_apply(None, frame), new) and delta_head(frame).new_version == 3
        assert (len(frame) < new.nbytes / 3) == (how != "none")


def states(n, beta=0.9, seed=1):
    """Three versions under a momentum step that hardly turns."""
    draw = np.random.default_rng(seed)
    first = draw.standard_normal(n).astype(np.float32)
    step = (1e-4 * draw.standard_normal(n)).astype(np.float32)
    second = first + step
    return first, second, second + np.float32(beta) * step + (1e-6 * draw.standard_normal(n)).astype(np.float32)


def test_the_predictor_helps_and_is_refused_without_its_version():
    previous, base, new = states(150_000)
    base[3], previous[4], new[5] = np.inf, np.nan, -np.inf
    plain, frame = delta_encode(new, base), delta_encode(new, base, previous=previous, beta=0.9)
    assert len(frame) < 0.75 * len(plain)
    assert same(delta_apply(base, frame, previous=previous), new)
    with pytest.raises(FrameError, match="version before"):
        delta_apply(base, frame)
    with pytest.raises(FrameError, match="wrong base"):
        delta_apply(base, frame, previous=base)
    shadow = base.copy()
    assert delta_commit(shadow, frame, previous=previous) == delta_hash(new) and same(shadow, new)
    away = delta_encode(previous, base, previous=previous)
    assert same(delta_apply(base, away, previous=previous), previous)
    few = base.copy()
    few[::1000] += 1
    rare = delta_encode(few, base, previous=base.copy(), beta=0.9)
    assert same(delta_apply(base, rare, previous=base), few)


@settings(max_examples=40)
@given(st.sampled_from(["float32", "float64"]), st.integers(0, 70_000), st.sampled_from([1e-3, 1e-5, 1e-30, 1e30, 0.1]),
       st.integers(0, 20))
def test_the_bound_holds_for_every_value(dtype, n, bound, seed):
    base, new = pair(dtype, n, 1, seed, step=1e-3)
    result = np.empty_like(new)
    frame = delta_encode(new, base, bound=bound, result=result)
    got = delta_apply(base, frame)
    assert same(got, result) and delta_head(frame).result_hash == delta_hash(result)
    exact = (got.view(np.uint8) == new.view(np.uint8)).reshape(n, new.itemsize)
    with np.errstate(all="ignore"):
        miss = np.abs(got.astype(np.longdouble) - new.astype(np.longdouble))
    assert np.all((miss < bound) | exact.all(axis=1))
    shadow = base.copy()
    delta_commit(shadow, frame)
    assert same(shadow, result)


def test_a_bound_pays():
    base, new = pair("float32", 200_000, 1, 1, step=1e-4)
    assert len(delta_encode(new, base, bound=1e-3)) < 0.4 * len(delta_encode(new, base))
    assert modes(delta_encode(new, base, bound=1e9)) [0] in ("lossy", "zero")


def test_the_wrong_base_is_refused():
    base, new = pair("float32", 5000, 1, 1)
    frame = delta_encode(new, base, base_version=3)
    other = base.copy()
    bits(other)[77] ^= 1
    for call in (delta_apply, delta_check, delta_commit):
        with pytest.raises(FrameError, match="wrong base: expected hash"):
            call(other, frame)
        with pytest.raises(FrameError, match="wrong base: expected version 3, found 4"):
            call(base, frame, base_version=4)
        with pytest.raises(FrameError, match="expected float32"):
            call(base.astype(np.float64), frame)
        with pytest.raises(FrameError, match="its base"):
            call(None, frame)
    with pytest.raises(ChunkError, match="result hash") as caught:
        delta_apply(other, frame, base_hash=delta_hash(base))
    assert caught.value.chunks == (0,)
    with pytest.raises(ValueError, match="in place"):
        delta_apply(base, frame, base)
    with pytest.raises(FrameError, match="delta frame"):
        delta_apply(base, b"".join(codec_frame()))


def codec_frame():
    from engine.codec.frame import encode_array

    return encode_array(1, np.zeros(3, np.float32))


def test_damaged_chunks_are_named_and_repaired():
    base, new = pair("float32", 5 * codec.SMALL + 17, 1, 2)
    frame = delta_encode(new, base)
    head = len(frame) - decode_frame(frame).payload.nbytes
    bad = frame.copy()
    for at in (1, 5):
        bad[head + decode_frame(frame).chunks[at].offset + 40] ^= 16
    shadow = base.copy()
    with pytest.raises(ChunkError, match="2 of 6") as caught:
        delta_commit(shadow, bad)
    assert caught.value.chunks == (1, 5) == delta_check(base, bad) and same(shadow, base)
    repair = delta_repair(new, frame, caught.value.chunks)
    assert len(repair) < 1.1 * (codec.SMALL + 17) * 4 + 1000
    assert same(delta_apply(base, bad, repair=repair), new)
    half = delta_repair(new, frame, [1])
    with pytest.raises(ChunkError) as caught:
        delta_commit(shadow, bad, repair=half)
    assert caught.value.chunks == (5,) and same(shadow, base)
    delta_commit(shadow, bad, repair=repair)
    assert same(shadow, new)
    with pytest.raises(FrameError, match="another delta"):
        delta_apply(base, bad, repair=delta_repair(base, delta_encode(base, new), [0]))
    with pytest.raises(ValueError, match="is not the result"):
        delta_repair(base, frame, [0])


def test_a_chain_is_compacted():
    versions = [pair("float32", 90_000, 1, 4)[0]]
    draw = np.random.default_rng(8)
    frames = []
    for at in range(5):
        versions.append(versions[-1] + (1e-6 * draw.standard_normal(90_000)).astype(np.float32))
        frames.append(delta_encode(versions[-1], versions[-2], base_version=at, previous=versions[-3] if at else None))
    one = delta_compact(versions[0], frames)
    assert same(delta_apply(versions[0], one, base_version=0), versions[-1]) and delta_head(one).new_version == 5
    assert len(one) < 0.4 * sum(map(len, frames))
    with pytest.raises(FrameError, match="frame 1 begins"):
        delta_compact(versions[0], [frames[0], frames[2]])
    with pytest.raises(FrameError, match="wrong base"):
        delta_compact(versions[1], frames)


def test_the_hash_follows_dirty_rows():
    table = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    value, rows = delta_hash(table), np.array([0, 1, 7, 49])
    before = hash_rows(table, rows)
    table[rows] += 1
    assert (value - before + hash_rows(table, rows)) % 2**64 == delta_hash(table)


def test_bad_arguments():
    base, new = pair("float32", 100, 1, 0)
    for options, said in [({"bound": -1.0}, "bound"), ({"bound": np.nan}, "bound"), ({"previous": base[:5]}, "previous is"),
                          ({"result": base[:5]}, "result is"), ({"keyframe": "gzip"}, "gzip")]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            delta_encode(new, None if "keyframe" in options else base, **options)
    for a, b, said in [(new[::2], base[::2], "contiguous"), (new, base[:5], "base is"), (new.astype(complex), None, "dtype"),
                       (new.astype(">f4"), None, "little")]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            delta_encode(a, b)
    with pytest.raises(ValueError, match="bound is for"):
        delta_encode(np.zeros(3, np.int32), np.zeros(3, np.int32), bound=1.0)
    with pytest.raises(ValueError, match="predictor is for"):
        delta_encode(np.zeros(3, np.float64), np.zeros(3, np.float64), previous=np.zeros(3, np.float64))


def test_flips_truncations_and_lies():
    """Every damaged frame is refused; one whose checksums were made right again is refused or gives its named result."""
    base, new = pair("float32", 70_000, 0.6, 1)
    draw = np.random.default_rng(11)
    few = pair("float32", 70_000, 0.01, 1)[1]
    for frame in (delta_encode(new, base), delta_encode(new, base, fast=True), delta_encode(few, base)):
        opened = decode_frame(frame)
        head = len(frame) - opened.payload.nbytes
        for _ in range(150):
            bad = frame.copy()
            bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
            with pytest.raises(FrameError):
                delta_apply(base, bad)
            with pytest.raises(FrameError):
                delta_apply(base, frame[: draw.integers(len(frame))])
            lie = frame.copy()
            entry = opened.chunks[draw.integers(len(opened.chunks))]
            lie[head + entry.offset + draw.integers(max(1, entry.length))] ^= 1 << draw.integers(8)
            try:
                got = delta_apply(base, resealed(lie))
            except ChunkError:
                continue
            assert delta_hash(got) == delta_head(frame).result_hash


def resealed(frame):
    """The frame with the checksum of every chunk, the table and the header made right for the bytes as they are."""
    from engine.codec.frame import CORE

    raw = bytearray(frame.tobytes())
    count, ext = int.from_bytes(raw[12:16], "little"), int.from_bytes(raw[48:52], "little")
    table = CORE.size + ext + 8 * raw[9]
    start = -(-(table + 32 * count) // 64) * 64
    for at in range(table, table + 32 * count, 32):
        offset, length = int.from_bytes(raw[at : at + 8], "little"), int.from_bytes(raw[at + 8 : at + 12], "little")
        crc = _native.crc32c(bytes(raw[start + offset : start + offset + -(-length // 64) * 64]))
        raw[at + 20 : at + 24] = crc.to_bytes(4, "little")
    raw[56:60] = _native.crc32c(bytes(raw[64:start])).to_bytes(4, "little")
    raw[60:64] = _native.crc32c(bytes(raw[:60])).to_bytes(4, "little")
    return bytes(raw)


@pytest.mark.long
def test_a_hundred_thousand_faults_are_refused():
    """Single bits, cuts, and lies under checksums made right again, over frames of every mode: all are refused."""
    draw = np.random.default_rng(1)
    base, new = pair("float32", 9000, 1, 3)
    few = pair("float32", 9000, 0.02, 3)[1]
    result = np.empty_like(new)
    frames = [
        delta_encode(new, base), delta_encode(new, base, fast=True), delta_encode(few, base),
        delta_encode(new, None), delta_encode(new, base, bound=1e-3, result=result), delta_encode(new, base, previous=base),
    ]  # fmt: skip
    refused = same_result = 0
    for turn in range(100_000):
        frame = frames[turn % len(frames)]
        bad, lies = bytearray(frame.tobytes()), turn % 10 == 9
        if turn % 3 == 2 and not lies:
            bad = bad[: draw.integers(len(bad))]
        else:
            first = len(frame) - decode_frame(frame).payload.nbytes if lies else 0
            bad[draw.integers(first, len(bad))] ^= 1 << draw.integers(8)
        try:
            got = delta_apply(base, resealed(np.frombuffer(bad, np.uint8)) if lies else bytes(bad), previous=base)
        except FrameError:
            refused += 1
            continue
        assert lies and delta_hash(got) == delta_head(frame).result_hash
        same_result += 1
    assert refused + same_result == 100_000 and same_result < 1000
