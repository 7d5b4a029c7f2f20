"""Models as ONNX: another runtime predicts from the file what `engine predict` prints from the checkpoint."""
import csv
import subprocess
import sys

import numpy as np
import pytest

from engine import job as jobs
from engine.cli import configured, parse
from engine.errors import ConfigError
from engine.guard import Guard
from engine.source.read import open_source
from engine.store.checkpoint import latest, load
from engine.survive import onnx as exporter
from engine.survive.archive import ckpt
from engine.train import predict, train


def learned(tmp_path, source, *settings):
    config = configured(parse(["train", source, "--checkpoint", str(tmp_path / "ck"), "--run-dir", "-", "--quiet", "--threads",
                               "1", *settings]))
    train(config, Guard())
    return str(tmp_path / "ck")


def printed(tmp_path, folder, source):
    predict(configured(parse(["train", source])), Guard(), folder, str(tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", newline="") as file:
        return list(csv.reader(file))


def fed(source, options):
    """All rows as the graph takes them: dense, or keys and values filled up to the longest row."""
    seen = open_source(source, **options)
    batches = [batch for piece in range(seen.pieces) for batch in seen.read(piece)]
    if batches[0].x is not None:
        return {"x": np.concatenate([batch.x for batch in batches])}
    counts = np.concatenate([np.diff(batch.indptr) for batch in batches])
    keys, values = np.zeros((len(counts), counts.max()), np.int64), np.zeros((len(counts), counts.max()), np.float32)
    at = 0
    for batch in batches:
        for low, high in zip(batch.indptr, batch.indptr[1:], strict=False):
            keys[at, : high - low] = batch.keys[low:high]
            values[at, : high - low] = 1 if batch.values is None else batch.values[low:high]
            at += 1
    return {"keys": keys, "values": values}


def table(path, task, seed=3, rows=400):
    """A CSV with columns far from 0, missing values and a constant; a binary, named or real target."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3)) * [1, 50, 1e-3] + [0, 900, 5]
    s = x[:, 0] + (x[:, 1] - 900) / 50 + rng.standard_normal(rows) / 4
    y = {"binary": ["yes" if v > 0 else "no" for v in s], "multiclass": [("low", "mid", "high")[int(np.digitize(v, [-1, 1]))]
                                                                       for v in s], "regression": s + 3}[task]
    lines = ["a,b,c,d,y"] + [f"{a:.6g},{'' if i % 7 == 3 else f'{b:.6g}'},{c:.6g},4,{t}"
                             for i, ((a, b, c), t) in enumerate(zip(x, y, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


CASES = [
    ("binary", "clean.stages=impute?flag=true"), ("multiclass", "clean.stages=impute", "model.learner=sgd"),
    ("regression", "clean.stages=impute?how=median,scale", "model.scale=false"),
    ("regression", "clean.stages=impute?how=last,scale?how=minmax", "model.loss=poisson", "model.rate=0.01",
     "model.learner=sgd"),
    ("binary", "clean.stages=range?high=950&columns=b,impute,scale?how=robust&columns=a+b", "model.learner=pa1"),
    ("binary", "clean.stages=impute", "model.kind=mlp", "mlp.hidden=8,4", "mlp.activation=tanh"),
    ("multiclass", "clean.stages=impute", "model.kind=softmax"), ("multiclass", "clean.stages=impute", "model.kind=mlp"),
    ("regression", "clean.stages=range?low=800&how=missing&columns=b,impute?how=constant&value=1", "model.kind=ridge"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case).replace("/", " "))
def test_another_runtime_predicts_what_the_engine_predicts(tmp_path, case):
    pytest.importorskip("onnx")
    task, *settings = case
    source = table(tmp_path / "t.csv", task)
    check(tmp_path, source, task, "--target", "y", "data.missing=nan", f"data.task={task}", *settings)


@pytest.mark.parametrize("settings", [("model.kind=linear",), ("model.kind=mlp", "mlp.hidden=4")])
def test_rows_of_keys_are_told_by_keys_and_values(tmp_path, settings):
    pytest.importorskip("onnx")
    rng = np.random.default_rng(1)
    lines = [f"{rng.integers(0, 2) * 2 - 1} " + " ".join(f"{k}:{v:.3g}" for k, v in zip(
        sorted(rng.choice(60, rng.integers(1, 6), replace=False) + 1), rng.random(6), strict=False)) for _ in range(300)]
    (tmp_path / "t.svm").write_text("\n".join(lines) + "\n")
    check(tmp_path, str(tmp_path / "t.svm"), "binary", "--hash-bits", "8", *settings)


def check(tmp_path, source, task, *settings):
    folder = learned(tmp_path, source, *settings)
    line = [sys.executable, "-m", "engine", "ckpt", "export", folder, "-o", str(tmp_path / "m.onnx")]
    subprocess.run(line, check=True, timeout=120)
    said = printed(tmp_path, folder, source)
    meta = latest(folder).meta
    options = jobs.source_options(configured(parse(["train", source, *settings])))
    options["labels"] = tuple(meta["labels"]) or options.get("labels", ())
    got = run(tmp_path / "m.onnx", fed(source, options))
    assert len(got[0]) == len(said)
    if task == "regression":
        np.testing.assert_allclose(got[0], [float(row[0]) for row in said], rtol=2e-5, atol=2e-5)
        return
    want = np.array([[float(v) for v in row[1:]] for row in said])
    np.testing.assert_allclose(np.asarray(got[1]).reshape(want.shape), want, rtol=2e-4, atol=2e-4)
    gap = np.abs(np.concatenate([want, want - 0.5], 1)) if want.shape[1] == 1 else np.diff(np.sort(want, 1)[:, -2:])
    sure = gap.min(axis=1) > 2e-4
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(got[0].astype(str)[sure], np.array([row[0] for row in said])[sure])


def run(path, inputs):
    """By onnxruntime where it is there, else by the format's own reference."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(str(path)).run(None, inputs)
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize(("settings", "match"), [
    (("model.kind=tree",), "kind forest"), (("model.interactions=true", "model.scale=false"), "interactions"),
    (("clean.stages=outliers",), "stage outliers")])
def test_what_a_graph_cannot_say_is_named_and_no_file_is_written(tmp_path, settings, match):
    pytest.importorskip("onnx")
    folder = learned(tmp_path, "make:sea?rows=200", *settings)
    with pytest.raises(ConfigError, match=match):
        ckpt(parse(["ckpt", "export", folder, "-o", str(tmp_path / "m.onnx")]))
    assert not (tmp_path / "m.onnx").exists()


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    state, meta = load(latest(learned(tmp_path, "make:sea?rows=200")))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="not installed") as found:
        exporter.export(*jobs.restored(state, meta), {})
    assert "engine[onnx]" in str(found.value)
