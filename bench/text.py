"""Text to hashed n-grams beside scikit-learn and River; a case of `source`, texts a CPU-second."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.learn import folder
from bench.peers import Peer, peer
from bench.registry import Setting, case, versus
from bench.row import Row


def written(path: Path, texts: int) -> None:
    """Documents of some 60 words of Zipf's law, of 2 to 12 letters, with capitals, marks and letters beyond ASCII; a label each."""
    draw = np.random.default_rng(4)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxzéüøß"))
    share = np.r_[1 / np.arange(1, 27), np.full(4, 0.02)]
    known = ["".join(draw.choice(letters, size, p=share / share.sum())) for size in draw.integers(2, 13, 30_000)]
    with path.open("w", encoding="utf-8") as out:
        for label in draw.integers(0, 2, texts).tolist():
            found = [known[i] for i in np.minimum(draw.zipf(1.2, draw.integers(20, 100)) - 1, len(known) - 1)]
            marks = draw.choice(["", "", "", "", ",", ".", "!"], len(found)).tolist()
            out.write(f"{label} " + " ".join((w.capitalize() if m == "." else w) + m for w, m in zip(found, marks, strict=True)) + "\n")


@case("source", "text")
def text(setting: Setting) -> Iterator[Row]:
    """Words and pairs of words; then 3 to 5 characters inside words. Ours parses the file as well, theirs has its lines in memory."""
    from engine.source.read import open_source

    n, bits = 40_000 if setting.long else 10_000, 20

    with folder() as at:
        path, few = at / "texts.txt", at / "few.txt"
        written(path, n)
        few.write_text("".join(path.open(encoding="utf-8").readlines()[:1000]), encoding="utf-8")
        for name, words, chars, peers in (("text.words", (1, 2), (), ("sklearn_text", "river_text")),
                                          ("text.chars", (), (3, 5), ("sklearn_text",))):
            orders = (*(words or (0, 0)), *(chars or (0, 0)), 0)
            held: dict[str, int] = {}

            def ours(orders: Any = orders, held: Any = held) -> int:
                source = open_source(str(path), format="text", text=(("text",), orders), hash_bits=bits, task="binary",
                                     labels=("0", "1"))
                batches = [batch for piece in range(source.pieces or 0) for batch in source.read(piece)]
                held["entries"] = sum(len(batch.keys) for batch in batches if batch.keys is not None)
                return sum(map(len, batches))

            for script in peers:
                m, where = (1000, few) if script == "river_text" else (n, path)
                label = "River BagOfWords + FeatureHasher" if script == "river_text" else "scikit-learn HashingVectorizer"
                with peer(script, path=str(where), words=words, chars=chars, bits=bits) as other:
                    def theirs(other: Any = other, m: int = m) -> Any:
                        found = other()
                        if words and m == n and abs(found.result["entries"] - held["entries"]) > 0.001 * held["entries"]:
                            raise ValueError(f"{script}: {found.result['entries']} entries, ours {held['entries']}")
                        return type(found)(found.wall * n / m, found.cpu * n / m, found.result)

                    yield versus(setting, name, label, ours, theirs if isinstance(other, Peer) else other, work=n,
                                 unit="texts/cpu s", clock="cpu", mib=path.stat().st_size >> 20)
