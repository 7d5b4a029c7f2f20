"""Around a codec: EF21, the second side, momentum, and residuals that move to any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec import feedback
from engine.codec import make as codec


def data(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("name", ["topk", "int8", "sign"])
def test_ef21_estimate_reaches_a_constant_gradient(name):
    made, g = codec(name), data(2000)
    state = made.init(2000) | {"estimate": np.zeros(2000, np.float32)}
    far = np.zeros(2000, np.float32)
    for step in range(300):
        made.decode_add(feedback.advance(made, g, state, step), far)
    assert far.tobytes() == state["estimate"].tobytes()  # both ends hold the same estimate
    assert np.sum((far - g) ** 2) < 0.05 * np.sum(g**2)


def test_relay_sums_ranks_and_keeps_what_it_cannot_send():
    made = codec("int4")
    ranks, owner, total = [made.init(3000) for _ in range(3)], made.init(3000), np.zeros(3000)
    sent = np.zeros(3000, np.float32)
    for step in range(5):
        g = [data(3000, 10 * step + r) for r in range(3)]
        made.decode_add(
            feedback.relay(made, [made.encode(x, s, step) for x, s in zip(g, ranks, strict=True)], owner, step), sent
        )
        total += sum(g)
    left = sum(s["residual"].astype(np.float64) for s in [*ranks, owner])
    assert np.allclose(sent + left, total, atol=1e-4)


def test_momentum_is_cleared_where_it_was_sent():
    velocity = np.ones(4, np.float32)
    assert np.array_equal(
        feedback.correct(np.ones(4, np.float32), velocity, 0.5, np.array([1])), np.float32([1.5, 1, 1.5, 1.5])
    )


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_residual_sum_survives_any_change_of_ranks(old, new, n):
    parts = [{(0, n): data(n, r), (n, n + 7): data(7, r + 50)} for r in range(old)]
    before = feedback.gather(parts)
    after = feedback.gather(feedback.spread(before, new))
    for where, e in before.items():
        assert np.all(np.abs(after[where] - e) <= np.spacing(np.abs(e).astype(np.float32)))
    again = feedback.gather(feedback.spread(after, old))
    assert all(again[w].tobytes() == after[w].tobytes() for w in after)
    with pytest.raises(ValueError):
        feedback.gather([{(0, 3): np.zeros(2, np.float32)}])


def test_lowrank_learns_a_low_rank_matrix():
    r = np.random.default_rng(0)
    g = (r.standard_normal((64, 3)) @ r.standard_normal((3, 64))).astype(np.float32).ravel()
    made = codec("lowrank", rank=4)
    state, sent = made.init(g.size), np.zeros(g.size, np.float32)
    made.decode_add(made.encode(g, state, 0), sent)
    assert np.abs(sent - g).max() < 1e-4 and np.abs(state["residual"]).max() < 1e-4
    assert made.ratio(g.size) == 8
