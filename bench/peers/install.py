"""`python -m bench peers`: make `.peers/` and install the baselines there, each one optional."""
from __future__ import annotations

import subprocess
import sys

from bench.machine import ROOT

HOME = ROOT / ".peers"
PYTHON = HOME / "bin" / "python"
# One install command each, so that one that fails leaves the others; torch is pinned to the CPU build that is measured.
PACKAGES = ("numpy", "vowpalwabbit", "river", "scikit-learn", "torch==2.13.0", "blosc2", "zfec", "pyarrow", "xxhash",
            "cffi", "--no-deps pypiquant", "pandas", "confluent-kafka", "safetensors")


def pip(package: str) -> str | None:
    """Install one package; None, or the last line of what pip said against it."""
    call = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *package.split()]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        return "no end after 900 s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def main() -> int:
    """Exit code 0; 1 where a package failed (it is named, the others are there); 75 where no venv could be made."""
    if not PYTHON.exists():
        done = subprocess.run([sys.executable, "-m", "venv", str(HOME)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            print(f"cannot make {HOME}: {(done.stdout + done.stderr).strip()}", file=sys.stderr)
            return 75
    failed = 0
    for package in PACKAGES:
        why = pip(package)
        print(f"{package.split()[-1]}: {'installed' if why is None else 'FAILED: ' + why}", flush=True)
        failed += why is not None
    return int(failed > 0)
