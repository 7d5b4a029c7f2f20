"""One allreduce for dense float32 updates, by the codec and route that pay: as told, or measured and chosen.

    fit (once): latency and bandwidth of the links, encode and decode per element
    choose:     predictions shortlist candidates; heats of real steps leave those close to the quickest; a final of more
                rounds, where dense has to be beaten clearly, leaves one
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.cluster import route as plan
from engine.codec import lowrank, quant, sparse  # noqa: F401
from engine.codec.base import codec as make_codec
from engine.comm import tree  # noqa: F401
from engine.comm.coded import Coded, Lowrank
from engine.comm.dense import ROUTES, allreduce
from engine.comm.sparse import Sparse
from engine.kernels import _native
from engine.types import Array, Link

TAG = 112
QUICK_S = 0.02  # of a swap: more bytes tell more
PROBE = 1 << 18  # elements on which codecs are timed
BLOCK = 3  # real steps on end of one candidate, as it would run alone; the first warms up
HEATS, FINAL, LOOK = 3, 5, 2  # rounds of a trial, in each of which every candidate has a block
SLOWER = 1.25  # times dense's time in its trial: a pace that calls for another
LEAST_BETWEEN, MOST_BETWEEN = 128, 1 << 14  # steps from one look to the next
AUTO = ("dense", "bf16", "int8", "sign", "topk")


def measure_wires(link: Link, size_bytes: int = 1 << 20, rounds: int = 8) -> dict[str, plan.Wire]:
    """Latency and seconds a byte, near (ranks of a node) and far (between nodes), as the slowest pair sees them (collective).

    Each rank swaps with a partner in both directions at once; where all ranks share a node, far is near. In memory the quickest
    swap counts, as what else runs on the cores is not the link's; a shaped link lets some pass at once after a rest, so between
    nodes it is the usual one, of more bytes where that is quick.
    """
    found: dict[str, plan.Wire] = {}
    for name, distance, usual in (("near", 1, min), ("far", max(1, link.nodes.count(link.nodes[0])), np.median)):
        peer, size = _partner(link, distance), size_bytes
        short, long = _swaps(link, peer, 8, 2 * rounds, min), _swaps(link, peer, size, rounds, usual)
        if long < QUICK_S:
            size *= 8
            long = _swaps(link, peer, size, rounds, usual)
        found[name] = plan.Wire(short, max(0.0, long - short) / size)
    return found


def _swaps(link: Link, peer: int | None, size: int, rounds: int, usual: Callable[[Any], Any]) -> float:
    """Seconds of a swap of `size` bytes with `peer`, the slowest rank's (collective); the first rounds warm up."""
    out, room, spent = np.zeros(size, np.uint8), np.empty(size, np.uint8), []
    for _ in range(rounds):
        link.barrier(name="fit wires")
        began = time.perf_counter()
        if peer is not None:
            going = link.send(out, peer, name="fit wires", tag=TAG)
            link.recv(room, peer, name="fit wires", tag=TAG).wait()
            going.wait()
            spent.append(time.perf_counter() - began)
    mine = float(usual(spent[2:])) if spent else 0.0
    return float(link.allreduce(np.array([mine]), op="max", name="fit wires")[0])


def _partner(link: Link, distance: int) -> int | None:
    """Ranks paired `distance` apart; None for one left over."""
    peer = link.rank + distance if (link.rank // distance) % 2 == 0 else link.rank - distance
    return peer if peer < link.size else None


def measure_codecs(names: Sequence[str], density: float = 0.01) -> tuple[dict[str, float], dict[str, float], float]:
    """Seconds an element: encode and decode by codec, and a float32 sum."""
    g = np.random.default_rng(1).standard_normal(PROBE, np.float32)
    encode, decode, acc = {}, {}, np.zeros(PROBE, np.float32)
    for name in names:
        if name in ("dense", "lowrank"):
            continue
        made = make_codec(name, **({"density": density} if name == "topk" else {}))
        state = made.init(PROBE)
        frame = made.encode(g, state, 0)
        encode[name] = _best(lambda made=made, state=state: made.encode(g, state, 1)) / PROBE  # type: ignore[misc]
        decode[name] = _best(lambda made=made, frame=frame: made.decode_add(frame, acc)) / PROBE  # type: ignore[misc]
    return encode, decode, _best(lambda: np.add(acc, g, out=acc)) / PROBE


def _best(act: Callable[[], Any], rounds: int = 4) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return min(times)


def fit(link: Link, names: Sequence[str] = AUTO, density: float = 0.01) -> plan.Fit:
    """The constants of this machine and job, the same on every rank: the slowest rank's (collective)."""
    wires = measure_wires(link)
    encode, decode, add = measure_codecs(names, density)
    keys = sorted(encode)
    mine = np.array([*(encode[k] for k in keys), *(decode[k] for k in keys), add])
    worst = link.allreduce(mine, op="max", name="fit codecs").tolist()
    each = max(link.nodes.count(node) for node in set(link.nodes))
    return plan.Fit(wires["near"], wires["far"], each, worst[-1], dict(zip(keys, worst, strict=False)),
                    dict(zip(keys, worst[len(keys) : -1], strict=True)))


class Reducer:
    """Sum over ranks of float32 `(n,)`, the same bytes everywhere. `codec`: dense, bf16, int8, int4, sign, topk[:density],
    lowrank[:rank], or auto = the quickest of `allowed`.  `route` of dense: native (the MPI's own), ring, halving, ….

    Lossy codecs keep what they did not send as residuals. The result may be overwritten by the next call. auto looks again
    as it runs (`note` is told of a change): dense beside a codec in use, the best codec beside dense, each some steps on
    end, as it would run alone, and so seldom that looking costs about one step in a hundred.  `lines()` explains a choice.
    """

    def __init__(self, link: Link, n: int, codec: str = "auto", *, route: str = "native", allowed: Sequence[str] = AUTO,
                 name: str = "gradient", constants: plan.Fit | None = None,
                 note: Callable[[str], None] = lambda text: None) -> None:
        kind, _, number = codec.partition(":")
        if kind != "auto" and kind not in plan.CODECS:
            raise ValueError(f"codec {codec!r}: expected auto or one of {', '.join(plan.CODECS)}")
        if route != "native" and route not in ROUTES:
            raise ValueError(f"route {route!r}: expected native or one of {', '.join(sorted(ROUTES))}")
        self.link, self.n, self.name, self.route, self.note = link, n, name, route, note
        self.density = float(number) if number and kind == "topk" else 0.01
        self.rank = int(number) if number and kind == "lowrank" else 4
        self.allowed = tuple(allowed)
        self._made: dict[str, Any] = {}
        self.picked = "" if kind == "auto" else kind
        self.measured: dict[str, float] = {}
        self._carry: Array | None = None  # residuals of what is not in use: go with the next step
        self._total: Array | None = None  # of dense: fresh pages each step would cost as much as a sum in memory
        self._fit = constants
        self._shortlist: list[str] = []
        self._stage, self._turns, self._queue = "", list[str](), list[str]()  # of a trial: whose steps, and those to come
        self._seconds: list[float] = []
        self._left = self._since = 0  # steps before the next look, and since the pace was last looked at
        self._spent_s = 0.0
        if kind == "auto" and link.size > 1:
            self._fit = constants or fit(link, self.allowed, self.density)
            self._shortlist = [g.codec for g in plan.choose(self._fit, link.size, n, self.allowed, density=self.density)]
            self._try("heats", self._shortlist, HEATS)
        if self._shortlist == ["dense"] or (kind == "auto" and link.size == 1):
            self.picked, self._queue, self._shortlist = "dense", [], []

    def __call__(self, g: Array) -> Array:
        if self._carry is not None:
            g, self._carry = g + self._carry, None
        if not self._queue:
            began = time.perf_counter()
            total = self._by(self.picked, g)
            if self._shortlist:
                self._watch(time.perf_counter() - began)
            return total
        turn = self._queue.pop(0)
        self.link.barrier(name=f"{self.name}: trial")
        began = time.perf_counter()
        total = self._by(turn, g)
        self._seconds.append(time.perf_counter() - began)
        if not self._queue:
            self._judge()
        return total

    def _watch(self, seconds: float) -> None:
        """Looks where it is time, or where steps have become slower than dense was. Of all ranks the one that waited least
        tells how long an exchange takes."""
        self._left, self._since, self._spent_s = self._left - 1, self._since + 1, self._spent_s + seconds
        if self._since == LEAST_BETWEEN and self._left > 0:
            mean = float(self.link.allreduce(np.array([self._spent_s / self._since]), op="min", name=f"{self.name}: pace")[0])
            if mean > SLOWER * self.measured.get("dense", np.inf):
                self._left = 0
        if self._since == LEAST_BETWEEN:
            self._since, self._spent_s = 0, 0.0
        if self._left <= 0:
            self._look()

    def _look(self) -> None:
        """From the next step on: what is in use, dense, and the quickest of the others where it was close."""
        taken = {name: self.measured.get(name, 0.0) for name in self._shortlist}  # 0: never tried, since resumed
        others = sorted((name for name in taken if name not in ("dense", self.picked)), key=lambda name: taken[name])[:1]
        if self.picked != "dense":
            others = [name for name in others if taken[name] <= plan.CLOSE * taken.get(self.picked, np.inf)]
        self._try("look", list(dict.fromkeys([self.picked, "dense", *others])), LOOK)

    def _try(self, stage: str, names: Sequence[str], rounds: int) -> None:
        """From the next step on: blocks of `names` in turns, forwards and backwards."""
        orders = [list(names)[:: 1 if r % 2 == 0 else -1] for r in range(rounds)]
        self._turns = [name for order in orders for name in order for _ in range(BLOCK)]
        self._stage, self._queue, self._seconds = stage, list(self._turns), []

    def _judge(self) -> None:
        """What the trial says: those close to the quickest go on to the final, and so does a change that a look proposes. The
        slowest rank's time of each step counts, so all ranks judge alike (collective)."""
        worst = self.link.vote(np.array(self._seconds), name=f"{self.name}: trials").max(axis=0)
        steps = {name: worst[[turn == name for turn in self._turns]].reshape(-1, BLOCK) for name in dict.fromkeys(self._turns)}
        blocks = {name: times[:, 1:].min(axis=1).tolist() for name, times in steps.items()}
        self.measured |= {name: float(np.median(times)) for name, times in blocks.items()}
        if self._stage == "heats":
            kept = plan.close(blocks)
            if len(kept) > 1:
                self._try("final", kept, FINAL)
                return
            found = kept[0]
        else:
            found = plan.verdict(blocks, self.picked or "dense")
            if self._stage == "look" and found != self.picked:
                self._try("final", list(blocks), FINAL)
                return
        self._pick(found, list(blocks))

    def _pick(self, found: str, tried: Sequence[str]) -> None:
        """Goes on with `found`; what other codecs still owe goes with the next step."""
        before, self.picked = self.picked, found
        if before and found != before:
            said = ", ".join(f"{name} {1e3 * self.measured[name]:.3f} ms" for name in tried)
            self.note(f"{found} instead of {before}: {said}")
        dear = max(self.measured[name] for name in tried) / max(self.measured[found], 1e-9) - 1
        self._left = min(MOST_BETWEEN, max(LEAST_BETWEEN, int(100 * LOOK * BLOCK * dear)))
        kept = {name: made for name, made in self._made.items() if name == found}
        self._made = {name: made for name, made in self._made.items() if name != found}
        self._carry, self._made = self.owed() if self._made else None, kept

    def owed(self) -> Array:
        """What this rank's residuals hold, float32 `(n,)`: not yet in any sum."""
        total = np.zeros(self.n, np.float32) if self._carry is None else self._carry.copy()
        for made in self._made.values():
            held = getattr(made, "residual", None)
            if held is not None:
                total += held() if callable(held) else held
        return total

    @property
    def owes_nothing(self) -> bool:
        """Whether sums are and were exact, on every rank."""
        return self.picked == "dense" and self._carry is None and not self._made

    @property
    def step(self) -> int:
        """Exchanges so far of the codec in use, by which it draws; 0 where it does not."""
        return int(getattr(self._made.get(self.picked), "step", 0))

    @property
    def warm(self) -> Array | None:
        """The factor that low rank starts its next step from, the same on every rank."""
        return getattr(self._made.get(self.picked), "warm", None)

    def take(self, name: str) -> None:
        """With auto: goes on with what was picked before, without trials; the next look is as far as after any."""
        if self._queue and name in ("dense", *self.allowed):
            self.picked, self._queue, self._left = name, [], LEAST_BETWEEN

    def owe(self, residual: Array, step: int = 0, warm: Array | None = None) -> None:
        """Goes on from here as a reducer made anew would that owes `residual`, float32 `(n,)`, and stands at `step`."""
        self._made, self._carry = {}, residual
        if self.picked not in ("", "dense"):
            made: Any = self._make(self.picked)
            self._made[self.picked] = made
            if hasattr(made, "step"):
                made.step = step
            if warm is not None and getattr(made, "warm", warm[:0]).shape == warm.shape:
                made.warm = warm.copy()

    def _by(self, name: str, g: Array) -> Array:
        if name == "dense":
            if self.route == "native":
                self._total = self.link.allreduce(g, name=self.name, out=self._total)
                return self._total
            return allreduce(self.link, g, route=self.route, name=self.name, checked=True)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name](g)

    def _make(self, name: str) -> Callable[[Array], Array]:
        if name == "lowrank":
            return Lowrank(self.link, self.n, rank=self.rank, name=self.name)
        if name == "topk":
            return _Dense(Sparse(self.link, self.n, self.density, name=self.name), self.n)
        chunk = plan.chunk_of(self.n, self.link.size)
        return Coded(self.link, self.n, lambda stream: make_codec(name), chunk=chunk, name=self.name)

    def lines(self) -> list[str]:
        """Why the codec in use was taken."""
        if self._fit is None:
            return [f"{self.n} float32 over {self.link.size} ranks: {self.picked}, as told"]
        return plan.explain(self._fit, self.link.size, self.n, self.allowed, self.picked, self.measured, density=self.density)


class _Dense:
    """A sparse allreduce whose result is dense; it is overwritten by the next call."""

    def __init__(self, made: Sparse, n: int) -> None:
        self.made, self._total = made, np.zeros(n, np.float32)
        self._last = (np.empty(0, np.uint32), np.empty(0, np.float32))

    @property
    def residual(self) -> Array:
        return self.made.residual

    def __call__(self, g: Array) -> Array:
        index, value = self.made(g)
        before, held = self._last
        if np.isfinite(held).all():
            _native.scatter_add(before, -held, self._total)  # x - x = 0, in two thirds of the time of an assignment by index
        else:
            self._total[before] = 0
        _native.scatter_add(index, value, self._total)
        self._last = index, value
        return self._total
