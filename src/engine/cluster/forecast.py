"""What an exchange would cost on any number of ranks: an answer in lines, with what it assumes."""
from __future__ import annotations

from engine.cluster.route import CODECS, Fit, Wire, explain, guess
from engine.errors import ConfigError

# Seconds an element on one core of an AMD EPYC (AVX-512), 2^24 elements in chunks of 2^18.
ENCODE_S = {"bf16": 8.0e-10, "int8": 7.5e-10, "int4": 7.5e-10, "sign": 5.4e-10, "topk": 1.2e-9, "lowrank": 2.0e-9}
DECODE_S = {"bf16": 4.1e-10, "int8": 4.2e-10, "int4": 4.2e-10, "sign": 2.9e-10, "topk": 1e-10, "lowrank": 1.0e-9}
ADD_S = 3.2e-10
NEAR = Wire(1e-6, 1 / 8e9)


def told(ranks: int, floats: float, per_node: int, latency_us: float, gbit_s: float, density: float) -> list[str]:
    """Lines: every codec with its route and parts, the quickest marked; then the assumptions."""
    if ranks < 1 or floats < 1 or per_node < 1 or latency_us < 0 or gbit_s <= 0 or not 0 < density <= 1:
        raise ConfigError("forecast: expected ranks, floats, ranks a node and bandwidth above 0, a density in (0, 1]",
                          fix="for example: engine forecast 100000 --floats 1e8 --bandwidth 200")
    fit = Fit(NEAR, Wire(latency_us * 1e-6, 8 / (gbit_s * 1e9)), per_node, ADD_S, ENCODE_S, DECODE_S)
    names = tuple(CODECS)
    best = min(names, key=lambda name: guess(fit, ranks, int(floats), name, density=density).total_s)
    return [*explain(fit, ranks, int(floats), names, best, density=density),
            "assumed: one allreduce of all parameters; every link as stated, nobody late; a node's ranks share its link,",
            "or sum in shared memory first (route node); codecs on one core at the rates of an AMD EPYC; messages and bytes",
            "add up (Hockney); chunks of a codec overlap with sending. A job's own rates: exchange.codec=auto"]
