"""Recovery in place: the survivors of a death go on in the same processes, from node memory, in five timed steps.

    isolate      the dead are known, their communicator is given up, the survivors have one of their own
    recover      every shard of the last committed step, from node memory
    repair       shards, copies and cursors dealt to the ranks that are left
    synchronise  all ranks hold one digest of the whole state
    verify       the canary rows are predicted with the same bits as before; the next step that commits closes the record

Where a step fails or takes too long the error goes on, the job ends, and the supervisor relaunches it (the next tier).
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine import job as jobs
from engine import loop
from engine.cluster import recover as plans
from engine.comm import sync
from engine.config import Config
from engine.errors import PeerError
from engine.source.live import Live
from engine.survive import canary, live, protect
from engine.types import Link, Source


@dataclass(frozen=True)
class Means:
    """What a job is made from again: `prepare(config, link, source, diary, guard, team)` -> job, protection,
    meta.
    """

    config: Config
    source: Source
    diary: Any
    guard: Any
    prepare: Callable[..., Any]


def tiers(link: Link) -> str:
    """The tiers that work here, in order, and what would enable a better one."""
    if link.size == 1:
        return "relaunch from node memory, then the file system"
    from engine.comm import repair

    how = repair.mode_cached()
    if how:
        return f"in place ({how}), then relaunch from node memory, then the file system"
    return f"relaunch from node memory, then the file system; in place needs {repair.advice()}"


def mend(error: Exception, job: loop.Job, shield: protect.Protection | None,
         means: Means) -> tuple[loop.Job, protect.Protection]:
    """The job, with the ranks that are left; raises `error` where it is no death or nothing can be done in place."""
    from engine.comm import repair

    if shield is None or job.link.size == 1 or not repair.mode_cached() or not _lost(error, shield):
        raise error
    if hasattr(shield, "regroup"):  # apart.Apart, whose ranks commit each for itself
        return _apart(job, shield, means)
    plan, _ = plans.recovery(plans.TIERS[:1], time.monotonic())
    dead = len(shield.pulse.lost)
    try:
        with means.guard.watch("recovery in place"):
            shield.close(done=False)
            if isinstance(job.stream, Live):
                job.stream.close()  # its feeds are opened anew by whoever reads them from here on
            comm = repair.survivors(job.link, least=dead, timeout_s=2.0)
            link = jobs.connect(comm, timeout_s=min(5.0, means.config.loop.stall_timeout), watch=means.guard.watch)
            plan = _passed(plan)
        team = job.team if isinstance(job.team, loop.Team) and link.size > 1 else None  # its memory is there: it is loaded anew
        if team is None:
            job.team.close()
        else:
            team.stand = live.stand(job, shield.at)
        means.guard.rank = link.rank
        means.diary.move(link)
        fresh, guarded, before = means.prepare(means.config, link, means.source, means.diary, means.guard, team)
        if before is None:
            raise PeerError("node memory held no step that is whole")
        plan = _passed(_passed(plan))
        sync.same(link, (fresh.clock.step, fresh.clock.rows, guarded.whole_digest(fresh)), "the recovered state")
        plan = _passed(plan)
        canary.check_canary(before, fresh)
        plan = _passed(plan)
    except Exception as problem:
        plan, _ = plans.advance(plan, plans.Failed(time.monotonic(), str(problem)))
        raise PeerError(f"recovery in place failed at {plan.failed[-1]}",
                        fix="the supervisor starts the run again") from problem
    link.timeout_s = means.config.loop.stall_timeout  # type: ignore[attr-defined]
    spent = {name: round(seconds, 4) for name, seconds in plan.spent.items()}
    means.diary.note(f"in place: {dead} lost, {link.size} ranks go on from step {fresh.clock.step}, "
                     + ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in spent.items()))
    means.diary.event("recovery", fresh.clock.rows, tier="in place", step=fresh.clock.step, ranks=link.size, spent=spent)
    protect.audit("recovery", tier="in place", step=fresh.clock.step, ranks=link.size, spent=spent, rank=link.rank)
    return fresh, guarded


def _lost(error: Exception, shield: protect.Protection) -> bool:
    """Whether a rank has died; MPI may say it in its own way, before the heart is missed (a copy from memory that is gone)."""
    from engine.comm import repair

    until = time.monotonic() + 1.0
    while type(error).__module__.startswith("mpi4py") and not shield.pulse.lost and time.monotonic() < until:
        time.sleep(0.005)
    return repair.lost(error) or (type(error).__module__.startswith("mpi4py") and bool(shield.pulse.lost))


def _apart(job: loop.Job, shield: Any, means: Means) -> tuple[loop.Job, protect.Protection]:
    """The same job over the survivors: they learn on while what the dead held is read (asynchronous mode)."""
    from engine.comm import repair

    began = time.monotonic()
    try:
        with means.guard.watch("recovery in place"):
            comm = repair.survivors(job.link, least=len(shield.pulse.lost), timeout_s=2.0)
            link = jobs.connect(comm, timeout_s=min(5.0, means.config.loop.stall_timeout), watch=means.guard.watch)
            dead = shield.regroup(link)
    except Exception as problem:
        raise PeerError(f"recovery in place failed: {problem}", fix="the supervisor starts the run again") from problem
    spent_s = time.monotonic() - began
    means.guard.rank = link.rank
    means.diary.move(link)
    link.timeout_s = means.config.loop.stall_timeout  # type: ignore[attr-defined]
    means.diary.note(f"in place: {len(dead)} lost, {link.size} ranks learn on after {1e3 * spent_s:.0f} ms; what the dead held "
                     "is read meanwhile")
    means.diary.event("recovery", job.clock.rows, tier="in place", ranks=link.size, spent={"isolate": round(spent_s, 4)})
    protect.audit("regrouped", rank=link.rank, ranks=link.size, dead=dead, spent={"isolate": round(spent_s, 4)})
    return job, shield


def _passed(plan: plans.Recovery) -> plans.Recovery:
    return plans.advance(plan, plans.Passed(time.monotonic()))[0]
