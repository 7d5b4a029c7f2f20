"""Bounded staleness against a perfect model: no read is older than the bound, all ranks commit the same, nobody is stuck."""
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.cluster.stale import Arrived, Pause, Resume, advance, shares, start


class Ranks(RuleBasedStateMachine):
    """Ranks whose messages arrive in order for a pair, and as late as they like."""

    @initialize(size=st.integers(1, 6), bound=st.integers(0, 4))
    def begin(self, size, bound):
        self.size, self.bound = size, bound
        self.boards = [start(size, r, bound) for r in range(size)]
        self.wires = {(a, b): 0 for a in range(size) for b in range(size) if a != b}
        self.commits = [[] for _ in range(size)]

    def take(self, rank, event):
        self.boards[rank], actions = advance(self.boards[rank], event)
        self.commits[rank] += [a.round for a in actions]

    @rule(rank=st.integers(0, 5))
    def learn(self, rank):
        rank %= self.size
        board = self.boards[rank]
        if board.may_learn:
            learned = [other.mine for other in self.boards]
            assert all(board.here[r] >= board.mine - self.bound for r in range(self.size))
            assert board.mine - min(learned) <= self.bound
            assert board.age[1] <= self.bound
            for other in range(self.size):
                if other != rank:
                    self.wires[rank, other] += 1
            self.take(rank, Arrived(rank))

    @rule(source=st.integers(0, 5), to=st.integers(0, 5))
    def deliver(self, source, to):
        source, to = source % self.size, to % self.size
        if self.wires.get((source, to)):
            self.wires[source, to] -= 1
            self.take(to, Arrived(source))

    @rule()
    def pause(self):
        """Something is due at the last round that somebody committed: all halt at the same round."""
        if any(b.halt >= 0 for b in self.boards):
            return
        due = max(len(c) for c in self.commits) - 1
        if due < 0:
            return
        self.due = due
        self.settle(stop=due + self.bound + 1)
        assert {b.mine for b in self.boards} == {due + self.bound + 1} == {b.done for b in self.boards}
        for rank in range(self.size):
            assert self.boards[rank].quiet
            self.take(rank, Resume())

    def settle(self, stop):
        """Everything goes on until nothing can; a rank pauses as it commits the round that said so."""
        moved = True
        while moved:
            moved = False
            for rank in range(self.size):
                if len(self.commits[rank]) > self.due and self.boards[rank].halt < 0:
                    self.take(rank, Pause(self.due))
                if self.boards[rank].may_learn and self.boards[rank].mine < stop + 3:
                    self.learn(rank)
                    moved = True
            for source, to in self.wires:
                while self.wires[source, to]:
                    self.deliver(source, to)
                    moved = True

    @invariant()
    def commits_are_the_rounds_in_order(self):
        for done in self.commits:
            assert done == list(range(len(done)))

    @invariant()
    def somebody_can_go_on(self):
        idle = not any(b.may_learn for b in self.boards)
        assert not idle or any(self.wires.values()) or any(b.halt >= 0 for b in self.boards)


TestRanks = Ranks.TestCase
TestRanks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None,
                              suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def test_bound_nought_is_lock_step():
    board = start(2, 0, 0)
    board, actions = advance(board, Arrived(0))
    assert not board.may_learn and board.missing == (1,) and actions == []
    board, actions = advance(board, Arrived(1))
    assert board.may_learn and [a.round for a in actions] == [0]


def test_ten_thousand_ranks():
    board = start(10_000, 7, 3)
    order = np.random.default_rng(1).permutation(10_000)
    for rank in order[:-1]:
        board, actions = advance(board, Arrived(int(rank)))
        assert not actions
    board, actions = advance(board, Arrived(int(order[-1])))
    assert len(actions) == 1


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="-1"):
        start(2, 0, -1)


def test_shares_follow_speed_and_lose_no_row():
    assert shares([1, 1, 1, 4], 104) == [32, 32, 32, 8]
    assert shares([0, 0], 7) == [4, 3]
    assert shares([1, 0, 1], 9) == [3, 3, 3]
    for rows in range(3, 50):
        found = shares([1.0, 2.5, 1.3], rows)
        assert sum(found) >= rows and sum(found) <= rows + 2 and min(found) >= 1
