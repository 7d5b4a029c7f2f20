"""Gossip: mass is conserved whatever is lost, estimates meet, a silent neighbour does no harm."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.gossip import GRAPHS, Pushsum
from engine.comm.local import Alone, group

N = 7


def value(rank):
    return np.random.default_rng(rank).normal(size=N)


def rounds(links, count, graph, silent=()):
    """`count` rounds in step order, rank after rank in one thread: deterministic. Returns the Pushsums and estimates."""
    made = [Pushsum(link, N, graph) for link in links]
    x = [value(r) for r in range(len(links))]
    for _ in range(count):
        for r, one in enumerate(made):
            if r not in silent:
                x[r] = one.mix(x[r])
    return made, x


def mass(made, x):
    """Sum of (x, w) over ranks and over what was given but not yet taken."""
    total = sum(np.append(x[r] * one.account.mass, one.account.mass) for r, one in enumerate(made))
    for one in made:
        for pair, given_ in one.account.given.items():
            total = total + given_ - made[pair[1]].account.taken.get(pair, 0.0)
    return total


@settings(max_examples=40)
@given(st.sampled_from(sorted(GRAPHS)), st.integers(2, 9), st.integers(1, 30), st.floats(0, 0.9), st.integers(0, 99))
def test_mass_is_conserved_when_messages_are_lost(graph, size, count, loss, seed):
    rng = np.random.default_rng(seed)
    links = group(size, fault=lambda source, to, tag, nth: None if rng.random() < loss else 0.0)
    made, x = rounds(links, count, graph)
    want = np.append(sum(value(r) for r in range(size)), size)
    np.testing.assert_allclose(mass(made, x), want, atol=1e-12)
    assert all(one.account.mass > 0 for one in made)


@pytest.mark.parametrize(("graph", "size", "count"), [
    ("exponential", 8, 30), ("random", 8, 40), ("ring", 5, 120), ("exponential", 6, 60)])
def test_estimates_meet_at_the_mean(graph, size, count):
    _, x = rounds(group(size), count, graph)
    mean = np.mean([value(r) for r in range(size)], axis=0)
    assert max(np.abs(one - mean).max() for one in x) <= 1e-3


def test_a_silent_neighbour_does_no_harm():
    _, x = rounds(group(6), 80, "random", silent={4})
    others = [x[r] for r in range(6) if r != 4]
    spread = np.ptp(np.array(others), axis=0).max()
    assert spread <= 1e-2 * np.ptp([value(r) for r in range(6)], axis=0).max()
    assert np.isfinite(others).all()


def test_after_settling_all_have_the_same_bytes_and_the_mean():
    rng = np.random.default_rng(3)
    links = group(5, timeout_s=20, fault=lambda source, to, tag, nth: None if tag == 160 and rng.random() < 0.3 else 0.002)

    def work(link):
        one, x = Pushsum(link, N, "random"), value(link.rank).astype(np.float32)
        for _ in range(9):
            x = one.mix(x)
        x = one.settle(x)
        again = one.settle(one.mix(x))
        return x, again

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(work, links))
    assert len({x.tobytes() for x, _ in found}) == 1 and len({x.tobytes() for _, x in found}) == 1
    np.testing.assert_allclose(found[0][0], np.mean([value(r) for r in range(5)], axis=0), atol=1e-6)
    np.testing.assert_allclose(found[0][1], found[0][0], atol=1e-6)


def test_an_unknown_graph_names_those_there_are():
    with pytest.raises(ValueError, match="exponential, random, ring"):
        Pushsum(Alone(), 1, "star")
