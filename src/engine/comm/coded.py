"""Compressed allreduce: every rank ends with the same bytes; what was not sent stays in residuals and is sent later.

- `Coded`: any codec. Chunk c belongs to rank c mod P: ranks encode their share of it and send it there; the owner adds
  in rank order, encodes the sum against a residual of its own, and sends that to all. Encoding, sending and decoding of
  different chunks overlap.  2 n (P - 1) / P code elements a rank.
- `Shared`: whole numbers at a scale that all ranks agree on (one small maximum first), so that the MPI's own sum adds
  the codes exactly. `Lowrank`: PowerSGD's two small dense sums.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.codec.base import Codec
from engine.comm.dense import allreduce, finish
from engine.kernels import _native
from engine.types import Array, Link, Transfer

TAG = 96
CHUNK = 1 << 20
TINY = 1e-30  # blocks of smaller values are sent as 0


class Coded:
    """Allreduce of float32 `(n,)` by `make(stream)`, a codec for each chunk; call it once a step, on all ranks.

    The array it returns is overwritten by the next call: fresh pages for it would cost as much as the encoding.

    `residual` is what this rank still owes, as one float32 `(n,)`: sum of results + sum of residuals over ranks = sum of
    inputs, to the rounding of the codec. Frames are received while others are encoded.
    """

    def __init__(self, link: Link, n: int, make: Callable[[int], Codec], *, chunk: int = CHUNK, name: str = "coded") -> None:
        self.link, self.n, self.name, self.step = link, n, name, 0
        self.spans = [(a, min(n, a + chunk)) for a in range(0, n, chunk)]
        streams = [c * link.size + link.rank for c in range(len(self.spans))]
        self.codecs = [make(stream) for stream in streams]
        self._total, self._owed = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.states = [codec.init(b - a) for codec, (a, b) in zip(self.codecs, self.spans, strict=True)]
        for state, (a, b) in zip(self.states, self.spans, strict=True):
            state["residual"] = self._owed[a:b]  # one array for all, which the system backs by huge pages

    def owner(self, c: int) -> int:
        return c % self.link.size

    def residual(self) -> Array:
        """What this rank has not yet sent, float32 `(n,)`."""
        return self._owed.copy()

    def owe(self, residual: Array) -> None:
        """Takes what `residual` gave, perhaps under another number of ranks, as the residual from here on."""
        self._owed[:] = residual

    def __call__(self, g: Array) -> Array:
        link, me = self.link, self.link.rank
        others = [r for r in range(link.size) if r != me]
        self._going: list[tuple[Transfer, Any]] = []
        self._coming: dict[tuple[int, int], tuple[Transfer, Array]] = {}  # by sender and tag
        self._parts: dict[int, dict[int, Any]] = {c: {} for c in range(len(self.spans)) if self.owner(c) == me}
        self._sums = {c for c in range(len(self.spans)) if self.owner(c) != me}
        for c, (a, b) in enumerate(self.spans):
            if self.owner(c) != me:
                self._send(self.codecs[c].encode(g[a:b], self.states[c], self.step), self.owner(c), TAG)
            elif not others:
                self._settle(c, g, others)
            self._poll(g, others)
        while self._parts or self._sums:
            if not self._poll(g, others):
                self._await(g, others)
        finish([moving for moving, _ in self._going])
        self.step += 1
        return self._total

    def _send(self, frame: bytes, to: int, tag: int) -> None:
        data = np.frombuffer(frame, np.uint8)
        self._going.append((self.link.send(data, to, name=self.name, tag=tag), data))

    def _poll(self, g: Array, others: list[int]) -> bool:
        """Takes what has arrived, and has what is on its way received; True where something had arrived."""
        took = False
        for source in others:
            for tag in (TAG, TAG + 1):
                while self._expect(source, tag) and self._coming[source, tag][0].test():
                    self._arrived(source, tag, g, others)
                    took = True
        return took

    def _expect(self, source: int, tag: int) -> bool:
        """Whether a frame of this pair is being received, begun here where one has been announced."""
        if (source, tag) in self._coming:
            return True
        found = self.link.probe(tag=tag, source=source) if self._owes(source, tag) else None
        if found is None:
            return False
        room = np.empty(found[1], np.uint8)
        self._coming[source, tag] = self.link.recv(room, source, name=self.name, tag=tag), room
        return True

    def _owes(self, source: int, tag: int) -> bool:
        """Whether `source` still owes a frame of this call; one that is ahead may have sent for the next."""
        if tag == TAG:
            return any(source not in got for got in self._parts.values())
        return any(self.owner(c) == source for c in self._sums)

    def _arrived(self, source: int, tag: int, g: Array, others: list[int]) -> None:
        """Frames of one pair and tag come in the order of the chunks."""
        frame = self._coming.pop((source, tag))[1]
        if tag == TAG:
            c = next(c for c, got in self._parts.items() if source not in got)
            self._parts[c][source] = frame
            if len(self._parts[c]) == len(others):
                self._settle(c, g, others)
        else:
            c = min(c for c in self._sums if self.owner(c) == source)
            self._sums.discard(c)
            self._decode(c, frame)

    def _settle(self, c: int, g: Array, others: list[int]) -> None:
        """The owner's part: what the others sent, in rank order, is added to what it owes, and goes with its own once more
        encoded to all; its own copy is decoded like theirs."""
        (a, b), got, owed = self.spans[c], self._parts.pop(c), self.states[c]["residual"]
        for rank in others:
            self.codecs[c].decode_add(got[rank], owed)
        if others and not np.isfinite(owed.sum()):
            owed[~np.isfinite(owed)] = 0  # a sum beyond float32 adds nothing, as an element that is not finite
        frame = self.codecs[c].encode(g[a:b], self.states[c], self.step)
        for rank in others:
            self._send(frame, rank, TAG + 1)
        self._decode(c, frame)

    def _decode(self, c: int, frame: Any) -> None:
        a, b = self.spans[c]
        self._total[a:b] = 0
        self.codecs[c].decode_add(frame, self._total[a:b])

    def _await(self, g: Array, others: list[int]) -> None:
        """Nothing to do until the next frame: waits for the first rank that owes one, by its deadline."""
        if not self._coming:
            source, tag = next((r, t) for t in (TAG, TAG + 1) for r in others if self._owes(r, t))
            room = self.link.take(source, name=self.name, tag=tag)
            self._coming[source, tag] = _Here(), room
        else:
            source, tag = next(iter(self._coming))
            self._coming[source, tag][0].wait()
        self._arrived(source, tag, g, others)


class _Here:
    """A transfer that is done."""

    def test(self) -> bool:
        return True

    def wait(self) -> None:
        return None


class Shared:
    """Allreduce of float32 `(n,)` as whole numbers of `bits` 8 or 16 that the MPI sums itself, exactly.

    Each block of `block` elements has one scale, the greatest magnitude over all ranks; codes reach +-(2^(bits-1) - 1) // P,
    so no sum overflows: at 8 bits that is 63 levels for 2 ranks and 7 for 16, and an error beyond 42 ranks.
    """

    def __init__(self, link: Link, n: int, *, bits: int = 8, block: int = 1 << 16, name: str = "shared") -> None:
        self.link, self.n, self.block, self.bits, self.name = link, n, block, bits, name
        self.dtype, self.levels = (np.int8 if bits == 8 else np.int16), ((1 << (bits - 1)) - 1) // link.size
        if self.levels < 3:
            raise ValueError(f"shared scale: {bits} bits leave {self.levels} levels for {link.size} ranks; use 16 bits")
        self.residual = np.zeros(n, np.float32)

    def __call__(self, g: Array) -> Array:
        spans = [(a, min(self.n, a + self.block)) for a in range(0, self.n, self.block)]
        peak = np.zeros(len(spans), np.float32)
        room = np.empty(min(self.n, self.block), np.float32)
        for i, (a, b) in enumerate(spans):
            x = np.abs(np.add(g[a:b], self.residual[a:b], out=room[: b - a]), out=room[: b - a])
            top = x.max()
            peak[i] = top if np.isfinite(top) else np.max(x, where=np.isfinite(x), initial=0)
        peak = self.link.allreduce(peak, op="max", name=f"{self.name}: scales")
        codes = np.empty(self.n, self.dtype)
        for top, (a, b) in zip(peak.tolist(), spans, strict=True):
            _native.shared_encode(g[a:b], self.residual[a:b], top, self.levels, codes[a:b].view(np.uint8), self.bits)
        codes = self.link.allreduce(codes, name=f"{self.name}: codes")
        total = np.empty(self.n, np.float32)
        for top, (a, b) in zip(peak.tolist(), spans, strict=True):
            scale = np.float32(top) / np.float32(self.levels) if top >= TINY else np.float32(0)
            np.multiply(codes[a:b], scale, out=total[a:b], dtype=np.float32, casting="unsafe")
        return total


class Lowrank:
    """Allreduce of float32 `(n,)` seen as a matrix near square, by PowerSGD (Vogels et al. 2019, algorithm 1).

    Two dense sums of rank * (rows + columns) elements. Rank 0 makes the left factor orthonormal and sends it; the product
    is built by additions and multiplications alone: so the result is the same bytes on ranks of different machines.
    """

    def __init__(self, link: Link, n: int, *, rank: int = 4, seed: int = 0, name: str = "low rank") -> None:
        self.link, self.n, self.name = link, n, name
        self.rows = max(1, int(n**0.5))
        self.columns = -(-n // self.rows)
        self.rank = min(rank, self.rows, self.columns)
        self.warm = np.random.default_rng(seed).standard_normal((self.columns, self.rank), np.float32)
        self.residual = np.zeros(n, np.float32)

    def __call__(self, g: Array) -> Array:
        flat = np.zeros(self.rows * self.columns, np.float32)
        flat[: self.n] = g + self.residual
        matrix = flat.reshape(self.rows, self.columns)
        left = self._sum(matrix @ self.warm)
        left = self.link.bcast(np.linalg.qr(left)[0].astype(np.float32) if self.link.rank == 0 else None, name=self.name)
        own = matrix.T @ left
        right = self._sum(own)
        self.warm = np.where(np.abs(right).max(axis=0, initial=0) > 0, right, self.warm)
        self.residual = flat[: self.n] - self._product(left, own)
        return self._product(left, right)

    def _sum(self, x: Array) -> Array:
        return allreduce(self.link, np.ascontiguousarray(x), route="halving", name=self.name, checked=True)

    def _product(self, left: Array, right: Array) -> Array:
        out = np.zeros((self.rows, self.columns), np.float32)
        for k in range(self.rank):
            out += left[:, k : k + 1] * right[:, k]
        return out.reshape(-1)[: self.n]
