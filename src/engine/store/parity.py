"""Parity of images over nodes: k + m nodes, each with data of its own, any m of them may be lost.

    node i has its image in k equal blocks; stripe s of the k + m stripes has its parity on the m nodes from s on and one data
    block of each of the others, so that every node holds data and parity alike (as RAID 6 turns its parity round)

    put together:  encode -> each node's m parity blocks        changed: update with old ^ new, never read again
                   repair -> the images of lost nodes, from any k blocks of each stripe

Blocks are as long as the longest image needs; what a shorter one lacks counts as zeros.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..codec.erasure import erasure_encode, erasure_repair, erasure_update
from ..errors import StoreError
from ..types import Array

ALIGN = 64


class Stripes:
    """The layout of one group of `k + m` nodes whose longest image is `size` bytes."""

    def __init__(self, k: int, m: int, size: int) -> None:
        if k < 1 or m < 1 or k + m > 256:
            raise ValueError(f"parity: expected k, m >= 1 and k + m <= 256, found {k} + {m}")
        self.k, self.m, self.nodes = k, m, k + m
        self.block = max(ALIGN, -(-size // (k * ALIGN)) * ALIGN)

    def holders(self, stripe: int) -> list[int]:
        """Nodes that hold the parity of a stripe, in order of the parity blocks."""
        return [(stripe + j) % self.nodes for j in range(self.m)]

    def members(self, stripe: int) -> list[int]:
        """Nodes that hold its data, in order of the data blocks."""
        first = stripe + self.m
        return [(first + i) % self.nodes for i in range(self.k)]

    def part(self, node: int, stripe: int) -> int | None:
        """Which of its k blocks a node has in this stripe; None where it holds parity there."""
        turn = (stripe - node - 1) % self.nodes
        return turn if turn < self.k else None

    def blocks(self, image: Array) -> list[Array]:
        """The k blocks of an image, uint8; the last padded with zeros."""
        whole = np.zeros(self.k * self.block, np.uint8)
        whole[: len(image)] = image
        return list(whole.reshape(self.k, self.block))

    def encode(self, images: Sequence[Array]) -> list[dict[int, Array]]:
        """Of every node, its parity blocks by stripe; what each would compute from the blocks sent to it."""
        cut = [self.blocks(image) for image in images]
        kept: list[dict[int, Array]] = [{} for _ in range(self.nodes)]
        for stripe in range(self.nodes):
            data = [cut[node][part] for node in self.members(stripe) if (part := self.part(node, stripe)) is not None]
            for holder, block in zip(self.holders(stripe), erasure_encode(data, self.m), strict=True):
                kept[holder][stripe] = block
        return kept

    def update(self, kept: Sequence[Mapping[int, Array]], node: int, at: int, change: Array) -> None:
        """Brings parity up to date with a change of a node's image: `change` = old ^ new of its bytes from `at` on."""
        end = at + len(change)
        for part in range(at // self.block, -(-end // self.block)):
            low, high = max(at, part * self.block), min(end, (part + 1) * self.block)
            stripe = next(s for s in range(self.nodes) if self.part(node, s) == part)
            parity = [kept[holder][stripe] for holder in self.holders(stripe)]
            erasure_update(parity, self.k, self.members(stripe).index(node), change[low - at : high - at],
                           start=low - part * self.block)

    def repair(self, images: Sequence[Array | None], kept: Sequence[Mapping[int, Array] | None],
               sizes: Sequence[int]) -> list[Array]:
        """All images, from those that are left and the parity of the nodes that are left; StoreError where too few are."""
        lost = [node for node, image in enumerate(images) if image is None]
        cut = [None if image is None else self.blocks(image) for image in images]
        made = {node: np.zeros(self.k * self.block, np.uint8) for node in lost}
        for stripe in range(self.nodes):
            members = self.members(stripe)
            blocks: list[Array | None] = []
            for node in members:
                mine, part = cut[node], self.part(node, stripe)
                blocks.append(None if mine is None or part is None else mine[part])
            for holder in self.holders(stripe):
                theirs = kept[holder]
                blocks.append(None if theirs is None else theirs.get(stripe))
            if sum(block is not None for block in blocks) < self.k:
                raise StoreError(f"parity: {len(lost)} of {self.nodes} nodes are lost, {self.k} + {self.m} covers {self.m}",
                                 where=f"stripe {stripe}", fix="resume from the last checkpoint")
            whole = erasure_repair(blocks, self.k)
            for place, node in enumerate(members):
                if node in made and (part := self.part(node, stripe)) is not None:
                    made[node][part * self.block : (part + 1) * self.block] = whole[place]
        return [made[node][: sizes[node]] if image is None else image for node, image in enumerate(images)]
