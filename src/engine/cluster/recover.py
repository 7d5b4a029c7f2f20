"""Recovery, decided purely: who guards whom, which step can be had, which tier is tried, in five named steps.

A step is *committed* when the vote that follows it has found the same digest on every rank; by then each shard has it in
its own node's memory and at its guard. `choose` finds the newest step that every shard can give with one digest: at least the
last committed one, unless more copies are lost than the redundancy covers.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

STEPS = ("isolate", "recover", "repair", "synchronise", "verify")
TIERS = ("in place", "relaunch", "file system")


@dataclass(frozen=True, slots=True)
class Lane:
    """Shards with parity over nodes: `ranks[node]` of a group, -1 where a node has none; `m` sums a stripe, held at `place`."""

    ranks: tuple[int, ...]
    m: int
    place: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A copy of a shard somewhere: `role` own or copy, `holder` any name, `versions` step -> digest. `members`: where ranks
    commit each for itself, those whose state the newest version has: the rank's own and what it took over from the dead.
    `lane`: of sums over the shards of several nodes (`role` parity), what they are of.
    """

    holder: str
    epoch: int
    shard: int
    shards: int
    role: str
    versions: Mapping[int, int]
    members: tuple[int, ...] = ()
    lane: Lane | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Step `version` of `epoch`; `sources[shard]`: places in the list of copies that can give it, best first. `sums`: places
    of the parity of that step.
    """

    epoch: int
    version: int
    shards: int
    sources: tuple[tuple[int, ...], ...]
    sums: tuple[int, ...] = ()


def interval_s(cost_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints that cost `cost_s` each where failures come every `mtbf_s`: J. Daly, A higher order estimate
    of the optimum checkpoint interval, FGCS 22 (2006), equation 37; Young's sqrt(2 cost mtbf) where the cost is small.
    """
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = (cost_s / (2 * mtbf_s)) ** 0.5
    return max(cost_s, (2 * cost_s * mtbf_s) ** 0.5 * (1 + ratio / 3 + ratio * ratio / 9) - cost_s)


def guards(nodes: Sequence[int], copies: int = 1) -> list[list[int]]:
    """Ranks that keep a copy of each rank's shard: `copies` of them, on the next nodes; none where nodes are too few.

    `nodes[r]`: node of rank r. Ranks of a node are spread over those of its guard node in turn.
    """
    names = sorted(set(nodes))
    members = {name: [r for r, node in enumerate(nodes) if node == name] for name in names}
    found: list[list[int]] = []
    for rank, node in enumerate(nodes):
        place, seat = names.index(node), members[node].index(rank)
        chosen = []
        for step in range(1, min(copies, len(names) - 1) + 1):
            there = members[names[(place + step) % len(names)]]
            chosen.append(there[seat % len(there)])
        found.append(chosen)
    return found


def lanes(nodes: Sequence[int], k: int, m: int) -> list[tuple[Lane, tuple[int, ...]]]:
    """Which ranks have parity together, and the rank that holds the sums of each node.

    The nodes are dealt to as many groups as have at least `k` + `m` of them; rank j of each node of a group is in its lane j.
    Fewer nodes make one group, of at most `m` that may be lost; a lone node has no parity.
    """
    names = sorted(set(nodes))
    count = max(1, len(names) // (k + m))
    members = {name: [r for r, node in enumerate(nodes) if node == name] for name in names}
    found = []
    for at in range(count):
        group = names[at::count]
        for seat in range(max(len(members[name]) for name in group) if len(group) > 1 else 0):
            ranks = tuple(members[name][seat] if seat < len(members[name]) else -1 for name in group)
            holders = tuple(members[name][seat % len(members[name])] for name in group)
            found.append((Lane(ranks, min(m, len(group) - 1)), holders))
    return found


def covered(lane: Lane, shards: set[int], sums: set[int]) -> bool:
    """Whether what is lost, `shards` and `sums` by node, can be made again: stripe s has its sums on the nodes from s on."""
    nodes = len(lane.ranks)
    for stripe in range(nodes):
        holders = {(stripe + at) % nodes for at in range(lane.m)}
        gone = len(shards - holders)
        if gone and gone + len(sums & holders) > lane.m:
            return False
    return True


def choose(copies: Sequence[Held], *, below: tuple[int, int] | None = None) -> Choice | None:
    """The newest step (epoch first) that every shard of one layout can give with one digest, or None.

    `below` = (epoch, version): look only before that one, because it has failed to verify.
    """
    for epoch in sorted({copy.epoch for copy in copies}, reverse=True):
        if below is not None and epoch > below[0]:
            continue
        sizes = {copy.shards for copy in copies if copy.epoch == epoch}
        for shards in sorted(sizes, reverse=True):
            mine = [(place, c) for place, c in enumerate(copies) if c.epoch == epoch and c.shards == shards]
            limit = below[1] if below is not None and epoch == below[0] else None
            found = _newest(mine, shards, limit)
            if found is not None:
                version, sources, sums = found
                return Choice(epoch, version, shards, sources, sums)
    return None


def _newest(
    mine: Iterable[tuple[int, Held]], shards: int, limit: int | None
) -> tuple[int, tuple[tuple[int, ...], ...], tuple[int, ...]] | None:
    at: dict[tuple[int, int], dict[int, list[tuple[bool, int]]]] = {}
    sums: dict[tuple[int, int], list[tuple[int, Lane]]] = {}
    for place, copy in mine:
        for version, digest in copy.versions.items():
            if limit is not None and version >= limit:
                continue
            holders = at.setdefault((version, digest), {})
            if copy.lane is None:
                holders.setdefault(copy.shard, []).append((copy.role != "own", place))
            else:
                sums.setdefault((version, digest), []).append((place, copy.lane))
    for (version, digest), holders in sorted(at.items(), reverse=True):
        held = sums.get((version, digest), [])
        if whole(shards, set(holders), [lane for _, lane in held]):
            sources = tuple(tuple(place for _, place in sorted(holders.get(shard, ()))) for shard in range(shards))
            return version, sources, tuple(place for place, _ in held)
    return None


def whole(shards: int, have: set[int], sums: Sequence[Lane]) -> bool:
    """Whether every shard is there or can be made again from the others and these sums."""
    missing = set(range(shards)) - have
    for lane in {(lane.ranks, lane.m): lane for lane in sums}.values():
        lost = {node for node, rank in enumerate(lane.ranks) if rank in missing}
        left = {other.place for other in sums if other.ranks == lane.ranks}
        if lost and covered(lane, lost, set(range(len(lane.ranks))) - left):
            missing -= set(lane.ranks)
    return not missing


def newest(copies: Sequence[Held]) -> list[int] | None:
    """Where ranks commit each for itself: places of the copies that together have every member once, each at its newest
    version, of the newest epoch that has all; None where there is none.
    """
    for epoch in sorted({copy.epoch for copy in copies}, reverse=True):
        best: dict[int, int] = {}
        for place, copy in enumerate(copies):
            if copy.epoch == epoch and copy.versions:
                at = best.get(copy.shard)
                if at is None or max(copy.versions) > max(copies[at].versions):
                    best[copy.shard] = place
        taken = {m for at in best.values() for m in copies[at].members if m != copies[at].shard}
        chosen = [at for shard, at in sorted(best.items()) if shard not in taken]
        held = sorted(m for at in chosen for m in copies[at].members)
        if chosen and held == list(range(copies[chosen[0]].shards)):
            return chosen
    return None


@dataclass(frozen=True, slots=True)
class Recovery:
    """Where a recovery stands. `spent[step]` in seconds, of the tier being tried; `done` when it has ended."""

    tier: str
    step: str = STEPS[0]
    tiers: tuple[str, ...] = TIERS
    began_s: float = 0.0
    since_s: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    done: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """The step under way has ended well at `now_s`."""

    now_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The step under way has failed, or taken too long."""

    now_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Do:
    """Carry out `step` of `tier`."""

    tier: str
    step: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A line of the audit log: how a tier ended, with the seconds of its steps."""

    tier: str
    spent: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No tier is left: stop and say so, never go on from less than was promised."""

    reasons: tuple[str, ...]


RecoverAction = Do | Tell | GiveUp


def recovery(tiers: Sequence[str], now_s: float) -> tuple[Recovery, list[RecoverAction]]:
    """A recovery begins with the first tier that works here."""
    state = Recovery(tiers[0], tiers=tuple(tiers), began_s=now_s, since_s=now_s)
    return state, [Do(tiers[0], STEPS[0])]


def advance(state: Recovery, event: Passed | Failed) -> tuple[Recovery, list[RecoverAction]]:
    """The next of the five steps; after a failure the next tier, from its first step; after the last tier, the end."""
    if state.done:
        return state, []
    spent = {**state.spent, state.step: event.now_s - state.since_s}
    if isinstance(event, Failed):
        failed = (*state.failed, f"{state.tier}, {state.step}: {event.reason}")
        told: list[RecoverAction] = [Tell(state.tier, spent, failed[-1])]
        later = state.tiers[state.tiers.index(state.tier) + 1 :]
        if not later:
            return replace(state, failed=failed, done=True, lost=True, spent=spent), [*told, GiveUp(failed)]
        following = replace(state, tier=later[0], step=STEPS[0], since_s=event.now_s, spent={}, failed=failed)
        return following, [*told, Do(later[0], STEPS[0])]
    place = STEPS.index(state.step) + 1
    if place == len(STEPS):
        return replace(state, done=True, spent=spent, since_s=event.now_s), [Tell(state.tier, spent)]
    return replace(state, step=STEPS[place], since_s=event.now_s, spent=spent), [Do(state.tier, STEPS[place])]
