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
