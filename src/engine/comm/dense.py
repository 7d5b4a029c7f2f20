"""Dense allreduce over point-to-point messages: ring, halving, doubling, tree; chunk by chunk, the same bytes on all ranks.

Every element is summed once, in an order that depends on the number of ranks alone, and then copied; doubling sums it
on every rank, by the same tree. Against a plain sum in rank order the result is off by at most (P - 1) rounding errors
of the sum of magnitudes. Any number of ranks, any length (counts are Python integers), any dtype NumPy can add.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.comm import sync
from engine.types import Array, Link, Transfer

CHUNK_BYTES = 1 << 18
TAG = 64
Span = tuple[int, int]
Route = Callable[[Link, Array, str, int], None]
ROUTES: dict[str, Route] = {}


def route(name: str) -> Callable[[Route], Route]:
    """Registers an in-place allreduce `(link, x (n,), name, chunk_bytes)`."""
    def add(made: Route) -> Route:
        ROUTES[name] = made
        return made
    return add


def allreduce(link: Link, data: Array, *, route: str = "ring", name: str, chunk_bytes: int = CHUNK_BYTES,
              checked: bool = False, out: Array | None = None) -> Array:
    """Sum over ranks of `data`, any shape, equal on all ranks; the same bytes everywhere. In `out` where it is given.

    `checked`: the caller knows that dtype, shape and route agree; else they are compared first, and a difference is an
    error on every rank that names both.
    """
    if route not in ROUTES:
        raise ValueError(f"route {route!r}: expected one of {', '.join(sorted(ROUTES))}")
    if not checked and link.size > 1:
        sync.same(link, (data.dtype.name, data.shape, route, chunk_bytes), f"{name}: dtype, shape, route and chunk")
    total = np.array(data, order="C") if out is None else out
    if out is not None:
        out[...] = data
    if link.size > 1 and total.size:
        ROUTES[route](link, total.reshape(-1), name, chunk_bytes)
    return total


class Part:
    """The members `ranks` of a Link as a group of their own, for point-to-point messages."""

    def __init__(self, link: Link, ranks: Sequence[int]) -> None:
        self._link, self._ranks = link, list(ranks)
        self.rank, self.size = self._ranks.index(link.rank), len(self._ranks)
        self.nodes = tuple(link.nodes[r] for r in self._ranks)

    def send(self, data: Array, to: int, *, name: str, tag: int = 0) -> Transfer:
        return self._link.send(data, self._ranks[to], name=name, tag=tag)

    def recv(self, out: Array, source: int, *, name: str, tag: int = 0) -> Transfer:
        return self._link.recv(out, self._ranks[source], name=name, tag=tag)


def cut(start: int, stop: int, parts: int) -> list[Span]:
    """[start, stop) in `parts` near-equal spans; some are empty where there are fewer elements."""
    size = stop - start
    edge = [start + size * i // parts for i in range(parts + 1)]
    return [(edge[i], edge[i + 1]) for i in range(parts)]


def chunks(x: Array, start: int, stop: int, chunk_bytes: int) -> list[Span]:
    """[start, stop) in spans of at most about `chunk_bytes`."""
    return cut(start, stop, max(1, -(-(stop - start) * x.itemsize // chunk_bytes)))


def finish(moving: Sequence[Transfer]) -> None:
    for one in moving:
        one.wait()


@route("ring")
def ring(link: Link | Part, x: Array, name: str, chunk_bytes: int) -> None:
    """Reduce-scatter, then allgather, round a ring: 2 n (P - 1) / P elements a rank. A chunk goes on once it is summed."""
    size, me = link.size, link.rank
    right, left = (me + 1) % size, (me - 1) % size
    segments = cut(0, len(x), size)
    count = max(1, -(-max(b - a for a, b in segments) * x.itemsize // chunk_bytes))
    spans = [cut(a, b, count) for a, b in segments]
    room = [np.empty(max(spans[s][c][1] - spans[s][c][0] for s in range(size)), x.dtype) for c in range(count)]
    sent: dict[Span, Transfer] = {}

    def send(a: int, b: int) -> None:
        if b > a:
            sent[a, b] = link.send(x[a:b], right, name=f"{name}: ring", tag=TAG)

    def expect(out: Array) -> Transfer | None:
        return link.recv(out, left, name=f"{name}: ring", tag=TAG) if len(out) else None

    def into(step: int, c: int) -> Array:
        """Where chunk c of a step arrives: the scratch while summing, in place once the sum is whole."""
        a, b = spans[(me - step - 1) % size][c] if step < size - 1 else spans[(me - (step - size + 1)) % size][c]
        if step < size - 1:
            return room[c][: b - a]
        if (a, b) in sent:
            sent.pop((a, b)).wait()  # its partial sum has long been passed on
        return x[a:b]

    for a, b in spans[me]:
        send(a, b)
    coming = [expect(into(0, c)) for c in range(count)]
    last = 2 * size - 3
    for step in range(last + 1):
        segment = (me - step - 1) % size if step < size - 1 else (me - (step - size + 1)) % size
        for c, (a, b) in enumerate(spans[segment]):
            arrived = coming[c]
            if arrived is not None:
                arrived.wait()
                if step < size - 1:
                    np.add(x[a:b], room[c][: b - a], out=x[a:b])
            if step < last:
                send(a, b)
                coming[c] = expect(into(step + 1, c))
    finish(list(sent.values()))


def _swap(link: Link | Part, out: Span, back: Span, peer: int, x: Array, name: str, chunk_bytes: int, add: bool) -> None:
    """Sends x[out] to `peer` and receives x[back] from it, added or in place, chunk by chunk."""
    going = [link.send(x[a:b], peer, name=name, tag=TAG) for a, b in chunks(x, *out, chunk_bytes) if b > a]
    spans = [(a, b) for a, b in chunks(x, *back, chunk_bytes) if b > a]
    room = [np.empty(b - a, x.dtype) if add else x[a:b] for a, b in spans]
    coming = [link.recv(r, peer, name=name, tag=TAG) for r in room]
    if add and out == back:  # both send what both change: the sends have to be done first
        finish(coming)
        finish(going)
    for (a, b), moving, r in zip(spans, coming, room, strict=True):
        moving.wait()
        if add:
            np.add(x[a:b], r, out=x[a:b])
    finish(going)


def _folded(link: Link | Part, x: Array, name: str, chunk_bytes: int, core: Callable[[Part | Link], None]) -> None:
    """`core` on the largest power of two of ranks; each rank beyond hands its part to one of them first."""
    size, me = link.size, link.rank
    power = 1 << (size.bit_length() - 1)
    extra = size - power
    whole = (0, len(x))
    if me >= power:
        _swap(link, whole, (0, 0), me - power, x, f"{name}: fold", chunk_bytes, False)
        _swap(link, (0, 0), whole, me - power, x, f"{name}: unfold", chunk_bytes, False)
        return
    if me < extra:
        _swap(link, (0, 0), whole, me + power, x, f"{name}: fold", chunk_bytes, True)
    if power > 1:
        core(link)
    if me < extra:
        _swap(link, whole, (0, 0), me + power, x, f"{name}: unfold", chunk_bytes, False)


@route("halving")
def halving(link: Link | Part, x: Array, name: str, chunk_bytes: int) -> None:
    """Recursive halving, then doubling (Rabenseifner 2004): the ring's volume in 2 log2 P messages."""
    power, me = 1 << (link.size.bit_length() - 1), link.rank

    def core(link: Link | Part) -> None:
        a, b, distance, halves = 0, len(x), power // 2, []
        while distance:
            middle, peer = (a + b) // 2, me ^ distance
            keep, give = ((a, middle), (middle, b)) if me < peer else ((middle, b), (a, middle))
            _swap(link, give, keep, peer, x, f"{name}: halving", chunk_bytes, True)
            halves.append((peer, keep, give))
            (a, b), distance = keep, distance // 2
        for peer, keep, give in reversed(halves):
            _swap(link, keep, give, peer, x, f"{name}: doubling", chunk_bytes, False)

    _folded(link, x, name, chunk_bytes, core)


@route("doubling")
def doubling(link: Link | Part, x: Array, name: str, chunk_bytes: int) -> None:
    """Recursive doubling: log2 P messages of the whole array; for short ones. a + b = b + a keeps the bytes equal."""
    power, me, whole = 1 << (link.size.bit_length() - 1), link.rank, (0, len(x))

    def core(link: Link | Part) -> None:
        distance = 1
        while distance < power:
            _swap(link, whole, whole, me ^ distance, x, f"{name}: doubling", chunk_bytes, True)
            distance *= 2

    _folded(link, x, name, chunk_bytes, core)


@route("tree")
def tree(link: Link | Part, x: Array, name: str, chunk_bytes: int) -> None:
    """Up a binomial tree to rank 0 and down again, each chunk on its own: 2 n elements a rank, 2 log2 P deep."""
    size, me = link.size, link.rank
    children = []
    bit = 1
    while not me & bit and me + bit < size:
        children.append(me + bit)
        bit *= 2
    parent = me & (me - 1) if me else -1
    spans = [(a, b) for a, b in chunks(x, 0, len(x), chunk_bytes) if b > a]
    up, down = f"{name}: tree, up", f"{name}: tree, down"
    room = [[np.empty(b - a, x.dtype) for a, b in spans] for _ in children]
    coming = [[link.recv(r, child, name=up, tag=TAG) for r in rs] for child, rs in zip(children, room, strict=True)]
    going = []
    for c, (a, b) in enumerate(spans):
        for k in range(len(children)):
            coming[k][c].wait()
            np.add(x[a:b], room[k][c], out=x[a:b])
        if parent >= 0:
            going.append(link.send(x[a:b], parent, name=up, tag=TAG))
    if parent >= 0:
        finish(going)
        going = []
    back = [link.recv(x[a:b], parent, name=down, tag=TAG + 1) for a, b in spans] if parent >= 0 else []
    for c, (a, b) in enumerate(spans):
        if back:
            back[c].wait()
        going += [link.send(x[a:b], child, name=down, tag=TAG + 1) for child in reversed(children)]
    finish(going)
