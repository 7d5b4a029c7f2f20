"""Puts a sharded table together: memory of the node, ledger, server, table. The only place that knows all four."""
from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.codec import call
from engine.comm import service, window
from engine.comm.onesided import measure
from engine.comm.world import World
from engine.errors import ConfigError
from engine.kernels import _native
from engine.shard.ledger import Ledger, bits_for
from engine.store.table import Table, buckets_for
from engine.table.combine import LIMIT_S, Combined
from engine.table.log import Log, opened, restore
from engine.types import Array, Link

RANKS_A_NODE = 64


@dataclass
class Store:
    """What a rank holds open for its tables; `close` is collective."""

    table: Table
    ledger: Ledger
    remote: Any
    server: _native.Server
    node: Array
    held: list[Any] = field(default_factory=list)
    log: Log | None = None

    def keep(self, folder: Path | str | None = None, *, sync: bool = False) -> int:
        """Collective: keeps a log (table/log.py) from here on, in memory or in `folder`, whose rows come back first; how many
        rows were read here. `sync`: an append survives the machine, not the process alone."""
        count = 0 if folder is None else restore(self.table, folder)
        if isinstance(self.remote, service.Service):
            self.remote.barrier("rows of the log")
        self.log = opened(self.table, folder, sync=sync)
        self.log.begin()
        return count

    def close(self) -> None:
        if isinstance(self.table, Combined):
            self.table.flush()
        if self.log is not None:
            self.log.append()
            self.log.close()
        self.remote.close()
        for one in self.held:
            one.free()
        self.held.clear()


def open_table(link: Link, *, width: int, rows: int, init: Array | None = None, admit: int = 1, onesided: str = "auto",
               service_mode: str = "auto", slots_bits: int | None = None, backups: int = 0, timeout_s: float = 60.0,
               folder: Path | None = None, combine: int = 0, combine_s: float = LIMIT_S, combine_op: str = "add",
               node: Array | None = None) -> Store:
    """Collective: a table of `width` floats a row with room for `rows` rows a rank, over the ranks of `link`.

    `link`: a comm.world.World (its communicator is duplicated), or any in-process Link with one rank. `combine`: adds to other
    nodes are summed for the ranks of a node, in a queue of so many rows, and sent at a clock, when it is full, or after
    `combine_s` (table/combine.py; 0: each rank sends its own, at once), or merges instead (`combine_op`). `node`: of each rank,
    where it is not to be the real one.

    >>> from engine.comm.local import Alone
    >>> store = open_table(Alone(), width=2, rows=100)
    >>> _ = store.table.inc(np.array([7, 7]), np.ones((2, 2)))
    >>> store.table.get(np.array([7, 8])).tolist()
    [[2.0, 2.0], [0.0, 0.0]]
    """
    if width < 1 or rows < 1:
        raise ConfigError(f"table: expected a width and rows of at least 1, found {width} and {rows}")
    if combine and not call.sent(combine_op, width):
        raise ConfigError(f"combine: {combine_op}: expected a width of 4 n, found {width}")
    node = window.nodes(link) if node is None else node
    mates = np.flatnonzero(node == node[link.rank]).tolist()
    if len(mates) > RANKS_A_NODE:
        raise ConfigError(f"table: at most {RANKS_A_NODE} ranks a node, found {len(mates)}")
    bits = bits_for(link.size) if slots_bits is None else slots_bits
    leads = link.rank == mates[0]
    size = Ledger.size_bytes(bits, link.size, backups=backups) if leads else 0
    book = window.share(link, size, node, name="ledger", folder=folder)
    if leads:
        Ledger(bits, link.size, backups=backups, buffer=book[link.rank])
    link.barrier(name="ledger made")
    ledger = Ledger(bits, link.size, backups=backups, buffer=book[mates[0]], fresh=False)
    memory = _slabs(link, node, width, rows, admit, folder)
    server = _native.Server(link.rank, link.size, 2 * mates.index(link.rank) + 1)
    comm = link._comm if isinstance(link, World) else None
    held: list[Any] = []
    if onesided == "rma" and comm is None:
        raise ConfigError("onesided=rma: expected ranks under MPI")
    if onesided == "rma" or (onesided == "auto" and isinstance(link, World) and pays(link, node)):
        held.append(window.Window(comm, memory[link.rank]))
    remote: Any = service.Direct(0, [server], [threading.Lock()])
    queue: dict[str, Any] = {}
    if combine:
        wide = call.sent(combine_op, width)
        queue = {**_queue(link, node, wide, combine, admit, folder), "mates": memory, "limit_s": combine_s, "op": combine_op}
    table = (Combined if combine else Table)(
        ledger, memory, link.rank, remote, writer=2 * mates.index(link.rank), init=init, path=onesided,
        window=held[0] if held else None, timeout_s=timeout_s, **queue)
    server.add(0, table.node, table.mine)
    if comm is not None:
        mode = "inline" if onesided == "shared" else service_mode
        table.remote = remote = service.Service(comm, server, mode=mode, single_node=len(set(node.tolist())) == 1,
                                                timeout_s=timeout_s)
    elif link.size > 1:
        raise ConfigError("table: ranks of one process are opened together, by `open_group`")
    return Store(table, ledger, remote, server, node, held)


def pays(link: World, node: Array) -> bool:
    """Whether one-sided reads of other nodes beat requests here, by the start-up probe (collective)."""
    if len(set(node.tolist())) == 1:
        return False
    found = measure(link)
    return found is not None and found.path == "rma"


def _slabs(link: Link, node: Array, width: int, rows: int, admit: int, folder: Path | None) -> dict[int, Array]:
    buckets, writers = buckets_for(rows), 2 * RANKS_A_NODE
    memory = window.share(link, _native.slab_bytes(buckets, width, writers), node, name="table rows", folder=folder)
    _native.slab_make(memory[link.rank], buckets, width, writers, admit)
    link.barrier(name="table rows made")
    return memory


def _queue(link: Link, node: Array, width: int, rows: int, admit: int, folder: Path | None) -> dict[str, Any]:
    """The node's queue of combined adds, in the memory of its first rank, and a mark for each of its ranks."""
    if rows < 1 or admit > 1:
        raise ConfigError(f"combine: expected 1 row or more, and admission at the first add, found {rows} and admit={admit}",
                          fix="sums hide how often a key was asked for: set admit to 1, or combine to 0")
    lead, writers = int(np.flatnonzero(node == node[link.rank])[0]), 2 * RANKS_A_NODE
    buckets, wide = (buckets_for(rows), width) if link.rank == lead else (buckets_for(1), 1)
    marks = window.share(link, _native.slab_bytes(buckets, wide, writers), node, name="combined adds", folder=folder)
    _native.slab_make(marks[link.rank], buckets, wide, writers, 1)
    link.barrier(name="combined adds made")
    return {"queue": marks[lead], "rows": rows, "marks": marks}


def open_group(size: int, *, width: int, rows: int, init: Array | None = None, admit: int = 1, slots_bits: int = 10,
               backups: int = 0, shared: bool = False, timeout_s: float = 20.0) -> list[Store]:
    """Tables of `size` logical ranks of this process: each on a node of its own, with its own ledger, asked by frames; or
    (`shared`) on one node with one ledger. For tests and replicas; requests go straight to the owner's server."""
    buckets, writers = buckets_for(rows), 2 * RANKS_A_NODE
    memory = {r: _aligned(_native.slab_bytes(buckets, width, writers)) for r in range(size)}
    for one in memory.values():
        _native.slab_make(one, buckets, width, writers, admit)
    book = Ledger(slots_bits, size, backups=backups)
    ledgers = [book if shared else Ledger(slots_bits, size, backups=backups) for _ in range(size)]
    servers = [_native.Server(r, size, 2 * r + 1) for r in range(size)]
    locks = [threading.Lock() for _ in range(size)]
    made = []
    for r in range(size):
        remote = service.Direct(r, servers, locks)
        slabs = memory if shared else {r: memory[r]}
        table = Table(ledgers[r], slabs, r, remote, writer=2 * r, init=init, timeout_s=timeout_s)
        servers[r].add(0, table.node, table.mine)
        made.append(Store(table, ledgers[r], remote, servers[r], np.zeros(size, np.int32) if shared else np.arange(size)))
    return made


def _aligned(size: int) -> Array:
    whole = np.zeros(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]


__all__ = ["Store", "open_group", "open_table"]
