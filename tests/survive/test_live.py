"""What survivors keep in their own memory: back to the last merge bit for bit, and believed only where the journals agree."""
from dataclasses import replace

import numpy as np
import pytest

from engine.cluster.recover import Choice, Held
from engine.errors import ShardError
from engine.models.linear import Linear
from engine.store.keeper import Copy, Keeper
from engine.store.record import Change, Record
from engine.survive import live
from engine.types import Batch, Block

COLUMNS = (("w", "owner"), ("a", "owner"), ("n", "owner"))


def rows(rng, count=40, width=64):
    keys = np.sort(rng.integers(0, width, (count, 4)), axis=1).astype(np.uint32).ravel()
    return Batch((rng.random(count) < 0.5).astype(np.float32), np.arange(count), np.full(count, np.nan, np.float32),
                 indptr=np.arange(0, 4 * count + 1, 4), keys=keys, values=rng.random(4 * count).astype(np.float32))


@pytest.mark.parametrize("learner", ["ftrl", "nag", "adagrad", "pa1"])
def test_what_was_learned_since_the_last_merge_is_dropped_bit_for_bit(learner):
    rng = np.random.default_rng(3)
    loss = "hinge" if learner == "pa1" else "logistic"
    model = Linear(64, loss=loss, learner=learner, tracked=True)
    model.learn(rows(rng))
    model.merge(model.update(), 1)
    before = {path: block.data.copy() for path, block in model.state().items()}
    model.learn(rows(rng))
    assert any(not live.same(block.data, before[path]) for path, block in model.view().items())
    model.drop()
    assert all(live.same(block.data, before[path]) for path, block in model.view().items())
    with pytest.raises(ShardError, match="does not track rows"):
        Linear(64, tracked=False).drop()


def test_memory_that_differs_from_a_journal_is_not_believed(tmp_path):
    rng = np.random.default_rng(5)
    whole = rng.standard_normal((20, 3)).astype(np.float32)
    for shard, (low, high) in enumerate(((0, 10), (10, 20))):
        keeper = Keeper(tmp_path / f"own-{shard:06d}")
        about = Record(0, 0, (), {}, 1, 0, shard, 2)
        keeper.begin({"model/linear": Block(np.zeros((10, 3), np.float32), COLUMNS), "own": Block(np.arange(3.0))}, about)
        for step in (1, 2):  # the second changes one row of the first again
            at = np.array([1, 4, 7] if step == 1 else [4, 9], np.uint32)
            values = whole[low:high][at] + (step == 1) * (at[:, None] == 4)
            keeper.append(replace(about, version=step, base=step - 1, changes=(
                Change("model/linear", at, values.astype(np.float32), 10, COLUMNS), Change("own", None, np.full(3, step), 3))))
        keeper.close()
    copies = [Copy(tmp_path / f"own-{shard:06d}") for shard in range(2)]
    mine = {"model/linear": Block(whole.copy(), COLUMNS)}
    assert live.differs(mine, copies, 2) == ""
    assert "shard 0" in live.differs(mine, copies, 1)  # of the step before it says otherwise
    mine["model/linear"].data[14, 2] = np.nextafter(mine["model/linear"].data[14, 2], 9)
    assert "shard 1" in live.differs(mine, copies, 2)
    state, _ = copies[0].state_at(2, skip={"model/linear"})
    assert list(state) == ["own"] and state["own"].data.tolist() == [2, 2, 2]


def test_memory_is_believed_where_all_stand_at_the_chosen_step():
    from types import SimpleNamespace

    from engine import loop

    job = SimpleNamespace(team=loop.Team(Linear(8, tracked=True), 1))
    known = [Held("a", 4, shard, 2, "own", {6: 11, 7: 12}) for shard in range(2)]
    choice = Choice(4, 7, 2, ((0,), (1,)))
    assert list(live.held(job, [(4, 7, 12)] * 2, choice, known)) == ["model/linear"]
    for odd in ((4, 6, 11), (3, 7, 12), (4, 7, 11), None):
        assert not live.held(job, [(4, 7, 12), odd], choice, known)
    assert not live.held(job, [(4, 7, 12)] * 2, Choice(4, 7, 2, ((0,), ())), known)
