"""Where the codecs' kernels come from: the compiled module, else Numba, by the same names and with the same bytes."""

from __future__ import annotations

import os
from typing import Any


def pick() -> Any:
    """The native module; the Numba one where none is built, or where ENGINE_KERNELS=jit asks for it."""
    if os.environ.get("ENGINE_KERNELS") != "jit":
        try:
            from . import _native

            return _native
        except ImportError:
            pass
    from . import jit

    return jit


ops = pick()
