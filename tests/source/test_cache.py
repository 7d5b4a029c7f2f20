"""The read cache: the second pass is the first, bit for bit, within its bound, whatever happens to the file."""
import gzip
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import job as jobs
from engine.comm.local import Alone
from engine.config import resolve
from engine.errors import StoreError
from engine.source.cache import Cached
from engine.source.read import open_source


def text(path, n=3000):
    draw = np.random.default_rng(1)
    lines = "a,b,y\n" + "".join(f"{a:.3f},{b:.1f},{i % 2}\n" for i, (a, b) in enumerate(draw.normal(size=(n, 2))))
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(lines.encode())
    return open_source(str(path), piece_bytes=4096)


def rows(source, skip=0):
    found = [b for piece in range(source.pieces) for b in source.read(piece, skip)]
    return np.concatenate([np.column_stack([b.x, b.y, b.order, b.previous]) for b in found])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("limit", [0, 20_000, 1 << 30])
def test_every_pass_is_the_first(tmp_path, name, limit):
    plain, cached = text(tmp_path / name), Cached(text(tmp_path / name), limit, str(tmp_path))
    want = rows(plain)
    for turn in range(3):
        np.testing.assert_array_equal(rows(cached), want)
        assert cached.kept_bytes <= limit and (limit < 1 << 30 or (turn == 0) == (cached.hits == 0))
        np.testing.assert_array_equal(rows(cached, 7), rows(plain, 7))
    assert bool(cached.full) == (limit < 1 << 30) and os.listdir(tmp_path) == [name]
    cached.close()


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_damage_is_found_and_read_from_the_source(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    cached = Cached(text(folder / "a.csv", 600), 1 << 30, str(folder))
    want = rows(cached)
    at = data.draw(st.integers(0, cached.kept_bytes - 1))
    handle = cached._file.fileno()
    os.pwrite(handle, bytes([os.pread(handle, 1, at)[0] ^ 1 << data.draw(st.integers(0, 7))]), at)
    np.testing.assert_array_equal(rows(cached), want)
    assert cached.damaged == 1
    os.ftruncate(handle, cached.kept_bytes // 2)
    np.testing.assert_array_equal(rows(cached), want)
    assert cached.damaged > 1
    cached.close()


def test_a_disk_without_space_ends_keeping_not_reading(tmp_path, monkeypatch):
    cached = Cached(text(tmp_path / "a.csv"), 1 << 30, str(tmp_path))
    real, count = os.pwrite, []

    def short(handle, part, at):
        count.append(1)
        if len(count) > 3:
            raise OSError(28, "No space left on device")
        return real(handle, part[: max(1, len(part) // 2)], at)

    monkeypatch.setattr(os, "pwrite", short)
    first = rows(cached)
    np.testing.assert_array_equal(rows(cached), first)
    assert "No space" in cached.full
    with pytest.raises(StoreError, match="cannot make the cache"):
        Cached(open_source(str(tmp_path / "a.csv")), 1, str(tmp_path / "absent"))


def test_a_retraining_run_reads_its_source_from_the_cache(tmp_path):
    text(tmp_path / "a.csv", 4000)
    config = resolve(overrides=[f"data.source={tmp_path / 'a.csv'}", "data.cache=1Mi", "data.piece_bytes=4096"], env={})
    source = jobs.open_agreed(config, Alone())
    for _ in range(2):
        stream, count = jobs.stream(config, Alone(), source, None), 0
        while (batch := stream.take(500)) is not None:
            count += len(batch)
        assert count == 4000
    assert source.hits == source.pieces > 10 and not source.full
    source.close()
