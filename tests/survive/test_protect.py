"""Protection in one process: N threads that are ranks stop anywhere, M others go on; copies are lost and damaged."""
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest

from engine import job as jobs
from engine import loop, resume
from engine.comm.local import group
from engine.config import resolve
from engine.errors import ConfigError, PeerError, StoreError
from engine.source import stream as streams
from engine.survive.protect import Protection

SOURCE = "make:sea?rows=3000"


def config_of(**more):
    given = {"data.source": SOURCE, "loop.threads": 1, "exchange.every": 16, "fault.ranks_per_node": 1, "fault.seal": 2000,
             "fault.frozen": 60, **more}
    return resolve(overrides=[f"{key}={value}" for key, value in given.items()], env={})


def on_ranks(size, work):
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, group(size, timeout_s=60)))


def prepared(link, config, root, schema_of=None):
    """(job, shield, meta of what was recovered or None)."""
    source = jobs.open_agreed(config, link)
    job = jobs.assemble(config, link, source.schema, None)
    shield = Protection(config, link, root)
    before = shield.recover(job, source.schema)
    place = None if before is None else streams.Position.parse(before["position"])
    job.stream = jobs.stream(config, link, source, place)
    return job, shield, before, source.schema


def lived(link, config, root):
    """Goes on to the end; (state, rows scored, clock, state as recovered, meta of that)."""
    job, shield, before, schema = prepared(link, config, root)
    found = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    shield.begin(job, schema)
    job.keeper = shield
    for event in loop.run(job):
        if isinstance(event.action, loop.Stop):
            break
    state = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    meter = loop.merged_meter(job)
    shield.pulse.done()
    return state, None if meter is None else meter.summary()["rows"], job.clock, found, before


def steps_of(link, config, root, count):
    """Learns exactly `count` steps, whatever is due in between."""
    job, shield, before, schema = prepared(link, config, root)
    found = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    shield.begin(job, schema)
    job.keeper = shield
    for _ in range(count):
        tick = loop.step(job, job.stream.take(job.k))
        job.clock, _ = loop.advance(job.clock, tick, job.rules)
        shield.commit(job)
    state = {path: block.data.copy() for path, block in resume.views(job).items() if not path.startswith("meter/")}
    shield.pulse.done()
    return state, job.clock, found, before


def outcome(recovered):
    """The recovered versions, or the error."""
    try:
        return [meta["version"] for meta in on_ranks(2, recovered)]
    except StoreError as error:
        return error


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


LONG = pytest.mark.long
MOVES = [("deal", 3, (1, 4)), ("hash", 1, (2,)), ("part", 2, (3,)),
         *(pytest.param(rule, n, (1, 2, 4, 8), marks=LONG) for rule in ("deal", "hash", "part") for n in (1, 2, 5))]


@pytest.mark.parametrize(("rule", "n", "after"), MOVES)
def test_any_number_of_ranks_goes_on_where_any_number_stopped(tmp_path, rule, n, after):
    config = config_of(**{"data.rule": rule})
    for m in after:
        root = tmp_path / f"{n}-{m}"
        stopped = on_ranks(n, lambda link, root=root: steps_of(link, config, root, 13 if n > 1 else 1))
        ended = on_ranks(m, lambda link, root=root: lived(link, config, root))
        for state, _, clock, found, before in ended:
            assert before["clock"] == [stopped[0][1].step, stopped[0][1].rows] and same(found, stopped[0][0])
            assert clock.rows == 3000 and same(state, ended[0][0])
        assert ended[0][1] == 3000  # every row was scored once, over both lives


def test_the_same_number_of_ranks_goes_on_to_the_same_bits(tmp_path):
    config = config_of()
    whole = on_ranks(3, lambda link: lived(link, config, tmp_path / "whole"))
    for count in (1, 20):
        root = tmp_path / str(count)
        on_ranks(3, lambda link, root=root, count=count: steps_of(link, config, root, count))
        ended = on_ranks(3, lambda link, root=root: lived(link, config, root))
        assert all(same(a[0], b[0]) for a, b in zip(whole, ended, strict=True)) and ended[0][1] == whole[0][1] == 3000


@pytest.mark.parametrize("copies", [1, pytest.param(2, marks=LONG)])
def test_any_so_many_nodes_may_be_wiped_and_one_more_is_said(tmp_path, copies):
    config, n = config_of(**{"fault.copies": copies}), 4
    on_ranks(n, lambda link: steps_of(link, config, tmp_path / "made", 11))
    for lost in range(1 << n):
        gone = [node for node in range(n) if lost >> node & 1]
        root = tmp_path / "tried"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "made", root)
        for node in gone:
            shutil.rmtree(root / "epoch-000001" / f"node-{node}")

        def recovered(link, root=root):
            return prepared(link, config, root)[2]

        if len(gone) <= copies:
            assert all(meta["version"] == 11 for meta in on_ranks(2, recovered)), gone
        elif len(gone) == n:
            assert on_ranks(2, recovered) == [None, None]
        else:  # neighbours hold one another's copies: some sets of more nodes are survived, none is survived wrongly
            found = outcome(recovered)
            assert found == [11, 11] or "no step of every shard" in str(found), gone


def test_damage_anywhere_is_repaired_from_the_partner_or_taken_from_there_and_told(tmp_path):
    config, n = config_of(), 2
    on_ranks(n, lambda link: steps_of(link, config, tmp_path / "made", 30))
    rng = np.random.default_rng(5)
    files = sorted(path for path in (tmp_path / "made").glob("epoch-*/node-0/own-*/*"))
    assert len([path for path in files if path.name.startswith("image-")]) == 2
    for file in files:
        good = file.read_bytes()
        used = np.flatnonzero(np.frombuffer(good, np.uint8))
        for at in rng.choice(used, 2):
            root = tmp_path / "tried"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(tmp_path / "made", root)
            bad = bytearray(good)
            bad[at] ^= 1 << rng.integers(8)
            (root / file.relative_to(tmp_path / "made")).write_bytes(bad)
            metas = on_ranks(2, lambda link, root=root: prepared(link, config, root)[2])
            assert all(meta["version"] == 30 for meta in metas)


def test_ranks_that_differ_are_found_at_the_next_vote(tmp_path):
    config = config_of()

    def work(link):
        job, shield, _, schema = prepared(link, config, tmp_path)
        shield.begin(job, schema)
        job.keeper = shield
        for step in range(4):
            tick = loop.step(job, job.stream.take(job.k))
            job.clock, _ = loop.advance(job.clock, tick, job.rules)
            if step == 2 and link.rank == 1:
                job.merged.values[0, 0] += 1  # what coll/han did: success, and another sum
            shield.commit(job)

    with pytest.raises(PeerError, match="disagree on step 3"):
        on_ranks(3, work)
    back = on_ranks(3, lambda link: prepared(link, config, tmp_path)[2]["version"])
    assert back == [2, 2, 2]


def test_another_model_is_refused_by_name(tmp_path):
    on_ranks(2, lambda link: steps_of(link, config_of(), tmp_path, 3))
    with pytest.raises(StoreError, match=r"model\.learner"):
        on_ranks(2, lambda link: prepared(link, config_of(**{"model.learner": "nag"}), tmp_path))


def test_a_full_memory_folder_is_a_named_error(tmp_path, monkeypatch):
    import os

    real = os.pwrite

    def full(handle, data, at):
        if memoryview(data).nbytes > 4096 and at > 0:
            if at > 1 << 17:
                raise OSError(28, "No space left on device")
            return real(handle, data[:4096], at)  # a full folder takes a part first
        return real(handle, data, at)

    config = config_of(**{"fault.ranks_per_node": 0})
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="disk full"):
        on_ranks(2, lambda link: steps_of(link, config, tmp_path, 1))


CODES = [("1+1", 2, 1), ("2+2", 4, 1), ("2+1", 7, 2), *(pytest.param(code, n, each, marks=LONG) for code, n, each in (
    ("2+1", 3, 1), ("3+1", 4, 1), ("3+2", 5, 1), ("2+1", 6, 1), ("4+1", 5, 1)))]


@pytest.mark.parametrize(("code", "n", "each"), CODES)
def test_with_parity_any_m_nodes_may_be_wiped_and_one_more_is_said(tmp_path, code, n, each):
    """Several groups, and nodes of unequal size, where a rank holds sums of two lanes."""
    config, m = config_of(**{"fault.parity": code, "fault.ranks_per_node": each}), int(code[-1])
    stopped = on_ranks(n, lambda link: steps_of(link, config, tmp_path / "made", 11))
    nodes = range(-(-n // each))
    for count in range(m + 2):
        for gone in combinations(nodes, count):
            root = tmp_path / "tried"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(tmp_path / "made", root)
            for node in gone:
                shutil.rmtree(root / "epoch-000001" / f"node-{node}")

            def recovered(link, root=root):
                job, shield, meta, _ = prepared(link, config, root)
                shield.pulse.done()
                return {path: block.data.copy() for path, block in resume.views(job).items() if "meter/" not in path}, meta

            if count <= m:
                found = on_ranks(2, recovered)
                assert all(meta["version"] == 11 and same(state, stopped[0][0]) for state, meta in found), gone
                assert sum("made again" in text for text in found[0][1]["problems"]) == sum(r // each in gone for r in range(n))
            elif count < len(nodes):
                found = outcome(lambda link: recovered(link)[1])
                assert found == [11, 11] if len(nodes) >= 2 * (m + 1) and not isinstance(found, StoreError) else (
                    "no step of every shard" in str(found)), gone


def test_parity_needs_its_nodes_and_takes_the_place_of_copies(tmp_path):
    for more, said in (({"fault.copies": 1}, "found both"), ({"exchange.mode": "asp"}, "one step of all ranks"),
                       ({"fault.parity": "99+30"}, "at most 128 nodes"), ({"fault.ranks_per_node": 2}, "found 2")):
        config = config_of(**{"fault.parity": "2+1", **more})
        with pytest.raises(ConfigError, match=said):
            on_ranks(3, lambda link, config=config, root=tmp_path / said: steps_of(link, config, root, 1))
    with pytest.raises(ConfigError, match="for example 4"):
        config_of(**{"fault.parity": "2+0"})


def test_a_run_with_fewer_nodes_left_goes_on_with_the_parity_that_they_can_have(tmp_path):
    config = config_of(**{"fault.parity": "2+2"})
    on_ranks(4, lambda link: steps_of(link, config, tmp_path, 7))
    notes = on_ranks(2, lambda link: (prepared(link, config, tmp_path)[1].partner.note))
    assert notes == ["fault.parity=2+2 over 2 nodes: any 1 of them may be lost"] * 2


def test_every_bit_of_the_sums_is_right_whatever_was_damaged_beside_a_lost_node(tmp_path):
    """A damaged file is passed over and the sums of another node are taken: every state found is the right one."""
    config = config_of(**{"fault.parity": "2+2"})
    left = on_ranks(4, lambda link: steps_of(link, config, tmp_path / "made", 30))[0][0]
    shutil.rmtree(tmp_path / "made" / "epoch-000001" / "node-1")
    rng = np.random.default_rng(8)
    for file in sorted((tmp_path / "made").glob("epoch-*/node-2/*/*")):
        good = file.read_bytes()
        for at in rng.choice(np.flatnonzero(np.frombuffer(good, np.uint8)), 2):
            root = tmp_path / "tried"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(tmp_path / "made", root)
            bad = bytearray(good)
            bad[at] ^= 1 << rng.integers(8)
            (root / file.relative_to(tmp_path / "made")).write_bytes(bad)
            for job, shield, meta, _ in on_ranks(1, lambda link, root=root: prepared(link, config, root)):
                found = {path: block.data for path, block in resume.views(job).items() if "meter/" not in path}
                assert meta["version"] == 30 and same(found, {path: left[path] for path in found}), file
                shield.pulse.done()
