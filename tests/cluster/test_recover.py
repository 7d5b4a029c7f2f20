"""Recovery and health plans against a perfect model: ten thousand simulated ranks, lost and late messages, crashes."""
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.cluster.health import Fence, Limits, Lost, Sight, Watch, look, quorum
from engine.cluster.recover import (
    STEPS,
    TIERS,
    Do,
    Failed,
    GiveUp,
    Held,
    Lane,
    Passed,
    Tell,
    advance,
    choose,
    covered,
    guards,
    interval_s,
    lanes,
    recovery,
)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 3))
def test_guards_are_on_other_nodes_and_all_different(nodes, copies):
    found = guards(nodes, copies)
    for rank, chosen in enumerate(found):
        assert len({nodes[g] for g in chosen} | {nodes[rank]}) == len(chosen) + 1
        assert len(chosen) == min(copies, len(set(nodes)) - 1)


class Shards(RuleBasedStateMachine):
    """`ranks` shards that commit steps in lock-step, copy them, die, and lose memory; `choose` is asked after each event.

    The model: a step is committed once every shard has kept it and its guard too, and the next vote was heard.
    """

    @initialize(ranks=st.integers(2, 6), copies=st.integers(1, 2))
    def begin(self, ranks, copies):
        self.ranks, self.copies = ranks, min(copies, ranks - 1)
        self.guards = guards(list(range(ranks)), self.copies)
        self.own = [{0: 0} for _ in range(ranks)]
        self.kept = {(ward, at): {0: 0} for ward, chosen in enumerate(self.guards) for at in chosen}
        self.step = self.committed = 0
        self.wiped = set()

    @rule(data=st.data())
    def one_step(self, data):
        """Ranks write in any order and may be cut off anywhere; only a whole step is voted on."""
        self.step += 1
        events = [("own", r, None) for r in range(self.ranks)] + [("copy", w, at) for w, at in self.kept]
        events = data.draw(st.permutations(events))
        cut = data.draw(st.one_of(st.none(), st.integers(0, len(events) - 1)))
        for kind, shard, at in events[:cut]:
            held = self.own[shard] if kind == "own" else self.kept[shard, at]
            if (shard if kind == "own" else at) not in self.wiped and self.step - 1 in held:
                held[self.step] = self.step * 7
        if cut is None and not self.wiped:
            self.committed = self.step
        else:
            self.recover()

    @rule(data=st.data())
    def wipe(self, data):
        if len(self.wiped) < self.copies:
            node = data.draw(st.integers(0, self.ranks - 1))
            self.wiped.add(node)
            self.own[node] = {}
            for ward, at in self.kept:
                if at == node:
                    self.kept[ward, at] = {}

    @rule(data=st.data())
    def diverge(self, data):
        """One rank's step has another digest, as after a collective that lied: it is never chosen."""
        self.step += 1
        odd = data.draw(st.integers(0, self.ranks - 1))
        for shard in range(self.ranks):
            digest = self.step * 7 + (shard == odd)
            for held in [self.own[shard], *(self.kept[shard, at] for at in self.guards[shard])]:
                if self.step - 1 in held:
                    held[self.step] = digest
        self.recover()

    def held(self):
        mine = [Held(f"own{r}", 1, r, self.ranks, "own", dict(v)) for r, v in enumerate(self.own) if v]
        return mine + [Held(f"copy{w}@{at}", 1, w, self.ranks, "copy", dict(v)) for (w, at), v in self.kept.items() if v]

    def recover(self):
        """A new epoch begins at the step that is chosen, everywhere."""
        found = choose(self.held())
        assert found is not None and found.version >= self.committed
        self.step = self.committed = found.version
        self.own = [{self.step: 0} for _ in range(self.ranks)]
        self.kept = {key: {self.step: 0} for key in self.kept}
        self.wiped = set()

    @invariant()
    def nothing_committed_is_lost(self):
        if not hasattr(self, "own"):
            return
        copies = self.held()
        found = choose(copies)
        assert found is not None and found.version >= self.committed
        digests = {copies[places[0]].versions[found.version] for places in found.sources}
        assert len(digests) == 1
        for shard, places in enumerate(found.sources):
            assert all(copies[place].shard == shard for place in places)


TestShards = Shards.TestCase


def test_ten_thousand_ranks_are_chosen_for_in_a_moment():
    draw = random.Random(1)
    nodes = [rank // 8 for rank in range(10_000)]
    chosen = guards(nodes, 1)
    copies = [Held(f"own{r}", 3, r, 10_000, "own", {40: 1, 41: 2}) for r in range(10_000)]
    copies += [Held(f"copy{r}@{g[0]}", 3, r, 10_000, "copy", {40: 1, 41: 2}) for r, g in enumerate(chosen)]
    gone = draw.randrange(1250)
    left = [c for c in copies if (c.role == "own" and nodes[c.shard] != gone)
            or (c.role == "copy" and nodes[int(c.holder.partition("@")[2])] != gone)]
    found = choose(left)
    assert found.version == 41 and len(found.sources) == 10_000
    assert choose(left, below=(3, 41)).version == 40
    assert choose([c for c in left if c.shard != 77]) is None


def test_the_five_steps_are_timed_and_a_failure_goes_to_the_next_tier_and_then_stops():
    state, actions = recovery(TIERS, 0.0)
    assert actions == [Do("in place", "isolate")]
    for at, step in enumerate(STEPS[1:], 1):
        state, actions = advance(state, Passed(float(at)))
        assert actions == [Do("in place", step)]
    state, actions = advance(state, Failed(9.0, "the canary differs"))
    assert isinstance(actions[0], Tell) and actions[0].spent["verify"] == 5.0 and actions[1] == Do("relaunch", "isolate")
    for at in range(4):
        state, actions = advance(state, Passed(10.0 + at))
    state, actions = advance(state, Passed(20.0))
    assert state.done and not state.lost and set(actions[0].spent) == set(STEPS)
    assert advance(state, Passed(21.0)) == (state, [])
    state, _ = recovery(TIERS, 0.0)
    for tier in TIERS:
        state, actions = advance(state, Failed(1.0, f"{tier} is out"))
    assert state.lost and isinstance(actions[-1], GiveUp) and len(actions[-1].reasons) == 3


@given(st.floats(1e-3, 1e3), st.floats(10, 1e7))
def test_the_interval_is_near_youngs_and_grows_with_both(cost, mtbf):
    found = interval_s(cost, mtbf)
    assert interval_s(cost * 1.5, mtbf) >= found * 0.999 or cost > mtbf / 10
    if cost < mtbf / 1000:
        assert found == pytest.approx((2 * cost * mtbf) ** 0.5, rel=0.1)


LIMITS = Limits(frozen_s=0.5, hung_s=30.0, period_s=0.05)


def watched(sights_of, until_s, step_s=0.05):
    """Actions of an observer that looks every `step_s`, with their times."""
    watch, told, now = Watch(), [], 1.0
    while now < until_s:
        watch, actions = look(watch, now, sights_of(now), LIMITS)
        told += [(now, action) for action in actions]
        now += step_s
    return told


def test_a_stopped_rank_is_fenced_once_within_twice_the_limit():
    told = watched(lambda now: [Sight(0, min(now, 3.0), stopped=now > 3.0, cpu_s=now), Sight(1, now, cpu_s=now)], 6.0)
    assert len(told) == 1 and isinstance(told[0][1], Fence) and told[0][1].rank == 0 and told[0][0] < 3.0 + 2 * 0.5


def test_a_fenced_rank_is_lost_once_it_is_gone():
    told = watched(lambda now: [Sight(0, min(now, 3.0), gone=now > 4, stopped=now > 3.0, cpu_s=min(now, 3.0))], 6.0)
    assert [type(action) for _, action in told] == [Fence, Lost]


def test_a_late_heart_alone_is_no_death_on_a_crowded_machine():
    draw = random.Random(2)
    beats = dict.fromkeys(range(8), 0.0)

    def sights(now):
        for rank in beats:
            if draw.random() < 0.02:  # a core comes by once in fifty looks
                beats[rank] = now
        return [Sight(rank, beat, cpu_s=beat) for rank, beat in beats.items()]

    assert watched(sights, 1800.0, 0.05) == []


def test_a_hung_rank_is_fenced_late_and_a_gone_one_at_once():
    told = watched(lambda now: [Sight(0, 2.0, cpu_s=1.0), Sight(1, now, gone=now > 5, cpu_s=now)], 60.0)
    assert [type(action) for _, action in told] == [Lost, Fence] and told[0][0] < 5.1 and 30 < told[1][0] < 40


def test_an_observer_that_was_held_up_trusts_nothing_of_that_round():
    watch, _ = look(Watch(), 1.0, [Sight(0, 1.0, cpu_s=0)], LIMITS)
    watch, actions = look(watch, 9.0, [Sight(0, 1.0, stopped=True, cpu_s=0)], LIMITS)
    assert actions == []
    assert look(watch, 9.05, [Sight(0, 1.0, stopped=True, cpu_s=0)], LIMITS)[1]


@given(st.integers(1, 40), st.data())
def test_of_any_cut_at_most_one_side_goes_on(size, data):
    side = data.draw(st.sets(st.integers(0, size - 1)))
    other = set(range(size)) - side
    assert not (quorum(range(size), side) and quorum(range(size), other))
    assert quorum(range(size), side) or quorum(range(size), other)


@pytest.mark.parametrize(("nodes", "m"), [(2, 1), (4, 1), (4, 2), (5, 3)])
def test_parity_covers_what_every_stripe_can_bear(nodes, m):
    from engine.store.parity import Stripes

    lane, stripes = Lane(tuple(range(nodes)), m), Stripes(nodes - m, m)
    sets = [{node for node in range(nodes) if bits >> node & 1} for bits in range(1 << nodes)]
    for shards in sets:
        for sums in sets:
            gone = [(sum(n in shards for n in stripes.members(s)), sum(n in sums for n in stripes.holders(s)))
                    for s in range(nodes)]
            assert covered(lane, shards, sums) == all(not a or a + b <= m for a, b in gone)
        assert covered(lane, shards, shards) == (len(shards) <= m)


def test_lanes_deal_every_rank_once_and_every_node_holds_sums_of_each_lane_of_its_group():
    for nodes, k, m in ([*range(4)], 2, 2), ([*range(7)], 2, 1), ([0, 0, 1, 1, 2], 2, 1), ([0, 0, 0, 1], 1, 1), ([0, 1], 4, 2):
        found = lanes(nodes, k, m)
        assert sorted(r for lane, _ in found for r in lane.ranks if r >= 0) == list(range(len(nodes)))
        for lane, holders in found:
            on = [nodes[holder] for holder in holders]
            assert len(set(on)) == len(on)
            assert all(rank in (-1, holder) for rank, holder in zip(lane.ranks, holders, strict=True))
            assert lane.m == min(m, len(set(nodes)) - 1) and len(lane.ranks) >= min(k + m, len(set(nodes)))
    assert lanes([0, 0], 1, 1) == []
