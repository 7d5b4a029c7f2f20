"""The stages of this room: importing this module registers them."""
from __future__ import annotations

from engine.clean import encode, number, reduce, text, window

__all__ = ["encode", "number", "reduce", "text", "window"]
