"""Distributed incremental learning under MPI. Importing this starts nothing: no MPI, no threads, no files."""
from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Session": "session",
    "Batch": "types", "Block": "types", "Cursor": "types", "Schema": "types", "Update": "types",
    "EngineError": "errors", "ConfigError": "errors", "DataError": "errors", "FrameError": "errors",
    "StoreError": "errors", "ShardError": "errors", "PeerError": "errors", "Preempted": "errors",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
