"""The error tree. A message says what was expected, what was found, where, and how to go on."""
from __future__ import annotations


class EngineError(Exception):
    """Root of every error the engine raises on purpose; `code` is the process exit status (sysexits)."""

    code = 70
    label = "E100"

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        self.message, self.where, self.fix = message, where, fix
        super().__init__(message)

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.where, self.fix)


def _rebuild(kind: type[EngineError], message: str, where: str, fix: str) -> EngineError:
    return kind(message, where=where, fix=fix)


class ConfigError(EngineError):
    """A key, a value or a combination the user gave; found before MPI starts wherever possible."""

    code, label = 64, "E200"


class DataError(EngineError):
    """A row, a file or a schema that cannot be learned from."""

    code, label = 65, "E300"


class FrameError(EngineError):
    """Bytes that are not the frame they claim to be: cut, flipped, foreign, or against another base."""

    code, label = 65, "E400"


class StoreError(EngineError):
    """A checkpoint, journal or disk that cannot be read or written."""

    code, label = 74, "E500"


class ShardError(EngineError):
    """A key, slot or range with no legal owner, or an operation on a shard in the wrong state."""

    code, label = 70, "E600"


class PeerError(EngineError):
    """Another rank is absent, late, different, or has failed; the run can be tried again from its checkpoint."""

    code, label = 75, "E700"


class PeerLost(PeerError):
    """A rank has died while this one waited: the wait is called off, and the survivors may go on without it."""

    label = "E720"


class Preempted(EngineError):
    """The run was asked to stop and has stopped at an agreed step, with a checkpoint where one was configured."""

    code, label = 75, "E710"
