"""A crew is one worker: the same scores and the same model, whoever owns which key."""
import threading

import numpy as np
import pytest

from engine.comm.local import Alone, group
from engine.comm.slab import slab
from engine.config import resolve
from engine.crew import Crew, keys_of, member_of
from engine.errors import ConfigError, PeerError
from engine.job import assembled
from engine.kernels import _native
from engine.models.linear import Linear
from engine.source.ahead import Ahead
from engine.source.make import MakeSource
from engine.types import Batch, Schema
from engine.watch.meter import Meter

WIDTH = 257


def rows(count=400, classes=1, values=True, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 12, count)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    keys = (rng.random(indptr[-1]) ** 3 * WIDTH).astype(np.uint32)
    y = rng.integers(0, max(2, classes), count).astype(np.float32)
    y[7] = np.nan
    given = rng.normal(size=len(keys)).astype(np.float32) if values else None
    return Batch(y, np.arange(count), y, indptr=indptr, keys=keys, values=given,
                 weight=rng.choice([0, 1, 2], count).astype(np.float32))


def model(memory=None, **options):
    return Linear(WIDTH, tracked=False, memory=memory, **options)


OPTIONS = [{"learner": name} for name in ("sgd", "adagrad", "ftrl", "nag")]
OPTIONS += [{"learner": name, "loss": "hinge"} for name in ("pa1", "pa2")]
OPTIONS += [{"learner": "ftrl", "classes": 3}, {"learner": "adagrad", "bias": 0.0}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lots_of_one_row_give_what_one_worker_gives(options, threads):
    batch = rows(classes=options.get("classes", 1), values=options["learner"] != "nag")
    one = model(**options)
    expected = one.learn(batch)
    crew = Crew(Alone(), lambda memory: model(memory, **options), threads, lot=1, limit_s=30)
    counted, scores = crew.learn(batch, 99)
    crew.close()
    assert len(counted) == len(batch)
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=2e-5)
    learned, wanted = (m.state()["model/linear"].data for m in (crew.models[0], one))
    np.testing.assert_allclose(learned, wanted, rtol=2e-3, atol=1e-4)


def test_the_rows_of_a_lot_do_not_see_one_another():
    batch = rows(16)
    crew = Crew(Alone(), lambda memory: model(memory), 2, lot=16, limit_s=30)
    _, scores = crew.learn(batch, 99)
    crew.close()
    assert (scores == 0).all()
    assert crew.models[0].state()["model/linear"].data.any()


def test_the_number_of_workers_does_not_matter_but_for_rounding():
    found = []
    for threads in (1, 2, 4):
        crew = Crew(Alone(), lambda memory: model(memory), threads, lot=8, limit_s=30)
        found.append(np.concatenate([crew.learn(rows(seed=s), 99)[1] for s in range(3)]))
        crew.close()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2e-4, atol=2e-5)


def test_every_key_has_one_owner_and_lines_stay_together():
    batch = rows(600)
    for member in range(5):
        part = keys_of(batch, member, member + 1, 5)
        assert (member_of(part.keys, 5) == member).all()
    parts = [keys_of(batch, m, m + 1, 5) for m in range(5)]
    assert sum(len(p.keys) for p in parts) == len(batch.keys)
    both = keys_of(batch, 1, 3, 5)
    assert len(both.keys) == len(parts[1].keys) + len(parts[2].keys)
    owners = {int(key) // 4: m for m, p in enumerate(parts) for key in p.keys}
    assert all(owners[int(key) // 4] == m for m, p in enumerate(parts) for key in p.keys)
    for i in range(len(batch)):
        whole = sorted(batch.keys[batch.indptr[i]:batch.indptr[i + 1]])
        assert whole == sorted(key for p in parts for key in p.keys[p.indptr[i]:p.indptr[i + 1]])


def logical(size, act):
    """`act(link)` on `size` logical ranks; what each returned or raised."""
    found = [None] * size

    def run(rank, link):
        try:
            found[rank] = act(link)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(group(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("options", [{}, {"classes": 3}], ids=str)
def test_ranks_hold_one_model_together_or_apart(apart, options):
    def act(link):
        crew = Crew(link, lambda memory: model(memory, **options), 1, lot=4, limit_s=30, apart=apart)
        mine = keys_of(rows(), link.rank, link.rank + 1, link.size)
        counted, scores = crew.learn(mine, 99)
        link.barrier(name="learned")
        state = crew.state()
        again = Crew(link, lambda memory: model(memory, **options), 1, lot=4, limit_s=30, apart=apart)
        again.load(state)
        link.barrier(name="loaded")
        more = keys_of(rows(seed=1), link.rank, link.rank + 1, link.size)
        np.testing.assert_array_equal(crew.learn(more, 99)[1], again.learn(more, 99)[1])
        link.barrier(name="gone on")
        assert again.state()["model/linear"].data.tobytes() == crew.state()["model/linear"].data.tobytes()
        return counted.order, scores, state["model/linear"].data

    crew = Crew(Alone(), lambda memory: model(memory, **options), 1, lot=4, limit_s=30)
    _, expected = crew.learn(rows(), 99)
    found = logical(3, act)
    assert not [error for error in found if isinstance(error, Exception)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), np.arange(400))
    np.testing.assert_allclose(np.concatenate([part[1] for part in found]), expected, rtol=2e-4, atol=2e-5)
    assert len({part[2].tobytes() for part in found}) == 1


def test_one_memory_for_all():
    def act(link):
        memory = slab(link, 3 * 8, name="test").view(np.int64)
        memory[link.rank] = 1 << link.rank
        link.barrier(name="written")
        return memory.tolist()

    assert logical(3, act) == [[1, 2, 4]] * 3


def test_memory_that_is_not_there_is_an_error_on_every_rank():
    found = logical(2, lambda link: slab(link, 1 << 60, name="huge"))
    assert all("cannot map" in str(error) and "fix" in str(error) for error in found)


def test_a_member_that_does_not_come_is_named():
    desk = slab(Alone(), _native.desk_bytes(2, 4, 1), name="desk")
    lonely = model()
    lonely.sit(desk, 0, 2, 4, 0.05)
    assert lonely.learn_split(rows(), whole=True) == 1


def test_a_member_that_gives_up_is_not_waited_for():
    crew = Crew(Alone(), lambda memory: model(memory), 2, lot=4, limit_s=600)
    crew.models[1].learn_split = None  # fails at once, in its own thread
    with pytest.raises(PeerError, match="rank 0, thread 1"):
        crew.learn(rows(), 99)
    crew.close()


@pytest.mark.parametrize(("settings", "sparse", "said"), [
    ([], False, "found dense rows"), (["clean.stages=scale"], True, "found stages scale"),
    (["model.interactions=true"], True, "no interactions"), (["exchange.every=0.5s"], True, "expected rows, found 0.5 s"),
])
def test_what_a_crew_cannot_learn_is_refused(settings, sparse, said):
    config = resolve(env={}, overrides=["exchange.split=keys", "loop.threads=2", *settings])
    with pytest.raises(ConfigError, match=said):
        assembled(config, Alone(), Schema(WIDTH, sparse, "binary"))


@pytest.mark.parametrize("stride", [1, 3])
def test_reading_ahead_changes_nothing(stride):
    options = {"rows": 20_000, "keys": 10, "nnz": 4}
    plain = MakeSource("zipf", options, 4096)
    ahead = Ahead(MakeSource("zipf", options, 4096), 3, stride)
    for piece in range(0, plain.pieces, stride):
        one, other = (b for source in (plain, ahead) for b in source.read(piece))
        assert one.keys.tobytes() == other.keys.tobytes() and one.y.tobytes() == other.y.tobytes()
    skipped = next(ahead.read(0, 10))
    assert skipped.order[0] == 10
    ahead.close()


@pytest.mark.smoke
@pytest.mark.ranks(2, 3)
def test_on_ranks_as_on_one(size):
    from engine.guard import Guard
    from engine.train import train

    overrides = ["data.source=make:zipf?rows=30000&keys=12&nnz=8", "loop.threads=1", "run.dir=-", "run.quiet=true"]
    found = train(resolve(env={}, overrides=[*overrides, "exchange.split=keys"]), Guard())
    assert (found["rows"], found["ranks"], found["bytes_sent"] > 0) == (30000, size, True)
    one = Linear(1 << 12, tracked=False)
    source = MakeSource("zipf", {"rows": 30000.0, "keys": 12.0, "nnz": 8.0})
    meter = Meter("binary")
    for piece in range(source.pieces):
        for batch in source.read(piece):
            meter.add(one.learn(batch), batch)
    assert abs(found["logloss"] - meter.summary()["logloss"]) < 0.001


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_every_instruction_set_selects_the_same_keys(members):
    batch = rows(500)
    room = len(batch.keys) + 16
    for first in range(members):
        for last in range(first, members + 1):
            found = []
            for isa in _native.isa_runs():
                indptr, keys, values = np.empty_like(batch.indptr), np.empty(room, np.uint32), np.empty(room, np.float32)
                n = _native.rows_select(batch.indptr, batch.keys, batch.values, first, last, members, indptr, keys, values, isa)
                found.append((n, indptr.tobytes(), keys[:n].tobytes(), values[:n].tobytes()))
            assert len(set(found)) == 1
