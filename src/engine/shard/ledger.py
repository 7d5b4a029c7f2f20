"""The ledger: key -> slot -> owner, backups, epoch, state. One copy a node, in memory its ranks share.

A key's slot is fixed (the top bits of a hash); who owns a slot is whatever the planner wrote here, so placement is free
of any formula and moving a slot moves nothing else. A slot can be split where it is too hot or too big; the number of
slots is therefore never frozen.

Law: every key has one slot, every slot one owner; an entry is replaced only by one of a higher epoch, so changes may
come late, twice or out of order and every copy ends the same. The epoch is even while writers may write and odd while
they must wait; a change of owner adds 2. Only changed slots travel (`since`, `apply`). A request carries the epoch it
was routed by; an owner that is no longer one answers `moved`: the slot's entry and some more that changed.

    header 64 B | owner, 2 or 4 B a slot | epoch 4 B | stamp 4 B | state 1 B | backups 4 B each | forks 8 B each
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.errors import ShardError
from engine.kernels import _native
from engine.kernels.rows import Router
from engine.types import Array

MAGIC = 0x4C45444745523031
BITS = (1, 24)
STATES = ("stable", "moving", "frozen", "lost", "free")
STABLE, MOVING, FROZEN, LOST, FREE = range(5)
MORE = 64  # further changed entries in an answer to a stale sender


def bits_for(ranks: int) -> int:
    """Slots for so many ranks, as a power of two: 256 a rank where 2^20 allow it, at least 2^16."""
    return min(20, max(16, (256 * ranks - 1).bit_length()))


class Ledger:
    """`2^bits` slots over `ranks` ranks, with room for `spare` slots made by splits and `backups` backups a slot.

    `buffer`: memory to live in (`size_bytes` of it), shared by the ranks of a node; `fresh` False attaches to a ledger
    that is there. Fresh slots are dealt in equal contiguous runs.

    >>> ledger = Ledger(4, ranks=3)
    >>> ledger.route(np.arange(4, dtype=np.uint64)).tolist()
    [0, 1, 0, 2]
    """

    def __init__(self, bits: int, ranks: int, *, backups: int = 0, spare: int | None = None,
                 buffer: Any = None, fresh: bool = True) -> None:
        if not BITS[0] <= bits <= BITS[1]:
            raise ShardError(f"ledger: expected {BITS[0]} to {BITS[1]} bits, found {bits}")
        if not 1 <= ranks < 1 << 31 or ranks > 1 << bits:
            raise ShardError(f"ledger: expected 1 to {1 << bits} ranks for 2^{bits} slots, found {ranks}",
                             fix="raise shard.slots_bits")
        self.bits, self.ranks, self.backups = bits, ranks, backups
        self.spare = (1 << bits) // 4 if spare is None else spare
        self.room = (1 << bits) + self.spare
        size = self.size_bytes(bits, ranks, backups=backups, spare=self.spare)
        memory = np.zeros(size, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8, size)
        self._head = memory[:64].view(np.uint64)  # magic, bits, ranks, backups, spare, version, slots used, forks used
        at = 64
        for name, kind, count in self._layout(bits, ranks, backups, self.spare):
            part = memory[at : at + np.dtype(kind).itemsize * count].view(kind)
            setattr(self, name, part)
            at += -(-part.nbytes // 64) * 64
        self.owner: Array
        self.epoch: Array
        self.stamp: Array
        self.state: Array
        self.backup: Array
        self.forks: Array
        self.backup = self.backup.reshape(-1, max(1, backups))[:, :backups]
        self.forks = self.forks.reshape(-1, 2)
        wanted = [MAGIC, bits, ranks, backups, self.spare]
        if fresh:
            self._head[:5] = wanted
            self._head[5:] = 0, 1 << bits, 0
            self.owner[: 1 << bits] = np.arange(1 << bits) * ranks >> bits
            self.backup[:] = -1
        elif self._head[:5].tolist() != wanted:
            raise ShardError(f"ledger: expected (magic, bits, ranks, backups, spare) {wanted}, found {self._head[:5].tolist()}",
                             fix="every rank of a node must be started with the same [shard] section")
        self.change = np.dtype([("slot", "u4"), ("epoch", "u4"), ("owner", "i4"), ("state", "u1"), ("bits", "u1"),
                                ("fork", "i2"), ("base", "u4"), ("backup", "i4", (backups,))])
        self._free: dict[int, list[tuple[int, int]]] = {}

    @staticmethod
    def _layout(bits: int, ranks: int, backups: int, spare: int) -> list[tuple[str, Any, int]]:
        room = (1 << bits) + spare
        forks = min(spare // 2, 1 << 15)
        return [("owner", np.int16 if ranks < 1 << 15 else np.int32, room + 2), ("epoch", np.uint32, room),
                ("stamp", np.uint32, room), ("state", np.uint8, room), ("backup", np.int32, room * max(1, backups)),
                ("forks", np.uint32, 2 * forks)]

    @classmethod
    def size_bytes(cls, bits: int, ranks: int, *, backups: int = 0, spare: int | None = None) -> int:
        """Bytes of a copy."""
        spare = (1 << bits) // 4 if spare is None else spare
        return 64 + sum(-(-np.dtype(kind).itemsize * count // 64) * 64 for _, kind, count in
                        cls._layout(bits, ranks, backups, spare))

    def arrays(self) -> tuple[Array, ...]:
        """Head, owner, epoch, stamp, state, backups and forks as the native node takes them: the memory itself, flat."""
        return (self._head, self.owner, self.epoch, self.stamp, self.state, self.backup.reshape(-1), self.forks.reshape(-1))

    @property
    def version(self) -> int:
        """Counts the changes this copy has taken; orders `stamp`, and means nothing on another node."""
        return int(self._head[5])

    @property
    def used(self) -> int:
        """Slots with an entry: 2^bits, and the leaves of splits."""
        return int(self._head[6])

    def route(self, keys: Array, out: Array | None = None) -> Array:
        """int32 owner of each uint64 key."""
        out = np.empty(len(keys), np.int32) if out is None else out
        _native.route(keys, self.owner, self.forks, self.bits, out)
        return out

    @property
    def one(self) -> Callable[[int], int]:
        """`one(key)`: the owner of one key."""
        return Router(self.owner, self.forks, self.bits)

    def slots(self, keys: Array, out: Array | None = None) -> Array:
        """uint32 slot of each uint64 key, a leaf where the slot is split."""
        out = np.empty(len(keys), np.uint32) if out is None else out
        _native.slots(keys, self.owner, self.forks, self.bits, out)
        return out

    def live(self) -> Array:
        """uint32: the slots that own keys (roots that are not split, and leaves in use), ascending."""
        return np.flatnonzero((self.owner[: self.used] >= 0) & (self.state[: self.used] != FREE)).astype(np.uint32)

    def owned(self, rank: int) -> Array:
        """uint32: the slots of a rank."""
        return np.flatnonzero((self.owner[: self.used] == rank) & (self.state[: self.used] != FREE)).astype(np.uint32)

    def _touch(self, slots: Array) -> None:
        self._head[5] += 1
        self.stamp[slots] = self._head[5]

    def assign(self, slots: Array, owner: Array | int, *, state: int = STABLE) -> Array:
        """Gives the slots to `owner` (one, or one each) under an epoch 2 higher; returns the changes to broadcast."""
        slots = np.asarray(slots, np.int64)
        ranks = np.broadcast_to(np.asarray(owner, np.int64), slots.shape)
        self._check(slots)
        if len(ranks) and not (ranks.min() >= 0 and ranks.max() < self.ranks):
            raise ShardError(f"assign: expected owners 0 to {self.ranks - 1}, found {int(ranks.min())} to {int(ranks.max())}")
        self.owner[slots], self.state[slots] = ranks, state
        self.epoch[slots] = (self.epoch[slots] | 1) + 1
        self._touch(slots)
        return self.entries(slots)

    def freeze(self, slots: Array) -> Array:
        """Odd epoch: writers wait until `assign` (done) or `thaw` (given up)."""
        slots = np.asarray(slots, np.int64)
        self._check(slots)
        if (self.epoch[slots] & 1).any():
            raise ShardError(f"freeze: slot {int(slots[(self.epoch[slots] & 1) > 0][0])} is frozen already")
        self.epoch[slots] += 1
        self.state[slots] = FROZEN
        self._touch(slots)
        return self.entries(slots)

    def thaw(self, slots: Array) -> Array:
        """Back to even under the same owner."""
        slots = np.asarray(slots, np.int64)
        return self.assign(slots, self.owner[slots])

    def protect(self, slots: Array, backups: Array) -> Array:
        """Names the ranks that hold copies, int32 `(len(slots), backups)`, -1 = none; the owner stays."""
        slots = np.asarray(slots, np.int64)
        self.backup[slots] = backups
        return self.assign(slots, self.owner[slots])

    def split(self, slot: int, bits: int = 1) -> Array:
        """2^bits leaves in place of one slot, all of the same owner; nothing moves. Returns the changes."""
        self._check(np.array([slot]))
        if not 1 <= bits <= 8:
            raise ShardError(f"split: expected 1 to 8 bits, found {bits}")
        count, free = 1 << bits, self._free.get(bits)
        if free:
            fork, base = free.pop()
        else:
            fork, base = int(self._head[7]), self.used
            if base + count > self.room or fork >= len(self.forks):
                raise ShardError(f"split: no room for {count} more slots ({self.used} of {self.room} used)",
                                 where=f"slot {slot}", fix="raise shard.slots_bits, or merge cold slots")
        leaves = np.arange(base, base + count)
        self._fork(slot, fork, base, bits)
        self.owner[leaves], self.state[leaves] = self.owner[slot], self.state[slot]
        self.backup[leaves] = self.backup[slot]
        self.owner[slot] = ~fork
        both = np.append(leaves, slot)  # leaves before the fork that leads to them
        self.epoch[both] = (self.epoch[both] | 1) + 1
        self._touch(both)
        return self.entries(both)

    def merge(self, slot: int) -> Array:
        """Undoes a split whose leaves have one owner and are neither split nor frozen."""
        fork = ~int(self.owner[slot])
        if fork < 0:
            raise ShardError(f"merge: slot {slot} is not split")
        base, bits = self.forks[fork].tolist()
        leaves = np.arange(base, base + (1 << bits))
        if len(set(self.owner[leaves].tolist())) > 1 or (self.owner[leaves] < 0).any() or (self.epoch[leaves] & 1).any():
            raise ShardError(f"merge: the parts of slot {slot} differ in owner, are split, or are frozen",
                             fix="move them to one owner first")
        self.owner[slot], self.backup[slot] = self.owner[base], self.backup[base]
        self._free.setdefault(bits, []).append((fork, base))
        self.state[leaves], self.state[slot] = FREE, STABLE
        both = np.insert(leaves, 0, slot)
        self.epoch[both] = (self.epoch[both] | 1) + 1
        self._touch(both)
        return self.entries(both)

    def _fork(self, slot: int, fork: int, base: int, bits: int) -> None:
        self.forks[fork] = base, bits
        self._head[6] = max(self.used, base + (1 << bits))
        self._head[7] = max(int(self._head[7]), fork + 1)

    def entries(self, slots: Array) -> Array:
        """The entries as changes, dtype `change`."""
        slots = np.asarray(slots, np.int64)
        made = np.zeros(len(slots), self.change)
        made["slot"], made["epoch"], made["state"] = slots, self.epoch[slots], self.state[slots]
        made["owner"], made["backup"], made["fork"] = self.owner[slots], self.backup[slots], -1
        forked = np.flatnonzero(made["owner"] < 0)
        made["fork"][forked] = ~made["owner"][forked]
        made["base"][forked], made["bits"][forked] = self.forks[made["fork"][forked]].T
        return made

    def since(self, version: int, limit: int | None = None) -> Array:
        """Changes this copy took after its `version`, newest first where `limit` cuts them."""
        slots = np.flatnonzero(self.stamp[: self.used] > version)
        if limit is not None and len(slots) > limit:
            slots = slots[np.argsort(self.stamp[slots])[-limit:]]
        return self.entries(slots)

    def apply(self, changes: Array) -> int:
        """Takes the changes that are newer than what is here; returns how many were."""
        slots = changes["slot"].astype(np.int64)
        if len(slots) and slots.max() >= self.room:
            raise ShardError(f"ledger: a change of slot {int(slots.max())}, of {self.room}")
        fresh = np.flatnonzero(changes["epoch"] > self.epoch[slots])
        if len(fresh) > 1:  # of several changes of one slot only the newest
            fresh = fresh[np.argsort(changes["epoch"][fresh], kind="stable")]
            _, last = np.unique(changes["slot"][fresh][::-1], return_index=True)
            fresh = np.sort(fresh[::-1][last])
        new = changes[fresh]
        for one in new[new["fork"] >= 0]:
            self._fork(int(one["slot"]), int(one["fork"]), int(one["base"]), int(one["bits"]))
        at = slots[fresh]
        self.state[at], self.backup[at] = new["state"], new["backup"]
        leaf = np.argsort(new["owner"] < 0, kind="stable")  # leaves before the fork that leads to them
        self.owner[at[leaf]] = new["owner"][leaf]
        self.epoch[at] = new["epoch"]
        if len(at):
            self._touch(at)
        return len(at)

    def moved(self, slots: Array, rank: int) -> Array | None:
        """None where `rank` owns all the slots; else what a sender that believed so must be told."""
        slots = np.asarray(slots, np.int64)
        astray = slots[self.owner[slots] != rank]
        if not len(astray):
            return None
        mine, more = self.entries(np.unique(astray)), self.since(0, MORE)
        return np.concatenate([mine, more[~np.isin(more["slot"], mine["slot"])]])

    def _check(self, slots: Array) -> None:
        if len(slots) and not (slots.min() >= 0 and slots.max() < self.used):
            raise ShardError(f"expected slots 0 to {self.used - 1}, found {int(slots.min())} to {int(slots.max())}")
        if len(slots) and (self.owner[slots] < 0).any():
            raise ShardError(f"slot {int(slots[self.owner[slots] < 0][0])} is split: name its leaves")
