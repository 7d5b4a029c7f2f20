"""Migration of live slots, as the source sees it: a pure plan. One commit point, so that a crash at any step has one outcome.

    PREPARE   the target says that it has room
    COPY      all rows, in acknowledged blocks, while writers go on
    CATCHUP   rows changed meanwhile, in rounds, until a round is short
    FREEZE    writers wait (readers do not); the last changed rows, and which requests were carried out of late
    FLIP      the target takes the slots under an epoch 2 higher: from here on it is the owner
    DRAIN     the source opens again, answers MOVED, and drops its rows when every node has heard

Before the target has flipped, the source owns the slots whatever happens: the target's copies are dropped. After it, the
target owns them. Nobody else decides, and the target applies nothing before it has flipped, so no update is lost or
doubled. Where the answer to FLIP is lost the source asks again, with the same change: the second flip changes nothing.
Of two copies of the ledger the higher epoch is right, so survivors agree by taking one another's entries (`settle`).
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PHASES = ("prepare", "copy", "catchup", "freeze", "flip", "drain", "done", "failed")
Phase = Literal["prepare", "copy", "catchup", "freeze", "flip", "drain", "done", "failed"]
ROUNDS, PATIENT = 20, 8
SHRINK = 0.8


@dataclass(frozen=True)
class Move:
    """State: where it is, and how the rounds went. `short_s`: a round this quick is followed by the freeze; `freeze_s`: the
    longest predicted freeze that is still taken when rounds do not shrink."""

    source: int
    target: int
    slots: tuple[int, ...]
    phase: Phase = "prepare"
    rounds: int = 0
    last_s: float = float("inf")
    sent_bytes: int = 0
    tries: int = 0
    why: str = ""
    short_s: float = 1e-3
    freeze_s: float = 0.05


# Events

@dataclass(frozen=True)
class Reserved:
    """The target's answer."""

    free_rows: int
    rows: int


@dataclass(frozen=True)
class Sent:
    """What was asked to be sent has been acknowledged."""

    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class Flipped:
    """The target's answer: it owns the slots (now, or since an earlier try), or their entries were not as expected."""

    taken: bool


@dataclass(frozen=True)
class Heard:
    """Every node knows the new owner."""


@dataclass(frozen=True)
class Refused:
    """A step failed: the target is gone, full, or does not answer."""

    why: str
    dead: bool = False


Event = Reserved | Sent | Flipped | Heard | Refused


# Actions

@dataclass(frozen=True)
class Reserve:
    """Ask the target how many rows it can take."""


@dataclass(frozen=True)
class Copy:
    """Begin to note changed rows, then send all rows."""


@dataclass(frozen=True)
class Catch:
    """Send the rows changed since the last time."""


@dataclass(frozen=True)
class Freeze:
    """Close the gate, wait for writers inside, send the last changed rows and the requests carried out of late."""


@dataclass(frozen=True)
class Flip:
    """Tell the target to take the slots."""


@dataclass(frozen=True)
class Open:
    """Take the new entries (`moved`), or none; open the gate."""

    moved: bool


@dataclass(frozen=True)
class Tell:
    """Tell every node, and wait until it knows."""


@dataclass(frozen=True)
class Drop:
    """Drop the rows of the slots: here (they have moved), or at the target (they have not)."""

    at_target: bool


Action = Reserve | Copy | Catch | Freeze | Flip | Open | Tell | Drop


def begin(source: int, target: int, slots: tuple[int, ...], **options: float) -> tuple[Move, list[Action]]:
    return Move(source, target, slots, **options), [Reserve()]  # type: ignore[arg-type]


def step(state: Move, event: Event) -> tuple[Move, list[Action]]:
    """What the event leads to. In `done` and `failed` nothing more happens."""
    if state.phase in ("done", "failed"):
        return state, []
    if isinstance(event, Refused):
        return _refused(state, event)
    match state.phase, event:
        case "prepare", Reserved(free_rows=free, rows=rows):
            if rows > free:
                return replace(state, phase="failed", why=f"rank {state.target} has room for {free} rows of {rows}"), []
            return replace(state, phase="copy"), [Copy()]
        case "copy", Sent():
            return replace(_counted(state, event), phase="catchup"), [Catch()]
        case "catchup", Sent(seconds=took):
            return _round(_counted(state, event), took)
        case "freeze", Sent():
            return replace(_counted(state, event), phase="flip"), [Flip()]
        case "flip", Flipped(taken=True):
            return replace(state, phase="drain"), [Open(moved=True), Tell()]
        case "flip", Flipped(taken=False):
            return replace(state, phase="failed", why="the slots' entries changed under the migration"), [
                Open(moved=False), Drop(at_target=True)]
        case "drain", Heard():
            return replace(state, phase="done"), [Drop(at_target=False)]
    return state, []  # late, or twice: it has been acted on


def _counted(state: Move, event: Sent) -> Move:
    return replace(state, sent_bytes=state.sent_bytes + event.size_bytes)


def _round(state: Move, took: float) -> tuple[Move, list[Action]]:
    """Freeze after a short round; or when rounds do not shrink any more and the freeze is bearable; else give up."""
    state = replace(state, rounds=state.rounds + 1)
    stuck = state.rounds >= ROUNDS or (state.rounds > PATIENT and took > SHRINK * state.last_s)
    if took <= state.short_s or (stuck and took <= state.freeze_s):
        return replace(state, phase="freeze"), [Freeze()]
    if state.rounds >= ROUNDS:
        why = f"writers change rows faster than they can be sent: round {state.rounds} took {took * 1e3:.1f} ms"
        return replace(state, phase="failed", why=why), [Drop(at_target=True)]
    return replace(state, last_s=took), [Catch()]


def _refused(state: Move, event: Refused) -> tuple[Move, list[Action]]:
    failed = replace(state, phase="failed", why=event.why)
    clean: list[Action] = [] if event.dead else [Drop(at_target=True)]
    match state.phase:
        case "prepare":
            return failed, []
        case "copy" | "catchup":
            return failed, clean
        case "freeze":
            return failed, [Open(moved=False), *clean]
        case "flip":
            if event.dead:  # it may have flipped; nobody can have used it: what it took is gone with it
                return failed, [Open(moved=False)]
            return replace(state, tries=state.tries + 1), [Flip()]  # nothing may be said until it is known
        case _:
            return replace(state, tries=state.tries + 1), [Tell()]


def settle(rank: int, owner: int, alive: frozenset[int] | set[int]) -> Literal["keep", "drop", "recover"]:
    """What a survivor does with rows of a slot, once survivors have taken one another's entries."""
    if owner == rank:
        return "keep"
    return "drop" if owner in alive else "recover"
