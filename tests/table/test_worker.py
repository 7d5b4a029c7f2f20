"""Learning over the parameter table in one process: the owner's rule, beside a plain run, checkpoints, what is refused."""
import numpy as np
import pytest

from engine import Session, loop, modes, resume
from engine import job as jobs
from engine.comm.local import Alone
from engine.config import resolve
from engine.errors import ConfigError, DataError
from engine.models import sparse
from engine.models.linear import Linear
from engine.store import checkpoint as store
from engine.table.shards import open_group, open_table
from engine.types import Batch, Schema

WIDTH, NNZ = 60, 6


def batch(rows, classes=2, seed=3):
    """A hidden softmax model over sparse rows."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(WIDTH, classes)) * 2
    keys = np.argsort(rng.random((rows, WIDTH)), axis=1)[:, :NNZ].astype(np.uint32)
    y = (truth[keys].sum(1) + rng.gumbel(size=(rows, classes))).argmax(1).astype(np.float32)
    previous = np.concatenate([[np.nan], y[:-1]]).astype(np.float32)
    return Batch(y, np.arange(rows), previous, indptr=np.arange(rows + 1) * NNZ, keys=keys.ravel(),
                 values=rng.normal(size=rows * NNZ).astype(np.float32))


class Queue:
    """The rows in turn."""

    def __init__(self, rows):
        self.rows, self.at = rows, 0

    def take(self, k):
        part = self.rows.slice(self.at, min(len(self.rows), self.at + k))
        self.at += len(part)
        return part if len(part) else None

    @property
    def left(self):
        return self.at < len(self.rows)


def job_of(rows, *settings, classes=2):
    config = resolve(env={}, overrides=["loop.threads=1", *settings])
    task, labels = ("binary", ("0", "1")) if classes == 2 else ("multiclass", tuple(map(str, range(classes))))
    schema = Schema(WIDTH, True, task, labels)
    job = jobs.assemble(config, Alone(), schema, Queue(rows))
    job.k = 64
    return job, config, schema


def learned(*settings, classes=2, rows=2000):
    job, config, schema = job_of(batch(rows, classes), *settings, classes=classes)
    events = [type(e.action).__name__ for e in modes.run(job, config)]
    assert events[-1] == "Stop"
    return job, config, schema


LEARNERS = ["ftrl", "adagrad", "sgd", "pa1"]


def pushed(update, ftrl, sums):
    """An Update's rows as items: the seventh column is the gradient times the sum that was read."""
    g = update.values[:, 0 if ftrl else 3]
    return np.concatenate([update.values, (g * sums[update.keys])[:, None]], axis=1).astype(np.float32)


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("merge", ["owner", "add"])
def test_an_owner_merges_fresh_pushes_as_a_replica_does(learner, merge):
    """Clients in turn, near and far, each with the rows as they are: nothing is unseen, the rule is that of one Update."""
    loss = "hinge" if learner == "pa1" else "logistic"
    plain = Linear(WIDTH, learner=learner, loss=loss, merge=merge, l2=0.0 if learner == "pa1" else 0.01)
    stores = open_group(3, width=4, rows=200)
    numbers = [plain.options[name] for name in ("rate", "beta", "l1", "l2")]
    for one in stores:
        one.table.node.merges(learner, merge, numbers)
    for step in range(9):
        before = plain.state()
        plain.learn(batch(20, seed=step))
        update = plain.update()
        plain.load(before)
        sums = stores[step % 3].table.get(np.arange(WIDTH + 1))[:, 3]
        ftrl = learner == "ftrl" and merge == "owner"
        stores[step % 3].table.inc(update.keys, pushed(update, ftrl, sums), op="merge")
        plain.merge(update, 1)
        got = stores[(step + 1) % 3].table.get(np.arange(WIDTH + 1))
        np.testing.assert_array_equal(got[:, :3], plain.state()["model/linear"].data)
    assert sum(s.server.stats()["served"] for s in stores) > 9


@pytest.mark.parametrize("learner", ["ftrl", "adagrad", "sgd"])
def test_pushes_that_agree_unseen_count_for_less(learner):
    """Eight clients that read the same row and push the same gradient: beyond one step of n = 1, and within eight of them."""
    def reach(fresh):
        model = Linear(1, learner=learner, bias=0.0)
        table = open_table(Alone(), width=4, rows=50).table
        table.node.merges(learner, "owner", [model.options[name] for name in ("rate", "beta", "l1", "l2")])
        one = Batch(np.ones(1, np.float32), np.arange(1), np.ones(1, np.float32), indptr=np.array([0, 1]),
                    keys=np.zeros(1, np.uint32))
        read = table.get(np.zeros(1, np.uint64))
        for _ in range(8):
            if fresh:
                read = table.get(np.zeros(1, np.uint64))
            model.fill(read[:, :3])
            model.learn(one)
            update = model.update()
            table.inc(update.keys, pushed(update, learner == "ftrl", read[:, 3]), op="merge")
        return float(table.get(np.zeros(1, np.uint64))[0, 0])

    model = Linear(1, learner=learner, bias=0.0)
    model.learn(Batch(np.ones(1, np.float32), np.arange(1), np.ones(1, np.float32), indptr=np.array([0, 1]),
                      keys=np.zeros(1, np.uint32)))
    single = float(model._block[0, 0])
    assert single < reach(False) < 8 * single
    assert reach(False) < 1.6 * reach(True)


def test_a_merge_asks_for_a_table_that_knows_its_learner():
    table = open_table(Alone(), width=4, rows=50).table
    with pytest.raises(ValueError, match="told its learner"):
        table.inc(np.arange(2), np.ones((2, 7)), op="merge")
    with pytest.raises(ConfigError, match="merge: expected a width of 4 n"):
        open_table(Alone(), width=3, rows=50).table.inc(np.arange(2), np.ones((2, 8)), op="merge")
    stores = open_group(2, width=4, rows=50)  # the owner was not told: the frame is refused, nothing is applied
    far = np.flatnonzero(stores[0].ledger.route(np.arange(50, dtype=np.uint64)) == 1)[:3].astype(np.uint64)
    stores[0].table.node.merges("sgd", "add", [0.1, 1.0, 0.0, 0.0])
    with pytest.raises(Exception, match="refused"):
        stores[0].table.inc(far, np.ones((3, 7)), op="merge")


@pytest.mark.parametrize(("classes", "settings"), [
    (2, ("model.learner=ftrl",)), (2, ("model.learner=adagrad", "model.bias=0")), (2, ("model.learner=sgd", "model.l2=0.001")),
    (2, ("model.learner=pa2",)), (4, ("model.learner=ftrl", "model.l1=0.1")), (2, ("model.batch=64",))])
def test_one_rank_learns_what_a_plain_run_does(classes, settings):
    """To the rounding of the owner's sums: the log loss to 1e-6, the weights to 1e-4."""
    plain, *_ = learned(*settings, classes=classes)
    table, *_ = learned(*settings, "exchange.place=table", classes=classes)
    a, b = plain.meter.summary(), table.meter.summary()
    assert a["rows"] == b["rows"] == 2000
    assert a["logloss"] == pytest.approx(b["logloss"], abs=1e-6)
    want = plain.team.state()
    got = sparse.widened(table.team.state())
    np.testing.assert_allclose(got["model/linear"].data, want["model/linear"].data, atol=1e-4, rtol=1e-4)
    assert got["model/clock"].data[0] == want["model/clock"].data[0]
    probe = batch(50, classes, seed=99)
    np.testing.assert_allclose(table.team.models[0].predict(probe), plain.team.models[0].predict(probe), atol=1e-4)


def test_checkpoints_go_over_between_table_and_replica(tmp_path):
    job, config, schema = learned("exchange.place=table")
    resume.save(job, config, str(tmp_path / "a"), schema)
    scores = job.team.models[0].predict(batch(50, seed=99))
    state, meta, _ = store.newest(tmp_path / "a")
    assert len(state[sparse.KEYS].data) == WIDTH + 1
    for narrow in (True, False):
        model, _, _ = jobs.restored(state, meta, narrow=narrow)
        np.testing.assert_array_equal(model.predict(batch(50, seed=99)), scores)
    replica, plain, _ = job_of(batch(100, seed=5))
    assert resume.restore(replica, plain, str(tmp_path / "a"), schema)["clock"][1] == 2000
    np.testing.assert_array_equal(replica.team.models[0].predict(batch(50, seed=99)), scores)
    resume.save(replica, plain, str(tmp_path / "b"), schema)
    again, told, _ = job_of(batch(100, seed=5), "exchange.place=table")
    again.team.learn(batch(30, seed=8), 30)  # is forgotten
    resume.restore(again, told, str(tmp_path / "b"), schema)
    np.testing.assert_array_equal(again.team.models[0].predict(batch(50, seed=99)), scores)
    assert again.team.state()["model/clock"].data[0] == 2000
    assert again.team.table.stats()["used"] == WIDTH + 1


def test_a_narrow_model_knows_keys_it_has_not_seen():
    rows = np.array([[2, 0, 0], [1, 0, 0], [0.5, 0, 0]], np.float32)
    state = sparse.state(np.array([9, 3, 1000]), rows, 1001, 1, np.zeros(2))
    model = sparse.Narrow(state, lambda keys: Linear(keys, tracked=False))
    rows = Batch(np.zeros(3, np.float32), np.arange(3), np.zeros(3, np.float32), indptr=np.array([0, 2, 3, 3]),
                 keys=np.array([3, 9, 500], np.uint32))
    assert model.predict(rows).tolist() == [3.5, 0.5, 0.5]
    empty = sparse.state(np.empty(0, np.uint64), np.empty((0, 3), np.float32), 1001, 1, np.zeros(2))
    assert sparse.Narrow(empty, lambda keys: Linear(keys, tracked=False)).predict(rows).tolist() == [0, 0, 0]


REFUSED = [("model.kind=mlp", "model.kind=mlp"), ("model.learner=nag", "nag"), ("model.interactions=true", "interactions"),
           ("model.scale=true", "scale"), ("exchange.mode=gossip", "gossip"), ("exchange.mode=hybrid:2", "hybrid"),
           ("exchange.codec=int8", "int8"), ("exchange.virtual=2", "virtual"), ("exchange.split=keys", "split=keys"),
           ("data.rule=columns", "columns"), ("exchange.damp=1", "damp"), ("update.drift=adwin", "drift"),
           ("exchange.mode=asp exchange.balance=true", "balance"), ("exchange.ease=true", "ease"),
           ("update.strategy=retrain", "strategy"), ("fault.memory=on", "--supervise")]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_a_table_cannot_learn_is_refused_before_a_row_is(settings, said):
    with pytest.raises(ConfigError, match=r"exchange\.place=table: expected") as caught:
        job_of(batch(10), "exchange.place=table", *settings.split())
    assert said in str(caught.value) and "exchange.place=replica" in caught.value.fix


def test_a_cap_on_memory_that_is_too_small_is_told_before_rows_are_reserved():
    with pytest.raises(ConfigError, match=r"shard\.memory: expected \d+ bytes or more for 2\d\d\d rows a rank, found 1000"):
        job_of(batch(10), "exchange.place=table", "shard.memory=1000")


def test_dense_rows_threads_and_strange_keys_are_refused():
    config = resolve(env={}, overrides=["exchange.place=table"])
    with pytest.raises(ConfigError, match="dense columns"):
        jobs.assemble(config, Alone(), Schema(4, False, "binary"), None)
    with pytest.raises(ConfigError, match="one worker a rank"):
        job_of(batch(10), "exchange.place=table", "loop.threads=2")
    job, *_ = job_of(batch(10), "exchange.place=table")
    bad = batch(10)
    bad.keys = bad.keys + np.uint32(WIDTH)
    with pytest.raises(DataError, match="outside the key space of 60"):
        job.team.learn(bad, 10)


def test_a_session_learns_over_a_table():
    csr = type("Csr", (), {})
    rows = batch(400)
    x = csr()
    x.indptr, x.indices, x.data, x.shape = rows.indptr, rows.keys, rows.values, (400, WIDTH)
    found = []
    for place in ("replica", "table"):
        with Session(width=WIDTH, sparse=True, **{"exchange.place": place, "loop.threads": 1}) as session:
            session.partial_fit(x, rows.y)
            found.append((session.summary()["logloss"], session.predict(x)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)


def test_loop_votes_find_nothing_to_merge():
    job, *_ = job_of(batch(200), "exchange.place=table")
    assert list(loop.run(job))[-1].rows == 200
    assert job.team.update() is None
