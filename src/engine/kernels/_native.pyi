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
# learn
F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]

class Learner:
    def __init__(
        self, block: F32, clock: NDArray[np.float64], scale: NDArray[np.float64] | None, classes: int, loss: str,
        learner: str, numbers: list[float], pairs: bool, tracked: bool, merge: str,
    ) -> None: ...
    def predict(
        self, out: F32, indptr: NDArray[np.int64] | None = None, keys: U32 | None = None, values: F32 | None = None,
        x: F32 | None = None,
    ) -> None: ...
    def learn(
        self, out: F32, y: F32, weight: F32 | None = None, indptr: NDArray[np.int64] | None = None,
        keys: U32 | None = None, values: F32 | None = None, x: F32 | None = None,
    ) -> int: ...
    def learn_one(self, x: F32, y: float) -> float: ...
    def step(self, ids: U32, g: F32) -> None: ...
    def slope(self, scores: F32, y: F32, out: F32) -> None: ...
    def touched(self) -> int: ...
    def update(self) -> tuple[U32, F32]: ...
    def merge(self, keys: U32, values: F32, ranks: int) -> None: ...
    def rebase(self) -> None: ...

def update_combine(ka: U32, va: F32, kb: U32, vb: F32, keys: U32, values: F32) -> int: ...
def sigmoid(scores: F32, out: F32) -> None: ...
