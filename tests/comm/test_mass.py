"""Push-sum accounts under a made-up network and deaths: what newest records are worth is what was put in, whatever happens."""
import copy

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.comm.mass import Account, under_way, worth

N = 3
PICK = st.integers(0, 10**6)


class Life(RuleBasedStateMachine):
    """Members learn, give, hear and record; letters leave after the record, and are lost, doubled, late and out of order;
    members die, with what they did since their record, and are taken over by one that is left.
    """

    @initialize(size=st.integers(2, 5))
    def begin(self, size):
        self.account = {m: Account(N) for m in range(size)}
        self.x = {m: np.arange(N) + float(m) for m in range(size)}
        self.record = {}
        self.plays = {m: [m] for m in range(size)}
        self.letters, self.fresh, self.dead = [], {m: np.zeros(N) for m in range(size)}, {}
        self.want = np.append(sum(self.x.values()), float(size))
        for member in range(size):
            self.keep(member)

    def keep(self, m):
        self.record[m] = copy.deepcopy((self.x[m], self.account[m], self.plays[m]))
        self.want[:-1] += self.fresh[m]
        self.fresh[m] = np.zeros(N)

    def alive(self, pick):
        return sorted(self.account)[pick % len(self.account)]

    @rule(pick=PICK, to=PICK, step=st.floats(-1, 1), hears=st.integers(0, 3))
    def round(self, pick, to, step, hears):
        """A whole round, as `Pushsum.mix` and the record after it."""
        m, account = self.alive(pick), self.account[self.alive(pick)]
        self.x[m] = self.x[m] + step
        self.fresh[m] = self.fresh[m] + step * account.mass
        account.open(self.x[m])
        to = to % len(self.plays_of_all())
        if to not in self.plays[m]:
            account.give((m, to))
        for at in range(hears):
            mine = [letter for letter in self.letters if letter[0][1] in self.plays[m]]
            if mine:
                account.hear(*mine[(pick + at) % len(mine)])  # left in the box: it may come again, and after newer ones
        self.x[m] = account.close()
        self.keep(m)
        if to not in self.plays[m]:
            self.letters.append(((m, to), account.given[m, to].copy()))

    def plays_of_all(self):
        return [m for plays in self.plays.values() for m in plays] + [m for _, _, plays in self.dead.values() for m in plays]

    @rule(pick=PICK)
    def lose(self, pick):
        if self.letters:
            self.letters.pop(pick % len(self.letters))

    @precondition(lambda self: len(self.account) > 1)
    @rule(pick=PICK, step=st.floats(-1, 1))
    def die(self, pick, step):
        """In the middle of a round: learned and given, not recorded, so nothing of it has left."""
        m = self.alive(pick)
        del self.account[m], self.x[m], self.plays[m], self.fresh[m]
        self.dead[m] = self.record.pop(m)

    @precondition(lambda self: self.dead)
    @rule(pick=PICK, heir=PICK)
    def take_over(self, pick, heir):
        gone = sorted(self.dead)[pick % len(self.dead)]
        m = self.alive(heir)
        x, account, plays = self.dead.pop(gone)
        mine = self.account[m]
        mine.open(self.x[m])
        mine.inherit(x, account.mass, account.given, account.taken)
        self.x[m] = mine.close()
        self.plays[m] = [*self.plays[m], *plays]
        self.keep(m)

    @invariant()
    def records_are_worth_what_was_put_in(self):
        if not hasattr(self, "want"):
            return
        parts = [*self.record.values(), *self.dead.values()]
        taken = {pair: total for _, account, _ in parts for pair, total in account.taken.items()}
        total = sum(worth(x, account.mass) + under_way(account.given.items(), taken) for x, account, _ in parts)
        np.testing.assert_allclose(total, self.want, atol=1e-9)
        assert all(account.mass > 0 for _, account, _ in parts)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
