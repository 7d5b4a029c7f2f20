"""Who owns what, so that nobody waits: replicate hot keys, split hot slots, then move little. Pure plans.

    measure   load of each slot (counters), the hot keys (shard/heavy.py)
    replicate keys above 0.05 / P of the load: no placement can carry them (Zipf 1 over 1024 ranks: max / mean 62 by hash,
              61 by the best packing of whole slots); read where they are asked for, written once a clock and node
    split     slots above half a rank's mean, so that they can be moved in parts
    move      from the fullest rank, few slots of much load a byte, to room in the node, in the rack, beyond; within memory
    act       only when what is gained until the next look is more than what it costs, and not twice in a row
"""
from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from engine.errors import ConfigError
from engine.types import Array

REPLICATE = 0.05  # of a rank's mean load
SPLIT = 0.5       # of a rank's mean load
TIERS = ("node", "rack", "cross-rack")


@dataclass(frozen=True)
class Cluster:
    """Ranks 0..P-1: `speed` (load a second, relative), `memory` (bytes each may hold), `node` and `rack` of each; seconds a
    byte inside a node, inside a rack and beyond (measured by the probe)."""

    speed: Array
    memory: Array
    node: Array
    rack: Array
    byte_s: tuple[float, float, float] = (1e-10, 1e-9, 4e-9)

    @classmethod
    def even(cls, ranks: int, *, per_node: int = 1, per_rack: int = 0, memory: float = np.inf) -> Cluster:
        """Ranks of one speed; `per_node` ranks a node, `per_rack` nodes a rack (0: one rack)."""
        node = np.arange(ranks) // max(1, per_node)
        return cls(np.ones(ranks), np.full(ranks, memory), node, node // per_rack if per_rack else np.zeros(ranks, int))

    @property
    def ranks(self) -> int:
        return len(self.speed)


@dataclass(frozen=True)
class Load:
    """A window of load: `slot` (S,) accesses of each slot, `owner` (S,), `size_bytes` (S,); hot keys with the slot and the
    accesses of each. Accesses of hot keys are part of their slots' load. Unused slots have owner -1 and no load."""

    slot: Array
    owner: Array
    size_bytes: Array
    hot_key: Array = field(default_factory=lambda: np.empty(0, np.uint64))
    hot_slot: Array = field(default_factory=lambda: np.empty(0, np.int64))
    hot_load: Array = field(default_factory=lambda: np.empty(0))


class Move(NamedTuple):
    """`part` of 2^`bits` of a slot (0 of 1: all of it) from one rank to another; `tier`: index into TIERS."""

    slot: int
    bits: int
    part: int
    source: int
    target: int
    size_bytes: float
    tier: int


@dataclass(frozen=True)
class Plan:
    """What to do, in this order, and what it is expected to do. `before`, `after`: the fullest rank's load over its share."""

    replicate: Array
    split: tuple[tuple[int, int], ...]
    moves: tuple[Move, ...]
    before: float
    after: float
    moved_bytes: float
    moved_share: float
    cost_s: float
    reasons: tuple[str, ...]


def plan(load: Load, cluster: Cluster, *, tolerance: float = 1.03, most_moves: int = 1 << 20) -> Plan:
    """The steps that bring the fullest rank to `tolerance` times its share, or as near as whole pieces allow."""
    room = fits(load, cluster)
    share = cluster.speed / cluster.speed.sum()
    live = np.flatnonzero(load.owner >= 0)
    total = float(load.slot[live].sum())
    if total <= 0:
        return Plan(np.empty(0, np.uint64), (), (), 1.0, 1.0, 0.0, 0.0, 0.0, ("no load was seen",))
    carried = np.bincount(load.owner[live], load.slot[live], cluster.ranks)
    before = float((carried / (share * total)).max())
    hot = load.hot_load > REPLICATE * total / cluster.ranks
    slot = load.slot.astype(np.float64)
    np.subtract.at(slot, load.hot_slot[hot], load.hot_load[hot])
    np.maximum(slot, 0, out=slot)
    spread = float(load.hot_load[hot].sum())
    pieces = _Pieces(load, slot, SPLIT * total / cluster.ranks)
    moves, after = _move(pieces, cluster, share, total, spread, room, tolerance, most_moves)
    moved = sum(move.size_bytes for move in moves)
    cost = sum(move.size_bytes * cluster.byte_s[move.tier] for move in moves)
    all_bytes = float(load.size_bytes[live].sum())
    split = tuple(sorted({(m.slot, m.bits) for m in moves if m.bits}))
    said = _reasons(hot, spread / total, split, moves, before, after, moved, all_bytes)
    part = moved / all_bytes if all_bytes else 0.0
    return Plan(load.hot_key[hot], split, tuple(moves), before, after, moved, part, cost, said)


def fits(load: Load, cluster: Cluster) -> Array:
    """Free bytes of each rank; ConfigError where no placement fits into memory."""
    live = load.owner >= 0
    if live.any() and int(load.owner.max()) >= cluster.ranks:
        raise ConfigError(f"balance: a slot of rank {int(load.owner.max())}, of {cluster.ranks} ranks")
    held = np.bincount(load.owner[live], load.size_bytes[live], cluster.ranks)
    if held.sum() > cluster.memory.sum():
        raise ConfigError(f"memory caps too small: the shards take {held.sum() / 2**20:,.0f} MiB, all ranks together may hold "
                          f"{cluster.memory.sum() / 2**20:,.0f} MiB", fix="raise shard.memory, or use more ranks")
    biggest = float(load.size_bytes[live].max()) if live.any() else 0.0
    if biggest > cluster.memory.max():
        raise ConfigError(f"memory caps too small: a shard takes {biggest / 2**20:,.1f} MiB, the largest rank may hold "
                          f"{cluster.memory.max() / 2**20:,.1f} MiB", fix="raise shard.memory or shard.slots_bits")
    return cluster.memory - held


class _Pieces:
    """Slots, those above `limit` cut into equal parts, grouped by owner."""

    def __init__(self, load: Load, slot: Array, limit: float) -> None:
        bits = np.zeros(len(slot), np.int64)
        big = slot > limit
        bits[big] = np.minimum(8, np.ceil(np.log2(slot[big] / limit))).astype(np.int64)
        self.slot = np.arange(len(slot))
        self.part = np.zeros(len(slot), np.int64)
        if big.any():
            self.slot = np.repeat(self.slot, 1 << bits)
            self.part = np.arange(len(self.slot)) - np.repeat(np.cumsum(1 << bits) - (1 << bits), 1 << bits)
        self.bits = bits
        self.load = slot[self.slot] / (1 << bits[self.slot]) if big.any() else slot
        self.size = load.size_bytes[self.slot] / (1 << bits[self.slot]) if big.any() else load.size_bytes
        owner = load.owner[self.slot]
        kind = np.int16 if len(owner) and owner.max() < 1 << 15 else np.int32
        self._order = np.argsort(owner.astype(kind), kind="stable")
        ranks = int(owner.max()) + 1 if len(owner) else 0
        self._start = np.searchsorted(owner[self._order], np.arange(ranks + 1))
        self.carried = np.bincount(owner[owner >= 0], self.load[owner >= 0], ranks)

    def of(self, rank: int) -> Array:
        return self._order[self._start[rank] : self._start[rank + 1]] if rank + 1 < len(self._start) else self._order[:0]


def _move(pieces: _Pieces, cluster: Cluster, share: Array, total: float, spread: float, free: Array, tolerance: float,
          most: int) -> tuple[list[Move], float]:
    """Greedy: the fullest rank gives; each piece goes to the roomiest rank of the nearest tier that has room for it."""
    carried = np.zeros(cluster.ranks)
    carried[: len(pieces.carried)] = pieces.carried
    carried += spread / cluster.ranks  # read everywhere alike
    goal = share * total
    over = carried - tolerance * goal
    moves: list[Move] = []
    homes = _Homes(carried, goal, cluster)
    free = free.copy()
    for source in np.argsort(-over / goal).tolist():
        if over[source] <= 0 or len(moves) >= most:
            break
        mine = pieces.of(source)
        density = pieces.load[mine] / (pieces.size[mine] + 1.0)
        excess = float(over[source])
        for at in mine[np.argsort(-density)].tolist():
            load = float(pieces.load[at])
            if load <= 0 or excess <= 0 or len(moves) >= most:
                break
            if load > excess + 0.5 * (tolerance - 1) * goal[source] + 1e-12 and load > 1.5 * excess:
                continue
            target, tier = homes.find(source, load, float(pieces.size[at]), free)
            if target < 0:
                continue
            slot = int(pieces.slot[at])
            moves.append(Move(slot, int(pieces.bits[slot]), int(pieces.part[at]), source, target, float(pieces.size[at]), tier))
            homes.put(target, load)
            carried[source] -= load
            free[target] -= pieces.size[at]
            free[source] += pieces.size[at]
            excess -= load
    return moves, float((carried / goal).max())


class _Homes:
    """Ranks by room left, in the node, in the rack, anywhere; heaps with stale entries skipped."""

    def __init__(self, carried: Array, goal: Array, cluster: Cluster) -> None:
        self.carried, self.goal, self.cluster = carried, goal, cluster
        self.heaps: list[dict[int, list[tuple[float, int]]]] = [{}, {}, {}]
        under = np.flatnonzero(carried < goal)
        for rank in under.tolist():
            for tier, group in enumerate((int(cluster.node[rank]), int(cluster.rack[rank]), 0)):
                self.heaps[tier].setdefault(group, []).append((carried[rank] - goal[rank], rank))
        for tier_heaps in self.heaps:
            for heap in tier_heaps.values():
                heapq.heapify(heap)

    def find(self, source: int, load: float, size: float, free: Array) -> tuple[int, int]:
        for tier, group in enumerate((int(self.cluster.node[source]), int(self.cluster.rack[source]), 0)):
            heap = self.heaps[tier].get(group)
            put_back = []
            found = -1
            while heap:
                room, rank = heap[0]
                now = float(self.carried[rank] - self.goal[rank])
                if now != room:
                    heapq.heapreplace(heap, (now, rank)) if now < 0 else heapq.heappop(heap)
                    continue
                if -now < load * 0.999:
                    break
                if rank != source and free[rank] >= size:
                    found = rank
                    break
                put_back.append(heapq.heappop(heap))
            for entry in put_back:
                heapq.heappush(heap, entry)  # type: ignore[arg-type]
            if found >= 0:
                return found, tier
        return -1, -1

    def put(self, rank: int, load: float) -> None:
        self.carried[rank] += load


def _reasons(hot: Array, spread: float, split: tuple[tuple[int, int], ...], moves: list[Move], before: float, after: float,
             moved: float, all_bytes: float) -> tuple[str, ...]:
    said = [f"before: the fullest rank carries {before:.2f} times its share"]
    if hot.any():
        said.append(f"replicate {int(hot.sum())} keys: each is above {REPLICATE:g}/P of the load, together {spread:.1%}; "
                    f"no placement of slots could carry them")
    if split:
        said.append(f"split {len(split)} slots, first slot {split[0][0]} into {1 << split[0][1]}: each is above "
                    f"{SPLIT:g} of a rank's mean")
    if moves:
        tiers = ", ".join(f"{sum(m.tier == t for m in moves)} {'in the ' if t < 2 else ''}{name}"
                          for t, name in enumerate(TIERS) if any(m.tier == t for m in moves))
        part = moved / max(all_bytes, 1e-12)
        said.append(f"move {len(moves)} pieces ({tiers}), {moved / 2**20:,.1f} MiB = {part:.2%} of the bytes, "
                    "most load a byte first")
    said.append(f"after: {after:.3f} times" + ("; what is left does not come apart further" if after > 1.1 else ""))
    return tuple(said)


@dataclass(frozen=True)
class Balancer:
    """State of the loop: windows since it last acted, and for how many the load was uneven."""

    quiet: int = 1 << 20
    uneven: int = 0


@dataclass(frozen=True)
class Act:
    """Carry out the plan."""

    plan: Plan


@dataclass(frozen=True)
class Stay:
    """Do nothing, because."""

    reason: str


def step(state: Balancer, load: Load, cluster: Cluster, *, window_s: float, horizon: int = 10, trigger: float = 1.1,
         patience: int = 2, rest: int = 3) -> tuple[Balancer, Act | Stay]:
    """One look: acts where the load was above `trigger` for `patience` windows, `rest` windows after the last time, and when
    the time gained in `horizon` windows (all wait for the fullest rank) is more than moving takes."""
    state = replace(state, quiet=state.quiet + 1)
    made = plan(load, cluster)
    if made.before <= trigger:
        return replace(state, uneven=0), Stay(f"the fullest rank has {made.before:.2f} times its share, below {trigger:g}")
    state = replace(state, uneven=state.uneven + 1)
    if state.uneven < patience:
        return state, Stay(f"uneven for {state.uneven} of {patience} windows")
    if state.quiet <= rest:
        return state, Stay(f"acted {state.quiet} windows ago; rests for {rest}")
    gain = window_s * horizon * (1 - made.after / made.before)
    if gain <= made.cost_s:
        return state, Stay(f"would gain {gain:.3g} s in {horizon} windows and cost {made.cost_s:.3g} s")
    return Balancer(0, 0), Act(made)


def resize(owner: Array, before: int, after: int, weight: Array | None = None) -> tuple[Array, Array]:
    """(slots, owners) to reassign so that ranks 0..after-1 share what 0..before-1 had, moving the least.

    `owner` (slots,): rank of each; `weight`: load of each (all 1). Growing, every rank gives its share to the new ones;
    shrinking, only slots of the ranks that leave move.
    """
    load = np.ones(len(owner)) if weight is None else np.asarray(weight, np.float64)
    target = load.sum() / after
    have = np.bincount(owner, load, max(before, after))[:after]
    if after < before:
        slots = np.flatnonzero(owner >= after)
    else:
        order = np.argsort(owner, kind="stable")
        inside = np.cumsum(load[order])
        inside -= np.concatenate([[0.0], np.cumsum(np.bincount(owner, load, before))])[owner[order]]
        excess = inside - load[order] / 2 - target  # of a slot's middle: the nearest whole number of slots goes
        first = np.argsort(-excess, kind="stable")
        first = first[excess[first] > 0]
        slots = order[first[np.cumsum(load[order[first]]) <= target * (after - before) + load.max() / 2]]
        have = np.minimum(have, np.bincount(np.delete(owner, slots), np.delete(load, slots), after)[:after])
    place = np.cumsum(load[slots]) - load[slots] / 2
    room = np.cumsum(np.maximum(0.0, target - have))
    return slots, np.minimum(np.searchsorted(room, place * (room[-1] / max(load[slots].sum(), 1e-300))), after - 1)
