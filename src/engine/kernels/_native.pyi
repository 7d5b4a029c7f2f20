"""Hand-written types of the native module; tests/kernels/test_native.py holds them against the module."""
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview | NDArray[Any]

def isa() -> str: ...
def isa_runs() -> list[str]: ...

# check
def crc32c(data: Bytes, seed: int = 0, *, isa: str = "") -> int: ...
def hash64(words: NDArray[np.uint32], offset: int = 0, *, isa: str = "") -> int: ...

# score
def score_binary(
    scores: NDArray[np.float32], y: NDArray[np.float32], previous: NDArray[np.float32], order: NDArray[np.int64],
    start: int,
    table: NDArray[np.int64], bucket_rows: int, confusion: NDArray[np.int64], hist: NDArray[np.int64], *, isa: str = "",
) -> int: ...
def score_multi(
    scores: NDArray[np.float32], y: NDArray[np.float32], previous: NDArray[np.float32], order: NDArray[np.int64],
    start: int,
    table: NDArray[np.int64], bucket_rows: int, confusion: NDArray[np.int64], *, isa: str = "",
) -> int: ...
def score_real(
    scores: NDArray[np.float32], y: NDArray[np.float32], previous: NDArray[np.float32], order: NDArray[np.int64],
    start: int,
    table: NDArray[np.int64], bucket_rows: int, sums: NDArray[np.float64], *, isa: str = "",
) -> int: ...
