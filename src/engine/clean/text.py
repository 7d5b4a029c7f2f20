"""Text: hashed n-grams of words and characters, made where text is parsed, so that rows hold keys and never text."""
from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from engine.clean.encode import Keyed
from engine.clean.pipeline import open_stage, stage
from engine.errors import ConfigError
from engine.kernels import _native
from engine.kernels.plain.parse import text_hash
from engine.kernels.plain.text import WEIGHTS
from engine.types import Batch, Schema

ORDER_MAX = 8


@stage("tokens")
class Tokens(Keyed):
    """Columns of text become keys of their n-grams: `words` and `chars` are orders (`1`, `1-2`, empty: none).

    It comes first: the source reads `columns` by it (`grams`), so rows come here as keys and pass. `weight` of an n-gram
    in a text: count, binary, sqrt of the count, tf (of all n-grams), l2 (counts to length 1).
    See docs/clean.md.
    """

    def __init__(self, columns: str = "", words: object = "1", chars: object = "", weight: str = "count") -> None:
        if weight not in WEIGHTS:
            raise ConfigError(f"tokens: expected a weight of {', '.join(WEIGHTS)}, found {weight!r}")
        self.arrays = {}
        self.columns = tuple(part for part in str(columns).split("+") if part)
        self.orders = (*span("words", words), *span("chars", chars), WEIGHTS.index(weight))
        if not any(self.orders[:4]):
            raise ConfigError("tokens: expected orders of words or of chars, found neither",
                              fix="tokens?columns=text&words=1-2")

    def bind(self, schema: Schema) -> Schema:
        if not schema.sparse:
            raise ConfigError("tokens: expected a source whose text is read as keys, found dense rows",
                              fix="a CSV file or data.format=text; engine.clean.text.tokens makes rows of texts in a program")
        return schema

    def run(self, batch: Batch, fit: bool) -> Batch:
        return batch


def span(what: str, text: object) -> tuple[int, int]:
    """Least and largest order of `2` or `1-3`; (0, 0) of nothing."""
    match = re.fullmatch(r"([1-8])(?:-([1-8]))?", str(text))
    if str(text) in ("", "0"):
        return 0, 0
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise ConfigError(f"tokens: {what}: expected an order of 1 to {ORDER_MAX}, or two (1-3), found {text!r}")
    return int(match[1]), int(match[2] or match[1])


def grams(specs: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """What a source needs to read text by a `tokens` stage among `specs`: its columns, orders and weight."""
    named = [spec.partition("?")[0] == "tokens" for spec in specs]
    if not any(named):
        return None
    if sum(named) > 1 or not named[0]:
        raise ConfigError("tokens: expected it once and first among clean.stages: text is read by it",
                          fix="tokens?columns=a+b&words=1-2,frequent")
    made = open_stage(specs[0])
    assert isinstance(made, Tokens)
    return made.columns, made.orders


def tokens(texts: Sequence[str | bytes], y: Sequence[float] | None = None, *, words: object = "1", chars: object = "",
           weight: str = "count", bits: int = 20, column: str = "text") -> Batch:
    """Rows of the n-grams of texts, as a CSV column of the name `column` gives them.

    >>> tokens(["a rose is a rose"], bits=20).values
    array([2., 2., 1.], dtype=float32)
    """
    stage = Tokens(words=words, chars=chars, weight=weight)
    data = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    ends = np.cumsum([len(text) for text in data], dtype=np.int64)
    indptr, keys, values = _native.text_grams(b"".join(data), ends, stage.orders, text_hash(column.encode()), (1 << bits) - 1)
    label = np.full(len(data), np.nan, np.float32) if y is None else np.asarray(y, np.float32)
    return Batch(label, np.arange(len(data)), np.full(len(data), np.nan, np.float32), indptr=indptr,
                 keys=keys[: indptr[-1]].copy(), values=values[: indptr[-1]].copy())
