"""CUDA kernels: the native module's bytes in Numba's simulator, and real code for a device where libnvvm is there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(script: str, *args: str, **env: str) -> str:
    line = [sys.executable, "-W", "ignore", str(HERE / script), *args]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_simulated_kernels_are_native():
    assert run("simulate.py", "1", "65", NUMBA_ENABLE_CUDASIM="1") == "same bytes\n"


@pytest.mark.long
def test_simulated_kernels_are_native_over_blocks():
    assert run("simulate.py", "0", "300", "1030", NUMBA_ENABLE_CUDASIM="1") == "same bytes\n"


def toolkit() -> Path | None:
    """Where libnvvm is: a CUDA toolkit, or its wheel."""
    found = find_spec("nvidia.cuda_nvcc") if find_spec("nvidia") else None
    homes = [os.environ.get("CUDA_HOME"), *(found.submodule_search_locations or () if found else ()), "/usr/local/cuda"]
    return next((Path(home) for home in homes if home and list(Path(home).glob("nvvm/lib64/libnvvm.so*"))), None)


@pytest.mark.long
def test_kernels_compile_for_a_device_without_fused_arithmetic():
    home = toolkit()
    if not home:
        pytest.skip("no libnvvm: pip install nvidia-cuda-nvcc-cu12")
    assert run("ptx.py", CUDA_HOME=str(home)) == "26 kernels compile\n"


def test_device_arrays_of_the_wrong_size_are_refused():
    code = (
        "import numpy as np; from numba import cuda as d; from engine.kernels import cuda\n"
        "e = d.to_device(np.zeros(100, np.float32))\n"
        "for call in (lambda: cuda.quant_encode('int8', None, e, 1024, e, e), lambda: cuda.topk_keep(e, e, 0, 1, e),\n"
        "             lambda: cuda.quant_encode('int8', d.to_device(np.zeros(9, np.float32)), e, 64, e, e)):\n"
        "    try: call()\n"
        "    except ValueError as error: print(error)\n"
    )
    env = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert len(done.stdout.splitlines()) == 3, done.stdout + done.stderr
