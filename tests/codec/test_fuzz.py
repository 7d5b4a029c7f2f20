"""The short fuzz corpus, valid inputs and damaged ones, through every native decoder under the sanitizers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.long
def test_the_corpus_is_decoded_or_refused(tmp_path):
    if not (TOP / "csrc").exists():
        pytest.skip("needs the native sources")
    subprocess.run([sys.executable, str(TOP / "tests/fuzz/corpus.py"), str(tmp_path / "corpus")], check=True, timeout=120)
    sources = [str(path) for family in ("check", "entropy", "delta") for path in sorted((TOP / "csrc" / family).glob("*.cpp"))]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = [str(TOP / "tests/fuzz/frame.cpp"), str(TOP / "csrc/table.cpp"), *sources]
    options = ["-std=c++17", "-O1", f"-I{TOP / 'csrc'}", "-DSTANDALONE", "-w", *sanitize]
    line = ["g++", *options, *program, "-o", str(tmp_path / "frame")]
    subprocess.run(line, check=True, timeout=240)
    files = sorted(map(str, (tmp_path / "corpus").iterdir()))
    done = subprocess.run([str(tmp_path / "frame"), *files], capture_output=True, text=True, timeout=120,
                          env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0 and done.stdout == f"{len(files)} inputs\n", done.stderr[-3000:]
