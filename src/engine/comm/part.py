"""A Link over some of the ranks of another: those that name the same colour."""
from __future__ import annotations

import numpy as np

from engine.comm.local import Alone, Local, group
from engine.types import Link


def part(link: Link, colour: int, *, name: str) -> Link:
    """The Link of the ranks that give this `colour`, in their order (collective); `close` frees what it holds."""
    table = link.vote(np.array([colour], np.int64), name=name)[:, 0].tolist()
    members = [rank for rank, other in enumerate(table) if other == colour]
    if len(members) == 1:
        return Alone()
    if isinstance(link, Local):
        made = group(len(members), timeout_s=link.timeout_s, nodes=[link.nodes[r] for r in members])
        return link.share(name, made)[members[0]][members.index(link.rank)]
    from engine.comm.world import World

    assert isinstance(link, World)
    return link.part(colour)

