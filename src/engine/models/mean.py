"""What a model needs beside learning where all it holds is one vector of numbers: replicas average their changes of it."""
from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.errors import StoreError
from engine.types import Array, Block, State, Update


class Mean:
    """A subclass has `flat()`, a float64 copy of the vector, and `put(vector)`; it counts what it learns in `rows`.

    `path` names the vector in a checkpoint.  The last `summed` numbers are counts: their changes are added, not averaged.
    """

    path, summed = "model/mean", 0

    def flat(self) -> Array:
        raise NotImplementedError

    def put(self, vector: Array) -> None:
        raise NotImplementedError

    def mark(self) -> None:
        """What is held now is the base that changes are counted from."""
        self.base, self.rows = self.flat(), 0.0

    def state(self) -> State:
        return {self.path: Block(self.flat())}

    def load(self, state: Mapping[str, Block]) -> None:
        found = state[self.path].data if self.path in state else np.zeros(0)
        if len(found) != len(self.base):
            raise StoreError(f"{self.path}: expected {len(self.base)} numbers, found {len(found)}",
                             fix="load into a model made with the same options")
        self.put(found)
        self.mark()

    def fork(self) -> Any:
        twin = copy.deepcopy(self)
        twin.load(self.state())
        return twin

    def update(self) -> Update:
        """Changes since the base, and whether there are any; the state stays as it is."""
        return Update(None, np.append(self.flat() - self.base, float(self.rows > 0))[:, None], self.rows)

    def merge(self, total: Update, ranks: int) -> None:
        """Back to the base, then the mean of the changes of those replicas that learned: the new base."""
        change, active = total.values[:-1, 0].copy(), max(float(total.values[-1, 0]), 1.0)
        change[: len(change) - self.summed] /= active
        self.put(self.base + change)
        self.mark()
