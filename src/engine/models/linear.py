"""The linear family: one native learner, exact example by example, over a block of rows w, a, n and a scratch mark."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from engine.errors import ConfigError, DataError, ShardError, StoreError
from engine.kernels import _native
from engine.models import scale as scaler
from engine.models.registry import Spec, kind, learner_of
from engine.types import Array, Batch, Block, State, Update, whole_rows

Loss = Literal["squared", "logistic", "hinge", "quantile", "poisson", "epsilon"]
Learner = Literal["sgd", "adagrad", "ftrl", "nag", "pa1", "pa2"]
Rule = Literal["owner", "add", "average", "touch", "conflict"]

RATE = {"sgd": 0.05, "adagrad": 0.1, "ftrl": 0.17, "nag": 0.5, "pa1": 1.0, "pa2": 1.0}
Memory = Callable[[int], Array]
CLOCK = 0xFFFFFFFF  # the clock travels in an Update under this key


def zeros(rows: int) -> Array:
    """A block of zeros whose pages are there, in order, before hashed keys touch them one by one."""
    block = np.empty((rows, 4), np.float32)
    block.fill(0)
    return block


class Linear:
    """Linear model over `width` keys; `learn` scores each row, then learns it, in one native call without the GIL.

    `loss`: squared (half the square), logistic, hinge, quantile (`tau`), poisson (log link), epsilon (insensitive).
    `learner`: sgd (`rate * t ** -power_t`), adagrad, ftrl (`rate` = alpha, `beta`), nag (normalised adaptive), pa1 and
    pa2 (`rate` = C; hinge or epsilon loss only, no l1 or l2).  Binary labels: > 0 is the positive class.
    `classes` > 1: one against the rest, row of the block = key * classes + class.  `bias`: value of the constant
    feature (0 = none), its row the last.  `interactions`: all pairs of a row's features hashed into the key space.
    `scale`: standardise dense columns online (True = `width` columns, or their number); row i is scored and learned
    with the statistics of the rows before it, then the scaler learns it.
    `batch` > 0: `learn` is `learn_batch` of so many rows at a time.
    `merge`: owner (the learner's rule, see csrc/learn/merge.h), add, average or touch (changes of state over all ranks,
    or over the ranks that touched a row), conflict (added, but only as far as the ranks' gradients disagree).
    `memory(rows)`: gives the block, zeros float32 `(rows, 4)`, where it is not the model's own.  `bad`: rows with NaN or
    Inf in them, scored (NaN or Inf) but never learned.

    >>> model = Linear(2, learner="pa1", loss="hinge")
    >>> model.learn_one(np.array([1, 2], np.float32), 1.0)
    0.0
    """

    def __init__(
        self, width: int, *, loss: Loss = "logistic", learner: Learner = "ftrl", classes: int = 1,
        rate: float | None = None, beta: float = 0.5, l1: float = 0.0, l2: float = 0.0, power_t: float = 0.0,
        tau: float = 0.5, epsilon: float = 0.1, bias: float = 1.0, interactions: bool = False,
        scale: bool | int = False, merge: Rule = "owner", tracked: bool = True, batch: int = 0, memory: Memory | None = None,
    ) -> None:
        rate = RATE.get(learner, 1.0) if rate is None else rate
        self.options: dict[str, Any] = {
            "width": width, "loss": loss, "learner": learner, "classes": classes, "rate": rate, "beta": beta, "l1": l1,
            "l2": l2, "power_t": power_t, "tau": tau, "epsilon": epsilon, "bias": bias, "interactions": interactions,
            "scale": scale, "merge": merge, "tracked": tracked, "batch": batch,
        }
        _check(self.options)
        columns = width if scale is True else int(scale)
        self.bad = 0
        self._block = (zeros if memory is None else memory)((width + (bias != 0)) * classes)
        self._clock = np.zeros(2)
        self._scale = np.zeros((columns, 3)) if columns else None
        numbers = [rate, power_t, beta, l1, l2, tau, epsilon, bias]
        try:
            self._native = _native.Learner(
                self._block, self._clock, self._scale, classes, loss, learner, numbers, interactions, tracked, merge)
        except ValueError as error:
            raise ConfigError(f"linear model: {error}") from None
        self.learn_one = self._native.learn_one  # (x float32 (d,), y) -> score before learning
        self._mark_base()

    def _mark_base(self) -> None:
        self._base_clock = self._clock.copy()
        self._base_scale = None if self._scale is None else self._scale.copy()

    def _scores(self, batch: Batch) -> Array:
        classes = self.options["classes"]
        return np.empty(len(batch) if classes == 1 else (len(batch), classes), np.float32)

    def predict(self, batch: Batch) -> Array:
        """Scores float32 `(n,)`, or `(n, classes)`: margins (poisson: log rate). Changes nothing."""
        out = self._scores(batch)
        try:
            self._native.predict(out, batch.indptr, batch.keys, batch.values, batch.x)
        except (ValueError, IndexError) as error:
            raise _refused(error) from None
        return out

    def learn(self, batch: Batch) -> Array:
        """Scores as `predict` gives them before each row is learned; rows with a NaN label are scored only."""
        if self.options["batch"]:
            step = self.options["batch"]
            return np.concatenate([self.learn_batch(batch.slice(low, min(low + step, len(batch))))
                                   for low in range(0, len(batch), step)] or [self._scores(batch)])
        out = self._scores(batch)
        try:
            self.bad += self._native.learn(
                out, batch.y, batch.weight, batch.indptr, batch.keys, batch.values, batch.x)
        except (ValueError, IndexError) as error:
            raise _refused(error) from None
        return out

    def sit(self, desk: Array, member: int, members: int, lot: int, limit_s: float) -> None:
        """Join a crew that shares this model's block: as `member` of `members` own a share of the keys (crew.py).

        `desk` uint8, zeros, the same memory for all, `_native.desk_bytes(members, lot, classes)` long; `lot`: rows whose
        scores are summed at once.  ConfigError where the model has a scaler, interactions or tracking.
        """
        try:
            self._native.sit(desk, member, members, lot, limit_s)
        except ValueError as error:
            raise ConfigError(f"linear model: {error}", fix="exchange.split=rows takes every linear model") from None

    def learn_split(self, batch: Batch, *, whole: bool) -> Array | int:
        """`learn` by a whole crew at once, each member with the same rows: scores of all, or the member that is absent.

        `whole`: the rows hold all keys; else those that this member owns.
        """
        out = self._scores(batch)
        assert batch.indptr is not None and batch.keys is not None
        try:
            bad, absent = self._native.split(out, batch.y, batch.weight, batch.indptr, batch.keys, batch.values, whole)
        except (ValueError, IndexError) as error:
            raise _refused(error) from None
        self.bad += bad
        return out if absent < 0 else absent

    def learn_apart(self, batch: Batch, lot: int, total: Callable[[Array], Array]) -> Array:
        """`learn` where this model holds some columns of every row and its peers the others: the scores of whole rows.

        `total(sums)` adds up what all of them bring for a lot of `lot` rows; the rows of a lot do not see one another's
        steps. With `batch` > 0 a lot is a batch, and nothing is stale.
        """
        out, count = self._scores(batch), len(batch)
        if self.options["batch"]:
            step = self.options["batch"]
            for low in range(0, count, step):
                part = batch.slice(low, min(low + step, count))
                out[low : low + step] = self.learn_batch(part, total(self.predict(part)))
            return out
        try:
            self._native.begin(batch.y, batch.weight, batch.indptr, batch.keys, batch.values, batch.x)
        except (ValueError, IndexError) as error:
            raise _refused(error) from None
        halve, whole, shape = self._native.halve, self._native.whole, (self._native.planes(), *out.shape[1:])
        for low in range(0, count, lot):
            high = min(low + lot, count)
            sums = np.empty((shape[0], high - low, *shape[1:]), np.float32)
            halve(low, high, sums)
            sums = total(sums)
            self.bad += whole(low, high, sums)
            out[low:high] = sums[0]
        return out

    def leave(self) -> None:
        """Tells the crew not to wait for this member."""
        self._native.leave()

    def learn_batch(self, batch: Batch, scores: Array | None = None) -> Array:
        """Scores of all rows under one state (`scores`, where they are known), then one step along the mean gradient of the
        labelled rows."""
        _batchable(self.options)
        scores = self.predict(batch) if scores is None else scores
        slope = np.empty(len(batch), np.float32)
        self._native.slope(scores, batch.y, slope)
        use = np.isfinite(slope) & np.isfinite(scores)
        self.bad += int(np.count_nonzero(~use & ~np.isnan(batch.y)))
        weight = np.ones(len(batch), np.float32) if batch.weight is None else batch.weight
        rows = np.flatnonzero(use & (weight != 0))
        if len(rows):
            self._native.step(*_mean_gradient(batch.take(rows), slope[rows] * weight[rows], self.options))
        return scores

    def link(self, scores: Array) -> Array:
        """Prediction in the target's own unit: probability (logistic), rate (poisson), else the score itself."""
        if self.options["loss"] == "poisson":
            return np.exp(scores)
        if self.options["loss"] != "logistic":
            return scores
        out = np.empty_like(scores)
        _native.sigmoid(scores, out)
        return out

    def view(self) -> State:
        """What `state` gives, as views of the live arrays."""
        columns = (("w", "owner"), ("a", "owner"), ("n", "owner"))
        state: State = {
            "model/linear": Block(self._block[:, :3], columns),  # type: ignore[arg-type]
            "model/clock": Block(self._clock),
        }
        if self._scale is not None:
            state["stage/scale"] = Block(self._scale)
        return state

    def room(self) -> State:
        """Arrays that `load` takes as they are: what is read may be put there, in place of a copy of its own."""
        return {"model/linear": self.view()["model/linear"]}

    def changed(self, total: Update) -> dict[str, Any]:
        """Rows that `merge(total)` changes, ascending, by path of the state; the rest of the state is not named."""
        assert total.keys is not None
        return {"model/linear": total.keys[: np.searchsorted(total.keys, len(self._block))]}

    def state(self) -> State:
        """`model/linear` float32 `(rows, 3)`, `model/clock` float64 `(2,)`, `stage/scale` float64 `(columns, 3)`."""
        return {path: Block(block.data.copy(), block.columns) for path, block in self.view().items()}

    def load(self, state: Mapping[str, Block]) -> None:
        """Takes what `state` gave; it becomes the base. StoreError where a block is absent or of another shape."""
        mine: dict[str, Array] = {"model/linear": self._block[:, :3], "model/clock": self._clock}
        if self._scale is not None:
            mine["stage/scale"] = self._scale
        for path, array in mine.items():
            found = state[path].data.shape if path in state else None
            if found != array.shape:
                raise StoreError(f"{path}: expected shape {array.shape}, found {found}",
                                 fix="load into a model made with the same options")
        self._native.rebase()
        for path, array in mine.items():
            data = state[path].data
            if data.__array_interface__ != array.__array_interface__:  # not put there before
                whole_rows(array)[...] = whole_rows(data) if data.dtype == array.dtype else data
        self._mark_base()

    def follow(self, leader: Linear, keys: Array) -> None:
        """Takes the rows `keys` of `leader`, its clock and scaler; they become the base, what was learned here is dropped."""
        self._native.rebase()
        rows = keys[: np.searchsorted(keys, len(self._block))]
        self._block[rows, :3] = leader._block[rows, :3]
        self._clock[:] = leader._clock
        if self._scale is not None:
            self._scale[:] = leader._scale
        self._mark_base()

    def put(self, rows: Array, values: Array) -> None:
        """Rows of the block, uint32, take float32 `(m, 3)`; they become the base. FTRL's w follows from its z and n."""
        self._native.rebase()
        if self.options["learner"] == "ftrl":
            o, z, n = self.options, values[:, 1], values[:, 2]
            over = np.maximum(np.abs(z) - np.float32(o["l1"]), 0)
            slope = (np.float32(o["beta"]) + np.sqrt(n)) / np.float32(o["rate"]) + np.float32(o["l2"])
            values[:, 0] = -np.sign(z) * over / slope
        self._block[rows, :3] = values
        self._mark_base()

    def fill(self, values: Array) -> None:
        """The first rows of the block take float32 `(m, 3)`, those of the bias, its last, the last ones; this is the base."""
        self._native.rebase()
        cut = len(values) - self.options["classes"] * (self.options["bias"] != 0)
        self._block[:cut, :3] = values[:cut]
        self._block[len(self._block) - len(values) + cut :, :3] = values[cut:]
        self._mark_base()

    def pace(self, factor: float) -> None:
        """Steps by `factor` times the rate of the options from here on; FTRL's past steps are scaled with it."""
        self._native.pace(self.options["rate"] * factor)

    def fork(self) -> Linear:
        """A replica with the same state and base, for another thread; it shares nothing."""
        twin = Linear(**self.options)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """What was learned since the base: keys of touched rows, values float32 `(m, 6)`; the state stays as it is."""
        if not self.options["tracked"]:
            raise ShardError("update: this model does not track rows", fix="make it with tracked=True")
        touched = self._native.update()
        keys, values = [touched[0]], [touched[1]]
        if self._scale is not None and self._base_scale is not None and self._clock[0] > self._base_clock[0]:
            more = scaler.pack(scaler.since(self._base_scale, self._scale))
            keys.append(more[0])
            values.append(more[1])
        gone = self._clock - self._base_clock
        if self.options["learner"] == "nag" and gone[0]:
            keys.append(np.array([CLOCK], np.uint32))
            values.append(np.array([[gone[1], 0, 0, 0, 0, 1]], np.float32))
        return Update(np.concatenate(keys), np.concatenate(values), float(gone[0]))

    def drop(self) -> None:
        """Back to the base: what was learned since is forgotten. ShardError where rows are not tracked."""
        if not self.options["tracked"]:
            raise ShardError("drop: this model does not track rows", fix="make it with tracked=True")
        self.merge(Update(np.empty(0, np.uint32), np.empty((0, 6), np.float32), 0.0), 1)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then `total` (the sum over `ranks` of their updates) by the merge rule: the new base."""
        if total.keys is None:
            raise ShardError("merge: expected a total with keys")
        keys, values = np.ascontiguousarray(total.keys, np.uint32), np.ascontiguousarray(total.values, np.float32)
        columns = 0 if self._scale is None else len(self._scale)
        cut = int(np.searchsorted(keys, scaler.LAST - columns, side="right")) if columns else len(keys)
        cut = min(cut, int(np.searchsorted(keys, CLOCK)))
        end = int(np.searchsorted(keys, CLOCK))
        try:
            self._native.merge(keys[:cut], values[:cut], ranks)
        except (ValueError, IndexError) as error:
            raise ShardError(f"merge: {error}") from None
        self._clock[:] = self._base_clock
        self._clock[0] += total.weight
        self._clock[1] += values[end:, 0].sum(dtype=np.float64)
        if self._scale is not None and self._base_scale is not None:
            seen = scaler.unpack(keys[cut:end], values[cut:end], columns)
            self._scale[:] = scaler.advance(self._base_scale, seen)
        self._mark_base()


@kind("linear")
def build(spec: Spec) -> Linear:
    """The loss follows the task and the learner; dense columns are standardised unless told not to."""
    learner = learner_of(spec.options, spec.schema)
    passive, real = learner in ("pa1", "pa2"), spec.schema.task == "regression"
    usual = ("epsilon" if real else "hinge") if passive else ("squared" if real else "logistic")
    scale = spec.options.get("scale")
    return Linear(
        spec.schema.width, loss=spec.options.get("loss") or usual, learner=learner, classes=spec.classes, merge=spec.merge,  # type: ignore[arg-type]
        scale=not spec.schema.sparse if scale is None else scale, tracked=spec.tracked, memory=spec.memory,
        **spec.pick("rate", "beta", "l1", "l2", "power_t", "tau", "epsilon", "bias", "interactions", "batch"))


def _refused(error: Exception) -> DataError:
    return DataError(str(error), fix="hash the keys into the model's width, and give columns as the model was made for")


def _check(o: Mapping[str, Any]) -> None:
    def need(ok: bool, message: str) -> None:
        if not ok:
            raise ConfigError(f"linear model: {message}")

    need(o["learner"] in RATE, f"expected a learner of {', '.join(RATE)}, found {o['learner']!r}")
    need(o["width"] >= 1 and o["classes"] >= 1, "expected width and classes >= 1")
    need((o["width"] + 1) * o["classes"] < scaler.LAST - o["width"] * bool(o["scale"]), "width * classes exceeds 2^32")
    need(o["rate"] > 0, f"expected rate > 0, found {o['rate']}")
    need(min(o["beta"], o["l1"], o["l2"], o["power_t"], o["epsilon"]) >= 0,
         "expected beta, l1, l2, power_t and epsilon >= 0")
    need(0 < o["tau"] < 1, f"expected 0 < tau < 1, found {o['tau']}")
    need(o["beta"] + o["l2"] > 0, "expected beta > 0 or l2 > 0")
    if o["learner"] in ("pa1", "pa2"):
        need(o["loss"] in ("hinge", "epsilon"), f"{o['learner']} takes loss hinge or epsilon, found {o['loss']!r}")
        need(o["l1"] == 0 and o["l2"] == 0, f"l1 and l2 are not defined for {o['learner']}")
    if o["batch"]:
        _batchable(o)
    need(o["classes"] == 1 or o["loss"] in ("logistic", "hinge", "squared"),
         f"one against the rest takes logistic, hinge or squared loss, found {o['loss']!r}")


def _batchable(o: Mapping[str, Any]) -> None:
    if o["learner"] in ("nag", "pa1", "pa2") or o["interactions"] or o["scale"] or o["classes"] > 1:
        raise ConfigError(
            "mini-batches: expected sgd, adagrad or ftrl with one score, no interactions and no scaler (model.scale=false)",
            fix="learn row by row, which is exact for each example (model.batch=0)")


def _mean_gradient(batch: Batch, slope: Array, options: Mapping[str, Any]) -> tuple[Array, Array]:
    """Rows of the block and the mean gradient of each, in ascending order; sums in float64."""
    keys: Array
    g: Array
    if batch.x is not None:
        keys, g = np.arange(batch.x.shape[1], dtype=np.uint32), slope.astype(np.float64) @ batch.x
    else:
        assert batch.indptr is not None and batch.keys is not None
        each = np.repeat(slope.astype(np.float64), np.diff(batch.indptr))
        if batch.values is not None:
            each = each * batch.values
        keys, place = np.unique(batch.keys, return_inverse=True)
        g = np.bincount(place, each, len(keys))
    if options["bias"]:
        keys = np.append(keys, options["width"])
        g = np.append(g, slope.sum(dtype=np.float64) * options["bias"])
    return keys.astype(np.uint32), (g / len(batch)).astype(np.float32)
