"""Codecs: bytes in one frame for wire, shared window, journal and file.

    >>> from engine import codec
    >>> made = codec.make("topk:density=0.01 | int8 | pack")
    >>> state = made.init(g.size)                  # plain arrays: checkpoint them, move them
    >>> frame = made.encode(g, state, step=0)      # C(g + residual), the residual is what was not sent
    >>> made.decode_add(frame, acc)                # acc += the decoded values, from bytes that nobody has to trust

`names()` lists them; `Ef21`, `Momentum`, `relay`, `gather` and `spread` go around any of them.
"""

from __future__ import annotations

from typing import Any

_HOME = {
    "Codec": "base", "make": "base", "names": "base", "Shared": "quant", "Ef21": "feedback", "Momentum": "feedback",
    "relay": "feedback", "gather": "feedback", "spread": "feedback", "decode_frame": "frame", "Frame": "frame",
}  # fmt: skip

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Each is loaded when it is first asked for: a checkpoint needs frames, not codecs."""
    if name not in _HOME:
        raise AttributeError(f"engine.codec has no {name}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
