"""Journals against a perfect list of records: replay, bounds, torn ends, every damaged byte."""
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import FrameError, StoreError
from engine.store.journal import Durable, Memory
from engine.store.record import Change, Record, apply, decode_record, encode_record
from engine.types import Block

COLUMNS = (("w", "owner"), ("n", "add"))


def record(version, base=None, seed=0, rows=16):
    rng = np.random.default_rng(version * 1000 + seed)
    keys = np.flatnonzero(rng.random(rows) < 0.3).astype(np.uint32)
    return Record(version, version - 1 if base is None else base, (
        Change("model", keys, rng.random((len(keys), 2)).astype(np.float32), rows, COLUMNS),
        Change("clock", None, np.array([version, 0.5]), 2),
    ), {"rows": version * 8, "cursor": [[0, version]]}, epoch=3, state_hash=version * 7, shard=1, shards=2)


def same(a, b):
    assert (a.version, a.base, a.meta, a.epoch, a.state_hash, a.shard, a.shards) == (
        b.version, b.base, b.meta, b.epoch, b.state_hash, b.shard, b.shards)
    for x, y in zip(a.changes, b.changes, strict=True):
        assert (x.path, x.total, x.columns) == (y.path, y.total, y.columns)
        assert (x.rows is None) == (y.rows is None)
        if x.rows is not None:
            np.testing.assert_array_equal(x.rows, y.rows)
        np.testing.assert_array_equal(x.data, y.data)
        assert x.data.dtype == y.data.dtype


@pytest.mark.parametrize("small", [False, True])
def test_a_record_comes_back_and_every_flipped_bit_and_cut_is_refused(small):
    good = b"".join(encode_record(record(5), small=small))
    same(decode_record(good), record(5))
    for at in range(len(good)):
        with pytest.raises(FrameError):
            decode_record(good[:at])
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises(FrameError):
            decode_record(bytes(bad))


def test_one_percent_of_the_rows_is_at_most_1_2_percent_of_the_bytes():
    rng = np.random.default_rng(1)
    rows = 200_000
    keys = np.sort(rng.choice(rows, rows // 100, replace=False)).astype(np.uint32)
    change = Change("model", keys, rng.random((len(keys), 3)).astype(np.float32), rows)
    size = sum(b.nbytes for b in encode_record(Record(1, 0, (change,)), small=True))
    assert size <= 0.012 * rows * 12


def test_apply_replays_a_state_and_twice_is_once():
    state = {"model": Block(np.zeros((16, 2), np.float32), COLUMNS), "clock": Block(np.zeros(2))}
    want = np.zeros((16, 2), np.float32)
    for version in range(1, 9):
        change = record(version).changes[0]
        want[change.rows] = change.data
        apply(state, record(version))
        apply(state, record(version))
    np.testing.assert_array_equal(state["model"].data, want)
    assert state["clock"].data[0] == 8 and state["model"].version == 8
    with pytest.raises(FrameError, match="expected 17 rows"):
        apply(state, record(9, rows=17))


def test_several_records_at_once_are_what_they_are_one_by_one():
    rng = np.random.default_rng(11)
    columns = (("w", "owner"),)
    records = []
    for version in range(1, 30):
        at = np.sort(rng.choice(12, 5, replace=False)).astype(np.uint32)
        changes = [Change("a", at, rng.standard_normal((5, 3)).astype(np.float32), 12, columns),
                   Change("b", at, rng.standard_normal(5), 12)]
        if version % 7 == 0:  # a whole block between rows
            changes.insert(rng.integers(3), Change("a", None, rng.standard_normal((12, 3)).astype(np.float32), 12, columns))
        records.append(Record(version, version - 1, tuple(changes)))

    def begun():
        return {"a": Block(np.zeros((12, 3), np.float32), columns), "b": Block(np.zeros(12))}

    one, all_at_once = begun(), begun()
    for each in records:
        apply(one, each)
    apply(all_at_once, *records)
    for path in one:
        assert np.array_equal(one[path].data, all_at_once[path].data) and one[path].version == all_at_once[path].version
    with pytest.raises(FrameError, match="row 12 of 12"):
        apply(begun(), replace(records[0], changes=(Change("b", np.array([3, 12, 4], np.uint32), np.zeros(3), 12),)))



def filled(folder, count=6, **options):
    journal = Durable(folder, sync=False, **options)
    for version in range(1, count + 1):
        journal.append(record(version))
    journal.close()
    return folder


def test_every_damaged_byte_is_named_or_is_a_torn_end_that_is_named(tmp_path):
    filled(tmp_path / "good", 3, segment_bytes=1)
    files = sorted((tmp_path / "good").iterdir())
    assert len(files) == 4
    for file in files:
        data = file.read_bytes()
        for at in range(len(data)):
            for bad in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:]):
                file.write_bytes(bad)
                try:
                    found = Durable(tmp_path / "good", sync=False, read_only=True)
                except StoreError as error:
                    said = str(error)
                    named = file.name in said or "end is lost" in said
                    assert named, said
                else:  # only the tip itself may be hurt without loss: the records say what it said
                    assert file.name == "tip" and found.version == 3 and len(list(found.since(0))) == 3
        file.write_bytes(data)
    assert Durable(tmp_path / "good", sync=False, read_only=True).version == 3


def test_a_writer_killed_within_an_append_loses_only_that_record(tmp_path):
    filled(tmp_path / "whole", 3)
    log = next((tmp_path / "whole").glob("journal-*.log"))
    size, tip = log.stat().st_size, (tmp_path / "whole" / "tip").read_bytes()
    again = Durable(tmp_path / "whole", sync=False)
    again.append(record(4))
    again.close()
    data = log.read_bytes()
    for end in range(size, len(data), 7):
        folder = tmp_path / f"cut{end}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / log.name).write_bytes(data[:end])
        (folder / "tip").write_bytes(tip)
        journal = Durable(folder, sync=False)
        assert journal.version == 3 and bool(journal.problems) == (end > size)
        journal.append(record(4))
        assert [r.version for r in journal.since(0)] == [1, 2, 3, 4]
        journal.close()
        assert Durable(folder).version == 4


def test_swapped_missing_and_foreign_files_are_named(tmp_path):
    folder = filled(tmp_path / "a", 4, segment_bytes=1)
    logs = sorted(folder.glob("journal-*.log"))
    kept = logs[1].read_bytes()
    logs[1].unlink()
    with pytest.raises(StoreError, match="expected after 1"):
        Durable(folder)
    logs[1].write_bytes(logs[2].read_bytes())
    with pytest.raises(StoreError, match="damaged"):
        Durable(folder)
    logs[1].write_bytes(b"something else" * 40)
    with pytest.raises(StoreError, match="foreign"):
        Durable(folder)
    logs[1].write_bytes(kept)
    other = Durable(tmp_path / "b", sync=False, segment_bytes=1)
    for version in range(1, 5):
        other.append(record(version, seed=version == 2))
    shutil.copy(sorted((tmp_path / "b").glob("journal-*.log"))[1], logs[1])
    with pytest.raises(StoreError, match="digest"):
        Durable(folder)
    logs[3].unlink()
    logs[1].write_bytes(kept)
    with pytest.raises(StoreError, match="expected 4"):
        Durable(folder)


def test_a_folder_that_cannot_be_written_is_a_named_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Durable(tmp_path / "file" / "journal")


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    journal = Durable(tmp_path, sync=False)
    journal.append(record(1))
    real = os.pwritev

    def full(handle, buffers, at):
        real(handle, buffers[:1], at)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StoreError, match="disk full"):
        journal.append(record(2))
    monkeypatch.undo()
    journal.append(record(2))
    assert [r.version for r in Durable(tmp_path, read_only=True).since(0)] == [1, 2]


class Replay(RuleBasedStateMachine):
    """Both journals do as a list does, through reopening, compaction and bounds."""

    @initialize(data=st.data())
    def begin(self, data):
        import tempfile
        self.folder = tempfile.mkdtemp(prefix="journal-")
        self.options = {"sync": False, "segment_bytes": data.draw(st.sampled_from([1, 3000, 1 << 20])), "small": True}
        self.both = [Memory(), Durable(self.folder, **self.options)]
        self.list = []

    @rule(step=st.integers(1, 3))
    def append(self, step):
        base = self.list[-1].version if self.list else 0
        made = record(base + step, base)
        for journal in self.both:
            journal.append(made)
        self.list.append(made)
        with pytest.raises(ValueError):
            self.both[1].append(made)

    @rule()
    def reopen(self):
        self.both[1].close()
        self.both[1] = Durable(self.folder, **self.options)

    @precondition(lambda self: self.list)
    @rule(data=st.data())
    def compact(self, data):
        version = data.draw(st.sampled_from([r.version for r in self.list]))
        for journal in self.both:
            journal.compact(version)

    @invariant()
    def replays(self):
        for journal in getattr(self, "both", []):
            assert journal.version == (self.list[-1].version if self.list else 0)
            want = [r for r in self.list if r.version > journal.first]
            for got, expected in zip(journal.since(journal.first), want, strict=True):
                same(got, expected)
            if journal.first:
                with pytest.raises(StoreError, match="compacted"):
                    next(journal.since(journal.first - 1))

    def teardown(self):
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)


TestReplay = Replay.TestCase
TestReplay.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
