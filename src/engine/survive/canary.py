"""The canary: sixteen made-up rows whose predictions are noted at every step, so that a recovered model proves itself."""
from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from engine import loop
from engine.errors import EngineError, PeerError
from engine.kernels import _native
from engine.types import Batch

CANARY_ROWS, CANARY_SEED = 16, 7


def canary(job: loop.Job) -> int:
    """A checksum of the model's predictions for the same sixteen made-up rows at every step."""
    model = job.team.models[0]
    width = int(getattr(model, "options", {}).get("width", 0))
    if not width:
        return 0
    try:
        return int(_native.crc32c(np.ascontiguousarray(model.predict(_canary_rows(width)))))
    except EngineError:
        return 0  # a model of dense rows only


@cache
def _canary_rows(width: int) -> Batch:
    rng = np.random.Generator(np.random.Philox(CANARY_SEED))
    none = np.zeros(CANARY_ROWS, np.float32)
    indptr = np.arange(0, 4 * CANARY_ROWS + 1, 4)
    keys = np.sort(rng.integers(0, width, (CANARY_ROWS, 4)), axis=1).astype(np.uint32).ravel()
    return Batch(none, np.arange(CANARY_ROWS), none, indptr=indptr, keys=keys, values=rng.random(len(keys)).astype(np.float32))


def check_canary(meta: Mapping[str, Any], job: loop.Job) -> None:
    """PeerError where the recovered model does not predict what it predicted when the step was committed."""
    if meta.get("canary", 0) != (found := canary(job)):
        raise PeerError(f"the canary rows are predicted otherwise than before: {found:08x}, expected {meta['canary']:08x}",
                        fix="start again from the last checkpoint")
