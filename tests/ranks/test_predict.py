"""Rows to predict come as their maker has them: without a target, in another order; what cannot fit is refused."""
import random
import subprocess
import sys

import numpy as np
import pytest

ROWS = 600


def engine(*args, cwd, code=0):
    line = [sys.executable, "-m", "engine", *map(str, args)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def learn(folder, name, *more):
    engine("train", name, "--checkpoint", "ck", "--run-dir", "-", "--quiet", *more, cwd=folder)


def csv(folder, name, columns, rows, header=True):
    lines = [",".join(columns)] * header + [",".join(str(row[c]) for c in columns) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")


def mixed():
    rng = random.Random(3)
    rows = [{"zip": rng.randrange(90), "site": rng.choice("abc"), "age": rng.randrange(80), "other": "x"} for _ in range(ROWS)]
    return [row | {"y": "yes" if row["site"] == "a" or row["age"] > 60 else "no"} for row in rows]


def test_columns_of_words_and_numbers_are_found_by_name(tmp_path):
    rows = mixed()
    csv(tmp_path, "train.csv", ["zip", "site", "age", "y"], rows)
    learn(tmp_path, "train.csv", "--target", "y", "data.categorical=zip")
    whole = engine("predict", "ck", "train.csv", cwd=tmp_path)
    assert whole.count("\n") == ROWS
    csv(tmp_path, "bare.csv", ["zip", "site", "age"], rows)
    csv(tmp_path, "turned.csv", ["age", "other", "y", "site", "zip"], [row | {"y": "never seen"} for row in rows])
    for name in ("bare.csv", "turned.csv"):
        assert engine("predict", "ck", name, cwd=tmp_path) == whole
    digits = [row | {"site": 1} for row in rows[:9]]  # a column of words that happen to be numbers is still one of words
    csv(tmp_path, "digits.csv", ["zip", "site", "age"], digits)
    csv(tmp_path, "unknown.csv", ["zip", "site", "age"], [row | {"site": "never"} for row in rows[:9]])
    assert engine("predict", "ck", "digits.csv", cwd=tmp_path) == engine("predict", "ck", "unknown.csv", cwd=tmp_path)
    csv(tmp_path, "less.csv", ["zip", "age", "y"], rows)
    assert "site" in engine("predict", "ck", "less.csv", cwd=tmp_path, code=65)
    # going on with a file whose columns would be taken for something else is refused
    more = "train", "turned.csv", "--target", "y", "--checkpoint", "ck", "--resume", "--run-dir", "-", "data.labels=no,yes"
    assert "'zip' holds words there, numbers here" in engine(*more, cwd=tmp_path, code=74)


@pytest.mark.parametrize("header", [True, False])
def test_dense_columns(tmp_path, header):
    rng = np.random.default_rng(0)
    rows = [dict(zip("abc", map(float, x), strict=True)) for x in rng.normal(size=(ROWS, 3))]
    rows = [row | {"y": 3 * row["a"] - row["b"] + 0.5} for row in rows]
    csv(tmp_path, "train.csv", ["a", "y", "b", "c"], rows, header)
    learn(tmp_path, "train.csv", "--target", "y" if header else 1, "--task", "regression")
    whole = engine("predict", "ck", "train.csv", cwd=tmp_path)
    csv(tmp_path, "bare.csv", ["a", "b", "c"], rows, header)
    assert engine("predict", "ck", "bare.csv", cwd=tmp_path) == whole
    csv(tmp_path, "turned.csv", ["c", "a", "b"], rows, header)
    assert (engine("predict", "ck", "turned.csv", cwd=tmp_path) == whole) == header  # without names the order is all there is
    csv(tmp_path, "more.csv", ["c", "a", "b", "y", "c"], rows, header)
    found = engine("predict", "ck", "more.csv", cwd=tmp_path, code=0 if header else 65)
    assert found == whole if header else "4 columns, or one less without the target" in found


def test_libsvm_keys_and_arrays(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    lines = [f"{int(b)} " + " ".join(f"{i}:{v:.4f}" for i, v in enumerate(row)) for row, b in zip(x, y, strict=True)]
    (tmp_path / "train.svm").write_text("\n".join(lines) + "\n")
    learn(tmp_path, "train.svm")
    whole = engine("predict", "ck", "train.svm", cwd=tmp_path).splitlines()
    # neither the first key nor the width of the key space is guessed anew: rows without key 0 keep their keys
    (tmp_path / "few.svm").write_text("".join(f"0 {line.split(' ', 2)[2]}\n" for line in lines[:5]))
    (tmp_path / "one.svm").write_text("".join(f"7 0:0 {line.split(' ', 2)[2]}\n" for line in lines[:5]))
    assert engine("predict", "ck", "few.svm", cwd=tmp_path) == engine("predict", "ck", "one.svm", cwd=tmp_path)
    (tmp_path / "two.svm").write_text("\n".join(lines[:2]) + "\n")
    assert engine("predict", "ck", "two.svm", cwd=tmp_path).splitlines() == whole[:2]
    (tmp_path / "ck").rename(tmp_path / "ck.svm")
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    learn(tmp_path, "rows.npz")
    whole = engine("predict", "ck", "rows.npz", cwd=tmp_path)
    np.savez(tmp_path / "bare.npz", x=x)
    np.save(tmp_path / "bare.npy", x)
    for name in ("bare.npz", "bare.npy"):
        assert engine("predict", "ck", name, cwd=tmp_path) == whole


def test_a_table_without_its_target(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(2)
    table = {name: rng.normal(size=ROWS) for name in "abc"}
    table["y"] = table["a"] - table["c"]
    parquet.write_table(pa.table(table), tmp_path / "train.parquet")
    learn(tmp_path, "train.parquet", "--target", "y", "--task", "regression")
    whole = engine("predict", "ck", "train.parquet", cwd=tmp_path)
    parquet.write_table(pa.table({name: table[name] for name in ("c", "b", "a")}), tmp_path / "bare.parquet")
    assert engine("predict", "ck", "bare.parquet", cwd=tmp_path) == whole
