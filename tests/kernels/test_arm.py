"""aarch64, under an emulator: the kernels, built by a cross compiler, leave the bytes that this machine's build leaves."""
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
FOREIGN = ("bind", "embed", "serve")  # Python's side, and threads
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-Icsrc"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (shutil.which(CROSS) and shutil.which(EMULATOR)), reason=f"needs {CROSS} and {EMULATOR}"),
]


def built(compiler, folder):
    """The probe, statically linked, by `compiler`."""
    folder.mkdir()
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "csrc").rglob("*.cpp")) if path.parent.name not in FOREIGN]
    paths.append(Path("tests/kernels/probe.cpp"))

    def compiled(path):
        target = folder / ("_".join(path.with_suffix(".o").parts))
        subprocess.run([compiler, *FLAGS, "-c", str(path), "-o", str(target)], cwd=ROOT, check=True, timeout=300)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, paths))
    subprocess.run([compiler, "-static", "-o", str(folder / "probe"), *objects], check=True, timeout=300)
    return str(folder / "probe")


def test_another_architecture_leaves_the_same_bytes(tmp_path):
    here, there = built("g++", tmp_path / "here"), built(CROSS, tmp_path / "there")
    said = {
        name: subprocess.run([*line, isa], capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
        for name, line, isa in [("base", [here], "base"), ("best", [here], ""), ("arm base", [EMULATOR, there], "base"),
                                ("neon", [EMULATOR, there], "neon")]
    }
    assert len(said["base"]) > 150
    assert all(len(line.split()) == 2 for line in said["base"])  # anything else is a complaint of the probe
    for name, lines in said.items():
        assert lines == said["base"], name
