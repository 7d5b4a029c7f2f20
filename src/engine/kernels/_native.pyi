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

# parse
def count_byte(data: Bytes, byte: int, *, isa: str = "") -> int: ...
def parse_libsvm(
    data: Bytes, y: NDArray[np.float32],
    indptr: NDArray[np.int64], keys: NDArray[np.uint32], values: NDArray[np.float32],
    at: NDArray[np.int64], bad: NDArray[np.int64], tally: NDArray[np.int64], *,
    first: int = 1, mode: int = 0, mask: int = ..., isa: str = "",
) -> tuple[int, int, bool]: ...
def parse_csv(
    data: Bytes, kinds: NDArray[np.uint8], seeds: NDArray[np.uint64],
    labels: bytes, ends: NDArray[np.int64],
    y: NDArray[np.float32], x: NDArray[np.float32] | None, indptr: NDArray[np.int64] | None,
    keys: NDArray[np.uint32] | None,
    values: NDArray[np.float32] | None, at: NDArray[np.int64], bad: NDArray[np.int64], tally: NDArray[np.int64], *,
    delimiter: int = 44, mask: int = ..., lines_only: bool = True, isa: str = "",
) -> tuple[int, int]: ...
