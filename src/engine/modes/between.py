"""What messages between nodes go over: the MPI, or own sockets that mend broken connections (`transport.between`)."""
from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from engine import grid
from engine import job as jobs
from engine.config import Config
from engine.errors import ConfigError
from engine.types import Link


def between(link: Link, config: Config, watch: Callable[[str], Any], kept: bool) -> Link:
    """`link`, or a Bridge over it where there are nodes between which sockets are asked for (collective). `kept`: node memory
    is on."""
    told, each = config.transport, config.fault.ranks_per_node
    nodes = [r // each for r in range(link.size)] if each else list(link.nodes)
    if told.between == "mpi" or len(set(nodes)) == 1:
        return link
    for what, found, fix in (
            (kept, "node memory, whose recovery works on the MPI's ranks", "fault.memory=off, or transport.between=mpi"),
            (grid.named(config.data.rule), f"data.rule={config.data.rule}", "data.rule=deal"),
            (config.exchange.split == "keys", "exchange.split=keys, for ranks of one node", "exchange.split=rows")):
        if what:
            raise ConfigError(f"transport.between=sockets: expected replicas that agree by messages, found {found}", fix=fix)
    from engine.comm.bridge import Bridge
    from engine.comm.flow import Options
    from engine.comm.rails import pick
    from engine.comm.socket import join

    hosts = jobs.agreed(link, lambda: pick(told.rails), "rails")
    options = Options(chunk=told.chunk, window=told.window, rail=told.flight, journal=told.journal, silent_s=told.silent)
    made: Any = Bridge(link, join(link, hosts, nodes=nodes, options=options, watch=watch, timeout_s=config.loop.stall_timeout))
    return made


def leave(link: Link) -> list[str]:
    """Ends the sockets once everything sent has arrived; what they had to mend, in lines."""
    bridge = sys.modules.get("engine.comm.bridge")
    if bridge is None or not isinstance(link, bridge.Bridge):
        return []
    told = link.told()
    link.far.close()
    return told
