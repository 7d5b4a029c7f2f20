"""No checkpoint left intact: learned again from rows that are there, and said; else a stop that says so."""
import json

import numpy as np
import pytest

from engine.cli import configured, parse
from engine.comm.local import Alone
from engine.errors import StoreError
from engine.guard import Guard
from engine.job import open_source, source_options
from engine.store import checkpoint as store
from engine.survive import retrain
from engine.train import train

WORDS = ["make:sea?rows=3000", "--threads", "1", "--quiet", "--every", "1000rows"]


def config(tmp_path, *more):
    return configured(parse(["train", *WORDS, "--checkpoint", str(tmp_path / "ck"), "--run-dir", str(tmp_path / "run"), *more]))


def hurt(folder):
    for part in folder.glob("step-*/part-*"):
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 4
        part.write_bytes(data)


def test_learned_again_from_the_source_it_gives_the_same_and_says_so(tmp_path):
    train(config(tmp_path), Guard())
    want, _, _ = store.newest(tmp_path / "ck")
    hurt(tmp_path / "ck")
    train(config(tmp_path, "--resume", "run.dir=" + str(tmp_path / "again")), Guard())
    got, _, found = store.newest(tmp_path / "ck")
    assert found.step == 3000 and got.keys() == want.keys()
    for path in want:
        np.testing.assert_array_equal(got[path].data, want[path].data, err_msg=path)
    told = [json.loads(line) for line in (tmp_path / "again" / "events.jsonl").read_text().splitlines()]
    said = next(event["why"] for event in told if event["event"] == "retrain")
    assert "no checkpoint is intact" in said and "first row of the source make:sea" in said
    assert len(list((tmp_path / "ck").glob("aside-*"))) == 2


def test_where_it_must_not_or_cannot_the_run_stops_and_touches_nothing(tmp_path):
    train(config(tmp_path), Guard())
    hurt(tmp_path / "ck")
    before = sorted(path.name for path in (tmp_path / "ck").iterdir())
    with pytest.raises(StoreError, match="forbids to learn anew"):
        train(config(tmp_path, "checkpoint.resume=must", "run.dir=-"), Guard())
    with pytest.raises(store.Unrepairable) as lost:
        store.latest(tmp_path / "ck")
    asked = config(tmp_path, "--resume")
    source = open_source(asked.data.source, **source_options(asked))
    source.pieces = None  # as of a live source
    with pytest.raises(StoreError, match="neither the source nor a spool has all rows"):
        retrain.again(lost.value, Alone(), asked, source)
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == before
    asked.data.spool = str(tmp_path / "spool")
    (tmp_path / "spool" / "feed").mkdir(parents=True)
    (tmp_path / "spool" / "feed" / f"{7:020d}.rows").write_bytes(b"")
    assert retrain.origin(asked, source) == ""  # its first rows have left the spool
    (tmp_path / "spool" / "feed" / f"{0:020d}.rows").write_bytes(b"")
    assert "row spool" in retrain.origin(asked, source)


def test_a_checkpoint_directory_that_cannot_be_written_is_named_before_a_row_is_learned(tmp_path):
    (tmp_path / "ck").write_text("a file of somebody else")
    with pytest.raises(StoreError, match="cannot write") as found:
        train(config(tmp_path, "run.dir=-"), Guard())
    assert "ck" in found.value.where and (tmp_path / "ck").read_text() == "a file of somebody else"


def test_another_kind_of_model_is_named_first(tmp_path):
    train(config(tmp_path), Guard())
    with pytest.raises(StoreError, match=r"model\.kind is 'linear' there and 'mlp' here"):
        train(config(tmp_path, "--resume", "model.kind=mlp", "run.dir=-"), Guard())
