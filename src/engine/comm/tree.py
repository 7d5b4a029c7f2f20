"""Two levels: ranks of a node meet in shared memory, one leader a node speaks to the other nodes."""
from __future__ import annotations

import mmap
import os
import tempfile
from itertools import pairwise

import numpy as np

from engine.comm.dense import ROUTES, Part, cut, finish, route
from engine.errors import PeerError
from engine.types import Array, Link

WINDOW_BYTES = 1 << 22  # of each rank's array in the slab at a time
TAG = 80


class Slab:
    """Memory that all ranks of this node see, a window of `window_bytes` each; collective over the node.

    A file in /dev/shm (or the folder for temporary files), allocated before it is mapped and gone from the directory
    as soon as every rank has it open, so nothing is left behind whatever happens.
    """

    def __init__(self, link: Link, window_bytes: int = WINDOW_BYTES) -> None:
        mates = [r for r in range(link.size) if link.nodes[r] == link.nodes[link.rank]]
        self.group, self.window_bytes = Part(link, mates), window_bytes
        size, path = window_bytes * len(mates), np.zeros(256, np.uint8)
        if self.group.rank == 0:
            folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            handle, name = tempfile.mkstemp(prefix="engine-node-", dir=folder)
            try:
                os.posix_fallocate(handle, 0, size)
            except OSError as error:
                os.unlink(name)
                raise PeerError(f"cannot share {size} bytes between the ranks of a node: {error}", where=name,
                                fix="free /dev/shm, or exchange.route=ring") from None
            path[: len(name)] = np.frombuffer(name.encode(), np.uint8)
            finish([self.group.send(path, r, name="node slab", tag=TAG) for r in range(1, self.group.size)])
        else:
            self.group.recv(path, 0, name="node slab", tag=TAG).wait()
            name = path.tobytes().rstrip(b"\0").decode()
            handle = os.open(name, os.O_RDWR)
        self._memory = mmap.mmap(handle, size)
        os.close(handle)
        self.barrier("node slab")
        if self.group.rank == 0:
            os.unlink(name)
        whole = np.frombuffer(self._memory, np.uint8)
        self.windows = [whole[r * window_bytes : (r + 1) * window_bytes] for r in range(len(mates))]

    def barrier(self, name: str) -> None:
        """All ranks of the node have come: dissemination, in ceil(log2 n) rounds of empty messages."""
        group, distance, none = self.group, 1, np.empty(0, np.uint8)
        while distance < group.size:
            going = group.send(none, (group.rank + distance) % group.size, name=f"{name}: node", tag=TAG + 1)
            group.recv(np.empty(0, np.uint8), (group.rank - distance) % group.size, name=f"{name}: node", tag=TAG + 1).wait()
            going.wait()
            distance *= 2


def slab(link: Link) -> Slab:
    """The slab of this Link, made on first use and kept with it."""
    if "slab" not in link.kept:
        link.kept["slab"] = Slab(link)
    found: Slab = link.kept["slab"]
    return found


@route("node")
def node(link: Link, x: Array, name: str, chunk_bytes: int) -> None:
    """Node-aware: in shared memory each rank sums its share of the node's windows; leaders sum over nodes by a ring.

    A node adds in rank order, leaders in ring order, so the sum depends on the placement of ranks but not on time.
    """
    shared = slab(link)
    group, me = shared.group, shared.group.rank
    heads = [link.nodes.index(n) for n in dict.fromkeys(link.nodes)]
    leaders = Part(link, heads) if link.rank in heads else None
    step = shared.window_bytes // x.itemsize
    for a, b in pairwise([*range(0, len(x), step), len(x)]):
        windows = [w[: (b - a) * x.itemsize].view(x.dtype) for w in shared.windows]
        windows[me][:] = x[a:b]
        shared.barrier(name)
        low, high = cut(0, b - a, group.size)[me]
        for other in windows[1:]:
            np.add(windows[0][low:high], other[low:high], out=windows[0][low:high])
        shared.barrier(name)
        if leaders is not None and leaders.size > 1:
            ROUTES["ring"](leaders, windows[0], f"{name}: between nodes", chunk_bytes)  # type: ignore[arg-type]
        if len(heads) > 1:
            shared.barrier(name)
        x[a:b] = windows[0]
        shared.barrier(name)
