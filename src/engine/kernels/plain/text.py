"""What n-grams of a text are, a character at a time: the definition that csrc/text is held to."""
from __future__ import annotations

from collections.abc import Sequence

from engine.kernels.plain.parse import WORD, mix, text_hash

WEIGHTS = ("count", "binary", "sqrt", "tf", "l2")
BETWEEN = (
    (0x80, 0xA9), (0xAB, 0xB4), (0xB6, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7), (0x60C, 0x60D),
    (0x61B, 0x61F), (0x66A, 0x66D), (0x6D4, 0x6D4), (0x964, 0x965), (0x1680, 0x1680), (0x2000, 0x206F),
    (0x20A0, 0x20CF), (0x2190, 0x2BFF), (0x2E00, 0x2E7F), (0x3000, 0x3004), (0x3008, 0x3020), (0x3030, 0x3030),
    (0x303D, 0x303F), (0x30FB, 0x30FB), (0xE000, 0xF8FF), (0xFD3E, 0xFD3F), (0xFE10, 0xFE1F), (0xFE30, 0xFE6F),
    (0xFEFF, 0xFEFF), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65), (0xFFE0, 0xFFFF),
    (0x1F000, 0x1FAFF),
)
CASED = ((0xC0, 0xDE), (0x100, 0x17F), (0x386, 0x3AB), (0x400, 0x42F))  # beyond ASCII, what is made lower case
CHARS = 0x63686172


def room(orders: Sequence[int], size_bytes: int) -> int:
    """Most n-grams that a text of so many bytes has."""
    word_lo, word_hi, char_lo, char_hi = orders[:4]
    words, chars = word_hi and word_hi - word_lo + 1, char_hi and char_hi - char_lo + 1
    return (size_bytes // 2 + 1) * words + (2 * size_bytes + 2) * chars


def lowered(c: str) -> str:
    """Lower case of one character, where it is ASCII, Latin-1, Latin Extended-A, Greek or Cyrillic and stays one character."""
    low = c.lower()
    return low if len(low) == 1 and (c.isascii() or any(a <= ord(c) <= b for a, b in CASED)) else c


def words(text: bytes) -> list[str]:
    """Runs of letters, digits, marks and `_`, in lower case; bytes that are no UTF-8 separate, as punctuation does."""
    found = [""]
    for c in text.decode("utf-8", "replace"):
        kept = c.isalnum() or c == "_" if c.isascii() else not any(a <= ord(c) <= b for a, b in BETWEEN)
        if kept:
            found[-1] += lowered(c)
        elif found[-1]:
            found.append("")
    return found if found[-1] else found[:-1]


def grams(text: bytes, orders: Sequence[int], weight: str, seed: int, mask: int) -> dict[int, float]:
    """Key -> value in the order of first coming; `orders`: least and largest of words, then of characters (0: none).

    An n-gram of words hashes its words' hashes; one of characters lies within a word set between two blanks.
    """
    word_lo, word_hi, char_lo, char_hi = orders
    counts: dict[int, float] = {}
    begun: list[int] = []

    def emit(h: int) -> None:
        counts[h & mask] = counts.get(h & mask, 0.0) + 1

    for word in words(text):
        padded = f" {word} " if char_hi else ""
        for end in range(1, len(padded) + 1):
            for n in range(min(char_hi, end), char_lo - 1, -1):
                emit(text_hash(padded[end - n : end].encode(), seed ^ CHARS))
        if word_hi:
            one = text_hash(word.encode(), seed)
            begun = [mix((h * 0x9E3779B97F4A7C15 + one) & WORD) for h in begun[-(word_hi - 1) :] if word_hi > 1] + [one]
            for place, h in enumerate(begun):
                if len(begun) - place >= word_lo:
                    emit(h)
    total, norm = sum(counts.values()), sum(n * n for n in counts.values()) ** 0.5
    weigh = {"count": lambda n: n, "binary": lambda n: 1.0, "sqrt": lambda n: n**0.5, "tf": lambda n: n / total,
             "l2": lambda n: n / norm}[weight]
    return {key: weigh(n) for key, n in counts.items()}
