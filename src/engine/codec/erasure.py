"""Erasure code over equal blocks of bytes: k data and m parity blocks, any k of the k + m give back the rest.

Reed-Solomon over GF(2^8) by a Cauchy matrix scaled so that the first parity block is the plain xor and the first
factor of every other is 1 (J. Bloemer et al., An XOR-Based Erasure-Resilient Coding Scheme, 1995). The matrix does not
depend on m: parity blocks can be added later. Linear, so a change of one data block updates the parity alone.

    parity = erasure_encode([a, b, c, d], 2)
    erasure_update(parity, 4, 1, change)                     # b ^= change, at any offset
    blocks = erasure_repair([a, None, c, None, *parity], 4)  # b and d again
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels import _native
from ..kernels.plain.parity import invert, quotient
from ..types import Array

BLOCKS_LIMIT = 256


def erasure_matrix(k: int, m: int) -> Array:
    """Factors uint8 `(m, k)`: parity block j = sum of [j, i] * data block i. ValueError unless 1 <= k, 0 <= m, k + m <= 256."""
    if k < 1 or m < 0 or k + m > BLOCKS_LIMIT:
        raise ValueError(f"erasure: {k} data and {m} parity blocks; expected 1 or more data blocks, at most 256 in all")
    x, y = np.uint8(255) - np.arange(m, dtype=np.uint8), np.arange(k, dtype=np.uint8)
    cauchy = quotient(np.ones((m, k), np.uint8), x[:, None] ^ y)
    if m:
        cauchy = quotient(cauchy, cauchy[0])
        cauchy = quotient(cauchy, cauchy[:, :1])
    return np.ascontiguousarray(cauchy)


def erasure_encode(data: Sequence[Array], m: int, *, out: Sequence[Array] | None = None) -> list[Array]:
    """The m parity blocks of k equal data blocks, written to `out` where it is given; any contiguous dtype, uint8 out."""
    views = [_bytes(block) for block in data]
    parity = [np.empty(len(views[0]), np.uint8) for _ in range(m)] if out is None else [_bytes(block) for block in out]
    if m:
        _native.parity_dot(erasure_matrix(len(views), m), views, parity)
    return parity


def erasure_update(parity: Sequence[Array], k: int, at: int, change: Array, *, start: int = 0) -> None:
    """Bring parity blocks up to date with data block `at` of k, whose bytes from `start` on were xored with `change`.

    O(change) bytes of each parity block. ValueError where `change` leaves the block.
    """
    if not 0 <= at < k:
        raise ValueError(f"erasure: data block {at} of {k}")
    view = _bytes(change)
    parts = [_bytes(block) for block in parity]
    if start < 0 or any(start + len(view) > len(block) for block in parts):
        raise ValueError(f"erasure: bytes {start} to {start + len(view)} are outside a parity block")
    if parts and len(view):
        column = np.ascontiguousarray(erasure_matrix(k, len(parts))[:, at : at + 1])
        _native.parity_dot(column, [view], [block[start : start + len(view)] for block in parts], True)


def erasure_repair(blocks: Sequence[Array | None], k: int) -> list[Array]:
    """All k + m blocks from those that are not None, the data first: lost ones made again as uint8, the others as given.

    ValueError where fewer than k are left.  Damage must be known (a checksum): a block with wrong bytes is believed.
    """
    m = len(blocks) - k
    matrix = np.concatenate([np.eye(k, dtype=np.uint8), erasure_matrix(k, m)])
    have = [at for at, block in enumerate(blocks) if block is not None][:k]
    lost = [at for at, block in enumerate(blocks) if block is None]
    if len(have) < k:
        raise ValueError(f"erasure: {len(blocks) - len(lost)} of {len(blocks)} blocks are left, {k} are needed")
    views = [_bytes(block) for at in have if (block := blocks[at]) is not None]
    made = [np.empty(len(views[0]), np.uint8) for _ in lost]
    if lost:
        inverse = invert(matrix[have])
        rows = np.zeros((len(lost), k), np.uint8)
        for row, at in zip(rows, lost, strict=True):
            native = [np.empty(k, np.uint8)]
            _native.parity_dot(matrix[at : at + 1], [np.ascontiguousarray(r) for r in inverse], native)
            row[:] = native[0]
        _native.parity_dot(rows, views, made)
    fill = iter(made)
    return [next(fill) if block is None else block for block in blocks]


def _bytes(block: Array) -> Array:
    """The block as flat uint8, not copied."""
    if not block.flags.c_contiguous:
        raise ValueError("erasure: expected C-contiguous blocks")
    return block.reshape(-1).view(np.uint8)
