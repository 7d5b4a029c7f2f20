"""Deltas of two versions on one thread: an Adam step, bfloat16 copies of it, index sets; XOR + blosc2-zstd and memcpy beside."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bench.peers import Peer, peer
from bench.registry import Setting, case
from bench.row import Row, row
from bench.timing import alone, paired
from engine.codec.delta import delta_apply, delta_encode, delta_hash
from engine.codec.index import HEAD, index_decode, index_encode
from engine.types import Array

LARGE = 1 << 24
BETA = 0.9  # of the predictor: Adam's own


@lru_cache(maxsize=1)
def adam_states(n: int, rate: float, seed: int = 3) -> tuple[Array, Array, Array]:
    """Three successive float32 versions of n weights (He-initialised, fan-in 2048) under Adam with its moments settled.

    The gradients are heavy-tailed (a gaussian cubed) around a scale of their own a weight, drawn anew each step.
    """
    draw = np.random.default_rng(seed)
    weight = draw.standard_normal(n, dtype=np.float32) * np.float32((2 / 2048) ** 0.5)
    scale = np.exp(draw.standard_normal(n, dtype=np.float32))
    first, second = np.zeros(n, np.float32), 15 * scale * scale
    versions = []
    for step in range(24):
        g = draw.standard_normal(n, dtype=np.float32)
        g *= g * g
        g *= scale
        first = np.float32(0.9) * first + np.float32(0.1) * g
        second = np.float32(0.999) * second + np.float32(0.001) * g * g
        if step >= 22:
            versions.append(weight)
            weight = weight - np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))
    return versions[0], versions[1], weight


@contextmanager
def xor(base: Array, new: Array, direction: str) -> Iterator[Any]:
    """The peer on the same two arrays."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {"base": base, "new": new}
        for name, data in paths.items():
            np.save(Path(folder) / f"{name}.npy", data.view(f"u{data.itemsize}"))
        with peer("xor", **{name: str(Path(folder) / f"{name}.npy") for name in paths}, direction=direction) as made:
            yield made


@case("delta", "adam1e-5")
def adam(setting: Setting) -> Iterator[Row]:
    """Encode, and decode to a shadow: hashes, checksums and the mode choice inside; the base hash is kept by the caller."""
    _, base, new = adam_states(LARGE, 1e-5)
    known, shadow = delta_hash(base), np.empty_like(base)
    frame = delta_encode(new, base, base_hash=known)
    calls = {"encode": lambda: len(delta_encode(new, base, base_hash=known)),
             "decode": lambda: delta_apply(base, frame, shadow, base_hash=known) is None}
    for name, limit in (("encode", 1 / 2.3), ("decode", 1 / 3)):
        shrink = base.nbytes / len(frame)
        label = "adam1e-5" if name == "encode" else "adam1e-5.decode"
        with xor(base, new, name) as theirs:
            if not isinstance(theirs, Peer):
                series = alone(calls[name], setting.rounds, setting.seconds / 2)
                yield row(label, series.median(), "s", "xor + blosc2-zstd", spread=series.spread(), note=str(theirs), shrink=shrink,
                          bars={"shrink": ">= 2.5"})
                continue
            pair = paired(calls[name], theirs, setting.rounds, setting.seconds)
            yield row(label, pair.ours.median(), "s", "xor + blosc2-zstd", pair.theirs.median(), pair.ratio(), pair.spread(),
                      {"shrink": ">= 2.5", "size_ratio": "<= 0.92", "ratio": f"<= {limit:.3f}"}, shrink=shrink,
                      size_ratio=len(frame) / pair.theirs.result["bytes"])
    assert np.array_equal(shadow.view(np.uint32), new.view(np.uint32))


@case("delta", "adam1e-5.predictor")
def predictor(setting: Setting) -> Iterator[Row]:
    """The same with the version before the base: encode and decode against memcpy."""
    previous, base, new = adam_states(LARGE, 1e-5)
    known, before, shadow = delta_hash(base), delta_hash(previous), np.empty_like(base)
    options = {"base_hash": known, "previous": previous}

    def encode() -> Array:
        return delta_encode(new, base, previous_hash=before, beta=BETA, **options)

    frame = encode()
    copy = np.empty_like(base)
    for name, call in (("adam1e-5.predictor", encode), ("adam1e-5.predictor.decode", lambda: delta_apply(base, frame, shadow, **options))):
        pair = paired(call, lambda: np.copyto(copy, new), setting.rounds, setting.seconds / 4)
        yield row(name, pair.ours.median(), "s", "memcpy", pair.theirs.median(), pair.ratio(), pair.spread(), {"shrink": ">= 2.8"},
                  shrink=base.nbytes / len(frame))


@case("delta", "adam1e-5.fast")
def fast(setting: Setting) -> Iterator[Row]:
    """Bit-packing: speed as a share of memcpy's."""
    _, base, new = adam_states(LARGE, 1e-5)
    known, shadow, copy = delta_hash(base), np.empty_like(base), np.empty_like(base)
    frame = delta_encode(new, base, base_hash=known, fast=True)
    for name, call, limit in (("adam1e-5.fast", lambda: delta_encode(new, base, base_hash=known, fast=True), 0.55),
                              ("adam1e-5.fast.decode", lambda: delta_apply(base, frame, shadow, base_hash=known), 0.70)):
        pair = paired(call, lambda: np.copyto(copy, new), setting.rounds, setting.seconds / 4)
        yield row(name, base.nbytes / pair.ours.median() / 1e9, "GB/s", "memcpy", base.nbytes / pair.theirs.median() / 1e9, 1 / pair.ratio(),
                  pair.spread(), {"shrink": ">= 1.55", "ratio": f">= {limit}"}, shrink=base.nbytes / len(frame))


@case("delta", "bound")
def bound(setting: Setting) -> Iterator[Row]:
    """Bounded loss: a tenth of the update's rms; every value checked here once more."""
    _, base, new = adam_states(LARGE, 1e-5)
    known, limit, got = delta_hash(base), float(np.sqrt(np.mean((new - base).astype(np.float64) ** 2))) / 10, np.empty_like(base)
    frame = delta_encode(new, base, base_hash=known, bound=limit, result=got)
    broken = int(np.count_nonzero(~(np.abs(delta_apply(base, frame).astype(np.float64) - new) < limit)))
    series = alone(lambda: delta_encode(new, base, base_hash=known, bound=limit, result=got), setting.rounds, setting.seconds / 4)
    yield row("bound.0.1rms", series.median(), "s", "none", spread=series.spread(), bars={"violations": "<= 0"},
              violations=broken, bits_a_value=8 * len(frame) / base.size)


@case("delta", "bf16")
def bf16(setting: Setting) -> Iterator[Row]:
    """bfloat16 copies of two versions: bits for each element that changed, against XOR + blosc2-zstd."""
    for name, rate, limit in (("bf16.0.5%", 1.95e-7, 11.5), ("bf16.3.4%", 1.62e-6, 8.9)):
        draw = np.random.default_rng(9)
        weight = draw.standard_normal(LARGE, dtype=np.float32) * np.float32((2 / 2048) ** 0.5)
        step = np.float32(rate) * draw.standard_normal(LARGE, dtype=np.float32)
        base, new = weight.astype(ml_dtypes.bfloat16), (weight + step).astype(ml_dtypes.bfloat16)
        changed = int(np.count_nonzero(base.view(np.uint16) != new.view(np.uint16)))
        known = delta_hash(base)
        frame = delta_encode(new, base, base_hash=known)
        bits = 8 * len(frame) / changed
        with xor(base, new, "encode") as theirs:
            if not isinstance(theirs, Peer):
                yield row(name, None, "s", "xor + blosc2-zstd", note=str(theirs), bits=bits, bars={"bits": f"<= {limit}"})
                continue
            pair = paired(lambda new=new, base=base, known=known: len(delta_encode(new, base, base_hash=known)), theirs, 3, setting.seconds / 4)
            yield row(name, pair.ours.median(), "s", "xor + blosc2-zstd", pair.theirs.median(), pair.ratio(), pair.spread(),
                      {"bits": f"<= {limit}"}, bits=bits, changed=changed / LARGE, baseline_bits=8 * pair.theirs.result["bytes"] / changed)


@case("delta", "index")
def index(setting: Setting) -> Iterator[Row]:
    """A sorted set of 1 % of 2^26 places: bits over the entropy, indices a second both ways."""
    n = 1 << 26
    at = np.flatnonzero(np.random.default_rng(4).random(n, np.float32) < 0.01).astype(np.uint32)
    share = len(at) / n
    entropy = -(np.log2(share) + (1 - share) / share * np.log2(1 - share))
    data = index_encode(at, n)
    over = 8 * (len(data) - HEAD.size) / len(at) - entropy
    for name, call, limit in (("index.1%", lambda: index_encode(at, n), 0.7), ("index.1%.decode", lambda: index_decode(data), 1.3)):
        series = alone(call, setting.rounds, setting.seconds / 4)
        yield row(name, len(at) / series.median() / 1e9, "G indices/s", "none", spread=series.spread(),
                  bars={"value": f">= {limit}", "over_entropy": "<= 0.2"}, over_entropy=over)


@case("delta", "memcpy")
def memcpy(setting: Setting) -> Iterator[Row]:
    """The copy of n float32, read and written."""
    base, copy = np.ones(LARGE, np.float32), np.empty(LARGE, np.float32)
    series = alone(lambda: np.copyto(copy, base), setting.rounds, 4)
    yield row("memcpy", 8 * LARGE / series.median() / 1e9, "GB/s", "none", spread=series.spread())
