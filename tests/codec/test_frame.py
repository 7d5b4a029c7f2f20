import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec.frame import (
    CODECS,
    CORE,
    DTYPES,
    KINDS,
    Delta,
    decode_frame,
    encode_array,
    encode_frame,
    frame_bytes,
    frame_size,
    name_hash,
)
from engine.errors import FrameError
from engine.kernels import _native

GOLDEN = Path(__file__).parents[1] / "golden"


def samples():
    """Frames whose bytes are frozen in tests/golden: a change here is a new format version."""
    delta = Delta(0x1122334455667788, 0x99AABBCCDDEEFF00, 7, 1200).encode()
    return {
        "block": encode_array(
            KINDS["block"], np.arange(6, dtype=np.float32).reshape(2, 3), name=name_hash("model/linear"), new=3
        ),
        "delta": encode_frame(
            KINDS["delta"],
            CODECS["delta"],
            [b"abc", b"", bytes(range(70))],
            dtype="float32",
            shape=(100,),
            base=4,
            new=5,
            ext=delta,
            flags=1,
            modes=[1, 0, 2],
            counts=[3, 0, 9],
            hashes=[11, 0, 2**64 - 1],
        ),
        "empty": encode_frame(KINDS["raw"], CODECS["raw"], []),
    }


@pytest.mark.parametrize("name", ["block", "delta", "empty"])
def test_golden(name):
    kept = (GOLDEN / f"{name}.frame").read_bytes()
    assert frame_bytes(samples()[name]) == kept
    decode_frame(kept).verify()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=200), max_size=6),
    st.binary(max_size=90),
    st.lists(st.integers(0, 2**64 - 1), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
)
def test_decode_undoes_encode(chunks, ext, shape, dtype, kind, word):
    data = frame_bytes(
        encode_frame(kind, 9, chunks, dtype=dtype, shape=shape, ext=ext, name=word, base=word, new=word ^ 1, flags=3)
    )
    frame = decode_frame(data)
    assert [bytes(frame.chunk(i)) for i in range(len(chunks))] == chunks
    assert (frame.kind, frame.codec, frame.dtype, frame.shape, bytes(frame.ext)) == (kind, 9, dtype, tuple(shape), ext)
    assert (frame.name, frame.base, frame.new, frame.flags, frame.size) == (word, word, word ^ 1, 3, len(data))
    assert len(data) % 64 == 0 and frame_size(data[:64]) == len(data)


def reason(data):
    with pytest.raises(FrameError) as caught:
        decode_frame(data).verify()
    return caught.value.message


@pytest.mark.parametrize("name", ["block", "delta", "empty"])
def test_every_prefix_and_every_flipped_bit_is_refused_with_the_reason(name):
    good = frame_bytes(samples()[name])
    head = len(good) - decode_frame(good).payload.nbytes
    for size in range(len(good)):
        assert "cut" in reason(good[:size])
    assert "trailing" in reason(good + b"\0")
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        at = bit // 8
        want = "foreign" if at < 4 else "header checksum" if at < 64 else "table checksum" if at < head else "chunk"
        assert want in reason(bytes(bad)), at


def forge(data, at, value):
    """A frame with a byte changed and its checksums made right again, so that only the layout rules can refuse it."""
    bad = bytearray(data)
    bad[at] = value
    head = 64 * -(-(CORE.size + 24 + 16 + 32) // 64)
    struct.pack_into("<I", bad, 56, _native.crc32c(bytes(bad[64:head])))
    struct.pack_into("<I", bad, 60, _native.crc32c(bytes(bad[:60])))
    return bytes(bad)


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 191), st.integers(0, 255))
def test_a_forged_head_never_reads_outside(at, value):
    good = frame_bytes(encode_array(1, np.arange(6, dtype=np.float32).reshape(2, 3), ext=bytes(24)))
    try:
        frame = decode_frame(forge(good, at, value)).verify()
    except FrameError:
        return
    assert (
        frame.size == len(good) and sum(len(frame.chunk(i)) for i in range(len(frame.chunks))) <= frame.payload.nbytes
    )


def test_another_version_is_named():
    good = frame_bytes(encode_array(1, np.zeros((2, 3), np.float32), ext=bytes(24)))
    assert "version: expected 1, found 2" in reason(forge(good, 4, 2))


def test_views_not_copies_and_refusals():
    data = np.arange(1000, dtype=np.float64)
    buffers = encode_array(1, data)
    assert np.shares_memory(np.frombuffer(buffers[1], np.uint8), data)
    raw = np.frombuffer(frame_bytes(buffers), np.uint8)
    got = decode_frame(raw).array()
    assert np.shares_memory(got, raw) and not got.flags.writeable
    np.testing.assert_array_equal(got, data)
    assert decode_frame(frame_bytes(buffers) * 2, exact=False).size == len(raw)
    with pytest.raises(ValueError, match="contiguous"):
        encode_array(1, data[::2])
    with pytest.raises(ValueError, match="little-endian"):
        encode_array(1, data.astype(">f8"))
    with pytest.raises(ValueError, match="fit"):
        encode_frame(300, 0, [])
    with pytest.raises(ValueError, match="1 chunks"):
        encode_frame(1, 0, [b"x"], modes=[1, 2])
    with pytest.raises(ValueError, match="expected one of"):
        encode_frame(1, 0, [], dtype="complex64")


def test_arrays_keep_every_dtype():
    for name in DTYPES[1:13]:
        data = np.arange(7).astype(name)
        got = decode_frame(frame_bytes(encode_array(1, data))).array()
        assert got.dtype == data.dtype and got.tobytes() == data.tobytes()
    assert decode_frame(frame_bytes(encode_array(1, np.zeros((0, 3), np.float32)))).array().shape == (0, 3)


def test_crc_is_the_same_on_every_path():
    data = np.random.default_rng(0).integers(0, 256, 20000, dtype=np.uint8)
    for size in [*range(40), 767, 768, 769, 6143, 6144, 6145, 7000, 20000]:
        assert len({_native.crc32c(data[:size], 5, isa=isa) for isa in _native.isa_runs()}) == 1
    assert _native.crc32c(b"123456789") == 0xE3069283
    assert _native.crc32c(data[9:], _native.crc32c(data[:9])) == _native.crc32c(data)
