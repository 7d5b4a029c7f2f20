"""Each policy does what it says, starts again where it stopped, and keeps all it knows in its state."""
import numpy as np
import pytest

from engine.errors import ConfigError, DataError
from engine.models.dense import Mlp
from engine.models.graded import Graded
from engine.types import Batch, Policy
from engine.update import augment, distill, policy, replay
from engine.update.policy import chain, nothing, parse


def rows(seed, n=64, d=4, classes=4, only=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = x[:, :classes].argmax(1).astype(np.float32)
    keep = np.ones(n, bool) if only is None else np.isin(y, only)
    x, y = np.ascontiguousarray(x[keep]), y[keep]
    return Batch(y, np.arange(len(y)), np.full(len(y), np.nan, np.float32), x=x)


def model(text, hidden=(16,), loss="softmax", outputs=4, **more):
    made = parse(text) if isinstance(text, str) else text
    more = {"batch": 8, "seed": 1, **more}
    return Graded(lambda: Mlp([4, *hidden, outputs], seed=3), made, loss=loss, width=4, **more)


def accuracy(m, batch):
    return float((m.predict(batch).argmax(1) == batch.y).mean())


class Spy:
    """A link that keeps what passes."""

    def __init__(self):
        self.g, self.rows = [], []

    def link(self):
        def update(step, state):
            self.g.append(step.g.copy())
            self.rows.append(step.rows)
        return Policy(nothing, update)


def passed(text, batch, count=1):
    spy = Spy()
    m = model(chain(parse(text), spy.link(), parse("sgd(0.1)")))
    for _ in range(count):
        m.learn(batch)
    return spy, m


EVERY = ["clip(1)", "l2(0.01)", "replay(20,8)", "replay(20,8,balanced=True)", "agem(20,8)", "der(20,8)", "ewc(10)", "si(1)",
         "lwf(1)", "noise(0.1)", "mixup(0.2)", "flip(2,2)", "crop(2,2,1)"]
BEHIND = ["l1(0.001)", "decay(0.001)", "freeze(0)", "only(w0)", "mask(0.5)", "features(0,1)", "cosine(50)", "inverse(10)",
          "warm(5)", "stale(100)", "constant(0.5)"]


@pytest.mark.parametrize("text", [f"{name}|adam(0.01)" for name in EVERY] + [f"momentum(0.05)|{name}" for name in BEHIND])
def test_resume_is_uninterrupted(text):
    batch = rows(1, 160)
    whole, first = model(text), model(text)
    for m in (whole, first):
        m.learn(batch.slice(0, 40))
        m.begin()
        m.learn(batch.slice(40, 80))
    again = model(text)
    again.load(first.state())
    again.take([first.own()])
    again.learn(batch.slice(80, 160))
    whole.learn(batch.slice(80, 160))
    np.testing.assert_array_equal(again.net.theta, whole.net.theta)
    assert not np.array_equal(whole.net.theta, Mlp([4, 16, 4], seed=3).theta)


def test_every_registered_policy_is_tried_here():
    tried = " ".join(EVERY + BEHIND) + " sgd momentum adam adagrad ftrl coin normalised"
    assert [name for name in policy.makers() if name not in tried] == []


def test_clip_bounds_the_norm_and_stops_what_is_not_finite():
    spy, _ = passed("clip(0.01)", rows(2))
    assert all(np.linalg.norm(g) <= 0.01 * 1.001 for g in spy.g)
    free, _ = passed("clip(1000)", rows(2))
    plain, _ = passed("constant(1)", rows(2))
    np.testing.assert_array_equal(free.g[0], plain.g[0])


def test_frozen_parts_stay_and_chosen_parts_alone_move():
    start = Mlp([4, 16, 4], seed=3)
    for text, still, moves in (("sgd(0.1)|freeze(0)", ("w0", "b0"), ("w1", "b1")),
                               ("sgd(0.1)|only(w1)", ("w0", "b0", "b1"), ("w1",))):
        m = model(text)
        m.learn(rows(3))
        for name in still:
            np.testing.assert_array_equal(m.net.theta[m.net.spans[name]], start.theta[start.spans[name]])
        for name in moves:
            assert not np.array_equal(m.net.theta[m.net.spans[name]], start.theta[start.spans[name]])
    m = model("sgd(0.1)|features(1,2)")
    m.learn(rows(3))
    moved = (m.net.theta[m.net.spans["w0"]] != start.theta[start.spans["w0"]]).reshape(4, 16).any(1)
    assert moved.tolist() == [False, True, True, False]
    with pytest.raises(ConfigError, match="parts of w0, b0"):
        model("sgd(0.1)|freeze(w9)").learn(rows(3))


def test_l1_makes_zeros_and_l2_and_decay_shrink():
    texts = ("sgd(0.1)", "sgd(0.1)|l1(0.003)", "l2(0.05)|sgd(0.1)", "sgd(0.1)|decay(0.01)")
    plain, sparse, small, decayed = map(model, texts)
    for m in (plain, sparse, small, decayed):
        for _ in range(20):
            m.learn(rows(4))
    assert (sparse.net.theta == 0).sum() > 10 > (plain.net.theta == 0).sum()
    assert max(np.linalg.norm(m.net.theta) for m in (small, decayed)) < np.linalg.norm(plain.net.theta)


def test_a_reservoir_holds_every_row_with_the_same_chance():
    held = np.zeros(200)
    for seed in range(300):
        state = replay.memory(np.zeros(1))
        rng = np.random.default_rng(seed)
        batch = Batch(np.zeros(200, np.float32), np.arange(200), np.zeros(200, np.float32),
                      x=np.arange(200, dtype=np.float32)[:, None])
        for at in range(0, 200, 20):
            replay.store(state, batch.slice(at, at + 20), None, 20, False, rng)
        places = state["items/x"].data[:, 0].astype(int)
        assert len(np.unique(places)) == 20
        held[places] += 1
    assert abs(held[:100].sum() / held.sum() - 0.5) < 0.03
    assert held.std() < 3 * np.sqrt(300 * 0.1 * 0.9)


def test_a_balanced_memory_shares_its_places():
    y = np.repeat([0, 1, 2], [900, 60, 40]).astype(np.float32)
    batch = Batch(y, np.arange(1000), y, x=np.zeros((1000, 1), np.float32))
    state = replay.memory(np.zeros(1))
    replay.store(state, batch, None, 60, True, np.random.default_rng(0))
    assert np.unique(state["items/y"].data, return_counts=True)[1].tolist() == [20, 20, 20]


@pytest.mark.parametrize("text", ["replay(200,32)", "der(200,32,1,1)", "agem(200,64)", "ewc(1000)", "si(1)", "lwf(2)"])
def test_guarded_models_forget_less(text):
    first, second = rows(5, 1200, only=(0, 1)), rows(6, 1200, only=(2, 3))
    after = {}
    for name in (text, "constant(1)"):
        m = model(f"{name}|sgd(0.1)")
        for _ in range(3):
            m.learn(first)
        m.begin()
        m.learn(second.slice(0, 200))
        after[name] = losses_of(m, first)
    assert after[text] < after["constant(1)"]


def losses_of(m, batch):
    p = m.link(m.predict(batch))[np.arange(len(batch)), batch.y.astype(int)]
    return float(-np.log(np.maximum(p, 1e-9)).mean())


def test_agem_never_goes_against_the_memory():
    seen, held = [], []

    def before(step, state):
        held.append(replay.recalled(mine, np.arange(len(mine["items/y"].data))))

    def after(step, state):
        if len(held[-1]):
            seen.append(float(step.g @ step.grad(held[-1])))

    m = model(chain(Policy(nothing, before), parse("agem(50,64)"), Policy(nothing, after), parse("sgd(0.2)")))
    mine = {path.removeprefix("1/0/"): block for path, block in m._policy.items()}
    m.learn(rows(5, 200, only=(0, 1)))
    m.learn(rows(6, 200, only=(2, 3)))
    assert min(seen) > -1e-4 and len(seen) > 10


def test_rows_are_changed_before_the_gradient_and_scores_are_of_the_rows_as_they_came():
    batch = rows(7, 8)
    changed, _ = passed("noise(0.5)", batch)
    assert not np.array_equal(changed.rows[0].x, batch.x)
    plain, noisy = model("sgd(0.1)"), model("noise(0.5)|sgd(0.1)")
    np.testing.assert_array_equal(plain.learn(batch), noisy.learn(batch))
    images = np.arange(32, dtype=np.float32).reshape(2, 16)
    flat = Batch(np.zeros(2, np.float32), np.arange(2), np.zeros(2, np.float32), x=images)
    step = type("S", (), {"rows": flat, "seed": 0, "number": 0})()
    parse("flip(4,4,1)").update(step, {})
    np.testing.assert_array_equal(step.rows.x.reshape(2, 4, 4), images.reshape(2, 4, 4)[:, :, ::-1])
    own = augment.augment(lambda x, rng: x * 2)
    own.update(step, {})
    with pytest.raises(ConfigError, match="expected rows of shape"):
        augment.augment(lambda x, rng: x[:, :2]).update(step, {})
    with pytest.raises(ConfigError, match="4 x 5 pixels"):
        parse("flip(4,5)").update(step, {})


def test_a_student_follows_its_teacher():
    teacher = model("adam(0.01)", hidden=(64,))
    for _ in range(10):
        teacher.learn(rows(8, 600))
    silent = rows(9, 600)
    truth = silent.y.copy()
    rng = np.random.default_rng(0)
    silent.y = rng.integers(0, 4, len(truth)).astype(np.float32)
    student = model(chain(distill.distill(teacher, 1.0), parse("adam(0.01)")), hidden=(8,))
    for _ in range(4):
        student.learn(silent)
    silent.y = truth
    assert accuracy(student, silent) > 0.8
    other = Graded(lambda: Mlp([4, 5], seed=0), parse("sgd(0.1)"), loss="softmax", width=4)
    with pytest.raises(ConfigError, match="teacher of 4 outputs, found 5"):
        model(chain(distill.distill(other), parse("sgd(0.1)"))).learn(rows(1))


def test_schedules_follow_their_formulas():
    def factors(text, steps):
        link = parse(text)
        out = []
        for number in steps:
            step = type("S", (), {"g": np.ones(1, np.float32), "number": number, "age": 100.0})()
            link.update(step, {})
            out.append(float(step.g[0]))
        return out

    np.testing.assert_allclose(factors("cosine(10)", [0, 5, 10, 20]), [1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(factors("inverse(10, 1)", [0, 10, 30]), [1, 0.5, 0.25])
    np.testing.assert_allclose(factors("warm(4)", [0, 3, 9]), [0.25, 1, 1])
    np.testing.assert_allclose(factors("stale(100)", [0]), [0.5])


@pytest.mark.parametrize(("text", "said"), [
    ("adm(0.1)", "found 'adm'"), ("adam(rate)", "policy adam.rate."), ("clip(", "expected name"),
    ("clip()", "missing 1 required"),
    ("clip(0)", "norm > 0"), ("sgd(0.1, 2, 3)", "positional arguments"), ("sgd(-1)", "rate > 0"), ("replay(0)", "size > 0"),
])
def test_a_chain_that_means_nothing_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        parse(text)


def test_rows_that_a_memory_cannot_hold_are_refused():
    thin = Batch(np.zeros(1, np.float32), np.zeros(1, int), np.zeros(1, np.float32), indptr=np.array([0, 1]),
                 keys=np.array([1], np.uint32))
    with pytest.raises(DataError, match="dense rows"):
        model("replay(10)|sgd(0.1)").learn(thin)


def test_memories_are_dealt_anew_and_nothing_is_lost():
    one, two = model("replay(30,4)|sgd(0.1)"), model("replay(30,4)|sgd(0.1)", seed=2)
    one.learn(rows(1, 20))
    two.learn(rows(2, 20))
    heir = model("replay(60,4)|sgd(0.1)")
    heir.take([one.own(), two.own()])
    held = heir.own()["0/items/x"].data
    np.testing.assert_array_equal(held, np.concatenate([one.own()["0/items/x"].data, two.own()["0/items/x"].data]))
    heir.learn(rows(3, 16))
    assert len(heir.own()["0/items/y"].data) == 56
