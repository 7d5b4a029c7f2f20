"""What can be set: a dataclass a section with its defaults, and the values that are allowed."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

Names = tuple[str, ...]
Every = int | float | None


@dataclass
class Data:
    """What is read, how it is parsed, and which rank learns which row.

    Live sources: `columns` names what comes, where no first rows can be looked at; `wait`: seconds to wait for those;
    `idle`: a feed quiet for so many seconds has ended (0 = never); `spool`: folder for rows that cannot be asked for again.
    Table files: `columns` to read; `where` keeps rows ("a>3&b<=0.5").  `rule` by rows: deal, hash, range (of column `key`),
    random, part, window (spans of `window`: "5000rows", or "60s" of the time in column `key`), user (the function that `user`
    names, "module:function" or "file.py:function"); by columns: columns, or a grid of both, grid[:ROWSxCOLUMNS].  `codec`: how
    rows change rank: plain, rows (coded), or auto, as the measured link has it.  `cache`: bytes of parsed rows that a
    rank keeps on disk (in `cache_dir`) for reading the source again.
    """

    source: str = ""
    format: str | None = None
    target: str | None = None
    header: str = "auto"
    delimiter: str = "auto"
    numeric: Names = ()
    categorical: Names = ()
    labels: Names = ()
    hash_bits: int | None = None
    missing: str = "zero"
    on_bad_rows: str = "error"
    quoted_newlines: bool = False
    task: str | None = None
    piece_bytes: int = 1 << 21
    follow: bool = False
    columns: Names = ()
    where: str = ""
    wait: float = 60.0
    idle: float = 0.0
    spool: str = ""
    spool_bytes: int = 1 << 30
    spool_keep: bool = False
    codec: str = "auto"
    cache: int = 0
    cache_dir: str = ""
    rule: str = "deal"
    key: str | None = None
    window: Every = None
    user: str = ""


@dataclass
class Time:
    """When rows happened, and what they are called (docs/source.md). `column`: of the event time, numbers in `unit` (auto, s,
    ms, us, ns) or ISO 8601; `lateness`: seconds a row may come after one of a later time; `late`: learn or drop what comes
    later still.  `id`: column of a name by which duplicates are dropped and, with `labels`=later, labels join the rows that
    came before them, within `horizon` (default 1 h, or 1 Mi rows without times).  `window`: scores by 60s, 60s/10s (sliding)
    or 1000rows.  `jump`: seconds ahead that one row is not believed; `idle`: seconds a silent rank holds the others back.
    """

    column: str = ""
    unit: str = "auto"
    lateness: float = 0.0
    late: str = "learn"
    id: str = ""
    labels: str = "row"
    horizon: Every = None
    window: str = ""
    jump: float = 86400.0
    idle: float = 30.0


@dataclass
class Clean:
    """What happens to rows between source and model: stages in order (docs/clean.md)."""

    stages: Names = ()


@dataclass
class Model:
    """The learner. None = the learner's own default; `rate` is FTRL's alpha and passive-aggressive's C; `batch` > 0: one
    step along the mean gradient of so many rows instead of one for each.
    """

    kind: str = "linear"
    loss: str | None = None
    learner: str = "auto"
    classes: int = 2
    beta: float | None = None
    rate: float | None = None
    l1: float | None = None
    l2: float | None = None
    power_t: float | None = None
    tau: float | None = None
    epsilon: float | None = None
    bias: float = 1.0
    batch: int = 0
    interactions: bool = False
    scale: bool | None = None
    make: str = ""


@dataclass
class Mlp:
    """Options of `model.kind=mlp`: units of each hidden layer (at most 3 layers), relu or tanh."""

    hidden: Names = ("128",)
    activation: str = "relu"


@dataclass
class Factor:
    """Options of `model.kind=factor`: numbers a key (a multiple of 4), fields (0 = plain), steps and decay of the factors."""

    factors: int = 4
    fields: int = 0
    rate_v: float | None = None
    l2_v: float = 0.0
    spread: float = 0.02


@dataclass
class Table:
    """Options of `model.kind=table`: times a key comes before it has a row, rows after which an unused one goes (0 = never)."""

    admit: int = 1
    expire: int = 0


@dataclass
class Tree:
    """Options of `model.kind=tree` and `forest`; None = the kind's own."""

    trees: int | None = None
    grace: int | None = None
    delta: float | None = None
    tie: float | None = None
    subset: int | None = None
    depth: int | None = None
    nodes: int | None = None
    poisson: float | None = None


@dataclass
class Stats:
    """Options of `model.kind=kmeans` and `ridge`: clusters, and rows after which a row counts half (0 = never)."""

    k: int = 8
    half_life: float = 0.0


@dataclass
class Update:
    """How models that give gradients learn: the chain of policies ("" = adam), and rows a step (None = the kind's own).

    `drift`: adwin, ddm, page-hinkley or kswin watches the prequential errors (None = none; a forest's trees: adwin),
    `on_drift` says what then: mark, task, reset, retrain.  `strategy`: docs/models.md; `budget` of auto ("60s,512MB"); rows
    are relearned each `every` rows from the last `window` (0 = all) `epochs` times, out of the `spool` (memory,
    disk, source, none).  `gate`: metric by which a relearned model, or one let out to `publish` (a folder), must not be worse.
    `delay`: rows after which the label of a row comes; it is scored before and learned then.
    """

    chain: str = ""
    batch: int | None = None
    drift: str | None = None
    on_drift: str = "mark"
    strategy: str = "incremental"
    budget: str = ""
    every: int = 1000
    window: int = 0
    epochs: int = 1
    parts: Names = ()
    spool: str = "memory"
    gate: str | None = None
    publish: str = ""
    delay: int = 0
    teacher: str = ""
    teacher_share: float = 0.5


@dataclass
class Exchange:
    """`split` rows: each worker learns its rows, and every `every` of them or seconds the sums are merged by `merge`
    (None: each 256; a model that learns by mini-batches: each of those, of 32 rows at least).
    `split` keys: the workers of a node share one model, each the owner of a part of the keys, scores summed every `every`
    rows (32).  `place` replica: every rank holds the model; table: each row of a sparse linear model lies at its owner, a rank
    fetches those of `every` rows, learns, and sends the owners what changed (modes bsp, ssp:N, asp).
    `mode`: bsp (lock-step), ssp:N (staleness up to N rounds), hybrid:N (that for sparse rows, dense ones in lock-step), asp
    (asynchronous owners), gossip[:GRAPH], local:H (H intervals a round, with outer `momentum`), auto (bound, interval and
    steps as wait and loss call for, within a loss of `budget`, and news visible within `fresh` seconds, 0 = any).
    `damp`: an update computed a rounds ago counts (1 + a)^-damp.
    With ssp: `balance`, a slower rank takes fewer rows (data.rule=part); `ease`, steps shrink as measured staleness rises.
    `codec`: how parameters of dense models travel: exact, dense, bf16, int8, int4, sign, topk:0.01, lowrank:4, or auto
    (measured; `explain` logs why); `route` of dense: native (the MPI's own), ring, halving, doubling, tree, node.
    `virtual` > 0: so many replicas however many ranks there are, summed in order: the same bits for any number of ranks
    that divides it (`--reproducible` = 16).
    """

    split: str = "rows"
    place: str = "replica"
    virtual: int = 0
    every: Every = None
    merge: str = "owner"
    mode: str = "bsp"
    codec: str = "exact"
    route: str = "native"
    explain: bool = False
    damp: float = 0.0
    momentum: float = 0.0
    budget: float = 0.005
    fresh: float = 0.0
    balance: bool = False
    ease: bool = False


@dataclass
class Loop:
    """`threads` 0 = cores of the affinity mask over the ranks of the node; `window` in rows; `stall_timeout` in seconds."""

    threads: int = 0
    window: int = 1000
    stall_timeout: float = 300.0
    stop_after_rows: int = 0


@dataclass
class Checkpoint:
    """`every`: "5000rows" or "10s". `resume`: auto (if there is one), must, never. `mirror`: a second directory. `chain`:
    incremental checkpoints between whole ones, in runs kept in node memory.
    """

    dir: str = ""
    every: Every = None
    keep: int = 2
    resume: str = "never"
    mirror: str = ""
    chain: int = 4


@dataclass
class Fault:
    """Every step kept in node memory. `memory`: auto (where `engine run --supervise` started the run), on, off. `copies`:
    other nodes that hold each rank's state (none given = 1). `parity` "k+m": in its place sums over groups of k + m nodes, of
    which any m may be lost, in m/k of the memory. `ranks_per_node` 0 = real hosts. In seconds: `frozen`, `hung` (a rank),
    `silent` (a host), `mtbf` (between failures, for the interval of checkpoints where none is given: Young, Daly). `seal`:
    least bytes of journal before images are brought forward. `inplace`: survivors may go on without a relaunch (`--on-loss
    shrink`).
    `standby`: the next launch is begun in advance and waits (about 35 MB a rank, no CPU): on, off, auto (where that is a small
    part of the free memory, once the job has learned ten times as long as it took to start).
    """

    memory: str = "auto"
    folder: str = "/dev/shm"
    copies: int | None = None
    parity: str = ""
    ranks_per_node: int = 0
    frozen: float = 0.5
    hung: float = 300.0
    silent: float = 5.0
    seal: int = 4 << 20
    inplace: bool = True
    standby: str = "auto"
    mtbf: float = 86400.0


@dataclass
class Degrade:
    """What is shed where time or ranks are short (docs/survive.md). `budget`: the greatest share of the time for reports and
    checkpoints, 0 = any.
    """

    budget: float = 0.25


@dataclass
class Transport:
    """Messages between nodes. `between` mpi, or sockets: own connections, made again where they break. `rails`: interfaces or
    networks they use, the same names on every host (none = the first that is up). In bytes: `chunk` (of a message), `window`
    (under way to a rank), `flight` (on one rail), `journal` (kept for a silent rank). `silent` seconds break a connection."""

    between: str = "mpi"
    rails: Names = ()
    chunk: int = 1 << 18
    window: int = 1 << 26
    flight: int = 1 << 22
    journal: int = 1 << 28
    silent: float = 2.0


@dataclass
class Run:
    """Where the run writes what it tells. `dir` "" = runs/NNNN, "-" = nowhere."""

    dir: str = ""
    report: bool = True
    quiet: bool = False
    json: bool = False
    seed: int = 0


@dataclass
class Embed:
    """A solver's engine (docs/embed.md). `width` 0 = of the first rows; `queue`: items; `full`: wait or newest."""

    width: int = 0
    asynchronous: bool = False
    queue: int = 4
    full: str = "wait"


@dataclass
class Shard:
    """The sharded table. `onesided`, how rows of other ranks are reached; `service`, who answers; `rows`, most of a rank;
    `combine` > 0: what ranks of a node push to other nodes is summed in a queue of so many rows (training);
    `memory` in bytes a rank may hold (0 = not asked); `slots_bits` None = by the number of ranks. `lot`: rows whose partial
    scores are summed at once where columns are cut (data.rule=columns, grid): 1 is exact, more is stale by so many rows."""

    onesided: str = "auto"
    combine: int = 0
    service: str = "auto"
    slots_bits: int | None = None
    rows: int = 1 << 24
    backups: int = 0
    memory: int = 0
    lot: int = 1


@dataclass
class Config:
    """All sections. `digest` is the same on two ranks exactly where they agree."""

    data: Data = field(default_factory=Data)
    time: Time = field(default_factory=Time)
    clean: Clean = field(default_factory=Clean)
    model: Model = field(default_factory=Model)
    mlp: Mlp = field(default_factory=Mlp)
    factor: Factor = field(default_factory=Factor)
    table: Table = field(default_factory=Table)
    tree: Tree = field(default_factory=Tree)
    stats: Stats = field(default_factory=Stats)
    update: Update = field(default_factory=Update)
    exchange: Exchange = field(default_factory=Exchange)
    loop: Loop = field(default_factory=Loop)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    fault: Fault = field(default_factory=Fault)
    degrade: Degrade = field(default_factory=Degrade)
    transport: Transport = field(default_factory=Transport)
    run: Run = field(default_factory=Run)
    embed: Embed = field(default_factory=Embed)
    shard: Shard = field(default_factory=Shard)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return asdict(self)

    def flat(self) -> dict[str, Any]:
        """Every setting by its full name."""
        return {f"{section}.{key}": value for section, values in self.to_dict().items() for key, value in values.items()}

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        return "\n".join("\n".join([f"[{name}]", *self.section_toml(name), ""]) for name in self.to_dict())

    def section_toml(self, section: str) -> list[str]:
        """`key = value` of each setting of a section that has a value."""
        values = self.to_dict()[section]
        return [f"{key} = {_toml(section, key, value)}" for key, value in values.items() if value is not None]


CHOICES = {
    "data.codec": ("auto", "plain", "rows"), "data.format": ("csv", "libsvm", "frames", "text"),
    "data.missing": ("zero", "error", "nan"), "data.header": ("auto", "yes", "no"),
    "data.on_bad_rows": ("error", "skip", "count"), "data.task": ("binary", "multiclass", "regression"),
    "time.unit": ("auto", "s", "ms", "us", "ns"), "time.late": ("learn", "drop"), "time.labels": ("row", "later"),
    "model.loss": ("squared", "logistic", "hinge", "quantile", "poisson", "epsilon"),
    "model.learner": ("auto", "sgd", "adagrad", "ftrl", "nag", "pa1", "pa2"),
    "update.on_drift": ("mark", "task", "reset", "retrain"), "update.spool": ("memory", "disk", "source", "none"),
    "update.drift": ("adwin", "ddm", "page-hinkley", "kswin"),
    "update.strategy": ("auto", "incremental", "stream", "partition", "retrain", "partial", "distil", "decentralised"),
    "update.gate": ("accuracy", "logloss", "rmse", "mae"),
    "exchange.split": ("rows", "keys"), "exchange.place": ("replica", "table"),
    "exchange.route": ("native", "ring", "halving", "doubling", "tree", "node"),
    "exchange.merge": ("owner", "add", "average", "touch", "conflict"),
    "checkpoint.resume": ("auto", "must", "never"), "embed.full": ("wait", "newest"),
    "fault.memory": ("auto", "on", "off"), "fault.standby": ("auto", "on", "off"), "transport.between": ("mpi", "sockets"),
    "shard.onesided": ("auto", "shared", "rma", "served"), "shard.service": ("auto", "thread", "inline"),
}
PATTERNS = {"data.rule": (r"deal|hash|range|random|part|window|user|columns|grid(:[1-9]\d{0,5}x[1-9]\d{0,5})?",
                          "deal, hash, range, random, part, window, user, columns or grid[:RxC]"),
            "exchange.mode": (r"bsp|asp|auto|(ssp|hybrid):\d{1,4}|local:[1-9]\d{0,5}|gossip(:(random|ring|exponential))?",
                              "bsp, ssp:N, hybrid:N, asp, gossip[:random|ring|exponential], local:H or auto"),
            "fault.parity": (r"([1-9]\d?\+[1-9]\d?)?", "k+m, for example 4+2: groups of 6 nodes, any 2 of which may be lost"),
            "exchange.codec": (r"exact|auto|dense|bf16|int8|int4|sign|topk(:0?\.\d+)?|lowrank(:[1-9]\d?)?",
                               "exact, auto, dense, bf16, int8, int4, sign, topk:0.01 or lowrank:4")}
LOWEST = {"transport.chunk": 4096, "transport.window": 4096, "transport.flight": 4096, "transport.journal": 4096,
          "transport.silent": 0.1, "exchange.virtual": 0, "update.every": 1, "update.window": 0, "update.epochs": 1,
          "exchange.damp": 0, "exchange.momentum": 0, "exchange.budget": 0, "exchange.fresh": 0,
          "loop.threads": 0, "loop.window": 1, "checkpoint.keep": 1, "model.batch": 0, "data.piece_bytes": 4096,
          "time.lateness": 0, "time.jump": 0, "time.idle": 0.001, "data.spool_bytes": 1 << 20,
          "data.cache": 0, "data.idle": 0, "data.wait": 0,
          "loop.stall_timeout": 0.1, "loop.stop_after_rows": 0, "embed.width": 0, "embed.queue": 1,
          "checkpoint.chain": 0, "shard.rows": 1, "shard.slots_bits": 1, "shard.backups": 0, "shard.lot": 1, "shard.memory": 0,
          "fault.copies": 0, "fault.ranks_per_node": 0, "fault.frozen": 0.1, "fault.hung": 1.0,
          "fault.silent": 0.2, "fault.seal": 1, "degrade.budget": 0, "shard.combine": 0}


def _toml(section: str, key: str, value: Any) -> str:
    if key in ("every", "horizon") or (section, key) == ("data", "window"):
        value = f"{value}rows" if isinstance(value, int) else f"{value}s"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace("\x7f", "\\u007f")
