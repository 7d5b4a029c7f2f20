"""Which codec and route an exchange takes: predictions from measured constants, a choice, and the reasons. Pure.

A transfer of b bytes costs latency + b / bandwidth of its link class (Hockney's model; LogGP's L + 2 o and G). A ring of P
moves 2 (P - 1) / P of the bytes in 2 (P - 1) messages, halving in 2 log2 P; a two-level exchange adds both levels.
The same formulas serve a running job (fits of this machine) and the offline question "what on 10^5 ranks".
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2
from statistics import median

WORTH = 2.0  # times dense's guess: a codec above it is not even tried; guesses of short exchanges are no better than that
NEAR_WORTH = 0.5  # the same where all ranks share a node: in memory a byte costs as much to code as to move
WIN, STAY = 0.9, 1.0  # of the time of what is in use: what a rival has to reach, and what dense, which loses nothing
FOLDS = 48  # updates from which an owner sorts rows instead of adding one update after the other (update/merge.py)
CLOSE = 1.25  # times the least: a candidate above it is out after the heats
BEATEN = 2.0  # the same of dense: nearer than that it has to be beaten in the final as well


UNIT = 9216  # elements: whole blocks of every codec that has blocks
LEAST, MOST, EACH = 1 << 16, 1 << 21, 4  # elements of a chunk; chunks that a rank owns where they are long enough


def chunk_of(n: int, ranks: int) -> int:
    """Elements of a chunk of a coded sum: each rank owns some, so that encoding, sending and decoding overlap, and none is so
    short that its calls and messages cost more than its elements."""
    return -(-min(MOST, max(LEAST, -(-n // (EACH * ranks)))) // UNIT) * UNIT


@dataclass(frozen=True, slots=True)
class Wire:
    """One link class: seconds a message, seconds a byte (one rank sending and receiving at once)."""

    latency_s: float
    byte_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Constants of a machine. `encode_s`, `decode_s`: by codec, seconds an element; `add_s`: of a float32 sum, an element.

    `near`: between ranks of a node, `far`: between nodes; `per_node`: ranks that share a node's link to the others.
    """

    near: Wire
    far: Wire
    per_node: int = 1
    add_s: float = 2.5e-10
    encode_s: Mapping[str, float] = field(default_factory=dict)
    decode_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Codec:
    """What a candidate moves: `ratio` = float32 bytes over payload bytes; `sparse`: entries to owners, not all elements."""

    name: str
    ratio: float
    sparse: bool = False
    lossy: bool = True


CODECS: dict[str, Codec] = {c.name: c for c in (
    Codec("dense", 1.0, lossy=False), Codec("bf16", 2.0), Codec("int8", 3.98), Codec("int4", 7.9), Codec("sign", 31.5),
    Codec("topk", 50.0, sparse=True), Codec("lowrank", 0.0))}


@dataclass(frozen=True, slots=True)
class Guess:
    """A predicted exchange, in seconds."""

    codec: str
    route: str
    encode_s: float
    wire_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """Encoding, sending and decoding overlap chunk by chunk: the longest, and a tenth of the others for the ends."""
        parts = sorted((self.encode_s + self.decode_s, self.wire_s))
        return parts[1] + 0.1 * parts[0] if self.codec not in ("dense", "topk", "lowrank") else sum(parts)


def ring_s(wire: Wire, ranks: int, size_bytes: float) -> float:
    return 2 * (ranks - 1) * wire.latency_s + 2 * size_bytes * (ranks - 1) / ranks * wire.byte_s if ranks > 1 else 0.0


def halving_s(wire: Wire, ranks: int, size_bytes: float) -> float:
    if ranks < 2:
        return 0.0
    fold = 2 * (wire.latency_s + size_bytes * wire.byte_s) if ranks & (ranks - 1) else 0.0
    power = 1 << (ranks.bit_length() - 1)
    return fold + 2 * log2(power) * wire.latency_s + 2 * size_bytes * (power - 1) / power * wire.byte_s


def wire_s(fit: Fit, ranks: int, size_bytes: float) -> tuple[float, str]:
    """The quickest dense exchange of so many bytes, and its route."""
    nodes = ceil(ranks / fit.per_node)
    wire = fit.far if nodes > 1 else fit.near
    if nodes > 1 and fit.per_node > 1:  # every rank of a node sends over the node's one link
        wire = Wire(wire.latency_s, wire.byte_s * fit.per_node)
    found = [(ring_s(wire, ranks, size_bytes), "ring"), (halving_s(wire, ranks, size_bytes), "halving")]
    if nodes > 1 and fit.per_node > 1:
        inside = 2 * size_bytes * fit.near.byte_s + 4 * fit.near.latency_s
        between = min(ring_s(fit.far, nodes, size_bytes), halving_s(fit.far, nodes, size_bytes))
        found.append((inside + between, "node"))
    return min(found)


def guess(fit: Fit, ranks: int, n: int, codec: str, *, density: float = 0.01, rank: int = 4) -> Guess:
    """The time of one exchange of n float32 with this codec."""
    kind, add = CODECS[codec], fit.add_s * n * (1 if ranks > 1 else 0)
    encode = fit.encode_s.get(codec, 0.0) * n
    decode = fit.decode_s.get(codec, 0.0) * n
    if codec == "dense":
        seconds, route = wire_s(fit, ranks, 4.0 * n)
        return Guess(codec, route, 0.0, seconds, add)
    if codec == "lowrank":
        side = 2 * n**0.5 * rank
        seconds, route = wire_s(fit, ranks, 4.0 * side)
        return Guess(codec, route, encode, 2 * seconds, decode)
    wire = fit.far if ranks > fit.per_node else fit.near
    share = (ranks - 1) / ranks
    if kind.sparse:  # samples, to owners, sums back: six words an entry at the most
        size = 24.0 * density * n * share
        return Guess(codec, "owners", encode, (3 * log2(max(2, ranks)) + ranks) * wire.latency_s + size * wire.byte_s, decode)
    size = 8.0 * n / kind.ratio * share
    chunks = ceil(n / chunk_of(n, ranks))
    messages = min(2 * chunks, 2 * (ranks - 1) * ceil(chunks / ranks))
    return Guess(codec, "owners", encode, messages * wire.latency_s + size * wire.byte_s, decode)


def choose(fit: Fit, ranks: int, n: int, allowed: Sequence[str], *, density: float = 0.01) -> list[Guess]:
    """Candidates worth a trial, the quickest first; always with dense, and no other that is guessed above WORTH times it
    (NEAR_WORTH where no link between nodes is used)."""
    dense = guess(fit, ranks, n, "dense")
    found = [guess(fit, ranks, n, name, density=density) for name in allowed if name != "dense"]
    good = [g for g in found if g.total_s < (WORTH if ranks > fit.per_node else NEAR_WORTH) * dense.total_s]
    return sorted([dense, *good], key=lambda g: g.total_s)


Blocks = Mapping[str, Sequence[float]]  # by candidate: seconds a step in each round of a trial


def close(blocks: Blocks) -> list[str]:
    """Candidates whose median is within CLOSE of the least, and dense unless one beats it by far in every round; the quickest
    first."""
    usual = {name: median(times) for name, times in blocks.items()}
    least = min(usual.values())
    kept = [name for name, t in usual.items() if t <= (BEATEN if name == "dense" else CLOSE) * least]
    if "dense" in blocks and "dense" not in kept and verdict(blocks, "dense") == "dense":
        kept.append("dense")
    return sorted(kept, key=lambda name: usual[name])


def verdict(blocks: Blocks, before: str = "") -> str:
    """Which candidate goes on. `before`: in use; it is left for one whose median of the paired ratios is at most WIN (dense:
    STAY), quicker in all rounds but one of five (dense: in most). Where it is not among them, the least median."""
    if before not in blocks:
        return min(blocks, key=lambda name: median(blocks[name]))
    rivals = {name: [t / b for t, b in zip(times, blocks[before], strict=True)] for name, times in blocks.items()}
    del rivals[before]
    for name, ratios in sorted(rivals.items(), key=lambda one: median(one[1])):
        wins = sum(r < 1 for r in ratios)
        if name == "dense":
            if median(ratios) <= STAY and 2 * wins > len(ratios):
                return name
        elif median(ratios) <= WIN and wins >= len(ratios) - len(ratios) // 5:
            return name
    return before


def explain(fit: Fit, ranks: int, n: int, allowed: Sequence[str], picked: str = "", measured: Mapping[str, float] | None = None,
            *, density: float = 0.01) -> list[str]:
    """Lines that say what was measured, what each candidate would cost, and why one was taken."""
    def wire(w: Wire) -> str:
        return f"{w.latency_s * 1e6:.0f} us, {1 / w.byte_s / 1e9 if w.byte_s else float('inf'):.2f} GB/s"

    lines = [f"{n} float32 over {ranks} ranks; near {wire(fit.near)}; far {wire(fit.far)}; {fit.per_node} ranks a node"]
    guesses = sorted((guess(fit, ranks, n, name, density=density) for name in allowed), key=lambda g: g.total_s)
    for g in guesses:
        parts = f"encode {g.encode_s * 1e3:.3f}, wire {g.wire_s * 1e3:.3f}, decode {g.decode_s * 1e3:.3f}"
        said = f"{g.codec:8} {g.route:8} {g.total_s * 1e3:9.3f} ms = {parts}"
        if measured and g.codec in measured:
            said += f"; tried: {measured[g.codec] * 1e3:.3f} ms"
        elif measured:
            said += "; not tried: its guess is too long"
        lines.append(said + ("  <- taken" if g.codec == picked else ""))
    return lines


@dataclass(frozen=True, slots=True)
class Scale:
    """The question of weak scaling: each rank learns `rows` of `row_s` seconds between exchanges of `touched` rows of state.

    `wide` bytes a row; `union`: rows that the union of all ranks touches at most (the table's size). Seconds a row: `take_s`
    to take a touched row out for its owner, `fold_s` to add it there and to pack the sum, `put_s` to merge a sum into the
    model, all with every core at work. `crowd`: ranks a core. `shared`: the ranks of a node share one model, each the owner of
    a part of the keys, so that only nodes exchange and a node's ranks share the merging.
    """

    rows: int
    row_s: float
    touched: float
    union: float
    wide: float = 28.0
    take_s: float = 1e-8
    fold_s: float = 1e-8
    put_s: float = 1e-8
    shared: bool = False
    crowd: float = 1.0


def union_of(scale: Scale, ranks: int) -> float:
    """Expected rows touched by any of P ranks that each touch a random `touched` of `union`."""
    return scale.union * (1 - (1 - min(1.0, scale.touched / scale.union)) ** ranks)


def step_s(fit: Fit, scale: Scale, ranks: int) -> tuple[float, float]:
    """(learning, exchanging) seconds of one step: updates to owners, sums from owners back, merged by every rank."""
    busy = max(1.0, scale.crowd)
    learn = scale.rows * scale.row_s * busy
    if ranks == 1:
        return learn, 0.0
    wire = fit.far if ranks > fit.per_node else fit.near
    crowd = min(fit.per_node, ranks) if ranks > fit.per_node else 1  # ranks behind one link
    parties, touched, hands = ranks, scale.touched, 1
    if scale.shared:
        parties, hands = ceil(ranks / fit.per_node), min(fit.per_node, ranks)
        touched, crowd = union_of(scale, hands), 1
        if parties == 1:
            return learn, 0.0
    whole = union_of(scale, ranks)
    share = (parties - 1) / parties
    messages = 4 * ceil(log2(parties)) + 2 * min(parties - 1, 2 * ceil(log2(parties)))  # votes and sizes; rows and sums
    wires = messages * wire.latency_s + (touched + whole) * scale.wide * share * wire.byte_s * crowd
    fold_s = scale.fold_s * max(1.0, min(parties, FOLDS) / 2)  # sums of two by two; many are sorted
    return learn, wires + busy * ((scale.take_s + fold_s) * touched + scale.put_s * whole) / hands


def weak(fit: Fit, scale: Scale, ranks: Sequence[int]) -> list[tuple[int, float]]:
    """(ranks, efficiency): the rate a rank keeps, against one rank alone."""
    alone = replace(scale, crowd=1.0)
    return [(p, sum(step_s(fit, alone, 1)) / sum(step_s(fit, scale, p))) for p in ranks]
