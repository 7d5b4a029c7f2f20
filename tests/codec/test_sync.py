"""A sender and a receiver kept in step by deltas over a line that loses, doubles, reorders and damages: no silent drift."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.codec.delta import ChunkError, delta_commit, delta_encode, delta_hash, delta_head, delta_repair
from engine.errors import FrameError

N = 3 * 65536 + 5


class Sync(RuleBasedStateMachine):
    """The sender moves its snapshot only where the receiver names the version and hash it has reached; what the receiver
    holds is always one of the sender's versions, bit for bit.
    """

    def __init__(self):
        super().__init__()
        self.draw = np.random.default_rng(0)
        self.now = self.draw.standard_normal(N).astype(np.float32)
        self.versions = {0: self.now.copy()}
        self.version, self.acked = 0, 0
        self.line: list[tuple[int, np.ndarray]] = []
        self.held, self.at, self.known = self.now.copy(), 0, delta_hash(self.now)
        self.frames: dict[int, np.ndarray] = {}
        self.repaired = 0

    @rule(share=st.sampled_from([0.001, 0.4, 1.0]))
    def learn_and_send(self, share):
        self.version += 1
        step = (1e-6 * self.draw.standard_normal(N)).astype(np.float32)
        self.now = self.now + np.where(self.draw.random(N) < share, step, np.float32(0))
        self.versions[self.version] = self.now.copy()
        base = self.versions[self.acked]
        frame = delta_encode(self.now, base, base_version=self.acked, new_version=self.version, keyframe="none")
        self.frames[self.version] = frame
        self.line.append((self.version, frame))

    @precondition(lambda self: self.line)
    @rule(data=st.data(), how=st.sampled_from(["take", "lose", "double", "flip", "cut", "late"]))
    def line_does(self, data, how):
        at = data.draw(st.integers(0, len(self.line) - 1)) if how == "late" else 0
        version, frame = self.line.pop(at)
        if how == "lose":
            return
        if how == "double":
            self.receive(version, frame)
        if how == "flip":
            frame = frame.copy()
            frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        if how == "cut":
            frame = frame[: data.draw(st.integers(0, len(frame) - 1))]
        self.receive(version, frame)

    def receive(self, version, frame):
        try:
            self.known = delta_commit(self.held, frame, base_version=self.at, base_hash=self.known)
        except ChunkError as refused:
            repair = delta_repair(self.versions[version], self.frames[version], refused.chunks, keyframe="none")
            chunk = min(delta_head(self.frames[version]).chunk, N) * 4
            self.repaired = max(self.repaired, len(repair) - len(refused.chunks) * chunk)
            self.known = delta_commit(self.held, frame, base_version=self.at, base_hash=self.known, repair=repair)
        except FrameError:
            return
        self.at = delta_head(frame).new_version
        if self.known == delta_hash(self.versions[self.at]):
            self.acked = self.at

    @rule()
    def ask_for_a_keyframe(self):
        frame = delta_encode(self.now, None, new_version=self.version, keyframe="none")
        self.known = delta_commit(self.held, frame)
        self.at = self.acked = self.version

    @invariant()
    def no_drift(self):
        assert self.held.tobytes() == self.versions[self.at].tobytes()
        assert self.acked in self.versions and self.known == delta_hash(self.held)
        assert self.repaired <= 1024  # beyond the chunks that were refused


Sync.TestCase.settings = settings(deadline=None, max_examples=12, stateful_step_count=20)
TestSync = Sync.TestCase
