"""What other nodes keep of a rank's steps: whole copies at partners, or parity over groups of nodes.

    begin   the whole shard of every rank, at the start of an epoch      (collective); `alike`: whole blocks that all ranks hold
            with the same bits, and need not be sent
    step    one record more; what is left to do beside the next step     (collective)

`Copies` sends each record to the guards, which hold what the owner holds. `Coded` sends what a record changes, as old ^ new, to
the nodes that sum it: a holder's sums are a shard of their own, with images and a journal of the sums' new rows, and so of one
step of all the ranks that they are of.
"""
from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engine import job as jobs
from engine.cluster.recover import Choice, Held, Lane, guards, lanes
from engine.config import Config
from engine.errors import ConfigError, EngineError, FrameError, StoreError
from engine.store.checkpoint import split
from engine.store.keeper import Copy, Keeper
from engine.store.parity import Layout, Shadow, Stripes, Sums, rebuilt
from engine.store.record import Change, Record, decode_record, encode_record
from engine.types import Array, Block, Link, State

ODD = (1 << 64) - 1  # digest of sums over ranks whose own digests differ: no step of any shard has it
NODES_LIMIT = 128
TAG = 131
Folder = Callable[[int, str], Path]
Shard = tuple[State, dict[str, Any]]  # blocks, meta


class Partner(Protocol):
    """`keepers`: what this rank holds for others. `note`: how it differs from what was asked for; "" where it does not."""

    note: str

    @property
    def keepers(self) -> list[Keeper]: ...

    def begin(self, own: Keeper, state: State, record: Record, alike: State) -> None: ...
    def step(self, record: Record, frame: Sequence[memoryview]) -> list[Callable[[], None]]: ...


def code_of(config: Config) -> tuple[int, int] | None:
    """k and m of `fault.parity`; None where there is no parity. ConfigError where it cannot be had with the other settings."""
    if not config.fault.parity:
        return None
    k, _, m = config.fault.parity.partition("+")
    if config.fault.copies is not None:
        raise ConfigError(f"expected fault.parity or fault.copies, found both ({config.fault.parity}, {config.fault.copies})",
                          fix="leave one of them out: parity takes the place of whole copies")
    if int(k) + int(m) > NODES_LIMIT:
        raise ConfigError(f"fault.parity: expected at most {NODES_LIMIT} nodes in all, found {config.fault.parity}")
    if config.exchange.mode.partition(":")[0] not in ("bsp", "local"):
        raise ConfigError(f"fault.parity: sums are of one step of all ranks, and exchange.mode={config.exchange.mode} has none",
                          fix="exchange.mode=bsp, or leave fault.parity out")
    return int(k), int(m)


def made(config: Config, link: Link, nodes: Sequence[int], folder: Folder, *, again: bool) -> Partner | None:
    """As the configuration says; None where there is one node. `again`: a run that has lost nodes goes on with fewer."""
    code = code_of(config)
    if code is None:
        copies = 1 if config.fault.copies is None else config.fault.copies
        found = guards(nodes, copies)
        return Copies(link, found, folder, config.fault.seal) if any(found) else None
    count = len(set(nodes))
    if count < sum(code) and not again:
        raise ConfigError(f"fault.parity={config.fault.parity}: expected ranks on at least {sum(code)} nodes, found {count}",
                          fix="give more nodes or a smaller code; fault.ranks_per_node=1 makes a node of each rank, for tests")
    note = "" if count >= sum(code) else (
        f"fault.parity={config.fault.parity} over {count} nodes: any {min(code[1], count - 1)} of them may be lost")
    groups = lanes(nodes, *code)
    return Coded(link, groups, folder, config.fault.seal, note) if groups else None


class Copies:
    """Whole copies of each rank's shard at its guards."""

    note = ""

    def __init__(self, link: Link, guards: Sequence[Sequence[int]], folder: Folder, seal_bytes: int) -> None:
        self.link, self.guards, self.folder, self.seal_bytes = link, guards, folder, seal_bytes
        self.wards = [r for r, chosen in enumerate(guards) if link.rank in chosen]
        self.kept: dict[int, Keeper] = {}

    @property
    def keepers(self) -> list[Keeper]:
        return list(self.kept.values())

    def begin(self, own: Keeper, state: State, record: Record, alike: State) -> None:
        if not alike:
            for ward, data in self._relayed(own.raw, "images to guards"):
                self._keeper(ward).begin_copy(data)
            return
        rest = {path: block for path, block in state.items() if path not in alike}
        said = np.frombuffer(pickle.dumps((record, rest), protocol=5), np.uint8)
        for ward, data in self._relayed(said, "cursors to guards"):
            theirs, blocks = pickle.loads(data.tobytes())
            for path, block in alike.items():
                low, high = split(len(block.data), ward, self.link.size)
                blocks[path] = Block(block.data[low:high], block.columns)
            self._keeper(ward).begin(blocks, theirs)

    def _keeper(self, ward: int) -> Keeper:
        self.kept[ward] = Keeper(self.folder(ward, "copy"), seal_bytes=self.seal_bytes)
        return self.kept[ward]

    def step(self, record: Record, frame: Sequence[memoryview]) -> list[Callable[[], None]]:
        return [partial(self.kept[ward].take, data) for ward, data in self._relayed(packed(frame), "records to guards")]

    def _relayed(self, data: Array, name: str) -> list[tuple[int, Array]]:
        """`data` to each guard of this rank; (ward, what it sent) of each ward (collective)."""
        found: list[tuple[int, Array]] = []
        for turn in range(max(map(len, self.guards), default=0)):
            wards = [r for r, chosen in enumerate(self.guards) if len(chosen) > turn and chosen[turn] == self.link.rank]
            parts = [np.empty(0, np.uint8)] * self.link.size
            if sorted(g[turn] for g in self.guards) == list(range(self.link.size)):
                target = self.guards[self.link.rank][turn]
                found.append((wards[0], self.link.relay(data, target=target, source=wards[0], name=name)))
                continue
            parts[self.guards[self.link.rank][turn]] = data  # uneven nodes: some guard several, some none
            theirs = self.link.alltoall(parts, name=name)
            found += [(ward, theirs[ward]) for ward in wards]
        return found


@dataclass
class _Kept:
    """Sums that this rank holds: of which lane, and what the ranks of it have said."""

    lane: Lane
    sums: Sums
    layouts: dict[int, Layout]
    keeper: Keeper | None = None

    @property
    def number(self) -> int:
        return min(rank for rank in self.lane.ranks if rank >= 0)


class Coded:
    """Parity of each rank's shard over the nodes of its group."""

    def __init__(self, link: Link, found: Sequence[tuple[Lane, Sequence[int]]], folder: Folder, seal_bytes: int,
                 note: str) -> None:
        self.link, self.folder, self.seal_bytes, self.note = link, folder, seal_bytes, note
        lane, self._holders = next((lane, holders) for lane, holders in found if link.rank in lane.ranks)
        self._lane, self._place = lane.ranks, lane.ranks.index(link.rank)
        self._shadow = Shadow(Stripes(len(lane.ranks) - lane.m, lane.m), self._place)
        self._held = [_Kept(replace(lane, place=place), Sums(Stripes(len(lane.ranks) - lane.m, lane.m), place), {})
                      for lane, holders in found for place, rank in enumerate(holders) if rank == link.rank]

    @property
    def keepers(self) -> list[Keeper]:
        return [held.keeper for held in self._held if held.keeper is not None]

    def begin(self, own: Keeper, state: State, record: Record, alike: State) -> None:
        changes = [Change(path, None, block.data, len(block.data), block.columns) for path, block in state.items()]
        letters, layout = self._given(record, changes)
        jobs.agreed(self.link, lambda: self._begun(record, letters, layout), "parity")

    def step(self, record: Record, frame: Sequence[memoryview]) -> list[Callable[[], None]]:
        letters, layout = self._given(record, record.changes)
        return [partial(self._taken, record, letters, layout)]

    def _given(self, record: Record, changes: Sequence[Change]) -> tuple[dict[int, Array], Layout]:
        """What the record changes goes to the nodes that sum it; what came from others, and this rank's new layouts."""
        pieces: dict[int, list[Change]] = {}
        for change in changes:
            for place, found in self._shadow.take(change).items():
                pieces.setdefault(place, []).extend(found)
        layout = {path: self._shadow.layout[path] for path in self._shadow.fresh}
        self._shadow.fresh.clear()
        meta = {"said": dict(record.meta), "layout": layout}
        letters = {place: packed(encode_record(replace(record, changes=tuple(pieces.get(place, ())), meta=meta)))
                   for place in range(len(self._lane)) if place != self._place}
        return self._relayed(letters, "changes to parity"), layout

    def _relayed(self, letters: Mapping[int, Array], name: str) -> dict[int, Array]:
        """Each node's letter to the rank that sums there; what came, by the rank it came from (collective)."""
        going = [self.link.send(part, self._holders[place], name=name, tag=TAG) for place, letter in letters.items()
                 for part in (np.array([len(letter)], np.int64), letter)]
        found: dict[int, Array] = {}
        for rank in [rank for held in self._held for rank in held.lane.ranks if rank not in (-1, self.link.rank)]:
            found[rank] = np.empty(int(self.link.take(rank, name=name, tag=TAG).view(np.int64)[0]), np.uint8)
            going.append(self.link.recv(found[rank], rank, name=name, tag=TAG))
        for transfer in going:
            transfer.wait()
        return found

    def _begun(self, record: Record, letters: Mapping[int, Array], layout: Layout) -> None:
        for held in self._held:
            meta = self._summed(held, record, letters, layout, "base")
            held.keeper = Keeper(self.folder(held.number, "parity"), seal_bytes=self.seal_bytes)
            held.sums.changes()  # all of it is in the image
            held.keeper.begin(held.sums.state, self._record(held, record, meta))

    def _taken(self, record: Record, letters: Mapping[int, Array], layout: Layout) -> None:
        for held in self._held:
            meta = self._summed(held, record, letters, layout, "of")
            assert held.keeper is not None
            held.keeper.append(replace(self._record(held, record, meta), changes=held.sums.changes()))

    def _summed(self, held: _Kept, record: Record, letters: Mapping[int, Array], layout: Layout, key: str) -> dict[str, Any]:
        """Adds what the ranks of a lane have changed; the meta of that step."""
        lane = held.lane
        meta: dict[str, Any] = {"lane": [list(lane.ranks), lane.m, lane.place], "digest": record.state_hash}
        fresh = {lane.ranks[lane.place]: layout} if lane.ranks[lane.place] == self.link.rank else {}
        for place, rank in enumerate(lane.ranks):
            if rank < 0 or rank == self.link.rank:
                continue
            letter = decode_record(letters[rank])
            if (letter.version, letter.base, letter.shard) != (record.version, record.base, rank):
                raise StoreError(f"parity: expected step {record.version} of rank {rank}, "
                                 f"found step {letter.version} of rank {letter.shard}")
            held.sums.add(place, letter.changes)
            fresh[rank], meta[f"{key}/{rank}"] = letter.meta["layout"], letter.meta["said"]
            if letter.state_hash != record.state_hash:
                meta["digest"] = ODD
        for rank, new in fresh.items():
            if new:
                held.layouts[rank] = meta[f"layout/{rank}"] = {**held.layouts.get(rank, {}), **new}
        return meta

    def _record(self, held: _Kept, record: Record, meta: dict[str, Any]) -> Record:
        digest = meta.pop("digest")
        return Record(record.version, record.base, (), meta, record.epoch, digest, held.number, record.shards)


def packed(frame: Sequence[memoryview]) -> Array:
    """The buffers of a record as one message."""
    return np.concatenate([np.frombuffer(part, np.uint8) for part in frame])


def lane_of(copy: Copy) -> Lane | None:
    """What the sums in this folder are of; None where it holds a shard."""
    ranks, m, place = copy.meta.get("lane", (None, 0, 0))
    return None if ranks is None else Lane(tuple(ranks), m, place)


def remade(link: Link | None, choice: Choice, known: Sequence[Held], here: Set[int], loaded: Mapping[int, Shard],
           notes: list[str]) -> dict[int, Shard]:
    """The shards that are not `loaded`, from parity of the same step; none where too little is left, and `notes` says why.

    `here`: places in `known` of the sums that this rank can read; `link` None: every rank can read all (else collective).
    """
    sums: dict[int, Shard] = {}
    for place in here:
        lane, folder = known[place].lane, known[place].holder.partition(":")[2]
        if lane is None or loaded.keys() >= set(lane.ranks) - {-1}:
            continue
        try:
            sums[place] = Copy(folder).state_at(choice.version)
        except EngineError as error:
            notes.append(f"{folder}: {error.message}")
    if link is not None:
        parts = link.allgather(np.frombuffer(pickle.dumps(sums, protocol=5), np.uint8), name="parity from memory")
        sums = {place: found for part in parts for place, found in pickle.loads(part.tobytes()).items()}
    try:
        made = _restored(known, loaded, sums)
    except EngineError as error:
        notes.append(error.message)
        return {}
    notes += [f"what rank {shard} kept is lost, and made again from parity" for shard in sorted(made)]
    return made


def _restored(known: Sequence[Held], loaded: Mapping[int, Shard], sums: Mapping[int, Shard]) -> dict[int, Shard]:
    """As `remade`, from sums by their place in `known`; FrameError or StoreError where too little is left."""
    found: dict[int, Shard] = {}
    by_lane: dict[tuple[tuple[int, ...], int], dict[int, Shard]] = {}
    for at, held in sums.items():
        if (lane := known[at].lane) is not None:
            by_lane.setdefault((lane.ranks, lane.m), {})[lane.place] = held
    for (ranks, m), here in by_lane.items():
        said = {key: value for _, meta in here.values() for key, value in meta.items()}
        node = {rank: place for place, rank in enumerate(ranks) if rank >= 0}
        if loaded.keys() >= node.keys():
            continue
        if missing := [rank for rank in node if f"layout/{rank}" not in said]:
            raise FrameError(f"parity: nothing is left that says what ranks {missing} held")
        shards = {place: loaded[rank][0] for rank, place in node.items() if rank in loaded}
        layouts = {place: said[f"layout/{rank}"] for rank, place in node.items()}
        made = rebuilt(Stripes(len(ranks) - m, m), shards, layouts, {place: state for place, (state, _) in here.items()})
        for place, state in made.items():
            found[ranks[place]] = state, {**said[f"base/{ranks[place]}"], **said.get(f"of/{ranks[place]}", {})}
    return found
