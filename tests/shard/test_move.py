"""Migration against a perfect model: real tables, writes between all steps, lost and repeated frames, and a crash anywhere."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.comm.service import Answered
from engine.errors import PeerError, ShardError
from engine.shard import move
from engine.table.migrate import Mover, take_over
from engine.table.shards import open_group

KEYS = np.arange(60, dtype=np.uint64)
RANKS = 4


class Faulty:
    """A transport that loses replies and repeats requests, as one that reconnects does, and knows who is dead."""

    def __init__(self, inner, dead, draw, rate):
        self.inner, self.dead, self.draw, self.rate, self.trap = inner, dead, draw, rate, None

    def poll(self):
        return False

    def ask(self, frames, rooms, *, name):
        replies = []
        for (rank, frame), room in zip(frames, rooms, strict=True):
            if rank in self.dead:
                raise PeerError(f"rank {rank} is dead")
            if self.trap is not None:
                self.spring(rank, frame, room, name)
            while self.draw.random() < self.rate:
                self.inner.ask([(rank, frame)], [room], name=name)
            replies += self.inner.ask([(rank, frame)], [room], name=name)
        return replies


    def post(self, frames, rooms, *, name):
        return Answered(self.ask(frames, rooms, name=name))

    def spring(self, rank, frame, room, name):
        """At the frame the trap counts down to, one end dies: before the frame arrives, or after it was carried out."""
        count, me, source_dies, after = self.trap
        self.trap = (count - 1, me, source_dies, after)
        if count:
            return
        self.trap = None
        if after:
            self.inner.ask([(rank, frame)], [room], name=name)
        self.dead.add(me if source_dies else rank)
        if source_dies:
            raise Died
        raise PeerError(f"rank {rank} is dead")


class Died(Exception):
    """The source stops where it stands."""


class Migrations(RuleBasedStateMachine):
    """Four ranks on nodes of their own. Acknowledged updates are in the model; each must be there once, at one owner."""

    @initialize(seed=st.integers(0, 2**32), rate=st.sampled_from([0.0, 0.3]))
    def start(self, seed, rate):
        self.draw, self.dead, self.model = np.random.default_rng(seed), set(), np.zeros(60)
        self.stores = open_group(RANKS, width=2, rows=200, slots_bits=4, timeout_s=2.0)
        for store in self.stores:
            store.table.remote = Faulty(store.table.remote, self.dead, self.draw, rate)
        self.running, self.mover = None, None

    def alive(self):
        return [r for r in range(RANKS) if r not in self.dead]

    @rule(n=st.integers(1, 20))
    def write(self, n):
        who = self.stores[int(self.draw.choice(self.alive()))]
        keys = self.draw.integers(0, 60, n).astype(np.uint64)
        keys = keys[~np.isin(who.ledger.route(keys), list(self.dead))]
        try:
            who.table.inc(keys, np.ones((len(keys), 2), np.float32))
        except PeerError:  # a stale map led to a dead rank: what was sent is in doubt
            self.model = None
            return
        np.add.at(self.model, keys.astype(int), 1)

    @precondition(lambda self: self.running is None and not self.dead)
    @rule(source=st.integers(0, RANKS - 1), by=st.integers(1, RANKS - 1), count=st.integers(1, 4), pack=st.booleans())
    def begin(self, source, by, count, pack):
        slots = self.stores[source].ledger.owned(source)
        if len(slots):
            target = (source + by) % RANKS
            tell = [r for r in range(RANKS) if self.draw.random() < 0.5]
            self.mover = Mover(self.stores[source], slots[:count], target, tell=tell, pack=pack)
            self.running = self.mover.steps()

    @precondition(lambda self: self.running is not None)
    @rule(steps=st.integers(1, 3))
    def advance(self, steps):
        for _ in range(steps):
            if self.running is None or self.mover.table.rank in self.dead:
                return
            try:
                next(self.running)
                continue
            except StopIteration as end:
                ended = end.value.phase
            except (Died, PeerError):
                ended = "died"
            self.running = None
            assert ended == "done" or self.dead

    @precondition(lambda self: self.running is not None and not self.dead)
    @rule(count=st.integers(0, 6), source_dies=st.booleans(), after=st.booleans())
    def crash_at_a_frame(self, count, source_dies, after):
        """Inside a step, the closed gate included."""
        rank = self.mover.table.rank
        if rank not in self.dead:
            self.stores[rank].table.remote.trap = (count, rank, source_dies, after)
            self.advance(30)
            self.stores[rank].table.remote.trap = None

    @precondition(lambda self: not self.dead)
    @rule(rank=st.integers(0, RANKS - 1))
    def crash(self, rank):
        self.dead.add(rank)
        if self.mover is not None and self.mover.table.rank == rank:
            self.running = None

    @invariant()
    def readers_see_every_acknowledged_update(self):
        if getattr(self, "model", None) is None or self.dead:
            return
        for store in self.stores:
            assert (store.table.get(KEYS)[:, 0] == self.model).all()

    def teardown(self):
        if getattr(self, "model", None) is None:
            return
        while self.running is not None:
            self.advance(1)
        alive = self.alive()
        for one in alive:  # survivors take one another's entries
            for other in alive:
                self.stores[one].ledger.apply(self.stores[other].ledger.since(0))
        self.recover(alive)
        for one in alive:
            assert (self.stores[one].table.get(KEYS)[:, 0] == self.model).all()
            assert (self.stores[one].table.get(KEYS)[:, 1] == self.model).all()

    def recover(self, alive):
        """The dead rank's slots from its copy (here: its memory), on the survivor next to it."""
        for lost in self.dead:
            heir = self.stores[alive[lost % len(alive)]]
            slots = heir.ledger.owned(lost)
            assert {move.settle(heir.table.rank, lost, set(alive))} == {"recover"}
            wanted = np.zeros(heir.ledger.room, np.uint8)
            wanted[slots] = 1
            changes = take_over(heir, slots, self.stores[lost].table.rows(wanted))
            for other in alive:
                self.stores[other].ledger.apply(changes)


TestMigrations = Migrations.TestCase
TestMigrations.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)

EVENTS = st.one_of(
    st.builds(move.Reserved, st.integers(0, 100), st.integers(0, 100)),
    st.builds(move.Sent, st.integers(0, 10**6), st.floats(0, 0.2)),
    st.builds(move.Flipped, st.booleans()), st.just(move.Heard()),
    st.builds(move.Refused, st.just("why"), st.booleans()))


@given(events=st.lists(EVENTS, max_size=60))
def test_laws_of_the_plan_under_any_events(events):
    """Opened once for each freeze; dropped at one end, never both; nothing after the end; late events change nothing."""
    state, actions = move.begin(0, 1, (3, 4))
    frozen, dropped, flipped = False, set(), False
    queue = [*actions]
    for event in events:
        for action in queue:
            if isinstance(action, move.Freeze):
                assert not frozen
                frozen = True
            elif isinstance(action, move.Open):
                assert frozen
                frozen, flipped = False, action.moved
            elif isinstance(action, move.Drop):
                dropped.add(action.at_target)
                assert action.at_target != flipped
        assert len(dropped) <= 1
        state, queue = move.step(state, event)
        assert state.phase in move.PHASES
    if state.phase in ("done", "failed"):
        again, nothing = move.step(state, move.Sent(1, 0.0))
        assert (again, nothing) == (state, [])
        for action in queue:
            frozen = frozen and not isinstance(action, move.Open)
        assert not frozen


def test_writers_too_fast_for_the_link_are_told_apart_from_slow_rounds():
    state, _ = move.begin(0, 1, (1,))
    state, _ = move.step(state, move.Reserved(9, 1))
    state, _ = move.step(state, move.Sent(10, 1.0))
    for _ in range(move.ROUNDS):
        state, actions = move.step(state, move.Sent(10, 1.0))
    assert state.phase == "failed"
    assert "faster than they can be sent" in state.why
    assert actions == [move.Drop(at_target=True)]


def test_a_target_without_room_refuses_before_anything_is_sent():
    stores = open_group(2, width=2, rows=32)
    mine = [KEYS[stores[0].ledger.route(KEYS) == r] for r in range(2)]
    stores[0].table.inc(mine[0], np.ones((len(mine[0]), 2), np.float32))
    full = np.arange(1000, 1100, dtype=np.uint64)
    full = full[stores[0].ledger.route(full) == 1]
    stores[1].table.inc(full[:40], np.ones((len(full[:40]), 2), np.float32))
    state = Mover(stores[0], stores[0].ledger.owned(0), 1).run()
    assert state.phase == "failed"
    assert "has room for" in state.why
    assert (stores[1].table.get(mine[0]) == 1).all()


@pytest.mark.parametrize(("slots", "target", "said"), [
    ([0], 0, "a target other than rank 0"), ([0], 7, "below 2"), ([1023], 1, "slot 1023 is of rank 1, not of rank 0")])
def test_a_migration_that_makes_no_sense_is_named(slots, target, said):
    with pytest.raises(ShardError, match=said):
        Mover(open_group(2, width=2, rows=32)[0], np.array(slots), target)
