"""What runs on the ranks of `bench comm`: exchanges timed side by side, the slowest rank's time, printed by rank 0 as JSON.

`python -m bench.wire allreduce N ROUNDS CODEC…`, `rails BYTES ROUNDS`, `planner N ROUNDS`, `steps N ROUNDS`
"""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine import guard
from engine.comm.world import World, finish
from engine.modes.reducer import Reducer
from engine.types import Array


def timed(link: World, act: Callable[[], Any]) -> float:
    """Seconds of the slowest rank, from a common start."""
    link.barrier(name="start")
    began = time.perf_counter()
    act()
    return float(link.allreduce(np.array([time.perf_counter() - began]), op="max", name="time")[0])


def gradient(rank: int, n: int) -> Array:
    """Heavy-tailed, as gradients are."""
    rng = np.random.default_rng(rank)
    return rng.standard_normal(n, np.float32) * np.exp(rng.standard_normal(n, np.float32))


def allreduce(link: World, n: int, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Rounds of dense (the MPI's own Allreduce) and of each codec, end to end, interleaved."""
    g = gradient(link.rank, n)
    makers = {name: Reducer(link, n, name) for name in ("dense", *names)}
    times: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(rounds + 1):
        order = list(makers) if turn % 2 else list(makers)[::-1]
        for name in order:
            seconds = timed(link, lambda name=name: makers[name](g))  # type: ignore[misc]
            if turn:
                times[name].append(seconds)
    return {"times": times}


def planner(link: World, n: int, rounds: int) -> dict[str, Any]:
    """The planner beside every fixed choice it has, after its trials."""
    g = gradient(link.rank, n)
    auto = Reducer(link, n, "auto")
    tries = 0
    while not auto.picked:
        auto(g)
        tries += 1
    found = allreduce(link, n, rounds, [name for name in auto.allowed if name != "dense"])
    times = found["times"]
    times["auto"] = []
    again = Reducer(link, n, "dense")
    times["dense.beside"] = []
    sides = [("auto", auto), ("dense.beside", again)]
    for turn in range(rounds):
        for name, made in sides[:: 1 if turn % 2 else -1]:
            times[name].append(timed(link, lambda made=made: made(g)))  # type: ignore[misc]
    return {"times": times, "picked": auto.picked, "tries": tries, "why": auto.lines()}


def rails(link: World, size: int, rounds: int) -> dict[str, Any]:
    """A large message over the socket Link on one rail and on two."""
    from engine.comm.flow import Options
    from engine.comm.socket import join

    addresses = ["10.77.0.", "10.78.0."]
    times: dict[str, list[float]] = {"one": [], "two": []}
    body = np.zeros(size, np.uint8)
    sockets = {name: join(link, [f"{a}{link.rank + 1}" for a in addresses[:count]], timeout_s=60,
                          options=Options(rail=1 << 23, chunk=1 << 19)) for name, count in (("one", 1), ("two", 2))}
    for turn in range(rounds + 1):
        for name, one in sockets.items():
            def act(one: Any = one) -> None:
                if link.rank == 0:
                    one.send(body, 1, name="bulk", tag=5)
                    one.take(1, name="done", tag=6)
                else:
                    one.take(0, name="bulk", tag=5)
                    one.send(np.zeros(1, np.uint8), 0, name="done", tag=6)
            seconds = timed(link, act)
            if turn:
                times[name].append(seconds)
    carried = sockets["two"].counters()[1 - link.rank]["rails"] if link.rank == 0 else {}
    for one in sockets.values():
        one.close()
    return {"times": times, "rails": carried}


def main() -> None:
    what, *numbers = sys.argv[1:]
    guard.keep_memory()  # as a job does, for both sides
    link = World(timeout_s=120)
    acts: dict[str, Callable[[], dict[str, Any]]] = {
        "allreduce": lambda: allreduce(link, int(numbers[0]), int(numbers[1]), numbers[2:]),
        "planner": lambda: planner(link, int(numbers[0]), int(numbers[1])),
        "rails": lambda: rails(link, int(numbers[0]), int(numbers[1])),
    }
    found = acts[what]()
    if link.rank == 0:
        print(json.dumps(found), flush=True)
    link.barrier(name="end")
    link.close()
    finish()


if __name__ == "__main__":
    main()
