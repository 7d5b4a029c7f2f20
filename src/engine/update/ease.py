"""Step size by measured staleness: the later an update, the smaller the step that still helps."""
from __future__ import annotations

BEST = 0.7  # measured on electricity, labels 1 to 100 rows late, passive-aggressive (docs/exchange.md)


class Ease:
    """Running mean of how many rows late updates come, and the factor on the step size that goes with it.

    factor = min(1, BEST / (1 + rows late)): a step is taken in the gradient's stale direction once per row, so rows that
    were scored by the same state together move it by about one full step.

    >>> ease = Ease()
    >>> ease.seen(23.5)
    >>> round(ease.factor, 3)
    0.029
    """

    def __init__(self, memory: float = 0.9) -> None:
        self.memory, self.late, self._any = memory, 0.0, False

    def seen(self, rows: float) -> None:
        """Updates that were `rows` rows late, on average, are about to be applied."""
        self.late = rows if not self._any else self.memory * self.late + (1 - self.memory) * rows
        self._any = True

    @property
    def factor(self) -> float:
        return min(1.0, BEST / (1 + self.late))
