"""Kafka by confluent-kafka (extra `[kafka]`): a topic's partitions as feeds; and a sink for what a run gives out.

Offsets live in our own checkpoint, in the same atomic record as what was learned from them; only then are they told to the
broker, so that its tools show the lag. A consumer group is never joined: partitions are assigned (partition p to rank
p mod ranks), so ranks that come and go never wait for a rebalance. A message holds one row or several lines of text.
"""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from engine.errors import ConfigError, DataError, PeerError
from engine.source.feed import At, Feed, Lines, Portion
from engine.source.live import LiveSource
from engine.source.schema import MESSAGE, Plan
from engine.types import NO_TIME

FETCH = 10_000  # messages a poll takes at most
WAIT_S = 30.0
PAUSE_S = 0.001  # after an empty answer: asking costs as much as many messages, and a fetch takes longer
ROW_BITS = 20  # of a mark: rows of one message


def library() -> Any:
    """The confluent_kafka module; ConfigError where it is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise ConfigError("kafka: expected confluent-kafka, found none", fix="pip install 'engine[kafka]'") from error
    return confluent_kafka


def settings(spec: str) -> tuple[str, str, dict[str, Any]]:
    """(brokers, topic, librdkafka settings) of `kafka://BROKER[,BROKER]/TOPIC?group=G&name=value…`."""
    match = re.fullmatch(r"kafka://([^/?]+)/([^/?]+)(?:\?(.*))?", spec)
    if not match:
        raise ConfigError("kafka: expected kafka://BROKER[,BROKER]/TOPIC", where=spec, fix="kafka://localhost:9092/rows")
    options = dict(parse_qsl(match[3] or ""))
    return match[1], match[2], {"group.id": options.pop("group", "engine"), **options}


class Partition:
    """One partition of a topic; its cursor is the offset of a message and the number of its rows that are done."""

    def __init__(self, spec: str, partition: int, lines: Lines, wait_s: float = 60.0) -> None:
        kafka = library()
        brokers, self.topic, options = settings(spec)
        self.name, self.ended, self.partition, self._lines = f"kafka {self.topic} {partition}", False, partition, lines
        self._kafka, self._begun = kafka, False
        self._away_s, self._wait_s = 0.0, wait_s  # since when no broker answers; how long that may last
        self._consumer = kafka.Consumer({"bootstrap.servers": brokers, "enable.auto.commit": False, "error_cb": self._unwell,
                                         "enable.auto.offset.store": False, "auto.offset.reset": "error", **options})
        self._next, self._skip, self._ask_s = kafka.OFFSET_BEGINNING, 0, 0.0

    def seek(self, at: At) -> None:
        self._next, self._skip, self._begun = at[1] >> ROW_BITS, at[1] & (1 << ROW_BITS) - 1, False

    def poll(self) -> Portion | None:
        if not self._begun:
            self._consumer.assign([self._kafka.TopicPartition(self.topic, self.partition, self._next)])
            self._begun = True
        elif time.monotonic() < self._ask_s:
            return None
        found = self._consumer.consume(FETCH, 0.0)
        if not found:
            self._ask_s = time.monotonic() + PAUSE_S
            if self._away_s and time.monotonic() - self._away_s > self._wait_s:
                self._ask()
            return None
        if any(map(self._kafka.Message.error, found)):
            for error in (message.error() for message in found):
                if error is not None:
                    self._trouble(error)
            found = [message for message in found if message.error() is None]
        if found:
            self._away_s = 0.0
        return self._rows(found) if found else None

    def _unwell(self, error: Any) -> None:
        """librdkafka's word that a broker is away; it goes on trying by itself, so a short absence costs nothing."""
        if error.code() in (self._kafka.KafkaError._ALL_BROKERS_DOWN, self._kafka.KafkaError._TRANSPORT):
            self._away_s = self._away_s or time.monotonic()

    def _ask(self) -> None:
        """Whether a broker answers after all; PeerError where none does."""
        try:
            self._consumer.list_topics(self.topic, timeout=min(WAIT_S, max(1.0, self._wait_s)))
        except self._kafka.KafkaException as error:
            raise PeerError(f"kafka: no broker has answered for {time.monotonic() - self._away_s:.0f} s: {error}",
                            where=self.name, fix="bring the broker back and run again with --resume: offsets stand in the "
                            "checkpoint; or raise data.wait") from error
        self._away_s = 0.0

    @property
    def waiting(self) -> int:
        """Messages that the broker holds and that are not read yet, as the last answers said."""
        if not self._begun or self._next < 0:
            return 0
        _, high = self._consumer.get_watermark_offsets(self._kafka.TopicPartition(self.topic, self.partition), cached=True)
        return max(0, int(high) - self._next)

    def _trouble(self, error: Any) -> None:
        """A broker that is away comes back: librdkafka tries again by itself. What cannot mend is raised by name."""
        kafka = self._kafka.KafkaError
        if error.code() in (kafka.OFFSET_OUT_OF_RANGE, kafka._AUTO_OFFSET_RESET):
            raise DataError(f"offset {self._next} is no longer in the topic: rows before the cursor are gone", where=self.name,
                            fix="keep the topic longer than a checkpoint; or start anew")
        if error.fatal() or error.code() in (kafka.UNKNOWN_TOPIC_OR_PART, kafka.TOPIC_AUTHORIZATION_FAILED):
            raise PeerError(f"kafka: {error}", where=self.name, fix="check the topic and the broker")

    def _rows(self, messages: list[Any]) -> Portion | None:
        """Rows of the messages; the mark of a row is its message's offset and its place among the message's rows."""
        texts = list(map(self._kafka.Message.value, messages))
        if None in texts:
            texts = [text or b"" for text in texts]
        first, last, n = messages[0].offset(), messages[-1].offset(), len(messages)
        data = b"\n".join(texts) + b"\n"  # a message with a line end of its own leaves an empty line, which is passed over
        found = self._lines.rows(data, self.name, 0)
        self._next = last + 1
        if found is None:
            return None
        if last - first == n - 1:
            offsets = np.arange(first, last + 1)
        else:  # compacted topics and transactions leave holes
            offsets = np.array([message.offset() for message in messages], np.int64)
        message = np.arange(n)
        if len(found.batch) == n == data.count(b"\n"):
            found.marks[:-1] = offsets << ROW_BITS
        else:
            starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
            message = np.searchsorted(starts, found.marks[:-1], "right") - 1
            begins = np.searchsorted(message, message)  # of each row, the first row of its message
            found.marks[:-1] = (offsets[message] << ROW_BITS) + np.arange(len(message)) - begins
        found.marks[-1] = (last + 1) << ROW_BITS
        if self._lines.plan.time == MESSAGE:
            stamps = [message.timestamp()[1] for message in messages]  # milliseconds; below 0: the broker has none
            found.batch.time = np.array([1000 * ms if ms > 0 else NO_TIME for ms in stamps], np.int64)[message]
        skip, self._skip = self._skip, 0
        if skip:
            found.batch, found.marks = found.batch.slice(skip, len(found.batch)), found.marks[skip:]
        return found

    def committed(self, at: At) -> None:
        """Tells the broker, for its own tools; what counts is the checkpoint, so no answer is waited for."""
        told = self._kafka.TopicPartition(self.topic, self.partition, at[1] >> ROW_BITS)
        self._consumer.commit(offsets=[told], asynchronous=True)

    def close(self) -> None:
        self._consumer.close()


def open_kafka(spec: str, options: Mapping[str, Any], plan: Plan | None, find: Callable[[bytes, str], Plan],
               stats: dict[str, Any]) -> LiveSource:
    """The topic as a live source, a consumer for each partition."""
    count = partitions(spec)
    if plan is None:
        plan = find(_first(spec, count, options["wait_s"]), spec)
    lines = Lines(plan, options["on_bad_rows"], stats)

    def feeds(rank: int, size: int) -> list[Feed]:
        return [Partition(spec, p, lines, options["wait_s"]) for p in range(rank, count, size)]

    return LiveSource(plan.schema, feeds, plan=plan, idle_s=options["idle_s"], stats=stats, more=lambda rank, size: [],
                      reopen=lambda name: Partition(spec, int(name.split()[-1]), lines, options["wait_s"]))


def partitions(spec: str) -> int:
    """How many partitions the topic has; PeerError where no broker answers or it has none."""
    kafka = library()
    brokers, topic, options = settings(spec)
    consumer = kafka.Consumer({"bootstrap.servers": brokers, **options})
    try:
        found = consumer.list_topics(topic, timeout=WAIT_S).topics.get(topic)
    except kafka.KafkaException as error:
        raise PeerError(f"kafka: no broker answers: {error}", where=spec, fix="check the broker's address") from error
    finally:
        consumer.close()
    if found is None or found.error is not None or not found.partitions:
        raise PeerError(f"kafka: expected topic {topic}, found {found.error if found else 'none'}", where=spec,
                        fix="create it first")
    return len(found.partitions)


def _first(spec: str, count: int, wait_s: float) -> bytes:
    """Some rows from the start of the topic, left where they are; DataError where none come in time."""
    kafka = library()
    brokers, topic, options = settings(spec)
    consumer = kafka.Consumer({"bootstrap.servers": brokers, "enable.auto.commit": False, **options})
    consumer.assign([kafka.TopicPartition(topic, p, kafka.OFFSET_BEGINNING) for p in range(count)])
    end, texts = time.monotonic() + wait_s, list[bytes]()
    try:
        while not texts and time.monotonic() < end:
            texts = [m.value() or b"" for m in consumer.consume(1000, 0.2) if m.error() is None]
    finally:
        consumer.close()
    if not texts:
        raise DataError(f"no message came within {wait_s:g} s", where=spec,
                        fix="raise data.wait, or give data.columns and data.task")
    return b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)


class Sink:
    """A topic that takes what a run gives out (deltas of a model, scores), each acknowledged by the broker.

    `put` never waits for one message; `flush` returns when all are acknowledged, PeerError where any is refused.
    """

    def __init__(self, spec: str) -> None:
        kafka = library()
        brokers, self.topic, options = settings(spec)
        options.pop("group.id")
        self._producer = kafka.Producer({"bootstrap.servers": brokers, "enable.idempotence": True, **options})
        self.acknowledged, self._refused = 0, ""

    def put(self, value: bytes, key: str = "", partition: int = -1) -> None:
        while True:
            try:
                self._producer.produce(self.topic, value, key or None, partition, on_delivery=self._heard)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.05)

    def _heard(self, error: Any, message: Any) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self._refused = str(error)

    def flush(self, timeout_s: float = WAIT_S) -> None:
        left = self._producer.flush(timeout_s)
        if left or self._refused:
            why = self._refused or f"{left} messages not acknowledged within {timeout_s:g} s"
            raise PeerError(f"kafka: {why}", where=self.topic, fix="check the broker; such messages may not be there")
