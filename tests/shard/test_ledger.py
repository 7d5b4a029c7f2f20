"""The ledger against its plain definition, and copies that hear of changes late, twice, or out of order."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.errors import ShardError
from engine.kernels import _native
from engine.kernels.plain import route as plain
from engine.shard import ledger as book
from engine.shard.ledger import Ledger

KEYS = np.random.default_rng(7).integers(0, 1 << 63, 4000, dtype=np.uint64)


@given(seed=st.integers(0, 2**32), bits=st.integers(1, 12), wide=st.booleans(), splits=st.integers(0, 6), n=st.integers(0, 200))
def test_every_path_routes_as_the_definition_says(seed, bits, wide, splits, n):
    draw = np.random.default_rng(seed)
    ranks = min(1 << bits, 40)
    made = Ledger(bits, ranks, spare=1 << 9)
    owner = made.owner.astype(np.int32) if wide else made.owner
    made.owner = owner
    for _ in range(splits):
        made.split(int(draw.choice(made.live())), int(draw.integers(1, 4)))
    live = made.live()
    made.assign(live, draw.integers(0, ranks, len(live)))
    keys = draw.integers(0, 1 << 64, n, dtype=np.uint64)
    want = np.empty(n, np.int32)
    plain.route(keys, made.owner, made.forks, bits, want)
    for isa in _native.isa_runs():
        found = np.empty(n, np.int32)
        _native.route(keys, made.owner, made.forks, bits, found, isa=isa)
        assert np.array_equal(found, want)
    assert [made.one(int(key)) for key in keys[:9]] == want[:9].tolist()
    assert np.array_equal(made.slots(keys), plain.slots(keys, made.owner, made.forks, bits))
    assert np.isin(made.slots(keys), live).all()


def test_narrow_and_wide_tables_are_used_where_ranks_fit():
    assert Ledger(16, 32767).owner.dtype == np.int16
    assert Ledger(16, 32768).owner.dtype == np.int32


def test_balance_of_sequential_and_strided_keys():
    made = Ledger(16, 64)
    for keys in (np.arange(1 << 20), np.arange(1 << 20) * 4096, np.arange(1 << 20) << 40):
        count = np.bincount(made.route(keys.astype(np.uint64)), minlength=64)
        assert count.max() <= 1.05 * count.mean()


def test_one_rank_more_or_less_moves_its_share():
    for before, after in ((16, 17), (17, 16), (100, 101), (101, 100), (1000, 1001), (1001, 1000)):
        made = Ledger(16, max(before, after))
        made.assign(made.live(), np.arange(1 << 16) * before >> 16)
        moved = resized(made, before, after)
        owner = made.owner[: 1 << 16]
        count = np.bincount(owner, minlength=after)
        assert moved <= 1.05 / min(before, after)
        assert len(count[count > 0]) == after
        assert count.max() <= (1 + after / (1 << 16)) * count.mean() + 1


def resized(made, before, after):
    """Share of the slots that move when the ranks 0..before-1 become 0..after-1."""
    from engine.shard.balance import resize

    old = made.owner[: 1 << made.bits].copy()
    slots, owner = resize(old, before, after)
    made.assign(slots, owner)
    return float(np.mean(old != made.owner[: 1 << made.bits]))


@pytest.mark.parametrize(("call", "said"), [
    (lambda m: Ledger(16, 1 << 17), "expected 1 to 65536 ranks"),
    (lambda m: Ledger(40, 2), "expected 1 to 24 bits"),
    (lambda m: m.assign(np.array([99]), 0), "expected slots 0 to 15"),
    (lambda m: m.assign(np.array([1]), 9), "expected owners 0 to 2"),
    (lambda m: m.merge(3), "is not split"),
    (lambda m: (m.split(2), m.assign(np.array([2]), 0)), "is split: name its leaves"),
    (lambda m: [m.split(int(m.live()[0])) for _ in range(9)], "no room for 2 more slots"),
    (lambda m: (m.freeze(np.array([1])), m.freeze(np.array([1]))), "frozen already"),
])
def test_wrong_use_is_named(call, said):
    with pytest.raises(ShardError, match=said):
        call(Ledger(4, 3, spare=8))


def test_ranks_of_a_node_share_one_copy():
    memory = bytearray(Ledger.size_bytes(8, 5, backups=2))
    one = Ledger(8, 5, backups=2, buffer=memory)
    other = Ledger(8, 5, backups=2, buffer=memory, fresh=False)
    one.split(7, 2)
    one.protect(one.live()[:9], np.array([[3, 4]] * 9))
    assert np.array_equal(one.route(KEYS), other.route(KEYS))
    assert other.backup[one.live()[0]].tolist() == [3, 4]
    with pytest.raises(ShardError, match="same \\[shard\\] section"):
        Ledger(8, 6, backups=2, buffer=memory, fresh=False)


class Copies(RuleBasedStateMachine):
    """One ledger writes; others get every change in any order, some twice; when all have come all route alike."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed):
        self.draw = np.random.default_rng(seed)
        self.source = Ledger(5, 4, spare=64, backups=1)
        self.copies = [Ledger(5, 4, spare=64, backups=1) for _ in range(2)]
        self.post = [[], []]
        self.frozen = set()

    def send(self, changes):
        for box in self.post:
            box.insert(int(self.draw.integers(0, len(box) + 1)), changes)

    def free(self):
        return [s for s in self.source.live().tolist() if s not in self.frozen]

    @rule(count=st.integers(1, 6))
    def assign(self, count):
        slots = self.draw.choice(self.free(), count)
        self.send(self.source.assign(np.unique(slots), int(self.draw.integers(0, 4))))

    @rule()
    def freeze(self):
        slot = int(self.draw.choice(self.free()))
        if len(self.frozen) < 3:
            self.frozen.add(slot)
            self.send(self.source.freeze(np.array([slot])))

    @rule()
    def thaw(self):
        if self.frozen:
            self.send(self.source.thaw(np.array([self.frozen.pop()])))

    @rule(bits=st.integers(1, 3))
    def split(self, bits):
        if self.source.used + (1 << bits) <= self.source.room:
            self.send(self.source.split(int(self.draw.choice(self.free())), bits))

    @rule()
    def merge(self):
        for slot in np.flatnonzero(self.source.owner[: self.source.used] < 0).tolist():
            base, bits = self.source.forks[~int(self.source.owner[slot])].tolist()
            leaves = np.arange(base, base + (1 << bits))
            if (self.source.owner[leaves] >= 0).all() and not self.frozen & set(leaves.tolist()):
                self.send(self.source.assign(leaves, 1))
                self.send(self.source.merge(slot))
                return

    @rule(copy=st.integers(0, 1), again=st.booleans())
    def deliver(self, copy, again):
        if self.post[copy]:
            changes = self.post[copy].pop(0)
            self.copies[copy].apply(changes)
            if again:
                self.post[copy].append(changes)

    @rule(slot=st.integers(0, 31), copy=st.integers(0, 1))
    def a_stale_sender_is_told(self, slot, copy):
        """After the answer of the rank it asked, the sender's copy names an owner: two hops."""
        slots = np.unique(self.source.slots(KEYS[self.source.slots(KEYS) % 32 == slot]))
        if not len(slots):
            return
        asked = int(self.copies[copy].owner[slots[0]])
        told = self.source.moved(slots, asked)
        if told is not None:
            self.copies[copy].apply(told)
        assert self.copies[copy].owner[slots[0]] == self.source.owner[slots[0]]

    @invariant()
    def every_key_has_one_owner(self):
        if hasattr(self, "source"):
            for made in (self.source, *self.copies):
                owner = made.route(KEYS)
                assert ((owner >= 0) & (owner < 4)).all()

    def teardown(self):
        if not hasattr(self, "source"):
            return
        for copy, box in zip(self.copies, self.post, strict=True):
            for changes in box:
                copy.apply(changes)
            assert np.array_equal(copy.slots(KEYS), self.source.slots(KEYS))
            assert np.array_equal(copy.route(KEYS), self.source.route(KEYS))
            live = self.source.live()
            assert np.array_equal(copy.live(), live)
            for name in ("epoch", "state", "backup"):
                assert np.array_equal(getattr(copy, name)[live], getattr(self.source, name)[live])


TestCopies = Copies.TestCase
TestCopies.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_changes_since_a_version_are_all_and_only_what_changed():
    made = Ledger(8, 4)
    before = made.version
    made.assign(np.array([3, 9]), 2)
    assert set(made.since(before)["slot"].tolist()) == {3, 9}
    assert len(made.since(made.version)) == 0
    assert len(made.since(before, limit=1)) == 1


def test_bits_grow_with_ranks():
    assert [book.bits_for(n) for n in (1, 1024, 2048, 10_000, 100_000)] == [16, 18, 19, 20, 20]
