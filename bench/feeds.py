"""Live sources: latency of a followed file, rates of sockets and Kafka, memory of long streams. Cases of `source`."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.learn import folder
from bench.machine import ROOT
from bench.registry import Missing, Setting, case
from bench.row import Row, row
from bench.timing import cpu_s, spread

SELF = [sys.executable, "-m", "bench.feeds"]
TICK_S = 2e-5  # of the time stamps in rows: float32 holds 335 s of them


def learner(source: Any, every: int = 256, *more: str) -> Any:
    """A job on this process alone over a live source."""
    from engine import job as jobs
    from engine.comm.local import Alone
    from engine.config import resolve
    from engine.source.live import Live

    config = resolve(overrides=["loop.threads=1", f"exchange.every={every}", *more], env={})
    link = Alone()
    job = jobs.assemble(config, link, source.schema, None)
    job.stream = Live(source, link)
    return job


def stepped(job: Any) -> Any:
    """One step; the rows it learned."""
    from engine import loop

    rows = job.stream.take(job.k)
    tick = loop.step(job, rows)
    job.clock, _ = loop.advance(job.clock, tick, job.rules)
    return rows


def child(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*SELF, *map(str, args)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stdin=subprocess.PIPE)


def write_lines(path: str, rate: float, seconds: float, began: float) -> None:
    """`rate` lines a second of 8 columns, the first the time of writing, in bursts of a millisecond."""
    row_rest = "," + ",".join(f"{i}.25" for i in range(7)) + ",1\n"
    with open(path, "ab", buffering=0) as out:
        start, done = time.monotonic(), 0
        while (now := time.monotonic()) - start < seconds:
            due = int((now - start) * rate)
            if due > done:
                stamp = f"{(now - began) / TICK_S:.0f}{row_rest}"
                out.write(stamp.encode() * (due - done))
                done = due
            time.sleep(0.0005)


@case("source", "follow")
def follow(setting: Setting) -> Iterator[Row]:
    """From a line's writing to the end of the step that learned it, at 50 000 lines a second."""
    from engine.source.read import open_source

    seconds, rate = min(30.0, setting.seconds), 50_000
    with folder() as at:
        path, began = at / "log.csv", time.monotonic()
        path.write_text(",".join(f"c{i}" for i in range(8)) + ",y\n" + "0,1,2,3,4,5,6,7,1\n" * 100)
        job = learner(open_source(f"follow:{path}", task="binary", labels=("0", "1"), target="y"))
        writer = child("write", path, rate, seconds, began)
        late: list[Any] = []
        end = time.monotonic() + seconds + 1.0
        while time.monotonic() < end:
            rows = stepped(job)
            if rows is not None and len(rows):
                late.append((time.monotonic() - began) - rows.x[:, 0] * TICK_S)
        writer.wait(30)
        job.stream.close()
        held = np.concatenate(late)[100 + rate // 2 :] * 1e3
        yield row("follow", float(np.median(held)), "ms", bars={"value": "<= 2", "p99_ms": "<= 20"},
                  p99_ms=float(np.quantile(held, 0.99)), rows=len(held), rate=rate)


def send_frames(address: str, total: int) -> None:
    from engine.source.send import Sender

    draw = np.random.default_rng(2)
    x = draw.normal(size=(4096, 8)).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.float32)
    with Sender(address, "bench", window_bytes=4 << 20) as out:
        for _ in range(total // 4096):
            out.send(x, y)


def ingest(at: Path, spooled: bool, total: int, turn: int) -> tuple[float, float]:
    """(wall, CPU) seconds of this process to learn `total` rows that another sends."""
    from engine.source.feed import counters
    from engine.source.listen import Listener
    from engine.source.live import LiveSource
    from engine.store.spool import Spool
    from engine.types import Schema

    spool = Spool(at / f"spool{turn}", limit_bytes=4 << 30) if spooled else None
    address = f"unix://{at}/door{turn}"
    feed = Listener(address, None, counters(), spool=spool)
    job = learner(LiveSource(Schema(8, False, "binary", ("0", "1")), lambda rank, size: [feed]), 4096)
    sender = child("send", address, total)
    rows = stepped(job)
    while rows is None or not len(rows):
        rows = stepped(job)
    wall, cpu, learned = time.perf_counter(), cpu_s(), 0
    while learned < total - len(rows):
        found = stepped(job)
        learned += 0 if found is None else len(found)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    job.stream.close()
    sender.wait(30)
    return wall, cpu


@case("source", "socket")
def socket_case(setting: Setting) -> Iterator[Row]:
    """Frames of 8 float32 features over a unix socket into the learner; with the spool on and off, in turns."""
    total = 4096 * (2000 if setting.long else 500)
    with folder() as at:
        runs: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(4):
            for spooled in (False, True) if turn % 2 else (True, False):
                runs[spooled].append(total / ingest(at, spooled, total, 2 * turn + spooled)[1])
        off, on = (float(np.median(runs[side])) for side in (False, True))
        ratios = [a / b for a, b in zip(runs[True], runs[False], strict=True)]
        yield row("socket", off, "rows/cpu s", bars={"value": ">= 1000000"}, spread=spread(runs[False]), rows=total)
        yield row("socket.spool", on, "rows/cpu s", "the same without a spool", off, float(np.median(ratios)), spread(ratios),
                  {"ratio": ">= 0.8"})


def produce(topic: str, total: int, ahead: int, watch: str) -> None:
    """Holds a mock broker, prints its address, and keeps at most `ahead` messages before what `watch` has checkpointed
    (the mock keeps 100 000 of a partition). Ends when its input ends."""
    import confluent_kafka as kafka

    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "linger.ms": 20,
                               "queue.buffering.max.messages": 500_000})
    found = next(iter(producer.list_topics(topic, timeout=10).brokers.values()))
    print(f"{found.host}:{found.port}", flush=True)
    done = 0
    while done < total:
        saved = max((int(p.name[5:]) for p in Path(watch).glob("step-*") if p.name[5:].isdigit()), default=0) if watch else 0
        most = min(total, saved + ahead)
        while done < most:
            try:
                producer.produce(topic, f"1 {done + 1}:1".encode(), partition=done % 4)
                done += 1
            except BufferError:
                producer.poll(0.05)
        producer.flush(30)
        print(done, flush=True)
        time.sleep(0.02)
    sys.stdin.read()


def bare(address: str, topic: str, total: int) -> tuple[float, float]:
    """Wall and CPU seconds of a plain consumer that reads every value."""
    import confluent_kafka as kafka

    consumer = kafka.Consumer({"bootstrap.servers": address, "group.id": "bare", "enable.auto.commit": False})
    consumer.assign([kafka.TopicPartition(topic, p, kafka.OFFSET_BEGINNING) for p in range(4)])
    done, size, wall, cpu = 0, 0, time.perf_counter(), cpu_s()
    while done < total:
        for message in consumer.consume(10_000, 0.1):
            if message.error() is None:
                size += len(message.value())
                done += 1
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    consumer.close()
    return wall, cpu


def ours(address: str, topic: str, total: int) -> tuple[float, float]:
    """Wall and CPU seconds of our feeds, parsed and learned."""
    from engine.source.read import open_source

    source = open_source(f"kafka://{address}/{topic}", format="libsvm", task="regression")
    job = learner(source, 4096, "model.scale=false")
    done, wall, cpu = 0, time.perf_counter(), cpu_s()
    while done < total:
        found = stepped(job)
        done += 0 if found is None else len(found)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    job.stream.close()
    return wall, cpu


@case("source", "kafka")
def kafka_case(setting: Setting) -> Iterator[Row]:
    """The rate beside a bare consumer on 300 000 messages, then messages through two kill -9: each learned once."""
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise Missing("confluent-kafka is not installed; pip install 'engine[kafka]'") from error
    total = 300_000
    held = child("produce", "rate", total, total, "")
    assert held.stdout is not None and held.stdin is not None
    address = held.stdout.readline().strip()
    while int(held.stdout.readline()) < total:
        pass
    ours(address, "rate", 20_000)  # imports are no part of the rate
    sides = [(ours(address, "rate", total), bare(address, "rate", total)) for _ in range(5)]
    held.stdin.close()
    held.wait(30)
    ratios, cpus = ([b[clock] / a[clock] for a, b in sides] for clock in (0, 1))
    mine, other = (total / float(np.median([pair[i][0] for pair in sides])) for i in (0, 1))
    lost, doubled, n = killed(1_000_000 if setting.long else 300_000)
    yield row("kafka", mine, "rows/s", "bare consumer", other, float(np.median(ratios)), spread(ratios),
              {"ratio": ">= 0.9", "rows_lost": "<= 0", "rows_doubled": "<= 0"}, rows_lost=lost, rows_doubled=doubled,
              messages=n, cpu_ratio=float(np.median(cpus)))


def killed(total: int) -> tuple[int, int, int]:
    """Rows lost and doubled over two kill -9 of the job, by the weight that each row's own key has in the end."""
    from engine.store import checkpoint as store

    with folder() as at:
        saved = at / "saved"
        held = child("produce", "kill", total, 200_000, saved)
        assert held.stdout is not None and held.stdin is not None
        address = held.stdout.readline().strip()
        held.stdout.readline()
        line = [sys.executable, "-m", "engine", "train", f"kafka://{address}/kill", "--checkpoint", str(saved), "--every",
                "20000rows", "--resume", "--run-dir", "-", "--quiet", "--threads", "1", "--task", "regression", "--learner",
                "sgd", "--rate", "1", "model.bias=0", "model.power_t=0", "model.scale=false", "data.format=libsvm", "data.idle=4"]
        for place in range(3):
            job = subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
            while place < 2 and job.poll() is None:
                step = max((int(p.name[5:]) for p in saved.glob("step-*") if p.name[5:].isdigit()), default=0)
                if step > total * (place + 1) // 3:
                    job.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
            job.wait(300)
        held.stdin.close()
        held.stdout.read()
        held.wait(30)
        found = store.latest(saved)
        assert found is not None
        state, _ = store.load(found)
        times = np.rint(state["model/linear"].data[:total, 0])
        return int((times < 0.5).sum()), int((times > 1.5).sum()), total


@case("source", "memory")
def memory(setting: Setting) -> Iterator[Row]:
    """Most memory a rank ever had: a large file, and a socket that never stops, learned to the end."""
    size = (10 << 30) if setting.long else 768 << 20
    with folder() as at:
        path = at / "large.csv"
        block = "".join(f"{i % 97}.5,{i % 89},{i % 83}.25,{i % 79},{i % 2}\n" for i in range(100_000)).encode()
        with path.open("wb") as out:
            for _ in range(size // len(block)):
                out.write(block)
        for name, source, more in (("memory.file", str(path), []), ("memory.endless", f"unix://{at}/door", [
                "data.format=frames", "data.columns=" + ",".join([*(f"c{i}" for i in range(8)), "y"]), "data.task=binary",
                "--stop-after", str(20_000_000 if setting.long else 4_000_000)])):
            sender = child("send", source, 1 << 40) if source.startswith("unix") else None
            line = [sys.executable, "-c", PEAK, "train", source, "--run-dir", "-", "--quiet", "--threads", "1", *more]
            env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
            done = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
            if sender is not None:
                sender.kill()
                sender.wait(10)
            if done.returncode:
                raise RuntimeError(done.stderr[-400:])
            yield row(name, int(done.stdout.split()[-1]) / 1024, "MiB", bars={"value": "<= 256"},
                      mib_read=None if sender else size >> 20)


PEAK = """
import resource, sys
from engine.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def main() -> None:
    verb, *args = sys.argv[1:]
    if verb == "write":
        write_lines(args[0], *map(float, args[1:]))
    elif verb == "send":
        send_frames(args[0], int(args[1]))
    elif verb == "produce":
        produce(args[0], int(args[1]), int(args[2]), args[3])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    main()

