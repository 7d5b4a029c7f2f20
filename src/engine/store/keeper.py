"""Keeper: one shard in node memory, by its owner or by a partner: two images and the journal since the older of them.

    FOLDER/image-0  image-1  journal-*.log  tip

`append` makes a step recoverable with one write; `seal` brings the older image up to the last step and lets the journal
forget what both images have. `Copy` is what a later process finds there.
"""
from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, FrameError, StoreError
from ..types import Array, Block, State
from .atomic import make_dir
from .crash import point
from .image import Head, Image, chunk_of, load_image, read_head
from .journal import Durable
from .record import Record, apply, decode_record

SEAL_BYTES = 4 << 20


class Keeper:
    """The writer's side. `due`: the journal is long enough that a seal pays."""

    def __init__(self, folder: Path | str, *, seal_bytes: int = SEAL_BYTES) -> None:
        self.folder, self.seal_bytes = Path(folder), seal_bytes
        make_dir(self.folder)
        self._journal = Durable(self.folder, sync=False, segment_bytes=SEAL_BYTES, limit_bytes=1 << 62)
        self._images = [Image(self.folder / "image-0"), Image(self.folder / "image-1")]
        self._pending: deque[tuple[Record, bytes]] = deque()  # record, chain after it
        self._since, self._state_bytes = 0, 0

    @property
    def version(self) -> int:
        return self._journal.version

    @property
    def images(self) -> list[int]:
        """Versions of the images, newest last."""
        return sorted(image.head.version for image in self._images if image.head)

    @property
    def due(self) -> bool:
        return self._since > max(self.seal_bytes, self._state_bytes if self.seal_bytes >= SEAL_BYTES else 0)

    def begin(self, state: Mapping[str, Block], record: Record) -> None:
        """The whole shard as of `record`; what was here before is forgotten."""
        self._pending.clear()
        self._journal.restart(record.version, record.chain)
        self._images[1].head = None
        self._images[1].path.unlink(missing_ok=True)
        self._images[0].write(state, record)
        self._state_bytes = sum(block.data.nbytes for block in state.values())
        self._since = 0

    @property
    def raw(self) -> Array:
        """The newest image's file, for a partner's `begin_copy`."""
        heads = [image.head.version if image.head else -1 for image in self._images]
        return self._images[heads.index(max(heads))].raw

    def begin_copy(self, raw: Array) -> None:
        """As `begin`, from the image of the shard's owner."""
        self._pending.clear()
        self._images[1].head = None
        self._images[1].path.unlink(missing_ok=True)
        self._images[0].copy(raw)
        head = self._images[0].head
        assert head is not None
        self._journal.restart(head.version, head.chain)
        self._state_bytes, self._since = head.body_bytes, 0

    def append(self, record: Record, frame: memoryview | None = None) -> list[memoryview]:
        """Step `record.version` of this shard can be recovered from here on; the frame's buffers. `frame`: it is encoded."""
        size = self._journal.append(record) if frame is None else self._journal.append_frame(record, frame)
        self._pending.append((record, self._journal.chain))
        self._since += size
        return self._journal.last

    def take(self, frame: Array) -> None:
        """`append` of a record as its owner encoded it, uint8; every checksum is verified."""
        self.append(decode_record(frame), memoryview(frame))  # type: ignore[arg-type]

    def seal(self) -> None:
        """The older image becomes the newest: as of the last record."""
        if not self._pending:
            return
        heads = [image.head.version if image.head else -1 for image in self._images]
        newer = heads.index(max(heads))
        older, kept = self._images[1 - newer], self._images[newer]
        point("seal")
        if older.head is None and kept.head is not None:  # the first time: a copy of the newer is there to be brought forward
            older.copy(kept.raw)
        advanced = older.head is not None and older.advance([record for record, _ in self._pending], self._pending[-1][1], kept)
        if not advanced:
            self._rewrite(older, kept)
        assert kept.head is not None
        while self._pending and self._pending[0][0].version <= kept.head.version:
            self._pending.popleft()
        self._journal.compact(kept.head.version)
        self._since = 0

    def _rewrite(self, image: Image, source: Image) -> None:
        state, head = load_image(source.path)
        last, chain = self._pending[-1]
        meta: dict[str, Any] = dict(head.meta)
        for record, _ in self._pending:
            if record.version > head.version:
                apply(state, record)
                meta |= record.meta
        image.write(state, replace(last, changes=(), meta=meta, chain=chain))
        self._state_bytes = sum(block.data.nbytes for block in state.values())

    def close(self, *, remove: bool = False) -> None:
        self._journal.close()
        for image in self._images:
            image.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)


class Copy:
    """The reader's side: which steps of which shard can be had here. Nothing is written; `problems` says what is damaged."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.problems: list[str] = []
        self.heads: dict[Path, Head] = {}
        for path in sorted(self.folder.glob("image-*")):
            try:
                self.heads[path] = read_head(path)
            except EngineError as error:
                self.problems.append(f"{path}: {error.message}")
        self._records: list[Record] = []
        self._read_journal()
        head = next(iter(self.heads.values()), None)
        self.shard, self.shards, self.epoch = (head.shard, head.shards, head.epoch) if head else (-1, 0, -1)

    def _read_journal(self) -> None:
        if not self.heads:
            return
        try:
            journal = Durable(self.folder, sync=False, read_only=True)
            self.problems += [f"{self.folder}: {problem}" for problem in journal.problems]
            self._records = list(journal.since(journal.first))
        except StoreError as error:
            self.problems.append(f"{error.where}: {error.message}")

    @property
    def versions(self) -> dict[int, int]:
        """Step -> state hash of every step that can be had."""
        found = {head.version: head.state_hash for head in self.heads.values()}
        for record in self._records:
            if record.base in found:
                found[record.version] = record.state_hash
        return found

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the newest step says of itself."""
        head = max(self.heads.values(), key=lambda head: head.version, default=None)
        newest = self._records[-1] if self._records else None
        if newest is not None and (head is None or newest.version > head.version):
            return newest.meta
        return {} if head is None else head.meta

    @property
    def metas(self) -> dict[int, Mapping[str, Any]]:
        """Step -> what its record says, of every step that can be had."""
        said: dict[int, Mapping[str, Any]] = {head.version: head.meta for head in self.heads.values()}
        said |= {record.version: record.meta for record in self._records}
        return {version: said[version] for version in self.versions}

    def changed(self, path: str, version: int) -> tuple[Array, Array]:
        """Rows that the journal has of a block, uint32 ascending, and what they hold as of step `version`."""
        found = [change for record in self._records if record.version <= version for change in record.changes
                 if change.path == path and change.rows is not None]
        if not found:
            return np.empty(0, np.uint32), np.empty(0)
        rows = np.concatenate([change.rows for change in found])[::-1]
        keys, first = np.unique(rows, return_index=True)  # the last change of each
        return keys, np.concatenate([change.data for change in found])[::-1][first]

    def state_at(self, version: int, others: list[Path] | None = None,
                 skip: Set[str] = frozenset()) -> tuple[State, dict[str, Any]]:
        """The shard's blocks and meta as of step `version`; FrameError or StoreError where damage leaves no way.

        `others`: folders of copies of the same shard; a damaged chunk is taken from an image of the same version there.
        `skip`: paths that are not asked for.
        """
        problem: EngineError = FrameError(f"no image at or below step {version}", where=str(self.folder))
        for path, head in sorted(self.heads.items(), key=lambda item: -item[1].version):
            if head.version > version:
                continue
            try:
                state, meta = self._load(path, head, others or [], skip)
                at, later = head.version, []
                for record in self._records:
                    if at < record.version <= version:
                        if record.base != at:
                            raise FrameError(f"no record of step {at + 1}", where=str(self.folder))
                        later.append(record.without(skip))
                        meta |= record.meta
                        at = record.version
                apply(state, *later)
                if at != version:
                    raise FrameError(f"records end at step {at}, expected {version}", where=str(self.folder))
                return state, meta
            except EngineError as error:
                self.problems.append(f"{path}: {error.message}")
                problem = error
        raise problem

    def _load(self, path: Path, head: Head, others: list[Path], skip: Set[str]) -> tuple[State, dict[str, Any]]:
        def repair(chunk: int) -> bytes | None:
            for folder in others:
                for other in sorted(folder.glob("image-*")):
                    try:
                        if read_head(other).version != head.version:
                            continue
                    except EngineError:
                        continue
                    found = chunk_of(other, chunk)
                    if found is not None:
                        self.problems.append(f"{path}: chunk {chunk} was damaged and is repaired from {other}")
                        return found
            return None

        state, found = load_image(path, repair=repair, skip=skip)
        return state, dict(found.meta)
