"""Optimisers: from a gradient to a change. The last link that needs a gradient; schedules and masks come behind.

Sources: AdaGrad (Duchi et al. 2011), Adam (Kingma and Ba 2015), FTRL-proximal (McMahan et al. 2013), normalised
gradient descent (Hazan, Levy and Shalev-Shwartz 2015), COCOB (Orabona and Tommasi 2017, algorithm 2).
"""
from __future__ import annotations

import numpy as np

from engine.types import Array, Block, Policy, State, Step
from engine.update.policy import need, nothing, policy

F = np.float32



def _state(theta: Array, *names: str) -> State:
    return {f"mean/{name}": Block(np.zeros_like(theta)) for name in names}


@policy
def sgd(rate: float = 0.05) -> Policy:
    """change = -rate * g."""
    need(rate > 0, f"sgd: expected rate > 0, found {rate}")

    def update(step: Step, state: State) -> None:
        step.g *= F(-rate)

    return Policy(nothing, update)


@policy
def momentum(rate: float = 0.01, beta: float = 0.9, nesterov: bool = False) -> Policy:
    """v = beta v + g; change = -rate * v, or -rate * (g + beta v)."""
    need(rate > 0 and 0 <= beta < 1, f"momentum: expected rate > 0 and 0 <= beta < 1, found {rate} and {beta}")

    def update(step: Step, state: State) -> None:
        v = state["mean/v"].data
        v *= F(beta)
        v += step.g
        step.g = F(-rate) * (step.g + F(beta) * v if nesterov else v)

    return Policy(lambda theta: _state(theta, "v"), update)


@policy
def adagrad(rate: float = 0.05, floor: float = 1e-8) -> Policy:
    """n += g^2; change = -rate * g / (sqrt(n) + floor)."""
    need(rate > 0, f"adagrad: expected rate > 0, found {rate}")

    def init(theta: Array) -> State:
        return {"sum/n": Block(np.zeros_like(theta))}

    def update(step: Step, state: State) -> None:
        n = state["sum/n"].data
        n += step.g * step.g
        root = np.sqrt(n)
        root += F(floor)
        step.g /= root
        step.g *= F(-rate)

    return Policy(init, update)


@policy
def adam(rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, floor: float = 1e-8) -> Policy:
    """Bias-corrected first and second moments."""
    need(rate > 0 and 0 <= beta1 < 1 and 0 <= beta2 < 1, "adam: expected rate > 0 and betas in [0, 1)")

    def init(theta: Array) -> State:
        return _state(theta, "m", "v") | {"mean/t": Block(np.zeros(1, np.float32))}

    def update(step: Step, state: State) -> None:
        m, v, t = state["mean/m"].data, state["mean/v"].data, state["mean/t"].data
        t += 1
        m += F(1 - beta1) * (step.g - m)
        square = step.g * step.g
        square -= v
        square *= F(1 - beta2)
        v += square
        pace = rate / (1 - beta1 ** float(t[0]))
        root = np.sqrt(v)
        root *= F(1 / np.sqrt(1 - beta2 ** float(t[0])))
        root += F(floor)
        step.g = m / root
        step.g *= F(-pace)

    return Policy(init, update)


@policy
def ftrl(alpha: float = 0.1, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0) -> Policy:
    """Follow the regularised leader, a coordinate at a time; it starts from the net's first parameters as its centre."""
    need(alpha > 0 and beta >= 0, "ftrl: expected alpha > 0 and beta >= 0")

    def init(theta: Array) -> State:
        return {"mean/z": Block(np.zeros_like(theta)), "sum/n": Block(np.zeros_like(theta)),
                "mean/centre": Block(theta.copy())}

    def update(step: Step, state: State) -> None:
        z, n, centre = state["mean/z"].data, state["sum/n"].data, state["mean/centre"].data
        now = n + step.g * step.g
        z += step.g - (np.sqrt(now) - np.sqrt(n)) / F(alpha) * (step.theta - centre)
        n[:] = now
        over = np.maximum(np.abs(z) - F(l1), 0)
        w = -np.sign(z) * over / ((F(beta) + np.sqrt(n)) / F(alpha) + F(l2))
        step.g = centre + w - step.theta

    return Policy(init, update)


@policy
def normalised(rate: float = 0.01) -> Policy:
    """change = -rate * g / |g|, a span at a time, scaled by the span's root of size: the same length whatever the units."""
    need(rate > 0, f"normalised: expected rate > 0, found {rate}")

    def update(step: Step, state: State) -> None:
        for span in step.spans.values():
            part = step.g[span]
            size = float(np.sqrt(np.dot(part, part)))
            part *= F(-rate * np.sqrt(len(part)) / size) if size > 0 else F(0)

    return Policy(nothing, update)


@policy
def coin(alpha: float = 100.0) -> Policy:
    """Coin betting without a rate: bets the reward so far, a coordinate at a time (COCOB-Backprop)."""
    need(alpha > 0, f"coin: expected alpha > 0, found {alpha}")

    def init(theta: Array) -> State:
        return {"mean/first": Block(theta.copy())} | _state(theta, "bound", "size", "reward", "bet") | {
            "mean/bound": Block(np.full_like(theta, 1e-8))}

    def update(step: Step, state: State) -> None:
        first, bound, size, reward, bet = (state[f"mean/{n}"].data for n in ("first", "bound", "size", "reward", "bet"))
        g = -step.g
        np.maximum(bound, np.abs(g), out=bound)
        size += np.abs(g)
        reward += (step.theta - first) * g
        np.maximum(reward, 0, out=reward)
        bet += g
        w = bet / (bound * np.maximum(size + bound, F(alpha) * bound)) * (bound + reward)
        step.g = first + w - step.theta

    return Policy(init, update)
