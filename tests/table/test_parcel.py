"""Packed copies of rows are the rows; a delta against a row that has moved on is refused whole; no bytes crash the owner."""
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codec.call import CONFLICT, OK, decode_reply, encode_call
from engine.kernels import _native
from engine.store.table import Rows
from engine.table import parcel
from engine.table.migrate import Mover
from engine.table.parcel import Parcels
from engine.table.shards import open_group


def rows(n, width, seed=0, scale=0.1):
    draw = np.random.default_rng(seed)
    keys = draw.choice(1 << 40, n, replace=False).astype(np.uint64)
    versions, clocks = (draw.integers(1, 50, n) * 2).astype(np.uint32), draw.integers(0, 9, n).astype(np.uint32)
    return Rows(keys, versions, clocks, (draw.normal(size=(n, width)) * scale).astype(np.float32))


def sent(server, body, n):
    return decode_reply(np.frombuffer(server.handle(encode_call("pack", [body], count=n), 4096), np.uint8))


def held(store, keys):
    """Rows of a rank by key, as bits."""
    found = {}
    for part in store.table.rows():
        for key, version, clock, value in zip(*part, strict=True):
            found[int(key)] = (int(version), int(clock), value.view(np.uint32).tolist())
    return [found.get(int(key)) for key in keys]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), width=st.integers(1, 9), kind=st.sampled_from(["normal", "zeros", "bits", "whole"]),
       seed=st.integers(0, 99))
def test_packed_rows_are_the_rows(n, width, kind, seed):
    store, = open_group(1, width=width, rows=256)
    made, draw = rows(n, width, seed), np.random.default_rng(seed)
    values = {"normal": made.values, "zeros": made.values * 0, "whole": np.round(made.values * 40),
              "bits": draw.integers(0, 1 << 32, (n, width), dtype=np.uint32).view(np.float32)}[kind]
    made = made._replace(values=np.ascontiguousarray(values))
    reply = sent(store.server, _native.rows_pack(*made), n)
    assert (reply.status, reply.count) == (OK, n)
    bits = made.values.view(np.uint32).tolist()
    assert held(store, made.keys) == list(zip(made.versions.tolist(), made.clocks.tolist(), bits, strict=True))
    changed = made.values.copy()
    changed.view(np.uint32)[::2] ^= np.uint32(3)
    later = made._replace(versions=made.versions + np.uint32(4), values=changed)
    packed = _native.rows_pack(*later, made.versions, made.values)
    assert sent(store.server, packed, n).status == OK
    assert [row[2] for row in held(store, made.keys)] == changed.view(np.uint32).tolist()
    again = sent(store.server, packed, n)  # it is no longer against what is here
    assert (again.status, again.count) == (CONFLICT, 0)


def test_wrong_bytes_are_refused_and_change_nothing():
    store, = open_group(1, width=5, rows=256)
    made = rows(40, 5)
    base = made._replace(values=made.values + np.float32(1e-4))
    store.table.put(0, base)
    before = held(store, made.keys)
    later = made._replace(versions=made.versions + np.uint32(2))
    draw = np.random.default_rng(1)
    for body in (_native.rows_pack(*later, base.versions, base.values), _native.rows_pack(*later)):
        for end in [*range(0, len(body), 7), len(body) - 1]:
            found = sent(store.server, body[:end], 40)
            assert found.status == CONFLICT, end
            assert held(store, made.keys) == before
    delta = _native.rows_pack(*later, base.versions, base.values)
    for _ in range(300):  # past the keys nothing that was flipped is taken for the rows: versions, bases and values are checked
        wrong = delta.copy()
        wrong[draw.integers(0, len(wrong))] ^= np.uint8(1 << draw.integers(8))
        sent(store.server, wrong, 40)
    assert sent(store.server, np.zeros(0, np.uint8), 40).status == CONFLICT


@pytest.mark.parametrize("pack", [True, False])
def test_a_migration_sends_changes_against_what_was_acknowledged(pack):
    stores = open_group(2, width=32, rows=4096)
    source, table = stores[0], stores[0].table
    keys = np.arange(6000, dtype=np.uint64)
    keys = keys[source.ledger.route(keys) == 0][:2000]
    draw = np.random.default_rng(0)
    table.inc(keys, draw.normal(size=(len(keys), 32)).astype(np.float32))
    mover = Mover(source, source.ledger.owned(0), 1, pack=pack)
    steps, changed = mover.steps(), 0
    for phase in steps:
        if phase == "copy" and changed < 3:
            changed += 1
            table.inc(keys[::3], np.full((len(keys[::3]), 32), 1e-3, np.float32))
            table.inc(np.array([9_000_000 + changed]), np.ones((1, 32)))  # a key that was not there
    expected = np.random.default_rng(0).normal(size=(len(keys), 32)).astype(np.float32)
    for _ in range(changed):
        expected[::3] += np.float32(1e-3)
    assert np.array_equal(table.get(keys), expected)  # asked of the new owner
    assert source.ledger.owned(0).size == 0
    parcels = mover.parcels
    assert (parcels.packed > 0) == pack
    assert parcels.wire_bytes < 0.9 * parcels.size_bytes if pack else parcels.wire_bytes >= parcels.size_bytes


@pytest.mark.parametrize(("link_s", "codec_s", "packs"), [(0.05, 0, True), (0, 0.3, False)])
def test_packing_is_chosen_by_the_link(monkeypatch, link_s, codec_s, packs):
    table, made = open_group(2, width=60, rows=8192)[0].table, rows(4096, 60)
    put, pack = table.put_end, _native.rows_pack
    monkeypatch.setattr(table, "put_end", lambda sent: (time.sleep(link_s), put(sent)))
    slow = SimpleNamespace(rows_pack=lambda *given: (time.sleep(codec_s), pack(*given))[1])
    monkeypatch.setattr(parcel, "_native", slow)
    parcels = Parcels(table, 1, 4096)
    parcels.begin(made)
    assert parcels.packs is packs


def test_a_mate_of_the_node_is_sent_nothing():
    assert Parcels(open_group(2, width=2, rows=64, shared=True)[0].table, 1, 10).packs is False
