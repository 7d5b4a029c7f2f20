"""Bounded staleness as a plan: who may learn the next round, which rounds are whole. No clock, no I/O, no MPI.

A round is `k` rows of every worker. A rank at round c has sent rounds 0..c-1. It may learn round c once every rank's
rounds up to c - bound - 1 are here (Ho et al., NIPS 2013), so a read misses at most `bound` rounds of anybody.
Bound 0 is lock-step. Rounds are committed in order, each when all its updates are here, so all ranks commit the same.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Board:
    """What one rank knows: `here[r]` = rounds received from rank r (its own: learned), `done` = rounds committed.

    `halt`: learn no round from this one on, until everything before it is committed; -1 = none.
    """

    rank: int
    bound: int
    here: tuple[int, ...]
    done: int = 0
    halt: int = -1

    @property
    def mine(self) -> int:
        return self.here[self.rank]

    @property
    def may_learn(self) -> bool:
        return self.mine - self.done <= self.bound and not 0 <= self.halt <= self.mine

    @property
    def quiet(self) -> bool:
        """Halted, and every rank has committed all before the halt."""
        return 0 <= self.halt == self.done

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks whose next round this rank waits for."""
        return tuple(r for r, n in enumerate(self.here) if n <= self.done)

    @property
    def age(self) -> tuple[float, int]:
        """Mean and greatest number of others' rounds that a read here and now misses."""
        gaps = [max(0, self.mine - n) for r, n in enumerate(self.here) if r != self.rank]
        return (sum(gaps) / len(gaps), max(gaps)) if gaps else (0.0, 0)


@dataclass(frozen=True, slots=True)
class Commit:
    """Merge this round's updates, in rank order."""

    round: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """The next round of `rank` is here (of this rank: learned)."""

    rank: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Round `round` said that something is due: the first round that no rank can have learned yet is the halt."""

    round: int


@dataclass(frozen=True, slots=True)
class Resume:
    """What was due is done."""


def shares(row_s: Sequence[float], rows: int, least: int = 1) -> list[int]:
    """`rows` dealt to ranks by their speed, so that all need the same time; `row_s`: seconds a row, 0 = not known yet."""
    known = [s for s in row_s if s > 0]
    usual = sorted(known)[len(known) // 2] if known else 1.0
    speed = [1 / (s if s > 0 else usual) for s in row_s]
    exact = [rows * v / sum(speed) for v in speed]
    found = [max(least, int(x)) for x in exact]
    by_rest = sorted(range(len(exact)), key=lambda r: (int(exact[r]) - exact[r], r))
    for r in by_rest[: max(0, rows - sum(found))]:
        found[r] += 1
    return found


def start(size: int, rank: int, bound: int, done: int = 0) -> Board:
    if bound < 0:
        raise ValueError(f"staleness bound: expected at least 0, found {bound}")
    return Board(rank, bound, (done,) * size, done)


def advance(board: Board, event: Arrived | Pause | Resume) -> tuple[Board, list[Commit]]:
    """The board after an event, and the rounds that it made whole, in order."""
    if isinstance(event, Resume):
        return replace(board, halt=-1), []
    if isinstance(event, Pause):
        halt = event.round + board.bound + 1
        return replace(board, halt=halt if board.halt < 0 else min(board.halt, halt)), []
    here = list(board.here)
    here[event.rank] += 1
    whole = min(here)
    return replace(board, here=tuple(here), done=whole), [Commit(c) for c in range(board.done, whole)]
