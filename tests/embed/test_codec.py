"""The codecs of libengine.so without Python: the same frames as engine.codec, byte for byte, both ways."""
import ctypes
import os
import subprocess

import numpy as np
import pytest

from engine import lib
from engine.codec import quant, sparse  # noqa: F401 (they register)
from engine.codec.base import codec
from engine.codec.delta import delta_apply, delta_encode, delta_hash
from tests.embed.conftest import compiled

LIBRARY = ctypes.CDLL(str(lib.HOME / "libengine.so"))
LIBRARY.engine_error.restype = ctypes.c_char_p
LIBRARY.engine_encode_bound.restype = LIBRARY.engine_delta_bound.restype = ctypes.c_size_t
LIBRARY.engine_delta_hash.restype = ctypes.c_uint64
DTYPES = {"int8": 1, "uint8": 2, "int16": 3, "uint16": 4, "int32": 5, "uint32": 6, "int64": 7, "uint64": 8,
          "float32": 10, "float64": 11}


class Options(ctypes.Structure):
    _fields_ = [("block", ctypes.c_uint32), ("density", ctypes.c_double), ("seed", ctypes.c_uint64), ("step", ctypes.c_uint64),
                ("stream", ctypes.c_uint64)]


class DeltaOptions(ctypes.Structure):
    _fields_ = [("base_version", ctypes.c_uint64), ("new_version", ctypes.c_uint64), ("step", ctypes.c_uint64),
                ("bound", ctypes.c_double), ("fast", ctypes.c_int), ("result", ctypes.c_void_p)]


def at(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def error():
    return LIBRARY.engine_error(None).decode()


def encode(name, g, e, **options):
    given = Options(**options)
    room = ctypes.c_size_t(LIBRARY.engine_encode_bound(name.encode(), ctypes.c_size_t(len(g)), ctypes.byref(given)))
    out = np.empty(room.value // 8 + 1, np.uint64).view(np.uint8)
    code = LIBRARY.engine_encode(name.encode(), at(g), at(e), ctypes.c_size_t(len(g)), ctypes.byref(given), at(out),
                                 ctypes.byref(room))
    assert code == 0, error()
    return out[:room.value].tobytes()


def decode_add(frame, acc):
    held = np.zeros(len(frame) // 8 + 1, np.uint64).view(np.uint8)
    held[:len(frame)] = np.frombuffer(frame, np.uint8)
    return LIBRARY.engine_decode_add(at(held), ctypes.c_size_t(len(frame)), at(acc), ctypes.c_size_t(len(acc)))


def values(n, seed=0):
    rng = np.random.default_rng(seed)
    g = (rng.normal(size=n) * np.exp2(rng.integers(-12, 12, n))).astype(np.float32)
    if n > 40:
        g[7], g[33] = np.inf, np.nan
    return g


CODECS = ["sign", "ternary", "int2", "int4", "int8", "int2s", "int4s", "int8s", "bf16", "fp16", "fp8", "topk", "topk.fp16",
          "topk.fp8", "topk.f32"]


def made(name):
    kind, _, sent = name.partition(".")
    if kind == "topk":
        return codec("topk", density=0.01, values=sent or "bf16")
    return codec(name, seed=5, stream=3) if name.endswith("s") else codec(name)


@pytest.mark.parametrize("name", CODECS)
def test_frames_are_those_of_the_package(name):
    for n in (0, 1, 63, 64, 65, 1000, 5000, 70_001, 300_000):
        ours, theirs = np.zeros(n, np.float32), made(name).init(n)
        options = {"seed": 5, "stream": 3} if name.endswith("s") else {}
        for step in range(3):  # the residual is carried on
            g = values(n, step)
            frame = encode(name, g, ours, step=step, **options)
            assert frame == made(name).encode(g, theirs, step), f"{n} elements, step {step}"
            assert ours.tobytes() == theirs["residual"].tobytes()
            one, two = np.ones(n, np.float32), np.ones(n, np.float32)
            assert decode_add(frame, one) == 0, error()
            made(name).decode_add(frame, two)
            assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("name", ["int4", "fp16", "topk", "topk.f32"])
def test_a_damaged_frame_is_refused_and_adds_nothing(name):
    g = values(700)
    frame = encode(name, g, np.zeros(700, np.float32))
    acc = np.ones(700, np.float32)
    damaged = [frame[:size] for size in range(len(frame))] + [frame + b"\0"]
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for bad in damaged:
        assert decode_add(bad, acc) == 65
    assert (acc == 1).all()
    assert decode_add(frame, np.ones(699, np.float32)) == 65 and "699" in error()


def test_mistakes_are_codes():
    g = values(64)
    room = ctypes.c_size_t(10)
    assert LIBRARY.engine_encode(b"int9", at(g), at(g), 64, None, at(g), ctypes.byref(room)) == 64 and "int9" in error()
    assert LIBRARY.engine_encode(b"int8", at(g), None, 64, None, at(g), ctypes.byref(room)) == 64 and "NULL" in error()
    assert LIBRARY.engine_encode(b"int8", at(g), at(g), 64, None, at(g), ctypes.byref(room)) == 64 and "bound" in error()
    assert room.value == LIBRARY.engine_encode_bound(b"int8", ctypes.c_size_t(64), None)
    wrong = Options(block=100)
    assert LIBRARY.engine_encode(b"int8", at(g), at(g), 64, ctypes.byref(wrong), at(g), ctypes.byref(room)) == 64
    assert "multiple of 64" in error()
    assert LIBRARY.engine_encode_bound(b"int9", ctypes.c_size_t(64), None) == 0
    assert LIBRARY.engine_delta_bound(ctypes.c_size_t(64), 99) == 0


def delta(now, base, **options):
    given = DeltaOptions(new_version=1, **options)
    kind = DTYPES[now.dtype.name]
    room = ctypes.c_size_t(LIBRARY.engine_delta_bound(ctypes.c_size_t(now.size), kind))
    out = np.empty(room.value // 8 + 1, np.uint64).view(np.uint8)
    code = LIBRARY.engine_delta_encode(at(now), at(base), ctypes.c_size_t(now.size), kind, ctypes.byref(given), at(out),
                                       ctypes.byref(room))
    assert code == 0, error()
    return out[:room.value]


def apply(base, frame, like):
    out = np.empty_like(like)
    code = LIBRARY.engine_delta_apply(at(base), at(frame), ctypes.c_size_t(len(frame)), at(out), ctypes.c_size_t(out.size),
                                      DTYPES[like.dtype.name])
    return code, out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("changed", [0, 3, 0.01, 1.0])
def test_deltas_are_those_of_the_package(dtype, changed):
    rng = np.random.default_rng(1)
    for n in (0, 1, 1000, 200_000):
        base = rng.integers(0, 100, n).astype(dtype) if np.dtype(dtype).kind in "iu" else rng.normal(size=n).astype(dtype)
        now = base.copy()
        where = rng.integers(0, max(n, 1), int(changed * n) if isinstance(changed, float) else min(changed, n))
        now[where] += np.ones(len(where), dtype) if np.dtype(dtype).kind in "iu" else (1e-3 * now[where]).astype(dtype)
        frame = delta(now, base)
        assert frame.tobytes() == delta_encode(now, base, keyframe="none").tobytes()
        code, out = apply(base, frame, now)
        assert code == 0, error()
        assert out.tobytes() == now.tobytes() == delta_apply(base, frame).tobytes()
        assert LIBRARY.engine_delta_hash(at(now), ctypes.c_size_t(now.nbytes)) == delta_hash(now)
        whole = delta(now, None)
        assert whole.tobytes() == delta_encode(now, None, keyframe="none", new_version=1).tobytes()
        assert apply(None, whole, now)[1].tobytes() == now.tobytes()


def test_bounded_deltas_and_wrong_bases():
    rng = np.random.default_rng(2)
    base = rng.normal(size=70_000).astype(np.float32)
    now = base + rng.normal(size=70_000).astype(np.float32) * 1e-3
    result, theirs = np.empty_like(now), np.empty_like(now)
    frame = delta(now, base, bound=1e-4, result=result.ctypes.data)
    assert frame.tobytes() == delta_encode(now, base, bound=1e-4, keyframe="none", result=theirs).tobytes()
    code, out = apply(base, frame, now)
    assert code == 0 and out.tobytes() == result.tobytes() and np.abs(out - now).max() < 1e-4
    assert apply(now, frame, now)[0] == 65 and "wrong base" in error()
    assert apply(None, frame, now)[0] == 65 and "needs its base" in error()
    assert apply(base, delta_encode(np.zeros_like(now), None), now)[0] == 65 and "blosc2" in error()
    for byte in range(0, len(frame), 997):
        flipped = frame.copy()
        flipped[byte] ^= 16
        assert apply(base, flipped, now)[0] == 65


def test_a_c_program_needs_no_python(tmp_path):
    source = tmp_path / "codec.c"
    source.write_text("""
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
int main(void) {
    enum { N = 1000 };
    float g[N], e[N] = {0}, acc[N] = {0};
    for (int i = 0; i < N; i++) g[i] = (float)(i % 17 - 8) / 7;
    size_t size = engine_encode_bound("int8", N, NULL);
    void *frame = malloc(size);
    if (engine_encode("int8", g, e, N, NULL, frame, &size) || engine_decode_add(frame, size, acc, N)) return 1;
    float worst = 0;
    for (int i = 0; i < N; i++) {
        float d = acc[i] + e[i] - g[i];
        worst = d * d > worst ? d * d : worst;
    }
    printf("%d %d\\n", size < 2 * N, worst < 1e-10f);
    free(frame);
    return 0;
}""")
    program = compiled(source, tmp_path / "codec")
    kept = ("LD_LIBRARY_PATH", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")  # of a run under sanitizers
    clean = {"PATH": "/usr/bin:/bin", **{name: os.environ[name] for name in kept if name in os.environ}}
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=clean)
    assert done.stdout.split() == ["1", "1"], done.stderr
