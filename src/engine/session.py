"""The embedding API: learn inside somebody else's program, on somebody else's communicator.

Library manners: the communicator is duplicated; MPI is neither initialised (where it already is), finalised nor aborted;
nothing is printed; signals, environment and logging are left alone; an error is the same exception on every rank.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import numpy as np

from engine import grid, loop, relearn, resume
from engine import job as jobs
from engine.cluster.clock import Rules, Save, Stop
from engine.comm import sync
from engine.config import Config, resolve
from engine.errors import ConfigError, DataError
from engine.insitu import Guarded, Stream
from engine.source.foreign import host
from engine.types import Array, Batch, Link, Schema

LOT = 1 << 16  # rows learned at once where a call has nobody to exchange with


class Session:
    """A model that learns rows from every rank of `comm`, and is the same on all of them after each call.

    `comm`: an mpi4py communicator, or None for this process alone.  Settings are those of the command line, by their
    full name: `Session(comm, **{"model.loss": "logistic", "exchange.every": 32})`.  Calls marked collective must be
    made by every rank of `comm`, each with its own rows (perhaps none).

    >>> session = Session(width=8, task="binary")
    >>> session.partial_fit(x, y).predict(x)
    """

    def __init__(self, comm: Any = None, *, width: int, task: str = "binary", classes: int = 2, sparse: bool = False,
                 config: Config | None = None, **settings: Any) -> None:
        self.config = config or resolve(overrides=[f"{key}={value}" for key, value in settings.items()], env={})
        self.schema = Schema(width, sparse, task, tuple(map(str, range(classes))) if task == "multiclass" else ())  # type: ignore[arg-type]
        self.link: Link = comm if isinstance(comm, Link) else jobs.connect(comm, timeout_s=self.config.loop.stall_timeout)
        self._stream: Stream | None = None
        try:
            sync.same(self.link, {"rows": self.schema, **self.config.flat()}, "the configuration")
            whole = grid.named(self.config.data.rule)
            if (self.config.exchange.split == "keys" or whole) and self.link.size > 1:
                found = f"data.rule={self.config.data.rule}" if whole else "exchange.split=keys"
                raise ConfigError(f"{found}: a Session on several ranks has rows of its own on each",
                                  fix="use exchange.split=rows and data.rule=deal, or one rank")
            self.events: list[dict[str, Any]] = []  # drifts, relearnings and what the gate kept back
            self._queue = _Queue()
            self._asked = (np.empty(0, np.float32), np.empty(0, np.int64))  # labels and places of rows to predict
            self._job = jobs.assemble(self.config, self.link, self.schema, self._queue)
            self._job.tactic = relearn.start(self.config, self._job, self.schema, note=self._happened)
        except BaseException:
            if self.link is not comm:
                self.link.close()
            raise

    def _happened(self, name: str, rows: int, **more: Any) -> None:
        self.events.append({"event": name, "rows": rows, **more})

    def partial_fit(self, x: Array, y: Array, *, weight: Array | None = None) -> Session:
        """Score, then learn this rank's rows, example by example (collective). `x` (n, width), `y` (n,).

        `x` may be a SciPy-like CSR matrix where the session is sparse. ValueError-like mistakes are a DataError on
        every rank, before anything is learned.
        """
        self._drain()
        self._learn(lambda: self._batch(x, y, weight))
        return self

    def stream(self, capacity: int = 4, full: str = "wait") -> Stream:
        """A bounded queue of rows that a thread learns while the caller computes (collective; engine.insitu)."""
        from engine.comm import adopt

        self._drain()
        if self.link.size > 1 and adopt.running() and not adopt.threaded():
            raise ConfigError("stream: expected MPI_THREAD_MULTIPLE, since a thread exchanges while the program goes on",
                              fix="MPI_Init_thread(..., MPI_THREAD_MULTIPLE, ...), or learn synchronously")
        if self._stream is not None:
            self._stream.close()
        if not isinstance(self._job.team, Guarded):
            self._job.team = Guarded(self._job.team)  # type: ignore[assignment]
        if hasattr(self.link, "relaxed"):
            self.link.relaxed = True
        empty = Batch(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.float32))
        self._stream = Stream(self.link, self._learn, self._batch, empty, capacity=capacity, full=full,
                              limit_s=self.config.loop.stall_timeout)
        return self._stream

    def _drain(self) -> None:
        """Waits until the stream's thread stands still, so that this thread may talk to the other ranks."""
        if self._stream is not None:
            self._stream.wait()

    def _learn(self, make: Callable[[], Batch]) -> None:
        """Learns the batch that `make` returns; an error that it raises on any rank is raised on all (collective)."""
        error: Exception | None = None
        batch: Batch | None = None
        try:
            batch = make()
        except Exception as caught:
            error = caught
        sync.vote(self.link, [0], error, name="partial_fit")
        job = self._job
        self._queue.rows = batch
        k = max(job.k, LOT) if self._whole else job.k * len(job.team.models)
        while True:
            rows = self._queue.take(k)
            if rows is not None:
                rows.order = job.clock.rows + np.arange(len(rows))
            tick = loop.step(job, rows)
            job.clock, _ = loop.advance(job.clock, tick, Rules())
            if not tick.left:
                return

    @property
    def _whole(self) -> bool:
        """Whether a call is one step: one worker, which learns row by row, and no thread that wants the model meanwhile."""
        job, model = self._job, self.config.model
        return not job.shared and job.tactic is None and self._stream is None and model.kind == "linear" and not model.batch

    def predict(self, x: Array) -> Array:
        """Scores of rows (local): margins (binary), one margin a class (multi-class), predictions (regression)."""
        x, stage = x if self.schema.sparse else host(x), self._job.stage
        if len(self._asked[0]) != x.shape[0]:
            self._asked = np.full(x.shape[0], np.nan, np.float32), np.arange(x.shape[0])
        none, order = self._asked
        batch = self._batch(x, none, None) if self.schema.sparse else Batch(none, order, none, x=self._rows(x, len(none)))
        batch, team = batch if stage is None else stage.transform(batch), self._job.team
        return team.predict(batch) if isinstance(team, Guarded) else team.models[0].predict(batch)

    def fit(self, source: Any) -> Iterator[loop.Event]:
        """Learn a source (a path, a spec or a `Source`) to its end; yields what is due as it comes (collective)."""
        self._drain()
        opened = jobs.open_agreed(self.config, self.link, source)
        self._job.stream = jobs.stream(self.config, self.link, opened, None)
        jobs.timed(self._job)
        for event in loop.run(self._job):
            if isinstance(event.action, Save):
                self.checkpoint(self.config.checkpoint.dir)
            yield event
            if isinstance(event.action, Stop):
                break
        self._job.stream = self._queue

    def summary(self) -> dict[str, Any]:
        """Prequential scores over all ranks and rows so far, the same on every rank (collective)."""
        self._drain()
        meter = loop.merged_meter(self._job)
        return self.link.bcast(None if meter is None else meter.summary(), name="summary")

    def checkpoint(self, directory: str) -> None:
        """Write a checkpoint of the model into `directory` (collective)."""
        if not directory:
            raise ConfigError("checkpoint: expected a directory, found none", fix="set checkpoint.dir, or pass one")
        self._drain()
        resume.save(self._job, self.config, directory, self.schema)

    def resume(self, directory: str) -> Session:
        """Load the newest good checkpoint of `directory` (collective)."""
        self._drain()
        resume.restore(self._job, self.config, directory, self.schema)
        return self

    def close(self) -> None:
        """Free the duplicates of the communicator (collective). MPI itself is left as it was."""
        try:
            if self._stream is not None:
                self._stream.close()
        finally:
            self._job.team.close()
            self.link.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()

    def _batch(self, x: Any, y: Any, weight: Any) -> Batch:
        x, y, weight = x if self.schema.sparse else host(x), host(y), None if weight is None else host(weight)
        y = np.ascontiguousarray(y, np.float32)
        order = np.arange(len(y), dtype=np.int64)
        previous = np.concatenate([np.full(min(1, len(y)), np.nan, np.float32), y[:-1]])
        weight = None if weight is None else np.ascontiguousarray(weight, np.float32)
        if self.schema.sparse:
            return Batch(y, order, previous, indptr=np.asarray(x.indptr, np.int64), weight=weight,
                         keys=np.ascontiguousarray(x.indices, np.uint32), values=np.ascontiguousarray(x.data, np.float32))
        return Batch(y, order, previous, x=self._rows(x, len(y)), weight=weight)

    def _rows(self, x: Any, count: int) -> Array:
        """`x` as float32 `(count, width)`."""
        x = np.ascontiguousarray(x, np.float32)
        if x.shape != (count, self.schema.width):
            raise DataError(f"rows: expected x of ({count}, {self.schema.width}) for y of ({count},), found {x.shape}",
                            where=f"rank {self.link.rank}")
        return x


class _Queue:
    """The rows of one `partial_fit`, handed out step by step."""

    rows: Batch | None = None

    def take(self, k: int) -> Batch | None:
        if self.rows is None or not len(self.rows):
            return None
        head, self.rows = self.rows.slice(0, min(k, len(self.rows))), self.rows.slice(min(k, len(self.rows)), len(self.rows))
        return head

    @property
    def left(self) -> bool:
        return self.rows is not None and len(self.rows) > 0
