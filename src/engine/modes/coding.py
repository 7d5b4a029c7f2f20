"""Lock-step sums by the codec and route of the configuration: `exchange.codec`, `exchange.route`."""
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from engine import loop
from engine.comm import sync
from engine.errors import ConfigError, StoreError
from engine.modes.reducer import Reducer
from engine.types import Array, Block, State, Update
from engine.update.merge import combine

Sum = Callable[[loop.Job, Update, Array], Update]


def plain(job: loop.Job, update: Update, table: Array) -> Update:
    """The exact sum of the updates of all ranks."""
    return sync.total(job.link, update, combine, table[:, 1].astype(int).tolist(), table[:, 0].tolist())


class Coding:
    """Sums of dense float32 updates whose first `model.lossy` values a codec may round; the rest is summed exactly.

    `note(text)` is told why, line by line, once a codec has been taken. What was rounded off stays with this rank and goes
    with a later update. A checkpoint keeps the sum of it over ranks, each range of parameters once: as it is taken each
    rank is left with its range of that sum, and any number of ranks may go on from it.
    """

    def __init__(self, codec: str, route: str, note: Callable[[str], None], explain: bool, merge: str = "owner") -> None:
        self.codec, self.route, self.note, self.explain, self.merge = codec, route, note, explain, merge
        self.reducer: Reducer | None = None
        self._told = False

    def __call__(self, job: loop.Job, update: Update, table: Array) -> Update:
        if update.keys is not None:
            raise self._refused(job)
        reducer = self._ready(job)
        flat, lossy = update.values.reshape(-1), reducer.n
        total = np.concatenate([reducer(flat[:lossy]), job.link.allreduce(flat[lossy:], name="counts of the update")])
        if reducer.picked and not self._told:
            self._told = True
            if self.codec == "auto" or self.explain:
                for line in reducer.lines():
                    self.note(f"exchange: {line}")
        return Update(None, total.reshape(update.values.shape), float(table[:, 0].sum()))

    def _refused(self, job: loop.Job) -> ConfigError:
        return ConfigError(f"exchange.codec={self.codec}: expected a model of dense parameters, found "
                           f"{type(job.team.models[0]).__name__}, whose updates are sums that may not be rounded",
                           fix="exchange.codec=exact")

    def _ready(self, job: loop.Job) -> Reducer:
        """The reducer, made at first need; it goes on from what a checkpoint had of it."""
        if self.reducer is None:
            lossy = getattr(job.team.models[0], "lossy", 0)
            if not lossy:
                raise self._refused(job)
            self.reducer = Reducer(job.link, lossy, self.codec, route=self.route, name="parameters",
                                   note=lambda text: self.note(f"exchange: {text}"))
            self._recall(job, self.reducer)
        return self.reducer

    def _recall(self, job: loop.Job, reducer: Reducer) -> None:
        state, job.recalled = job.recalled, {}
        if "codec" not in state:
            return
        name, (step, ranks) = state["name"].data.tobytes().decode(), state["codec"].data.tolist()
        if ranks == job.link.size:
            reducer.take(name)
        same = name == reducer.picked
        residual = np.zeros(reducer.n, np.float32)
        a, b = bounds(reducer.n, job.link.size, job.link.rank)
        residual[a:b] = owed(job, state, self.merge)[a:b]
        warm = state["warm"].data if "warm" in state and same else None
        reducer.owe(residual, step if same else 0, warm)

    def view(self) -> State:
        """Nothing: what ranks owe is not kept in node memory."""
        return {}

    def fold(self, job: loop.Job) -> tuple[State, dict[str, tuple[int, int, int]]]:
        """What is owed, summed over ranks: `residual` float32, each rank its range; and where the codec stands (collective)."""
        reducer, link = self._ready(job), job.link
        if reducer.owes_nothing:
            return {}, {}
        held = reducer.owed()
        cuts = [bounds(reducer.n, link.size, rank) for rank in range(link.size)]
        parts = link.alltoall([held[a:b] for a, b in cuts], name="residuals")
        a, b = cuts[link.rank]
        share: Array = np.zeros(b - a)
        for part in parts:
            share += part
        share = share.astype(np.float32)
        step, warm = reducer.step, reducer.warm
        held[:] = 0
        held[a:b] = share
        reducer.owe(held, step, warm)
        state = {"residual": Block(share), "codec": Block(np.array([step, link.size], np.int64)),
                 "name": Block(np.frombuffer(reducer.picked.encode() or b"-", np.uint8).copy())}
        if warm is not None:
            state["warm"] = Block(warm.copy())
        return state, {"residual": (a, b, reducer.n)}


def bounds(n: int, ranks: int, rank: int) -> tuple[int, int]:
    """The range of parameters whose summed residual is this rank's, as `codec.feedback.spread` deals them."""
    return n * rank // ranks, n * (rank + 1) // ranks


def owed(job: loop.Job, state: Mapping[str, Block], merge: str) -> Array:
    """What a checkpoint's ranks owed, as this number of ranks owes it: where updates are averaged, the average stays."""
    model, found, ranks = job.team.models[0], state["residual"].data, int(state["codec"].data[1])
    if len(found) != getattr(model, "lossy", 0):
        raise StoreError(f"exchange/residual: expected {getattr(model, 'lossy', 0)} values, found {len(found)}",
                         fix="resume with the model and the policies that the checkpoint was made with")
    return found * np.float32(job.link.size / ranks) if merge == "average" else found


def pay(job: loop.Job, merge: str) -> None:
    """What a checkpoint's ranks owed goes into the parameters at once: for one worker, which sends nothing."""
    state, job.recalled = job.recalled, {}
    if "residual" in state:
        whole = job.team.state()
        whole["model/theta"].data += owed(job, state, merge).reshape(whole["model/theta"].data.shape)
        job.team.load(whole)


def exchange(total: Sum) -> loop.Exchange:
    """The exchange of lock-step with this sum."""
    def act(job: loop.Job, update: Update, table: Array) -> None:
        job.merged = total(job, update, table)
        job.team.merge(job.merged, job.workers)
    return act
