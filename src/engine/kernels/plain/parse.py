"""What the text parsers mean, a row at a time: numbers by `float()`, keys by FNV-1a and splitmix64."""
from __future__ import annotations

import math

WORD = (1 << 64) - 1
MISSING = frozenset({"", "?", "na", "nan", "n/a", "null"})


def mix(x: int) -> int:
    """splitmix64's finaliser on a 64-bit integer."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & WORD
    return x ^ x >> 31


def text_hash(text: bytes, seed: int = 0) -> int:
    """64-bit hash of `text`; `seed` is the hash of the column's name."""
    h = seed ^ 0xCBF29CE484222325
    for byte in text:
        h = ((h ^ byte) * 0x100000001B3) & WORD
    return mix(h)


def decimal(text: str) -> float:
    """The number in a CSV field, NaN where it is missing; ValueError for no number, OverflowError for an infinity."""
    text = text.strip(" \t\r")
    if text.lower() in MISSING:
        return math.nan
    if "_" in text or not text.isascii():
        raise ValueError(text)
    value = float(text)
    if math.isinf(value) or abs(value) >= 3.4028235677973366e38:
        raise OverflowError(text)
    return value
