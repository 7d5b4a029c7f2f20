"""Verbs of survival: supervised runs; checkpoints listed, verified, rolled back, resharded, exported; audit; scaling."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ConfigError


def supervised(args: argparse.Namespace, rest: list[str], verbs: Mapping[str, Any],
               configured: Callable[[list[str]], Any]) -> int:
    """`engine run --supervise -n N VERB …`, or around a launcher's own line: `engine run --supervise -- mpirun …`."""
    from engine.cluster.health import Limits
    from engine.launch import command
    from engine.supervise import Plan, foreign, name_of, run

    if not rest:
        raise ConfigError("engine run --supervise: expected a verb or a launcher's line, found nothing",
                          fix="for example: engine run --supervise -n 4 train data.csv")
    if rest[0] not in verbs:
        return run(Plan(foreign(rest), args.ranks or 1, name_of(""), args.on_loss, args.restarts, args.timeout))
    if args.ranks is None:
        raise ConfigError("engine run: expected -n N, found no number of ranks",
                          fix="for example: engine run --supervise -n 4 train data.csv")
    if rest[0] != "train":
        raise ConfigError(f"engine run --supervise: expected the verb train, found {rest[0]}", fix="leave --supervise out")
    config = configured(rest)
    if config.data.source == "-":
        raise ConfigError("engine run --supervise: standard input cannot be read again after a loss",
                          fix="write it to a file first, or leave --supervise out")
    if config.fault.memory == "off":
        raise ConfigError("engine run --supervise: expected fault.memory auto or on, found off", fix="leave that setting out")
    limits = Limits(config.fault.frozen, config.fault.hung)
    where = config.checkpoint.dir
    mend = args.on_loss == "shrink" and config.fault.inplace
    return run(Plan(lambda ranks: command(ranks, rest, mpi=args.mpi, mend=mend), args.ranks, name_of(where), args.on_loss,
                    args.restarts, args.timeout, config.checkpoint.resume == "never", bool(where), limits,
                    config.fault.folder, 3.0 * mend))
