"""What runs on the two ranks of `bench comm delta.adam`: a step of Adam sent raw, as XOR + blosc2-zstd, as deltas, in pieces.

`python -m bench.stepped N ROUNDS`: rank 0 makes and sends piece by piece while pieces before it are under way; rank 1 makes the
new version of each as it comes. All three ways go through the same pipeline; pieces are of 2^18 float32.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.delta import adam_states
from bench.wire import timed
from engine import guard
from engine.codec.delta import delta_apply, delta_encode, delta_hash
from engine.codec.frame import decode_frame
from engine.codec.pack import pack_decode, pack_encode
from engine.comm.world import World, finish
from engine.types import Array

PIECE, TAG, AHEAD = 1 << 18, 5, 4
Way = tuple[Callable[[int], Array], Callable[[int, Array], None]]


def ways(base: Array, new: Array, out: Array) -> dict[str, Way]:
    """By name: what the sender makes of piece i, and what the receiver does with it, which leaves `out` as `new`."""
    cuts = [slice(a, min(len(new), a + PIECE)) for a in range(0, len(new), PIECE)]
    known = [delta_hash(base[cut]) for cut in cuts]
    bits, mixed = out.view(np.uint32), np.empty(PIECE, np.uint32)

    def xor(i: int) -> Array:
        part = mixed[: len(new[cuts[i]])]
        np.bitwise_xor(base[cuts[i]].view(np.uint32), new[cuts[i]].view(np.uint32), out=part)
        return np.frombuffer(pack_encode(part, 4), np.uint8)

    def xor_back(i: int, data: Array) -> None:
        part = mixed[: len(new[cuts[i]])]
        pack_decode(data, part)
        np.bitwise_xor(base[cuts[i]].view(np.uint32), part, out=bits[cuts[i]])

    def raw_back(i: int, data: Array) -> None:
        out[cuts[i]] = data.view(np.float32)

    def delta(i: int) -> Array:
        return delta_encode(new[cuts[i]], base[cuts[i]], base_hash=known[i])

    def delta_back(i: int, data: Array) -> None:
        delta_apply(base[cuts[i]], decode_frame(data), out[cuts[i]], base_hash=known[i])

    return {"raw": (lambda i: new[cuts[i]].view(np.uint8), raw_back), "xor": (xor, xor_back), "delta": (delta, delta_back)}


def main() -> None:
    n, rounds = int(sys.argv[1]), int(sys.argv[2])
    guard.keep_memory()  # as a job does
    link = World(timeout_s=120)
    _, base, new = adam_states(n, 1e-5)
    out = np.zeros_like(base)
    made = ways(base, new, out)
    times: dict[str, list[float]] = {name: [] for name in made}
    sizes = dict.fromkeys(made, 0)
    pieces = -(-n // PIECE)

    def send(encode: Callable[[int], Array]) -> int:
        going: list[Any] = []
        size = 0
        for i in range(pieces):
            data = encode(i)
            size += data.nbytes
            going.append((link.send(data, 1, name="pieces", tag=TAG), data))
            for one, _ in going[-8:]:
                one.test()  # drives what is under way
        for one, _ in going:
            one.wait()
        return size

    def receive(decode: Callable[[int, Array], None]) -> int:
        coming: list[tuple[Any, Array]] = []  # announced, and on their way while a piece before them is decoded
        for i in range(pieces):
            if coming:
                moving, data = coming.pop(0)
                moving.wait()
            else:
                data = link.take(0, name="pieces", tag=TAG)
            while len(coming) < min(AHEAD, pieces - i - 1) and (found := link.probe(tag=TAG, source=0)) is not None:
                room = np.empty(found[1], np.uint8)
                coming.append((link.recv(room, 0, name="pieces", tag=TAG), room))
            decode(i, data)
        return 0

    for turn in range(rounds + 1):
        for name in (list(made) if turn % 2 else list(made)[::-1]):
            out[:] = 0

            def act(name: str = name) -> None:
                encode, decode = made[name]
                sizes[name] = send(encode) if link.rank == 0 else receive(decode)

            seconds = timed(link, act)
            if link.rank == 1 and not np.array_equal(out.view(np.uint32), new.view(np.uint32)):
                raise SystemExit(f"{name}: what came is not what was sent")
            if turn:
                times[name].append(seconds)
    if link.rank == 0:
        print(json.dumps({"times": times, "bytes": sizes}), flush=True)
    link.barrier(name="end")
    link.close()
    finish()


if __name__ == "__main__":
    main()
