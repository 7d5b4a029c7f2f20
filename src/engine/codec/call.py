"""Requests to the owner of a shard and their replies: a 64-byte head and a body of arrays (docs/format.md has the bytes).

The native server (csrc/serve/server.h) reads and writes the same layout. Every frame is under one crc; a request names
its client and a sequence number, so that one that is sent again is carried out once.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import FrameError
from ..kernels import _native
from ..types import Array

MAGIC = 0x4C414345
# magic, kind, op, table, client, count, seq, acked, rate, more, status, extra, size, epoch, crc, zero
HEAD = struct.Struct("<IBBHIIQQffIIIIII")
HEAD_BYTES = HEAD.size
KINDS = {"ping": 0, "get": 1, "apply": 2, "commit": 3, "stage": 4, "ledger": 5, "flip": 6, "ask": 7, "lock": 8, "release": 9,
         "recent": 10, "drop": 11, "clock": 12, "promise": 13, "pack": 14}
STATUS = ("ok", "moved", "busy", "full", "conflict", "waiting", "broken")
OK, MOVED, BUSY, FULL, CONFLICT, WAITING, BROKEN = range(7)
OPS = {"add": 0, "assign": 1, "max": 2, "sgd": 3, "adagrad": 4, "momentum": 5, "merge": 6}
STATEFUL = ("adagrad", "momentum")


def sent(op: str, width: int) -> int:
    """Floats of an item of `op` for rows of `width`; 0 where the width does not suit."""
    if op == "merge":
        return 0 if width % 4 else width // 4 * 7
    return width if op not in STATEFUL else 0 if width % 2 else width // 2


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` of STATUS; `count`: items done, or entries told; `body`: bytes as its kind defines."""

    status: int
    count: int
    body: Array
    seq: int = 0


def encode_call(kind: str, parts: Sequence[Array] = (), *, table: int = 0, client: int = 0, count: int = 0, seq: int = 0,
                acked: int = 0, op: int = 0, rate: float = 0.0, more: float = 0.0, epoch: int = 0) -> Array:
    """uint8 frame: head, then the bytes of the parts one after another."""
    size = sum(part.nbytes for part in parts)
    frame = np.empty(HEAD_BYTES + size, np.uint8)
    head = HEAD.pack(MAGIC, KINDS[kind], op, table, client, count, seq, acked, rate, more, 0, 0, size, epoch, 0, 0)
    frame[:HEAD_BYTES] = np.frombuffer(head, np.uint8)
    at = HEAD_BYTES
    for part in parts:
        frame[at : at + part.nbytes] = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        at += part.nbytes
    _native.call_seal(frame)
    return frame


def decode_reply(frame: Array) -> Reply:
    """The reply in the first bytes of `frame`; FrameError where it is cut, damaged, or not a reply."""
    if len(frame) < HEAD_BYTES:
        raise FrameError(f"reply: expected {HEAD_BYTES} bytes of head, found {len(frame)}")
    magic, *_, count, seq, _, _, _, status, _, size, _, crc, _ = HEAD.unpack(frame[:HEAD_BYTES].tobytes())
    size += HEAD_BYTES
    if magic != MAGIC:
        raise FrameError(f"reply: expected magic {MAGIC:08x}, found {magic:08x}")
    if size > len(frame):
        raise FrameError(f"reply cut: expected {size} bytes, found {len(frame)}")
    found = _native.call_crc(frame, size)
    if found != crc:
        raise FrameError(f"reply crc: expected {crc:08x}, found {found:08x}")
    return Reply(status, count, frame[HEAD_BYTES:size], seq)
