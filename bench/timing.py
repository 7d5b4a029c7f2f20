"""Interleaved paired timing: A, B, A, B, ... so that a noisy or slowing machine strikes both sides alike."""
from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LEAST_S = 0.02


@dataclass(slots=True)
class Sample:
    """One timed call: wall-clock and CPU seconds (own threads and finished children) and what the call returned."""

    wall: float
    cpu: float
    result: Any = None


Timed = Callable[[], Any]


def cpu_s() -> float:
    """CPU seconds of this process, all its threads and its finished children."""
    own, child = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime


def sample(call: Timed, repeat: int = 1) -> Sample:
    """Time `repeat` calls as one; seconds are per call. A call that returns a Sample (a peer) is taken at its word."""
    wall, cpu = time.perf_counter(), cpu_s()
    for _ in range(repeat - 1):
        call()
    result = call()
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    if isinstance(result, Sample):
        return result
    return Sample(wall / repeat, cpu / repeat, result)


def calibrate(call: Timed, least_s: float = LEAST_S) -> int:
    """How many calls make one sample at least `least_s` seconds long; runs the call, so it warms up as well."""
    repeat = 1
    while True:
        wall = time.perf_counter()
        for _ in range(repeat):
            if isinstance(call(), Sample):
                return 1
        wall = time.perf_counter() - wall
        if wall >= least_s:
            return repeat
        repeat = max(repeat * 2, min(repeat * 100, int(repeat * least_s / max(wall, 1e-9))))


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles, relative to the median; 0 for fewer than four values' worth of knowledge."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    middle = statistics.median(values)
    return (high - low) / 2 / middle if middle else 0.0


@dataclass(slots=True)
class Series:
    """The samples of one side."""

    samples: list[Sample] = field(default_factory=list)

    def seconds(self, clock: str) -> list[float]:
        return [getattr(one, clock) for one in self.samples]

    def median(self, clock: str = "wall") -> float:
        return statistics.median(self.seconds(clock))

    def spread(self, clock: str = "wall") -> float:
        return spread(self.seconds(clock))

    @property
    def result(self) -> Any:
        return self.samples[-1].result


@dataclass(slots=True)
class Pair:
    """Both sides of an interleaved comparison."""

    ours: Series
    theirs: Series

    def ratios(self, clock: str = "wall") -> list[float]:
        """Our time over their time, round by round."""
        both = zip(self.ours.seconds(clock), self.theirs.seconds(clock), strict=True)
        return [mine / other for mine, other in both]

    def ratio(self, clock: str = "wall") -> float:
        return statistics.median(self.ratios(clock))

    def spread(self, clock: str = "wall") -> float:
        return spread(self.ratios(clock))


def alone(call: Timed, rounds: int = 7, seconds: float = 10.0, least_s: float = LEAST_S) -> Series:
    """Time one side: warm-up, auto-range, then `rounds` samples or as many as fit `seconds` (at least two)."""
    repeat = calibrate(call, least_s)
    made, end = Series(), time.perf_counter() + seconds
    while len(made.samples) < rounds and (len(made.samples) < 2 or time.perf_counter() < end):
        made.samples.append(sample(call, repeat))
    return made


def paired(ours: Timed, theirs: Timed, rounds: int = 7, seconds: float = 20.0, least_s: float = LEAST_S) -> Pair:
    """Time both sides alternately: ours, theirs, then theirs, ours, and so on, so that neither always goes second."""
    repeat_ours, repeat_theirs = calibrate(ours, least_s), calibrate(theirs, least_s)
    made, end = Pair(Series(), Series()), time.perf_counter() + seconds
    turn = 0
    while turn < rounds and (turn < 2 or time.perf_counter() < end):
        sides = [(ours, repeat_ours, made.ours), (theirs, repeat_theirs, made.theirs)]
        for call, repeat, series in sides if turn % 2 == 0 else reversed(sides):
            series.samples.append(sample(call, repeat))
        turn += 1
    return made
