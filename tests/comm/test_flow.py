"""A channel against a perfect model: whatever is lost, doubled or reordered, reliable messages arrive once, in order."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.comm.flow import BULK, CONTROL, HEAD, LOOSE, STATE, Channel, Options, parse
from engine.errors import PeerError

SMALL = Options(chunk=16, window=100, rail=64, journal=1000, loose=50)


def message(number, size):
    return (np.arange(size) * 7 + number).astype(np.uint8)


def carry(chunk, to):
    """A chunk as it arrives: through its header."""
    _, head, size, crc = parse(chunk.head())
    place = to.place(head, size)
    if place is not None:
        place[:] = chunk.data
    return to.arrived(head, place, crc)


def acknowledge(of, to):
    frame = of.ack()
    _, head, size, _ = parse(frame[: HEAD.size])
    to.acknowledged(head.seq, np.frombuffer(frame[HEAD.size : HEAD.size + size], np.uint64).tolist(), head.message)


@settings(max_examples=50)
@given(st.data(), st.integers(1, 2))
def test_nothing_reliable_is_lost_doubled_or_out_of_order(data, rails):
    a, b = Channel(1, SMALL), Channel(0, SMALL)
    sent = {CONTROL: [], STATE: [], BULK: []}
    got = {CONTROL: [], STATE: [], BULK: []}
    flying, number = [], 0

    def deliver(chunk):
        for tag, body in carry(chunk, b):
            got[tag].append(body.tobytes())

    for _ in range(data.draw(st.integers(1, 60))):
        act = data.draw(st.sampled_from(["post", "send", "arrive", "double", "lose rail", "ack"]))
        if act == "post" and a.room:
            kind = data.draw(st.sampled_from([CONTROL, STATE, BULK]))
            body = message(number, data.draw(st.integers(0, 70)))
            number += 1
            sent[kind].append(body.tobytes())
            a.post(body, kind, kind)
        elif act == "send" and (chunk := a.next(data.draw(st.integers(0, rails - 1)))) is not None:
            flying.append(chunk)
            assert a.flying <= SMALL.window + SMALL.chunk
        elif act == "arrive" and flying:
            deliver(flying.pop(data.draw(st.integers(0, len(flying) - 1))))
        elif act == "double" and flying:
            deliver(flying[0])
        elif act == "lose rail":
            rail = data.draw(st.integers(0, rails - 1))
            a.lost(rail)
            flying = [c for c in flying if c.rail != rail]
        elif act == "ack":
            acknowledge(b, a)
    for _ in range(2000):  # then all is well: everything arrives
        for rail in range(rails):
            while (chunk := a.next(rail)) is not None:
                flying.append(chunk)
        while flying:
            deliver(flying.pop(0))
        acknowledge(b, a)
        if not a.held:
            break
    assert got == sent
    assert a.held == a.flying == 0 and not a.journal and not a.again and all(v == 0 for v in a.on_rail.values())


def test_control_overtakes_bulk_between_two_chunks():
    a = Channel(1, Options(chunk=10))
    a.post(message(0, 100), BULK, 1)
    first = a.next(0)
    a.post(message(1, 5), CONTROL, 2)
    assert first.kind == BULK and a.next(0).kind == CONTROL and a.next(0).kind == BULK


def test_credit_and_rail_bound_what_is_under_way():
    a = Channel(1, SMALL)
    a.post(message(0, 500), BULK, 1)
    count = sum(len(c.data) for c in iter(lambda: a.next(0), None))
    assert count <= SMALL.rail + SMALL.chunk and a.next(1) is not None
    while a.next(1) is not None:
        pass
    assert a.flying <= SMALL.window + SMALL.chunk


def test_the_journal_is_bounded():
    a = Channel(1, SMALL)
    while a.room:
        a.post(message(0, 100), STATE, 1)
    assert SMALL.journal <= a.held <= SMALL.journal + 400


def test_best_effort_keeps_the_newest_and_counts_what_it_drops():
    a, b = Channel(1, SMALL), Channel(0, SMALL)
    for number in range(10):
        a.post(message(number, 20), LOOSE, 3)
    assert a.counts.dropped == 8 and a.held == 0
    chunk = a.next_loose()
    assert carry(chunk, b)[0][1].tobytes() == message(8, 20).tobytes()


def test_damage_is_found():
    a, b = Channel(1, SMALL), Channel(0, SMALL)
    a.post(message(0, 10), STATE, 1)
    chunk = a.next(0)
    _, head, size, crc = parse(chunk.head())
    place = b.place(head, size)
    place[:] = chunk.data
    place[3] ^= 1
    with pytest.raises(PeerError, match="checksum"):
        b.arrived(head, place, crc)
    with pytest.raises(PeerError, match="frame"):
        parse(b"x" * HEAD.size)
