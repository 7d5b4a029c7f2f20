"""The registry: a case is a function decorated with its bench and name; a bench is all cases of that name."""
from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.row import Bars, Row, absent, row
from bench.timing import Timed, alone, paired

LIMIT_S = 540.0  # a bench without `long` ends within 10 minutes
BENCHES = ("learn", "codec", "delta", "rows", "kernels", "comm", "shard", "source", "fault", "embed")
MORE = {"learn": ("model", "continual"), "fault": ("saved",)}  # further modules with cases of a bench


class Missing(Exception):
    """Something a case needs is not here; the message says what and how to get it."""


@dataclass(slots=True)
class Setting:
    """What the command line asked for."""

    seconds: float = 20.0
    rounds: int = 7
    long: bool = False
    data: Path | None = None
    device: str = "cpu"

    def file(self, name: str) -> Path:
        """A real data set by file name: from --data, $ENGINE_DATA, or ../shared/data; Missing where there is none."""
        named = os.environ.get("ENGINE_DATA")
        folder = self.data or (Path(named) if named else ROOT.parent / "shared" / "data")
        if not (folder / name).is_file():
            raise Missing(f"{name} not found in {folder}; name the folder with --data or ENGINE_DATA")
        return folder / name


Case = Callable[[Setting], Iterator[Row]]
REGISTRY: dict[str, dict[str, Case]] = {}


def case(bench: str, name: str) -> Callable[[Case], Case]:
    """Register a case: `@case("learn", "a9a.memory")`."""
    def enter(function: Case) -> Case:
        REGISTRY.setdefault(bench, {})[name] = function
        return function
    return enter


def load(bench: str) -> dict[str, Case]:
    """All cases of a bench, by name in the order they stand in the file."""
    importlib.import_module(f"bench.{bench}")
    for more in MORE.get(bench, ()):
        importlib.import_module(f"bench.{more}")
    return REGISTRY.get(bench, {})


def rows(bench: str, glob: str, setting: Setting) -> Iterator[Row]:
    """Run the cases that match; one that cannot run, or fails, leaves a row that says why.

    Without `long` a comparison's time is cut so that the cases still to come fit into what is left of `LIMIT_S`.
    """
    found = [(name, function) for name, function in load(bench).items() if fnmatch(name, glob)]
    asked_s, began = setting.seconds, time.monotonic()
    for place, (name, function) in enumerate(found):
        if not setting.long:
            setting.seconds = share_s(asked_s, LIMIT_S - (time.monotonic() - began), len(found) - place)
        try:
            yield from function(setting)
        except Missing as why:
            yield absent(name, "", None, str(why))
        except Exception as error:
            yield absent(name, "", None, f"{type(error).__name__}: {error}", failed=True)


def share_s(asked_s: float, left_s: float, cases: int) -> float:
    """Seconds for one comparison: as asked, or a third of a case's share of what is left (a case has one to three), at
    least one.
    """
    return max(1.0, min(asked_s, left_s / cases / 3))


def versus(setting: Setting, name: str, baseline: str, ours: Timed, theirs: Timed | Missing, *, work: float = 0,
           unit: str = "s", clock: str = "wall", bars: Bars | None = None, **beside: Any) -> Row:
    """Time both sides interleaved and make the row.

    With `work` (units of work a call) the figures are rates, work per second of `clock`; without it they are seconds.
    Where the peer is absent the row has our figure alone and says why.
    """
    if isinstance(theirs, Missing):
        series = alone(ours, setting.rounds, setting.seconds / 2)
        value = work / series.median(clock) if work else series.median(clock)
        return row(name, value, unit, baseline, spread=series.spread(clock), bars=bars, note=str(theirs), **beside)
    pair = paired(ours, theirs, setting.rounds, setting.seconds)
    mine, other, ratio = pair.ours.median(clock), pair.theirs.median(clock), pair.ratio(clock)
    if work:
        mine, other, ratio = work / mine, work / other, 1 / ratio
    return row(name, mine, unit, baseline, other, ratio, pair.spread(clock), bars, **beside)
