"""What engine.h calls: one Engine a handle, whose verbs return a code and never raise (csrc/embed/engine.cpp).

Arrays are views of the solver's memory.  A Session is made by the first rows, or at once where `embed.width` is set.
"""
from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any

import numpy as np

from engine import __version__
from engine import job as jobs
from engine.comm import sync
from engine.config import Config, resolve
from engine.errors import ConfigError, DataError, EngineError
from engine.kernels import _native
from engine.session import Session
from engine.source import foreign
from engine.types import Array, Link

ABI = 1
ALONE = -(2**31)
DTYPES = {code: np.dtype(name) for code, name in {
    1: "int8", 2: "uint8", 3: "int16", 4: "uint16", 5: "int32", 6: "uint32", 7: "int64", 8: "uint64",
    10: "float32", 11: "float64"}.items()}
UNAVAILABLE = 69
FIX = 'eval "$(python -m engine embed --env)", with the python that has the engine installed'
SWITCH_S = 5e-5  # the solver waits at most so long for a thread that learns to hand over the interpreter
LATER = -1  # answer of `test` while there is something to learn


def coded(act: Callable[..., Any]) -> Callable[..., int]:
    """The method, returning 0 (or what it returns) or the code of its error, whose text is kept for `message`."""
    @wraps(act)
    def call(self: Engine, *args: Any) -> int:
        try:
            with np.errstate(all="ignore"):  # a warning would be printed into the host's output
                return act(self, *args) or 0
        except EngineError as error:
            self.text = str(error)
            return error.code
        except MemoryError:
            self.text = "out of memory"
        except BaseException as error:
            self.text = f"{type(error).__name__}: {error}"
        return EngineError.code
    return call


class Engine:
    """A solver's engine over `comm`, the integer of a communicator; `code` and `text` say how opening it went."""

    def __init__(self) -> None:
        self.code, self.text = 0, ""
        self.arrays: dict[str, tuple[Array | None, tuple[Any, ...]]] = {}
        self._views: dict[tuple[str | None, str | None], tuple[Array, Array]] = {}
        self.session: Session | None = None
        self.link: Link | None = None
        self.config = Config()
        self._asked = np.empty((0, 0), np.float32)  # rows to predict, kept from call to call
        self._mpi = False

    def start(self, comm: int, toml: str | None) -> None:
        """Duplicates the communicator and agrees on the settings (collective)."""
        settings = toml or ""
        path = settings.strip() if settings.strip().endswith(".toml") and "\n" not in settings.strip() else None
        self._mpi = comm != ALONE
        given = None
        if self._mpi:
            from engine.comm import adopt

            given = adopt.adopt(comm)
        error: EngineError | None = None
        try:
            self.config = resolve(path, text="" if path else settings)
        except EngineError as caught:
            error = caught
        self.link = jobs.connect(given, timeout_s=self.config.loop.stall_timeout)
        try:
            sync.vote(self.link, [0], error, name="open")
            sync.same(self.link, self.config.flat(), "the configuration")
            if self.config.embed.width:
                self._begin(self.config.embed.width)
        except BaseException:
            self.link.close()
            raise
        if self._mpi:
            adopt.before_finalize(self)

    @coded
    def publish(self, name: str, address: int, shape: tuple[int, ...], strides: tuple[int, ...], strided: int, code: int,
                device: int) -> None:
        self.arrays.pop(name, None)
        self._views.clear()
        where = f"publish {name!r}"
        if code not in DTYPES:
            raise DataError(f"{where}: expected a dtype of {', '.join(f'{c} ({d})' for c, d in DTYPES.items())}, found {code}",
                            fix="give ENGINE_FLOAT64, ENGINE_FLOAT32 or an integer's name")
        if min(shape, default=0) < 0:
            raise DataError(f"{where}: expected sizes of 0 or more, found {shape}")
        if not address and all(shape):
            raise ConfigError(f"{where}: the pointer is NULL, for an array of {shape}", fix="allocate it before naming it")
        if device < 0:
            raise ConfigError(f"{where}: expected device ENGINE_CPU or ENGINE_CUDA + n, found {device}")
        steps = strides if strided else foreign.c_strides(shape, DTYPES[code].itemsize)
        if any(0 < abs(step) < DTYPES[code].itemsize and size > 1 for step, size in zip(steps, shape, strict=True)):
            raise DataError(f"{where}: expected strides in bytes, of {DTYPES[code].itemsize} or more, found {steps}",
                            fix="multiply strides in elements by the size of one")
        view = None if device else foreign.at_address(address, shape, steps, DTYPES[code])
        self.arrays[name] = (view, (address, shape, steps, DTYPES[code], device))

    @coded
    def learn(self, x: str | None, y: str | None) -> None:
        self._check()
        if self.session is None:
            self._first(x, y)
        session = self.session
        assert session is not None
        if session._stream is None:
            session._learn(lambda: session._batch(*self._pair(x, y), None))
            return
        try:
            rows = self._pair(x, y)
        except EngineError as error:
            session._stream.refuse(error)
            raise
        session._stream.take(*rows, None, (self.arrays[x or ""][0], self.arrays[y or ""][0]))

    @coded
    def predict(self, x: str, out: str) -> None:
        if self.session is None:
            raise ConfigError("predict: nothing has been learned yet", fix="learn first, or set embed.width")
        n, width = self._sizes(x, out)
        target = self.arrays[out][0]
        if target is None:
            raise DataError(f"predict: expected {out!r} in main memory, found it on a device", fix="publish one of the host")
        if self._asked.shape != (n, width):
            self._asked = np.empty((n, width), np.float32)
        found = self.session.predict(flat(self._array(x), (n, width), self._asked))
        if found.shape != (n,):
            raise DataError(f"predict: expected one score a row, found {found.shape[1]}", fix="use task binary or regression")
        target[...] = found.reshape(target.shape)

    @coded
    def test(self) -> int:
        stream = None if self.session is None else self.session._stream
        return 0 if stream is None or stream.test() else LATER

    @coded
    def wait(self) -> None:
        if self.session is not None and self.session._stream is not None:
            self.session._stream.wait()

    @coded
    def checkpoint(self, directory: str | None) -> None:
        self._check()
        if self.session is None:
            raise ConfigError("checkpoint: nothing has been learned yet", fix="learn first, or set embed.width")
        self.session.checkpoint(directory or self.config.checkpoint.dir)

    def info(self) -> str:
        session, link = self.session, self.link
        found: dict[str, Any] = {
            "abi": ABI, "engine": __version__, "rank": link.rank if link else 0, "size": link.size if link else 0,
            "asynchronous": self.config.embed.asynchronous, "state": "closed" if link is None else "open" if session is None
            else "learning" if session._stream is not None and not session._stream.idle else "idle",
            "arrays": {name: {"shape": list(spec[1]), "dtype": spec[3].name, "device": spec[4]}
                       for name, (_, spec) in self.arrays.items()}}
        if session is not None:
            job = session._job
            found |= {"width": session.schema.width, "task": session.schema.task, "rows": job.clock.rows,
                      "steps": job.clock.step, "here": _finite(job.meter.summary()), **job.counts.values}
            if session._stream is not None:
                found |= {"queued": len(session._stream.queue.items), "dropped": session._stream.queue.dropped}
        return json.dumps(found, default=float)

    def message(self) -> str:
        return self.text

    @coded
    def close(self) -> None:
        """Learns what is queued and frees the duplicates, where MPI still runs (collective)."""
        self.arrays.clear()
        self._views.clear()
        session, self.session, link, self.link = self.session, None, self.link, None
        if self._mpi:
            from engine.comm import adopt

            if not adopt.running():
                return
        if session is not None:
            session.close()
        elif link is not None:
            link.close()

    def finalize(self) -> None:
        """The host finalises MPI: close while it still runs. What went wrong is told by the next call."""
        self.close()

    def _check(self) -> None:
        if self._mpi:
            from engine.comm import adopt

            adopt.check_running()
        if self.link is None:
            raise ConfigError("this engine is closed: MPI has been finalised by the program",
                              fix="close the engine before MPI_Finalize")

    def _first(self, x: str | None, y: str | None) -> None:
        """The session, of the width of the first rows (collective). A rank without such rows hears of the error."""
        assert self.link is not None
        error: EngineError | None = None
        width = 0
        try:
            width = self._pair(x, y)[0].shape[1]
        except EngineError as caught:
            error = caught
        sync.vote(self.link, [width], error, name="first rows")
        self._begin(width)

    def _begin(self, width: int) -> None:
        assert self.link is not None
        task = self.config.data.task or "regression"
        session = Session(self.link, width=width, task=task, classes=self.config.model.classes, config=self.config)
        if self.config.checkpoint.dir and self.config.checkpoint.resume != "never":
            session.resume(self.config.checkpoint.dir)
        if self.config.embed.asynchronous:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
            session.stream(self.config.embed.queue, self.config.embed.full)
        self.session = session

    def _pair(self, x: str | None, y: str | None) -> tuple[Array, Array]:
        """Rows (n, width) and targets (n,) of two names; views are kept until an array is named anew."""
        found = self._views.get((x, y))
        if found is not None:
            return found
        n, width = self._sizes(x, y)
        first, second = self._array(x), self._array(y)
        found = flat(first, (n, width)), flat(second, (n,))
        if first.flags.c_contiguous and second.flags.c_contiguous and not self._foreign(x) and not self._foreign(y):
            self._views[x, y] = found
        return found

    def _foreign(self, name: str | None) -> bool:
        """Whether the array lies on a device, and is copied anew each time."""
        return self.arrays[name or ""][0] is None

    def _sizes(self, x: str | None, y: str | None) -> tuple[int, int]:
        """Rows and features of x, where y (or the output) has the shape of the rows."""
        whole, rows = self._shape(x), self._shape(y)
        if whole[:len(rows)] != rows:
            raise DataError(f"rows: expected {x!r} of the shape of {y!r}, {rows}, and the features behind it, found {whole}",
                            fix="y has the shape of the rows; x the same, then the axes of its features")
        return prod(rows), prod(whole[len(rows):])

    def _shape(self, name: str | None) -> tuple[int, ...]:
        if not name or name not in self.arrays:
            raise ConfigError(f"expected a published array, found {name!r}" if name else "the name of an array is NULL",
                              fix=f"publish it first; known: {', '.join(sorted(self.arrays)) or 'none'}")
        shape: tuple[int, ...] = self.arrays[name][1][1]
        return shape

    def _array(self, name: str | None) -> Array:
        view, (address, shape, strides, dtype, device) = self.arrays[name or ""]
        return foreign.at_address(address, shape, strides, dtype, device=device) if view is None else view


def flat(view: Array, shape: tuple[int, ...], room: Array | None = None) -> Array:
    """The array in another shape: a view where its layout allows, else copied once, to float32 (into `room`, where given)."""
    if view.flags.c_contiguous:
        return view.reshape(shape)
    out = np.empty(shape, np.float32) if room is None else room
    _native.gather(view, out)
    return out


def opened(comm: int, toml: str | None) -> Engine:
    """An Engine; its `code` is 0 where it is open."""
    made = Engine()
    try:
        made.start(comm, toml)
    except EngineError as error:
        made.code, made.text = error.code, str(error)
    except ImportError as error:
        made.code, made.text = UNAVAILABLE, f"a package is missing: {error}\n  fix: python -m pip install engine, or {FIX}"
    except BaseException as error:
        made.code, made.text = EngineError.code, f"{type(error).__name__}: {error}"
    return made


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what is not finite is null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
