"""Ways to run a job: lock-step, bounded staleness, asynchronous owners, gossip, local steps, or what measurement calls for.

`exchange.mode`: bsp | ssp:N | hybrid:N | asp | gossip[:random|ring|exponential] | local:H | auto
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

from engine import job as jobs
from engine import loop
from engine.cluster.adapt import Budget
from engine.config import Config
from engine.errors import ConfigError
from engine.source import stream as streams


def run(job: loop.Job, config: Config, note: Callable[[str], None] = lambda text: None) -> Iterator[loop.Event]:
    """The events of the run in the mode of the configuration; a job of one worker has nobody to agree with."""
    mode, _, number = config.exchange.mode.partition(":")
    if mode == "bsp" and config.update.strategy == "decentralised":
        mode = "gossip"
    if config.exchange.place == "table":
        return tabled(job, config, mode, int(number) if mode == "ssp" else None)
    if (carried := getattr(job.keeper, "carried", None)) is not None:  # its survivors go on, however few
        return carried.run()
    owes = "residual" in job.recalled
    if owes and (not job.shared or config.exchange.virtual or mode not in ("bsp", "local")):
        from engine.modes import coding

        coding.pay(job, config.exchange.merge)
        owes = False
    if not job.shared or (mode == "bsp" and config.exchange.codec == "exact" and not config.exchange.virtual and not owes):
        return loop.run(job)
    _check(config, mode)
    power = config.exchange.damp
    if config.exchange.virtual:
        job.exchange = loop.ordered
        return loop.run(job)
    if mode in ("bsp", "local"):
        from engine.modes import coding
        from engine.modes.local import Outer

        total: coding.Sum = coding.plain
        if config.exchange.codec != "exact" or owes:  # what was owed goes with the first step, whatever the codec is now
            codec = "dense" if config.exchange.codec == "exact" else config.exchange.codec
            total = job.memory = coding.Coding(codec, config.exchange.route, note, config.exchange.explain,
                                               config.exchange.merge)
        job.exchange = coding.exchange(total)
        if mode == "local":
            job.exchange = Outer(job.team.models[0], config.exchange.momentum, total)
            if config.exchange.momentum:
                job.exchange.recall(job)
                job.memory = job.exchange
            job.k = jobs.interval(config) * int(number)
        return loop.run(job)
    if job.link.size == 1:
        return loop.run(job)  # threads of one rank share a clock
    if job.keeper is not None and mode not in getattr(job.keeper, "modes", ()):
        raise ConfigError(f"exchange.mode={mode}: its commits are not kept in node memory",
                          fix="fault.memory=off and checkpoints")
    if mode == "ssp":
        return _stale(job, config, int(number))
    if mode == "hybrid":
        from engine.modes.hybrid import Hybrid

        return Hybrid(job, int(number)).run()
    if mode == "asp":
        from engine.modes.owner import Owner

        return Owner(job, power).run()
    if mode == "gossip":
        from engine.modes.gossip import Gossip

        return Gossip(job, number or "exponential", config.run.seed).run()
    from engine.modes.auto import Auto

    budget = Budget(config.exchange.budget, config.exchange.fresh)
    return Auto(job, budget, note, power, (config.model.kind, config.model.learner == "ftrl") == ("linear", False)).run()


def _stale(job: loop.Job, config: Config, bound: int) -> Iterator[loop.Event]:
    from engine.modes.stale import Stale

    balance = config.exchange.balance
    if balance and isinstance(job.stream, streams.Dealt):
        raise ConfigError("exchange.balance: rows dealt in global order are the same number for all", fix="data.rule=part")
    ease = config.exchange.ease
    if ease and (config.model.kind, config.model.learner == "ftrl") != ("linear", False):
        raise ConfigError("exchange.ease: expected a linear model with a step size that may change, found "
                          f"{config.model.kind} {config.model.learner}", fix="model.learner=sgd, adagrad, nag, pa1 or pa2")
    return Stale(job, bound, config.exchange.damp, balance=balance, ease=ease).run()


def tabled(job: loop.Job, config: Config, mode: str, bound: int | None) -> Iterator[loop.Event]:
    """The run of a job whose model lies in a table: in steps, or each rank at its own pace."""
    if mode == "bsp" or not job.shared:
        return loop.run(job)
    _check(config, mode)
    from engine.modes.table import Free

    return Free(job, bound).run()


def _check(config: Config, mode: str) -> None:
    if config.exchange.virtual and (mode != "bsp" or config.exchange.codec != "exact" or config.data.rule != "deal"):
        raise ConfigError(f"exchange.virtual: expected mode bsp, codec exact and rule deal, found {mode}, "
                          f"{config.exchange.codec} and {config.data.rule}", fix="leave them at their defaults")
    if config.exchange.split == "keys":
        raise ConfigError(f"exchange.mode={mode}: with exchange.split=keys the workers share one model",
                          fix="exchange.split=rows, or exchange.mode=bsp")
    if config.exchange.codec != "exact" and mode not in ("bsp", "local"):
        raise ConfigError(f"exchange.mode={mode}: codecs are for lock-step, found exchange.codec={config.exchange.codec}",
                          fix="exchange.codec=exact, or exchange.mode=bsp")
    if isinstance(config.exchange.every, float) and mode != "bsp":
        raise ConfigError(f"exchange.mode={mode}: expected exchange.every in rows, found {config.exchange.every:g} s",
                          fix="exchange.every=256")
