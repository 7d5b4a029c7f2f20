"""Who is alive, decided purely from what a rank sees of its neighbours' heartbeats and processes.

A late heartbeat alone proves nothing: on a crowded machine a healthy rank may wait for a core. A rank is fenced where its
heart has been still for `frozen_s` *and* its process is stopped, or for `hung_s` without using any CPU; a process that is
gone is lost. An observer that was itself held up trusts nothing of that round.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `period_s`: how often a heart beats and looks; a look later than `late_s` is not trusted."""

    frozen_s: float = 0.5
    hung_s: float = 300.0
    period_s: float = 0.05

    @property
    def late_s(self) -> float:
        return 4 * self.period_s


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of one rank: its last beat, whether its process is there, is stopped, and the CPU seconds it has used."""

    rank: int
    beat_s: float
    gone: bool = False
    stopped: bool = False
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Watch:
    """An observer's memory. `idle[rank]` = CPU seconds when last seen to change, and since when."""

    looked_s: float = 0.0
    idle: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    dead: frozenset[int] = frozenset()
    fenced: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Fence:
    """Kill this rank's process: it is not dead, and cannot be waited for."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """This rank's process is gone."""

    rank: int


def look(watch: Watch, now_s: float, sights: Sequence[Sight], limits: Limits) -> tuple[Watch, list[Fence | Lost]]:
    """One round of an observer at `now_s`."""
    trusted = watch.looked_s > 0 and now_s - watch.looked_s <= limits.late_s
    idle, dead, fenced, actions = dict(watch.idle), set(watch.dead), set(watch.fenced), list[Fence | Lost]()
    for sight in sights:
        if sight.rank in dead:
            continue
        if sight.gone:
            dead.add(sight.rank)
            actions.append(Lost(sight.rank))
            continue
        cpu, since = idle.get(sight.rank, (-1.0, now_s))
        if sight.cpu_s != cpu:
            cpu, since = sight.cpu_s, now_s
        idle[sight.rank] = (cpu, since)
        still = now_s - sight.beat_s
        if not trusted or sight.rank in fenced:
            continue
        if still > limits.frozen_s and sight.stopped:
            actions.append(Fence(sight.rank, f"stopped, no heartbeat for {still:.2f} s"))
        elif still > limits.hung_s and now_s - since > limits.hung_s:
            actions.append(Fence(sight.rank, f"no heartbeat and no CPU time for {still:.1f} s"))
        else:
            continue
        fenced.add(sight.rank)
    return replace(watch, looked_s=now_s, idle=idle, dead=frozenset(dead), fenced=frozenset(fenced)), actions


@dataclass(frozen=True, slots=True)
class Island:
    """What one side of a cut network may do: go on, wait for the link, or stop writing."""

    epoch: int
    members: frozenset[int]


def quorum(members: Sequence[int], reached: Sequence[int]) -> bool:
    """Whether this side may go on: more than half of the members, or exactly half with the lowest of them."""
    whole, side = set(members), set(reached) & set(members)
    return 2 * len(side) > len(whole) or (2 * len(side) == len(whole) and min(whole) in side)
