"""Kafka on librdkafka's own mock broker: offsets in our record, nothing lost or doubled by kills, trouble named."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, DataError, PeerError
from engine.source.feed import Lines, counters
from engine.source.kafka import Partition, Sink, partitions, settings
from engine.source.schema import named_plan
from engine.store import checkpoint as store
from engine.types import join

kafka = pytest.importorskip("confluent_kafka")
LIMIT_S = 60
PLAN = named_plan(("a", "y"), "test", {"task": "regression", "format": "csv"})


@pytest.fixture(scope="module")
def broker():
    """(address, producer that holds the mock cluster)."""
    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
    found = next(iter(producer.list_topics(timeout=10).brokers.values()))
    yield f"{found.host}:{found.port}", producer
    producer.flush(5)


def fill(producer, topic, texts):
    """Messages over the topic's partitions; the mock cluster makes the topic."""
    producer.list_topics(topic, timeout=10)
    for i, text in enumerate(texts):
        while True:
            try:
                producer.produce(topic, text, partition=i % 4)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30) == 0


def drained(feed, want):
    found, at, end = [], ("", 0), time.monotonic() + LIMIT_S
    while len(found) < want and time.monotonic() < end:
        portion = feed.poll()
        if portion is not None:
            found += portion.batch.x[:, 0].astype(int).tolist()
            at = (portion.place, portion.marks)
    return found, at


def test_a_cursor_in_the_middle_of_a_message_goes_on_there(broker):
    address, producer = broker
    texts = [b"".join(b"%d,1\n" % (10 * m + i) for i in range(3)) for m in range(8)]
    fill(producer, "several", texts)
    spec = f"kafka://{address}/several"
    assert partitions(spec) == 4
    feed = Partition(spec, 1, Lines(PLAN, "error", counters()))
    rows, (_, marks) = drained(feed, 6)
    assert rows == [10, 11, 12, 50, 51, 52]
    feed.close()
    for done in range(7):
        again = Partition(spec, 1, Lines(PLAN, "error", counters()))
        again.seek(("", int(marks[done])))
        assert drained(again, 6 - done)[0] == rows[done:]
        again.committed(("", int(marks[done])))
        again.close()


def test_rows_have_the_time_of_their_message(broker):
    address, producer = broker
    producer.list_topics("timed", timeout=10)
    for i in range(6):
        producer.produce("timed", b"%d,1\n%d,1\n" % (i, i), partition=0, timestamp=1_700_000_000_000 + i)
    assert producer.flush(30) == 0
    plan = named_plan(("a", "y"), "test", {"task": "regression", "format": "csv", "event": ("@message", "", "auto")})
    feed, found = Partition(f"kafka://{address}/timed", 0, Lines(plan, "error", counters())), []
    end = time.monotonic() + LIMIT_S
    while sum(map(len, found)) < 12 and time.monotonic() < end:
        portion = feed.poll()
        found += [] if portion is None else [portion.batch]
    feed.close()
    rows = join(found)
    assert rows.time.tolist() == [1000 * (1_700_000_000_000 + int(a)) for a in rows.x[:, 0]]


def test_a_sink_is_acknowledged(broker):
    address, producer = broker
    producer.list_topics("deltas", timeout=10)
    sink = Sink(f"kafka://{address}/deltas")
    for i in range(100):
        sink.put(b"%d,1" % i, partition=0)
    sink.flush()
    assert sink.acknowledged == 100
    feed = Partition(f"kafka://{address}/deltas", 0, Lines(PLAN, "error", counters()))
    assert drained(feed, 100)[0] == list(range(100))
    feed.close()


def test_mistakes_and_absent_brokers_are_named(monkeypatch):
    assert settings("kafka://h:1,i:2/t?group=g&client.id=x") == ("h:1,i:2", "t", {"group.id": "g", "client.id": "x"})
    with pytest.raises(ConfigError, match="expected kafka://"):
        settings("kafka://nothing")
    monkeypatch.setattr("engine.source.kafka.WAIT_S", 0.5)
    with pytest.raises(PeerError, match="no broker answers"):
        partitions("kafka://127.0.0.1:1/t")
    sink = Sink("kafka://127.0.0.1:1/t?message.timeout.ms=300")
    sink.put(b"x")
    with pytest.raises(PeerError, match="kafka"):
        sink.flush(3)


HELD = """
import sys
import confluent_kafka as kafka
producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock"})
found = next(iter(producer.list_topics("rows", timeout=10).brokers.values()))
for i in range(int(sys.argv[1])):
    producer.produce("rows", b"%d,1" % i, partition=0)
producer.flush(30)
print(f"{found.host}:{found.port}", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def apart():
    """A broker in a process of its own with 10 000 rows in one partition: (address, process)."""
    held = subprocess.Popen([sys.executable, "-c", HELD, "10000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield held.stdout.readline().strip(), held
    held.kill()
    held.communicate()


def test_a_broker_that_goes_away_and_comes_back_costs_nothing(apart):
    address, held = apart
    feed = Partition(f"kafka://{address}/rows?max.partition.fetch.bytes=20000&queued.min.messages=500", 0,
                     Lines(PLAN, "error", counters()), wait_s=30)
    first, _ = drained(feed, 2000)
    held.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # what was fetched before still comes
        portion = feed.poll()
        first += [] if portion is None else portion.batch.x[:, 0].astype(int).tolist()
        time.sleep(0.001)
    assert len(first) < 10_000
    held.send_signal(signal.SIGCONT)
    rest, _ = drained(feed, 10_000 - len(first))
    assert first + rest == list(range(10_000))
    feed.close()


def test_a_broker_lost_for_good_ends_the_feed_by_name_and_its_cursor_stands(apart):
    address, held = apart
    feed = Partition(f"kafka://{address}/rows?max.partition.fetch.bytes=20000&queued.min.messages=500", 0,
                     Lines(PLAN, "error", counters()), wait_s=1.0)
    found, _ = drained(feed, 2000)
    held.kill()
    began = time.monotonic()

    def read():
        while time.monotonic() - began < LIMIT_S:
            portion = feed.poll()
            if portion is not None:
                found.extend(portion.batch.x[:, 0].astype(int).tolist())
            time.sleep(0.001)

    with pytest.raises(PeerError, match="no broker has answered"):
        read()
    assert found == list(range(len(found)))
    feed.close()


def test_messages_of_other_columns_are_named(broker):
    address, producer = broker
    fill(producer, "changed", [b"%d,1" % i for i in range(8)] + [b"8,9,1"])
    feed = Partition(f"kafka://{address}/changed", 0, Lines(PLAN, "error", counters()))
    with pytest.raises(DataError, match=r"too many columns.*'8,9,1'"):
        drained(feed, 10)
    feed.close()


def start(n, spec, folder, *more):
    verb = ["run", "-n", str(n), "train"] if n > 1 else ["train"]
    args = [spec, "--checkpoint", str(folder), "--every", "2000rows", "--resume", "--run-dir", "-", "--threads", "1",
            "--json", "--quiet", "--task", "regression", "--learner", "sgd", "--rate", "1", "model.bias=0", "model.power_t=0",
            "model.loss=squared", "model.scale=false", "exchange.every=64", "exchange.merge=add", "data.format=libsvm",
            "data.wait=20", *more]
    return subprocess.Popen([sys.executable, "-m", "engine", *verb, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True)


@pytest.mark.parametrize("plan", [(2, 1), pytest.param((1, 3, 2), marks=pytest.mark.long)])
def test_a_job_killed_twice_learns_every_message_once(broker, tmp_path, plan):
    address, producer = broker
    topic, total, folder = f"rows{len(plan)}", 12_000, tmp_path / "saved"
    fill(producer, topic, [b"1 %d:1" % (i + 1) for i in range(total // 3)])
    spec = f"kafka://{address}/{topic}"
    for place, n in enumerate(plan[:-1]):
        job, end = start(n, spec, folder), time.monotonic() + LIMIT_S
        least = (place + 1) * 2000
        while time.monotonic() < end and job.poll() is None:
            saved = [int(p.name[5:]) for p in Path(folder).glob("step-*")] if folder.is_dir() else []
            if saved and max(saved) >= least:
                break
            time.sleep(0.02)
        assert job.poll() is None, job.communicate()
        if place == 0:
            fill(producer, topic, [b"1 %d:1" % (i + 1) for i in range(total // 3, total)])
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate(timeout=LIMIT_S)
    job = start(plan[-1], spec, folder, "data.idle=3")
    out, err = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 0, err
    state, _ = store.load(store.latest(folder))
    np.testing.assert_array_equal(np.rint(state["model/linear"].data[:total, 0]), np.ones(total))
    assert json.loads(out)["rows"] == total
