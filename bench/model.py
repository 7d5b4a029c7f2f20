"""Models beside River, Vowpal Wabbit, PyTorch and one pass: scores on real streams, and rows a CPU-second."""
from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import streams
from bench.learn import against_vw, linear, probability, timed
from bench.peers import Peer, peer
from bench.registry import Missing, Setting, case, versus
from bench.row import Row, row
from engine.types import Array, Batch


@contextmanager
def stored(**arrays: Array) -> Iterator[str]:
    """Path of a temporary npz with these arrays."""
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        np.savez(Path(name) / "rows.npz", **arrays)
        yield str(Path(name) / "rows.npz")


def table(path: Path) -> tuple[Array, Array]:
    """A CSV of numbers with a header: columns float32 and the last as target."""
    held = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32)
    return np.ascontiguousarray(held[:, :-1]), np.ascontiguousarray(held[:, -1])


def scored(batch: Batch, scores: Array, classes: int = 2) -> dict[str, float]:
    """The meter's figures of one pass."""
    from engine.watch.meter import Meter

    meter = Meter("binary" if classes == 2 else "multiclass", classes)
    meter.add(scores, batch)
    return meter.summary()


def best_of(peers: list[tuple[str, Any]], figure: str, low: bool = False) -> tuple[str | None, float | None, list[str]]:
    """The peer with the best figure of one round each, that figure, and what is missing."""
    found, absent = [], []
    for label, other in peers:
        if isinstance(other, Peer):
            found.append((other().result[figure], label))
        else:
            absent.append(f"{label}: {other}")
    if not found:
        return None, None, absent
    value, label = min(found) if low else max(found)
    return label, value, absent


def river(path: str, models: list[tuple[str, dict[str, Any]]], figure: str, low: bool = False, **options: Any) -> tuple[
        str | None, float | None, dict[str, float], list[str]]:
    """The best of River's models on the rows of a file, and each one's figure."""
    each, absent = {}, []
    for name, settings in models:
        with peer("river_model", path=path, model=name, settings=settings, **options) as other:
            if isinstance(other, Missing):
                absent.append(f"river {name}: {other}")
            else:
                each[name] = other().result[figure]
    if not each:
        return None, None, each, absent
    best = min(each, key=each.__getitem__) if low else max(each, key=each.__getitem__)
    return f"river {best}", each[best], each, absent


def vw_text(path: Path, x: Array, y: Array, labels: Array | None = None) -> Path:
    """Dense rows as VW text; labels -1/1, or as they are."""
    goal = np.where(y > 0, 1, -1) if labels is None else labels
    with path.open("w") as out:
        for row_, label in zip(x.tolist(), goal.tolist(), strict=True):
            out.write(f"{label} | " + " ".join(f"f{i}:{v:.7g}" for i, v in enumerate(row_) if v) + "\n")
    return path


def chosen(make: Callable[..., Any], grid: list[dict[str, Any]], batch: Batch, figure: Callable[[Batch, Array], float]) -> tuple[
        dict[str, Any], int]:
    """The settings with the greatest `figure` on the first fifth of the stream, and its rows: the rest is not looked at.

    What is scored is the second half of that fifth: how fast a learner starts says little of where it ends.
    """
    first = batch.slice(0, len(batch) // 5)
    at = len(first) // 2
    return max(grid, key=lambda o: figure(first.slice(at, len(first)), make(**o).learn(first)[at:])), len(first)


def options(**lists: list[Any]) -> list[dict[str, Any]]:
    """Every choice of one value a name."""
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def said(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


@case("learn", "accuracy")
def accuracy(setting: Setting) -> Iterator[Row]:
    """`electricity`, labels at once, one pass, settings chosen on the first fifth; the best of River's there."""
    x, y = streams.electricity(setting.file("electricity.csv"))
    batch = streams.dense(x, y)
    grid = [*options(learner=["pa1", "pa2"], loss=["hinge"], bias=[1.0, 3.0, 10.0], rate=[0.1, 1.0, 10.0]),
            *options(learner=["ftrl"], loss=["logistic"], bias=[1.0, 3.0, 10.0], rate=[0.1, 1.0, 10.0])]

    def make(**given: Any) -> Any:
        return linear(8, scale=True, **given)

    best, first = chosen(make, grid, batch, lambda rows, scores: scored(rows, scores)["accuracy"])
    scores = make(**best).learn(batch)
    found, rest = scored(batch, scores), scored(batch.slice(first, len(y)), scores[first:])
    with stored(x=x, y=y) as path:
        label, theirs, _, absent = river(path, [("pa", {"C": 1.0, "mode": 1}), ("lr", {"lr": 0.5})], "accuracy")
    yield row("electricity", found["accuracy"], "accuracy", label, theirs, kappa_temporal=found["kappa_temporal"],
              settings=said(best), rest=rest["accuracy"], rest_kappa_temporal=rest["kappa_temporal"],
              no_change=found["no_change"], rows=len(y), note="; ".join(absent) or None,
              bars={"value": ">= 0.925", "kappa_temporal": ">= 0.49"})


@case("learn", "covertype10k")
def covertype(setting: Setting) -> Iterator[Row]:
    """Seven classes, one pass; the best seen elsewhere: VW `-q ff --power_t 0 -l 4`, .7577."""
    x, y = table(setting.file("covertype10k.csv"))
    y = y - 1
    batch = streams.dense(x, y)

    def make(**given: Any) -> Any:
        return linear(54, classes=7, loss="hinge", scale=True, **given)

    grid = options(learner=["pa1", "pa2"], bias=[1.0, 3.0], rate=[0.01, 0.03, 0.1, 0.3, 1.0])
    best, first = chosen(make, grid, batch, lambda rows, scores: scored(rows, scores, 7)["accuracy"])
    scores = make(**best).learn(batch)
    found, rest = scored(batch, scores, 7), scored(batch.slice(first, len(y)), scores[first:], 7)
    with stored(x=x, y=y) as path:
        label, theirs, _, absent = river(path, [("softmax", {"lr": 0.05})], "accuracy")
    yield row("covertype10k", found["accuracy"], "accuracy", label, theirs, rows=len(y), note="; ".join(absent) or None,
              no_change=found["no_change"], settings=said(best), rest=rest["accuracy"], bars={"value": ">= 0.76"})


@case("learn", "a9a")
def a9a(setting: Setting) -> Iterator[Row]:
    """One pass, progressive accuracy and log loss; VW's default beside it."""
    rows = streams.libsvm(setting.file("a9a.libsvm"))
    batch = rows.batch()

    def make(**given: Any) -> Any:
        return linear(1 << 18, loss="logistic", learner="ftrl", **given)

    best, _ = chosen(make, options(rate=[0.05, 0.1, 0.15, 0.2, 0.3], beta=[0.1, 0.2, 0.5, 1.0]), batch,
                     lambda part, scores: -streams.logloss(probability(scores), part.y))
    margin = make(**best).learn(batch)
    loss = streams.logloss(probability(margin), batch.y)
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        text = rows.write_vw(Path(name) / "once.vw")
        with peer("vw", path=str(text), arguments=["-b", "18", "--loss_function", "logistic"]) as vw:
            theirs = vw().result["loss"] if isinstance(vw, Peer) else None
    yield row("a9a", loss, "log loss", "vw", theirs, accuracy=float(((margin > 0) == (batch.y > 0)).mean()), rows=len(batch.y),
              settings=said(best), bars={"value": "<= 0.3322", "accuracy": ">= 0.845"})


@case("learn", "sea")
def sea(setting: Setting) -> Iterator[Row]:
    """Four concepts with noise: a forest that is grown anew on drift, against the best of River's and VW in this run."""
    from engine.models.forest import Forest
    from engine.update.drift import Adwin

    x, y = table(setting.file("sea.csv"))
    batch = streams.dense(x, y)

    def make() -> Any:
        return Forest(3, 2, binary=True, trees=30, grace=50, delta=0.01, detect=Adwin, tracked=False)

    found = scored(batch, make().learn(batch))
    models: list[tuple[str, dict[str, Any]]] = [("ht", {}), ("lr", {"lr": 0.05}), ("arf", {"n_models": 10})]
    with stored(x=x, y=y) as path, tempfile.TemporaryDirectory(prefix="bench ") as name:
        label, theirs, each, absent = river(path, models, "accuracy")
        text = vw_text(Path(name) / "sea.vw", x, y)
        with peer("vw", path=str(text), arguments=["--loss_function", "logistic", "--binary", "-q", "ff"]) as vw:
            if isinstance(vw, Peer):
                each["vw"] = 1 - vw().result["loss"]
                if theirs is None or each["vw"] > theirs:
                    label, theirs = "vw", each["vw"]
    excess = None if theirs is None else found["accuracy"] - theirs
    yield row("sea", found["accuracy"], "accuracy", label, theirs, excess=excess, rows=len(y),
              note="; ".join(absent) or None, bars={"excess": ">= 0"}, **{f"theirs_{k}": v for k, v in each.items()})


def sensors(n: int = 20_000, seed: int = 3) -> tuple[Array, Array, Array]:
    """A drifting sensor: x float32 (n, 8) with gaps filled by the last value, y, and the row before which y[i] is told.

    A slow daily wave plus a response to the inputs whose weights wander; a tenth of the readings is missing; labels come
    1 to 20 rows late.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    inputs = np.cumsum(rng.normal(size=(n, 4)) * 0.3, axis=0)
    inputs -= np.array([np.convolve(inputs[:, j], np.ones(200) / 200, "same") for j in range(4)]).T
    weights = rng.normal(size=4) + np.cumsum(rng.normal(size=(n, 4)) * 0.02, axis=0)
    wave = np.stack([np.sin(2 * np.pi * t / 288), np.cos(2 * np.pi * t / 288)], axis=1)
    y = (inputs * weights).sum(axis=1) + 3 * wave[:, 0] + rng.normal(size=n) * 0.3
    gone = rng.random((n, 4)) < 0.1
    for j in range(4):
        held = np.where(gone[:, j], -1, t)
        held = np.maximum.accumulate(held)
        inputs[:, j] = np.where(held >= 0, inputs[np.maximum(held, 0), j], 0)
    late = t + 1 + rng.integers(0, 20, n)
    told = np.full(n, 0.0)  # the newest label that is known when row i is predicted
    newest = -1
    due: dict[int, int] = {}
    for i in range(n):
        due[late[i]] = max(due.get(late[i], -1), i)
    for i in range(n):
        newest = max(newest, due.get(i, -1))
        told[i] = y[newest] if newest >= 0 else 0.0
    x = np.concatenate([inputs, wave, told[:, None], gone.any(axis=1)[:, None]], axis=1)
    return np.ascontiguousarray(x, np.float32), y.astype(np.float32), late.astype(np.int64)


def delayed(model: Any, x: Array, y: Array, late: Array) -> Array:
    """Predictions row by row, each label learned when its time has come: the delayed-label prequential pass."""
    n, due = len(y), {}
    for i, at in enumerate(late.tolist()):
        due.setdefault(at, []).append(i)
    batch, out = streams.dense(x, y), np.zeros(n, np.float32)
    for i in range(n):
        for j in due.get(i, ()):
            model.learn(batch.slice(j, j + 1))
        out[i] = model.predict(batch.slice(i, i + 1))[0]
    return out


@case("learn", "regression")
def regression(setting: Setting) -> Iterator[Row]:
    """A drifting sensor stream with gaps and labels up to 20 rows late: streaming ridge that forgets; last value beside it."""
    from engine.models.stats import Ridge

    x, y, late = sensors()
    found = delayed(Ridge(8, half_life=40, l2=0.1, batch=1, tracked=False), x, y, late)
    mae, rmse = float(np.abs(found - y).mean()), float(np.sqrt(((found - y) ** 2).mean()))
    last = x[:, 6]
    figures = {"last_mae": float(np.abs(last - y).mean()), "last_rmse": float(np.sqrt(((last - y) ** 2).mean()))}
    models: list[tuple[str, dict[str, Any]]] = [("linear", {"lr": 0.001}), ("linear", {"lr": 0.0001}), ("par", {}), ("htr", {})]
    best = {"mae": figures["last_mae"], "rmse": figures["last_rmse"]}
    absent: list[str] = []
    with stored(x=x, y=y, late=late) as path, tempfile.TemporaryDirectory(prefix="bench ") as name:
        for model, settings in models:
            with peer("river_model", path=path, model=model, settings=settings, task="value") as other:
                if isinstance(other, Missing):
                    absent.append(f"river {model}: {other}")
                    continue
                result = other().result
                figures |= {f"river_{model}_{settings.get('lr', '')}_{k}": result[k] for k in best}
                best = {k: min(v, result[k]) for k, v in best.items()}
        # VW learns each label at once, so it is held against ours with labels at once.
        soon = Ridge(8, half_life=30, l2=0.1, batch=1, tracked=False).learn(streams.dense(x, y))
        rmse_soon, theirs = float(np.sqrt(((soon - y) ** 2).mean())), []
        text = vw_text(Path(name) / "sensor.vw", x, y, y)
        for extra in ([], ["-l", "5", "--power_t", "0"], ["-q", "::"], ["--ftrl"]):
            with peer("vw", path=str(text), arguments=["--loss_function", "squared", *extra]) as vw:
                theirs += [float(np.sqrt(vw().result["loss"]))] if isinstance(vw, Peer) else []
    yield row("regression.at_once", rmse_soon, "RMSE", "best of vw", min(theirs, default=None), rows=len(y),
              bars={"ratio": "<= 1"})
    yield row("regression", mae, "MAE", "best of river, last value", best["mae"], rmse=rmse, baseline_rmse=best["rmse"],
              rmse_ratio=rmse / best["rmse"], rows=len(y), note="; ".join(absent) or None,
              bars={"ratio": "<= 1", "rmse_ratio": "<= 1"}, **figures)


@case("learn", "mlp")
def mlp(setting: Setting) -> Iterator[Row]:
    """784-256-10, mini-batches of 128, SGD, one core, prequential: PyTorch's CPU build beside it."""
    from threadpoolctl import threadpool_limits

    from engine.models.dense import Mlp
    from engine.models.graded import Graded
    from engine.update.policy import parse

    rng = np.random.default_rng(0)
    n = 12_800
    x = rng.random((n, 784), np.float32)
    y = (x[:, :10].argmax(axis=1)).astype(np.float32)
    batch = streams.dense(x, y)

    def make() -> Any:
        return Graded(lambda: Mlp([784, 256, 10]), parse("sgd(0.05)"), loss="softmax", width=784, batch=128, tracked=False)

    options = {"hidden": [256], "batch": 128, "rate": 0.05}
    with threadpool_limits(1), stored(x=x, y=y) as path, peer("torch_mlp", path=path, **options) as torch:
        yield versus(setting, "mlp", "torch, 1 thread", timed(make, lambda model: model.learn(batch)), torch, work=n,
                     unit="rows/s", bars={"ratio": ">= 1"})


@case("learn", "factor")
def factor(setting: Setting) -> Iterator[Row]:
    """A factorization machine on a Zipf click stream of 2^22 keys: rank 4, against VW's low-rank pairs."""
    from engine.models.factor import Factor

    n = 60_000
    rows = streams.zipf(n, 12, 22)
    batch = rows.batch()

    def make() -> Any:
        return Factor(1 << 22, factors=4, rate=0.15, rate_v=0.05, spread=0.01)

    loss = streams.logloss(probability(make().learn(batch)), batch.y)
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        text = Path(name) / "click.vw"
        words = rows.keys.reshape(n, -1).tolist()
        with text.open("w") as out:
            for label, keys in zip(rows.y.tolist(), words, strict=True):
                out.write(f"{1 if label > 0 else -1} |f " + " ".join(map(str, keys)) + "\n")
        common = ["-b", "24", "--loss_function", "logistic"]
        losses = []
        for extra in ([], ["--ftrl"], ["-q", "ff"], ["--lrq", "ff4"], ["--lrq", "ff4", "-l", "0.1"]):
            with peer("vw", path=str(text), arguments=[*common, *extra]) as vw:
                losses += [vw().result["loss"]] if isinstance(vw, Peer) else []
        theirs = min(losses, default=None)  # the best of VW in this run, pairs or none
        for label, extra in (("vw -q ff cached", ["-q", "ff"]), ("vw --lrq ff4 cached", ["--lrq", "ff4"])):
            with peer("vw", path=str(text), arguments=[*common, *extra]) as vw:
                yield against_vw(setting, "factor", timed(make, lambda model: model.learn(batch)), n, vw, label, logloss=loss,
                                 best_vw_logloss=theirs, excess=None if theirs is None else loss - theirs,
                                 bars={"ratio": ">= 5", "excess": "<= 0"})


def _river_speed(setting: Setting, name: str, model: str, make: Any, batch: Batch, figure: str, ours: float,
                 low: bool = False, task: str = "class", settings: dict[str, Any] | None = None) -> Iterator[Row]:
    """Rows a CPU-second and a score of one of River's models and ours."""
    limit = 10_000
    part = batch.slice(0, limit)
    assert part.x is not None
    options = {"model": model, "settings": settings or {}, "task": task}
    with stored(x=part.x, y=part.y) as path, peer("river_model", path=path, **options) as other:
        theirs = other().result[figure] if isinstance(other, Peer) else None
        gap = None if theirs is None else (theirs - ours if low else ours - theirs)
        yield versus(setting, name, f"river {model}", timed(make, lambda made: made.learn(part)), other, work=limit,
                     unit="rows/cpu s", clock="cpu", bars={"ratio": ">= 10", "better_by": ">= 0"}, score=ours,
                     baseline_score=theirs, better_by=gap)


@case("learn", "tree")
def tree(setting: Setting) -> Iterator[Row]:
    """One Hoeffding tree on electricity, 10 000 rows."""
    from engine.models.forest import Forest

    batch = streams.dense(*streams.electricity(setting.file("electricity.csv")))

    def make() -> Any:
        return Forest(8, 2, binary=True, tracked=False)

    part = batch.slice(0, 10_000)
    ours = scored(part, make().learn(part))["accuracy"]
    yield from _river_speed(setting, "tree", "ht", make, batch, "accuracy", ours)


@case("learn", "bayes")
def bayes(setting: Setting) -> Iterator[Row]:
    """Gaussian naive Bayes on electricity, 10 000 rows."""
    from engine.models.stats import Bayes

    batch = streams.dense(*streams.electricity(setting.file("electricity.csv")))

    def make() -> Any:
        return Bayes(8, 2, binary=True, tracked=False)

    part = batch.slice(0, 10_000)
    ours = scored(part, make().learn(part))["accuracy"]
    yield from _river_speed(setting, "bayes", "bayes", make, batch, "accuracy", ours)


@case("learn", "kmeans")
def kmeans(setting: Setting) -> Iterator[Row]:
    """Streaming k-means, 8 centres, electricity; the score is the mean squared distance before each row is learned."""
    from engine.models.cluster import Kmeans

    batch = streams.dense(*streams.electricity(setting.file("electricity.csv")))

    def make() -> Any:
        return Kmeans(8, 8, outputs=2, binary=True, half_life=1, batch=64, tracked=False)

    model = make()
    model.learn(batch.slice(0, 10_000))
    yield from _river_speed(setting, "kmeans", "kmeans", make, batch, "distance", model.distance / 10_000, low=True,
                            task="cluster", settings={"n_clusters": 8, "halflife": 0.5})


@case("learn", "stats")
def stats(setting: Setting) -> Iterator[Row]:
    """Mergeable statistics split over 8 ranks against one pass: the largest relative difference."""
    from engine.models.sketch import Counts, Quantiles
    from engine.models.stats import Bayes, Moments, Pca, Ridge
    from engine.update.merge import combine

    x, y = streams.electricity(setting.file("electricity.csv"))
    batch = streams.dense(x, y)
    cuts = [len(y) * r // 8 for r in range(9)]
    parts = [batch.slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    def gap(found: Array, want: Array) -> float:
        return float(np.max(np.abs(found - want)) / max(float(np.max(np.abs(want))), 1e-300))

    one, team = Moments(8), [Moments(8) for _ in parts]
    one.add(x)
    for m, part in zip(team, parts, strict=True):
        m.add(part.x)
    team[0].merge(np.sum([m.update() for m in team], axis=0))
    yield row("stats.moments", gap(team[0].data, one.data), "relative", "one pass", 0.0, bars={"value": "<= 1e-12"})
    for name, make in (("bayes", lambda: Bayes(8, 2, binary=True)), ("ridge", lambda: Ridge(8, task="binary"))):
        whole, many = make(), [make() for _ in parts]
        whole.learn(batch)
        for m, part in zip(many, parts, strict=True):
            m.learn(part)
        many[0].merge(combine([m.update() for m in many]), 8)
        path = f"model/{name}"
        yield row(f"stats.{name}", gap(many[0].state()[path].data, whole.state()[path].data), "relative", "one pass", 0.0,
                  bars={"value": "<= 1e-12"})
    pca, several = Pca(8, 4), [Pca(8, 4) for _ in parts]
    pca.add(x)
    for p, part in zip(several, parts, strict=True):
        p.add(part.x)
    several[0].scatter.merge(np.sum([p.scatter.update() for p in several], axis=0))
    yield row("stats.pca", max(gap(a, b) for a, b in zip(several[0].axes(), pca.axes(), strict=True)), "relative", "one pass",
              0.0, bars={"value": "<= 1e-9"})
    sketch, pieces = Quantiles(0.01), [Quantiles(0.01) for _ in parts]
    sketch.add(x[:, 3])
    for q, part in zip(pieces, parts, strict=True):
        q.add(part.x[:, 3])
        if q is not pieces[0]:
            pieces[0].merge(q.counts)
    true = np.sort(x[:, 3].astype(float))
    off = max(abs(pieces[0].quantile(q) - true[int(q * (len(true) - 1))]) / abs(true[int(q * (len(true) - 1))])
              for q in (0.01, 0.25, 0.5, 0.75, 0.99))
    yield row("stats.quantiles", off, "relative", "its bound", 0.01, same=bool((pieces[0].counts == sketch.counts).all()),
              bars={"value": "<= 0.01", "same": ">= 1"})
    keys = (x[:, 3] * 1000).astype(np.uint32)
    counts, shares = Counts(1 << 10), [Counts(1 << 10) for _ in parts]
    counts.add(keys)
    for c, a, b in zip(shares, cuts[:-1], cuts[1:], strict=True):
        c.add(keys[a:b])
        if c is not shares[0]:
            shares[0].merge(c.counts)
    names, times = np.unique(keys, return_counts=True)
    over = float(((shares[0].estimate(names) - times) > 2 * len(keys) / (1 << 10)).mean())
    yield row("stats.counts", over, "share past 2N/w", "2^-rows", 2.0**-5, bars={"value": f"<= {2.0**-5}"})
