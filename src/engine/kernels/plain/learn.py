"""Definition of the linear learners, one example at a time in float32: the native learner equals it bit for bit.

Sources: FTRL-proximal (McMahan et al., KDD 2013, algorithm 1), AdaGrad (Duchi et al., JMLR 2011), NAG (Ross, Mineiro
and Langford, UAI 2013), PA-I and PA-II (Crammer et al., JMLR 2006).
"""
from __future__ import annotations

from typing import Any

import numpy as np

from engine.types import Array

F = np.float32
Rule = dict[str, Any]


def exp(x: Any) -> Any:
    """exp by a degree-6 polynomial in Estrin order; the argument is held in [-87, 88]."""
    x = min(max(F(x), F(-87)), F(88))
    k = int(x * F(1.44269504) + F(-0.5 if x < 0 else 0.5))
    r = (x - F(k) * F(0.693359375)) + F(k) * F(2.12194440e-4)
    q = r * r
    tail = (F(0.0416666667) + r * F(0.00833333333)) + q * F(0.00138888889)
    p = (F(1) + r) + q * ((F(0.5) + r * F(0.166666667)) + q * tail)
    return p * F(2.0**k)


def sigmoid(m: Any) -> Any:
    """1 / (1 + exp(-m))."""
    return F(1) / (F(1) + exp(-m))


def slope(rule: Rule, m: Any, y: Any) -> Any:
    """Derivative of the loss at margin `m` for target `y`."""
    positive = y > 0
    match rule["loss"]:
        case "squared":
            return m - y
        case "logistic":
            return sigmoid(m) - F(positive)
        case "hinge":
            return F(-1 if m < 1 else 0) if positive else F(1 if m > -1 else 0)
        case "quantile":
            return -F(rule["tau"]) if y > m else F(1) - F(rule["tau"]) if y < m else F(0)
        case "poisson":
            return exp(m) - y
    return F(1) if m > y + F(rule["epsilon"]) else F(-1) if m < y - F(rule["epsilon"]) else F(0)


def coefficient(rule: Rule, m: Any, y: Any, square: Any) -> Any:
    """What multiplies x in the step: the slope, or for PA its sign times tau."""
    s = slope(rule, m, y)
    if rule["learner"] not in ("pa1", "pa2"):
        return s
    loss = F(1) - (m if y > 0 else -m) if rule["loss"] == "hinge" else abs(y - m) - F(rule["epsilon"])
    if s == 0 or square == 0:
        return F(0)
    if rule["learner"] == "pa2":
        return s * (loss / (square + F(0.5) / F(rule["rate"])))
    return s * min(loss / square, F(rule["rate"]))


def lanes(terms: Array) -> Any:
    """Sum of float32 terms in the kernel's order: four lanes by turn, then (0 + 2) + (1 + 3)."""
    padded = np.zeros((max(1, -(-len(terms) // 4)), 4), F)
    padded.reshape(-1)[: len(terms)] = terms
    total = np.zeros(4, F)
    for row in padded:
        total = total + row
    return (total[0] + total[2]) + (total[1] + total[3])


def shrink(w: Any, by: Any) -> Any:
    """Proximal map of l1."""
    return np.copysign(abs(w) - by, w) if abs(w) - by > 0 else F(0)


def advance(rule: Rule, row: Array, g: Any, x: Any, rate: Any) -> None:
    """One row of the block (w, a, n) after gradient `g` of feature value `x`, in place."""
    w, a, n = row[0], row[1], row[2]
    l1, l2, beta = F(rule["l1"]), F(rule["l2"]), F(rule["beta"])
    match rule["learner"]:
        case "ftrl":
            after = n + g * g
            s = np.sqrt(after)
            a = a + (g - (s - np.sqrt(n)) * rate * w)
            m = abs(a) - l1
            w, n = np.copysign(m / ((beta + s) * rate + l2), -a) if m > 0 else F(0), after
        case "adagrad":
            g = g + l2 * w
            n = n + g * g
            step = rate / np.sqrt(n) if n > 0 else F(0)
            w = shrink(w - step * g, step * l1)
        case "nag":
            if x != 0:
                if abs(x) > a:
                    w, a = w * (a / abs(x)), abs(x)
                g = g + l2 * w
                n = n + g * g
                d = a * np.sqrt(n)
                step = rate / d if d > 0 else F(0)
                w = shrink(w - step * g, step * l1)
        case "sgd":
            w = shrink(w - rate * (g + l2 * w), rate * l1)
        case _:
            w = w - g
    row[0], row[1], row[2] = w, a, n


def rate_of(rule: Rule, clock: Array) -> Any:
    """Step size (FTRL: 1 / alpha) once the clock has counted the row."""
    match rule["learner"]:
        case "ftrl":
            return F(1) / F(rule["rate"])
        case "sgd":
            return F(float(F(rule["rate"])) * float(clock[0]) ** -float(F(rule["power_t"])))
        case "nag":
            return F(float(F(rule["rate"])) * np.sqrt(clock[0] / clock[1])) if clock[1] > 0 else F(0)
    return F(rule["rate"])


def margin(rule: Rule, block: Array, at: Array, x: Array) -> tuple[Any, Any]:
    """Score of one row, and |x|^2 (PA) or the sum of (x / scale)^2 (NAG)."""
    w = block[at, 0]
    if rule["learner"] != "nag":
        return lanes(w * x), lanes(x * x)
    s, a = block[at, 1], abs(x)
    top = np.maximum(a, s)
    ratio = np.divide(s, a, out=np.ones_like(s), where=a > s)
    z = np.divide(x, top, out=np.zeros_like(x), where=top > 0)
    return lanes(w * ratio * x), lanes(z * z)


def learn(rule: Rule, block: Array, clock: Array, classes: int, keys: Array, x: Array, y: float) -> Array:
    """Scores `(classes,)` of one row (bias among its keys) before it is learned; `block` and `clock` change."""
    sums = [margin(rule, block, keys.astype(np.int64) * classes + c, x) for c in range(classes)]
    scores = np.array([m for m, _ in sums], F)
    square = sums[-1][1]
    if not np.isfinite(scores).all() or not np.isfinite(square) or not np.isfinite(y):
        return scores
    clock[0] += 1
    clock[1] += square if rule["learner"] == "nag" else 0
    rate = rate_of(rule, clock)
    for c in range(classes):
        target = F(y) if classes == 1 else F(y == c)
        k = coefficient(rule, scores[c], target, square)
        if k != 0 or rule["learner"] == "nag":
            for key, value in zip(keys, x, strict=True):
                advance(rule, block[int(key) * classes + c], k * value, value, rate)
    return scores
