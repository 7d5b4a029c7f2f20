"""What a job does after each step: merge, save, report, stop. Decided from what all ranks know, so all decide alike.

Times come in as an agreed figure (rank 0's clock, in the step's vote); nothing here reads a clock.
"""
from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """When things are due; 0 = never. Rows count over all ranks, seconds on rank 0's clock."""

    save_rows: int = 0
    save_s: float = 0.0
    report_s: float = 10.0
    stop_rows: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """One step as all ranks saw it: rows learned by all, whether any rank has more, who asked to stop, rank 0's time."""

    rows: int
    left: bool
    stop: str = ""
    now_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Steps and rows done; when the next report and checkpoint are due."""

    step: int = 0
    rows: int = 0
    report_rows: int = 1
    report_at_s: float = 0.0
    saved_rows: int = 0
    saved_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint of the state after this step."""

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Merge the meters and log a line; `final` ends the run's table."""

    final: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop; `reason` "" = the input has ended."""

    reason: str = ""


Action = Save | Report | Stop


def advance(clock: Clock, tick: Tick, rules: Rules) -> tuple[Clock, list[Action]]:
    """The clock after one step, and what is to be done now, in order."""
    ended = tick.rows == 0 and not tick.left
    clock = replace(clock, step=clock.step + (not ended), rows=clock.rows + tick.rows)
    full = rules.stop_rows and clock.rows >= rules.stop_rows
    stop = Stop(tick.stop) if tick.stop else Stop("row limit") if full else Stop() if ended else None
    actions: list[Action] = []
    saves = rules.save_rows or rules.save_s
    due = (rules.save_rows and clock.rows - clock.saved_rows >= rules.save_rows) or (
        rules.save_s and tick.now_s - clock.saved_at_s >= rules.save_s
    )
    if saves and clock.rows > clock.saved_rows and (due or stop):
        actions.append(Save(stop.reason if stop else "due"))
        clock = replace(clock, saved_rows=clock.rows, saved_at_s=tick.now_s)
    if stop is None and (clock.rows >= clock.report_rows or tick.now_s >= clock.report_at_s > 0):
        actions.append(Report())
        clock = _reported(clock, tick, rules)
    if stop is not None:
        actions += [Report(final=True), stop]
    return clock, actions


def pace(k: int, took_s: float, every_s: float) -> int:
    """Rows a worker learns in the next step, so that it takes `every_s`; the last took `took_s` for `k` rows.

    It moves by a factor of 2 at most, so that one odd step does little.
    """
    return max(1, k // 2, min(2 * k, 1 << 20, round(k * every_s / max(took_s, 1e-9))))


def _reported(clock: Clock, tick: Tick, rules: Rules) -> Clock:
    """Reports come at doubling row counts until the doublings are further apart than `report_s`, then by time."""
    rows = clock.report_rows
    while rows <= clock.rows:
        rows *= 2
    if tick.now_s >= rules.report_s:
        rows = 1 << 62
    return replace(clock, report_rows=rows, report_at_s=tick.now_s + rules.report_s)
