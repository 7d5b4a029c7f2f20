"""The dictionary: the nouns every room shares, and the protocols they meet by. No I/O, no MPI, no kernels."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NO_TIME = -(1 << 63)  # of an int64 time in microseconds: NumPy's NaT
Column = Literal["add", "max", "owner", "none"]


@dataclass(slots=True)
class Batch:
    """Rows in global order, dense or sparse, with what scoring needs beside them.

    `y` float32 `(n,)`: target; a class is its id 0..C-1; NaN = no label.  `order` int64 `(n,)`: place of each row in
    the global order.  `previous` float32 `(n,)`: label of the row before it in the global order (NaN before the first).
    Dense: `x` float32 `(n, d)` C-contiguous.  Sparse (CSR): `indptr` int64 `(n + 1,)` from 0, `keys` uint32 `(nnz,)`,
    `values` float32 `(nnz,)` or None where every value is 1.  `weight` float32 `(n,)` or None = all 1.
    Where they are asked for: `time` int64 `(n,)`, when it happened, in microseconds since 1970 (UTC; NO_TIME: unknown);
    `id` uint64 `(n,)`, a hash of the row's own name (0: it has none). Stages and models neither need nor keep these two.
    """

    y: Array
    order: Array
    previous: Array
    x: Array | None = None
    indptr: Array | None = None
    keys: Array | None = None
    values: Array | None = None
    weight: Array | None = None
    time: Array | None = None
    id: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def sparse(self) -> bool:
        return self.indptr is not None

    def slice(self, start: int, stop: int) -> Batch:
        """Rows [start, stop) as views (`indptr` is rebased to 0, so it alone is copied)."""
        part = slice(start, stop)
        weight = None if self.weight is None else self.weight[part]
        time, name = None if self.time is None else self.time[part], None if self.id is None else self.id[part]
        if self.indptr is None:
            x = None if self.x is None else self.x[part]
            return Batch(self.y[part], self.order[part], self.previous[part], x=x, weight=weight, time=time, id=name)
        assert self.keys is not None
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        return Batch(
            self.y[part], self.order[part], self.previous[part],
            indptr=self.indptr[start : stop + 1] - low, keys=self.keys[low:high],
            values=None if self.values is None else self.values[low:high], weight=weight, time=time, id=name,
        )

    def take(self, rows: Array) -> Batch:
        """The given rows, copied, in the given order; `rows` int64 `(m,)`."""
        weight = None if self.weight is None else self.weight[rows]
        time, name = None if self.time is None else self.time[rows], None if self.id is None else self.id[rows]
        if self.indptr is None:
            x = None if self.x is None else np.ascontiguousarray(self.x[rows])
            return Batch(self.y[rows], self.order[rows], self.previous[rows], x=x, weight=weight, time=time, id=name)
        assert self.keys is not None
        start, count = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(count, out=indptr[1:])
        at = np.repeat(start - indptr[:-1], count) + np.arange(indptr[-1])
        return Batch(
            self.y[rows], self.order[rows], self.previous[rows], indptr=indptr, keys=self.keys[at],
            values=None if self.values is None else self.values[at], weight=weight, time=time, id=name,
        )


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of the rows of all, in the order given; all dense with equal width, or all sparse; at least one."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def stack(name: str) -> Array:
        return np.concatenate([getattr(b, name) for b in batches])

    def filled(name: str, like: str) -> Array | None:
        """The arrays, ones in place of an absent one; None where all are absent."""
        if all(getattr(b, name) is None for b in batches):
            return None
        return np.concatenate([
            np.ones(len(getattr(b, like)), np.float32) if getattr(b, name) is None else getattr(b, name) for b in batches])

    y, order, previous, weight = stack("y"), stack("order"), stack("previous"), filled("weight", "y")
    time, name = (stack(n) if all(getattr(b, n) is not None for b in batches) else None for n in ("time", "id"))
    if not first.sparse:
        return Batch(y, order, previous, x=stack("x"), weight=weight, time=time, id=name)
    indptr = np.zeros(len(y) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(b.indptr) for b in batches if b.indptr is not None]), out=indptr[1:])
    return Batch(y, order, previous, indptr=indptr, keys=stack("keys"), values=filled("values", "keys"), weight=weight,
                 time=time, id=name)


@dataclass(slots=True)
class Block:
    """A named array of the state: one of the leaves of the flat map path -> Block.

    `data` is C-contiguous, any dtype, first axis = the shard axis; `columns` names the last axis of a two-dimensional
    learner block and says how each merges between ranks (`none`: scratch, neither merged nor saved).
    """

    data: Array
    columns: tuple[tuple[str, Column], ...] = ()
    version: int = 0


State = dict[str, Block]


@dataclass(slots=True)
class Update:
    """A rank's additive contribution since its base: it commutes, may be lossy, and is applied at the owner.

    `keys` uint32 `(m,)` ascending and unique, or None = all rows; `values` float32 or float64 `(m, w)`, width, type and
    columns as the model's merge rule defines, the same on all ranks (linear: csrc/learn/merge.h); `weight`: rows behind
    it. The last keys of the range may carry a model's own sums.
    """

    keys: Array | None
    values: Array
    weight: float


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position in one piece (virtual partition) of a source: `row` rows of piece `piece` are done.

    `order` is the global order of the piece's first row, where it is known (else -1); `done`: the piece is exhausted.
    Named by piece, never by rank: any set of cursors restarts on any number of ranks.
    """

    piece: int
    row: int
    order: int = -1
    done: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """What a source's rows are. `width` = dense columns or the key space; `labels` = class names in id order; `numbers`:
    whether sparse rows hold numbers of any size, not only ones and weights near 1.
    """

    width: int
    sparse: bool
    task: Literal["binary", "multiclass", "regression"]
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    numbers: bool = False


class Source(Protocol):
    """Rows that arrive in pieces. A piece is parsed once, by one rank; the pieces in order are the global order.

    `pieces` is the number of pieces, or None while it is unknown (a pipe, a live feed).  `reader(piece, size)` names
    the rank that reads it.  `read(piece, skip)` yields its rows from row `skip` on, in order, as batches whose
    `order` counts from 0 within the piece and whose `previous` is NaN on the piece's first row; past the last piece
    of an open-ended source it yields nothing and `pieces` becomes known.
    """

    schema: Schema
    pieces: int | None

    def reader(self, piece: int, size: int) -> int: ...
    def read(self, piece: int, skip: int = 0) -> Iterator[Batch]: ...
    def close(self) -> None: ...


class Stage(Protocol):
    """One step of cleaning or making features, fitted online: rows in, rows out, in the order given.

    `bind(schema)` comes first and gives the schema of the rows that come out.  `transform` uses what was fitted before
    and changes nothing; `fit` learns the same rows as they came in.  `learn` is both, exact row by row: each row is
    transformed with what the rows before it taught, then fitted; rows may be left out, never added.
    `update` is what was fitted since the last `merge`, as arrays that add up over ranks (`columns` of a Block names
    the rule, add or max); `merge` goes back to the base and applies the total, so all ranks end with the same bits.
    """

    def bind(self, schema: Schema) -> Schema: ...
    def transform(self, batch: Batch) -> Batch: ...
    def fit(self, batch: Batch) -> None: ...
    def learn(self, batch: Batch) -> Batch: ...
    def state(self) -> State: ...
    def load(self, state: Mapping[str, Block]) -> None: ...
    def update(self) -> State: ...
    def merge(self, total: Mapping[str, Block], ranks: int) -> None: ...


class Model(Protocol):
    """What learns. `learn` predicts each row before it learns it; `update`/`merge` are the two ends of an exchange.

    Scores float32 are `(n,)` margins (binary) or predictions (regression), or `(n, classes)`: the meter takes the
    sigmoid of each over their sum, so a model of probabilities p gives log p - log(1 - p).  `link` turns scores into
    the target's own unit.  `update` leaves the model as it is; `merge` takes the sum over `ranks` replicas (threads of
    all ranks) of their updates since the common base, and all replicas then hold the same bits: the new base.  `fork`
    gives a replica with the same state and base.  `bad` counts rows that were scored but could not be learned.
    """

    bad: int

    def state(self) -> State: ...
    def load(self, state: Mapping[str, Block]) -> None: ...
    def predict(self, batch: Batch) -> Array: ...
    def learn(self, batch: Batch) -> Array: ...
    def update(self) -> Update: ...
    def merge(self, total: Update, ranks: int) -> None: ...
    def fork(self) -> Model: ...
    def link(self, scores: Array) -> Array: ...


class Net(Protocol):
    """A model that gives gradients; `models.graded` makes a `Model` of it, on any number of ranks.

    `theta` float32 `(P,)`: all parameters, changed in place by the owner of the net; `spans`: its named parts.
    `forward(batch)` -> outputs float32 `(n, outputs)`, raw (logits, margins or values).  `pull(batch, slope)` -> the
    sum over rows of slope_i . d outputs_i / d theta, float32 `(P,)`, for `slope` `(n, outputs)`; the buffer is the net's
    and is valid until the next call.
    """

    theta: Array
    spans: Mapping[str, slice]
    outputs: int

    def forward(self, batch: Batch) -> Array: ...
    def pull(self, batch: Batch, slope: Array) -> Array: ...


class Step(Protocol):
    """One step as a policy sees it. `g` starts as the mean gradient of `rows` and ends, at the end of the chain, as the
    change of `theta`; a policy reads and sets it.  `rows` may be exchanged before `g` is first read.

    `number` counts this replica's steps from 0; `task` the tasks begun; `age`: rows other workers have learned since the
    common base, estimated by this one's own; `seed`: of this replica; `live`: classes seen, None where there is one output.
    """

    g: Array
    rows: Batch
    theta: Array
    spans: Mapping[str, slice]
    number: int
    task: int
    age: float
    seed: int
    live: Array | None

    def grad(self, rows: Batch) -> Array:
        """Mean gradient of the loss over other rows, a copy."""
        ...

    def outputs(self, rows: Batch, theta: Array | None = None) -> Array:
        """Raw outputs of rows, under other parameters where they are given, a copy."""
        ...

    def pull(self, rows: Batch, slope: Array) -> Array:
        """As `Net.pull`, a copy."""
        ...


class Policy(NamedTuple):
    """A link of a chain. `init(theta)` makes its state, `update(step, state)` changes `step.g` and the state's arrays.

    State paths say how ranks merge: `mean/...` (base + mean change of the replicas), `sum/...` (base + all changes),
    `own/...` (kept by each replica), `items/...` (kept by each, and dealt anew where the number of replicas changes;
    first axis = items).
    """

    init: Callable[[Array], State]
    update: Callable[[Step, State], None]


Op = Literal["sum", "max", "min"]


class Transfer(Protocol):
    """A message under way. Its array must not change (send) or be read (receive) before it is done."""

    def test(self) -> bool:
        """Whether it is done; drives it on."""
        ...

    def wait(self) -> None:
        """Until it is done; PeerError, naming the peer, at the deadline of the Link."""
        ...


@runtime_checkable
class Link(Protocol):
    """The one way rooms talk to peers. Every wait has a deadline and a `name` that a stall report shows.

    All calls are collective but `send`, `recv`, `probe`. `sent` and `received` count payload bytes that crossed to or
    from another rank.  Where `counts` is given it holds every rank's first-axis length, which saves the exchange of
    lengths.  `nodes`: the node of each rank, numbered by first rank.  `kept`: what an exchange keeps between its calls.
    """

    rank: int
    size: int
    nodes: tuple[int, ...]
    kept: dict[str, Any]
    sent: int
    received: int

    def vote(self, values: Array, *, name: str) -> Array:
        """`values` (w,), the same w on every rank -> (size, w), row r from rank r."""
        ...

    def allgather(self, data: Array, *, name: str, counts: Sequence[int] | None = None) -> list[Array]:
        """`data` (n_r, ...) -> the arrays of all ranks in rank order, the same on every rank."""
        ...

    def alltoall(self, parts: Sequence[Array], *, name: str) -> list[Array]:
        """One-dimensional `parts[r]` goes to rank r -> what each rank sent here, in rank order."""
        ...

    def allreduce(self, data: Array, *, op: Op = "sum", name: str, out: Array | None = None) -> Array:
        """Elementwise over ranks, equal shapes; the same bytes on every rank. In `out`, where it is given."""
        ...

    def bcast(self, value: Any, *, root: int = 0, name: str) -> Any:
        """Any picklable value of `root`, on every rank."""
        ...

    def gather(self, value: Any, *, root: int = 0, name: str) -> list[Any] | None:
        """Any picklable value of each rank, at `root`; None elsewhere."""
        ...

    def relay(self, data: Array, *, target: int, source: int, name: str) -> Array:
        """One-dimensional `data` goes to `target` -> what `source` sent here; targets and sources of all ranks pair up."""
        ...

    def barrier(self, *, name: str) -> None: ...

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Transfer:
        """Starts sending a C-contiguous array; messages of one pair and tag arrive in the order sent. 0 <= tag < 2^15."""
        ...

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Transfer:
        """Starts receiving a message of exactly `out.nbytes` bytes into `out`, C-contiguous."""
        ...

    def probe(self, *, tag: int, source: int | None = None) -> tuple[int, int] | None:
        """(rank, bytes) of a message that can be received now, from `source` or from anybody; None where there is none."""
        ...

    def take(self, source: int, *, name: str, tag: int) -> Array:
        """The next message of `source` under `tag`, of whatever length, as uint8; waits for it."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Counts:
    """Counters of a run, by name; what `trace` collects and the log writes."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1) -> None:
        self.values[name] = self.values.get(name, 0) + amount


def whole_rows(data: Array) -> Array:
    """`(n, ...)` as `(n, 1)` elements of a whole row each, a view: copied more than twice as fast than number by number.

    As it is where the numbers of a row do not lie side by side.
    """
    if data.ndim != 2 or not data.size or data.strides[1] != data.itemsize or data.dtype.hasobject:
        return data
    return data.view(f"V{data.shape[1] * data.itemsize}")
