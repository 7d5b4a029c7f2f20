"""Plain definition of what an owner does with what it is sent: row <- op(row, item), in float32, element by element."""
from __future__ import annotations

import numpy as np

from engine.types import Array


def change(op: str, row: Array, item: Array, rate: float = 0.0, more: float = 0.0) -> None:
    """`row` float32 (width,) in place; `item` (width,), half of it for adagrad and momentum (state: other half)."""
    step, keep = np.float32(rate), np.float32(more)
    if op == "add":
        row += item
    elif op == "assign":
        row[:] = item
    elif op == "max":
        row[:] = np.where(row < item, item, row)
    elif op == "sgd":
        row -= step * item
    elif op == "adagrad":
        half = len(row) // 2
        row[half:] += item * item
        row[:half] -= step * item / (np.sqrt(row[half:]) + keep)
    elif op == "momentum":
        half = len(row) // 2
        row[half:] = keep * row[half:] + item
        row[:half] -= step * row[half:]
    else:
        raise ValueError(f"no such operation: {op}")
