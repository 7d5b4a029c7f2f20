"""The tree keeps to the house of docs/design.md: arrows between rooms, walls around libraries, sizes, names."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = {"errors", "types", "trace"}
KERNELS = CORE - {"trace"} | {"kernels"}
MAY = {
    "errors": set(), "types": set(), "trace": set(),
    "settings": CORE, "config": CORE | {"settings"},
    "kernels": KERNELS - {"kernels"},
    "codec": KERNELS,
    "store": KERNELS | {"codec"}, "update": KERNELS | {"codec"},
    "source": KERNELS, "shard": KERNELS, "models": KERNELS, "clean": KERNELS,
    "comm": CORE | {"kernels", "codec"},
    "watch": CORE | {"kernels"},
    "cluster": CORE,
}
TOP = {"job", "crew", "grid", "live", "train", "loop", "session", "cli", "launch", "guard", "doctor", "template", "__main__",
       "embed", "insitu", "lib", "sklearn", "river", "torch",
       "survive", "table", "modes", "relearn", "compare", "events", "resume"}
WALLS = {
    "mpi4py": r"comm/", "numba": r"kernels/(jit|cuda)\w*(/|\.py$)", "blosc2": r"codec/pack\.py$",
}
NAMELESS = {"utils", "util", "helper", "helpers", "common", "manager", "misc"}
MODULE_LINES, FUNCTION_LINES = 500, 70


def modules(root):
    """(path below src/engine, its room, syntax tree) of every module."""
    home = root / "src" / "engine"
    for path in sorted(home.rglob("*.py")):
        below = path.relative_to(home)
        yield below.as_posix(), below.parts[0].removesuffix(".py"), ast.parse(path.read_text())


def imported(tree, below):
    """Dotted names a module imports at any depth, relative ones made absolute, with their lines."""
    package = ["engine", *Path(below).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{whole}.{alias.name}" for alias in node.names] if whole == "engine" else [whole]
            yield from ((name, node.lineno) for name in names)


def broken_arrows(root):
    bad = []
    for below, room, tree in modules(root):
        if room in TOP or room == "__init__":
            continue
        if room not in MAY:
            bad.append(f"{below}: room {room!r} is not in the design")
            continue
        for name, line in imported(tree, below):
            parts = name.split(".")
            if parts[0] != "engine" or parts[1:2] == [room] or parts[1:2] == ["__version__"]:
                continue
            if len(parts) < 2 or parts[1] not in MAY[room]:
                bad.append(f"{below}:{line}: {room} may not import {name}")
    return bad


def broken_walls(root):
    bad = []
    for below, _, tree in modules(root):
        for name, line in imported(tree, below):
            wall = WALLS.get(name.split(".")[0])
            if wall and not re.match(wall, below):
                bad.append(f"{below}:{line}: {name} is only for {wall}")
    for path in sources(root):
        below, text = path.relative_to(root / "csrc").as_posix(), path.read_text()
        if re.search(r'#\s*include\s*[<"]mpi', text):
            bad.append(f"csrc/{below}: includes MPI")
        if re.search(r'#\s*include\s*[<"](pybind11|Python\.h)', text) and not below.startswith("bind/"):
            bad.append(f"csrc/{below}: Python is only for bind/")
    return bad


def sources(root):
    return sorted(path for path in (root / "csrc").rglob("*") if path.suffix in {".h", ".hpp", ".cpp", ".f90"})


def broken_sizes(root):
    bad = []
    for below, _, tree in modules(root):
        lines = len((root / "src" / "engine" / below).read_text().splitlines())
        if lines > MODULE_LINES:
            bad.append(f"{below}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES:
                    bad.append(f"{below}:{node.lineno}: {node.name} has {size} lines")
    for path in sources(root):
        lines = len(path.read_text().splitlines())
        if lines > MODULE_LINES:
            bad.append(f"csrc/{path.relative_to(root / 'csrc')}: {lines} lines")
    return bad


def broken_names(root):
    paths = [path for folder in ("src", "csrc") for path in (root / folder).rglob("*")]
    return [str(path.relative_to(root)) for path in paths if path.stem.lower() in NAMELESS]


CHECKS = [broken_arrows, broken_walls, broken_sizes, broken_names]


@pytest.mark.parametrize("check", CHECKS)
def test_the_tree_keeps_to_the_house(check):
    assert check(ROOT) == []


def test_the_check_sees_the_tree():
    assert len(list(modules(ROOT))) > 30
    assert len(sources(ROOT)) > 10


def test_import_loads_neither_mpi_nor_numpy():
    code = "import sys, engine; print(sorted({'mpi4py', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


LONG = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
BAD = [
    (broken_arrows, "src/engine/models/a.py", "from engine.comm import world", "models may not import engine.comm"),
    (broken_arrows, "src/engine/models/a.py", "from engine import loop", "models may not import engine.loop"),
    (broken_arrows, "src/engine/models/a.py", "from ..comm import world", "models may not import engine.comm"),
    (broken_arrows, "src/engine/models/a.py", "def f():\n    import engine.cli", "models may not import engine.cli"),
    (broken_arrows, "src/engine/attic/a.py", "", "not in the design"),
    (broken_walls, "src/engine/models/a.py", "def f():\n    from mpi4py import MPI", "mpi4py is only for"),
    (broken_walls, "src/engine/kernels/fast.py", "import numba", "numba is only for"),
    (broken_walls, "src/engine/codec/frame.py", "import blosc2", "blosc2 is only for"),
    (broken_walls, "csrc/comm/a.h", "#include <mpi.h>", "includes MPI"),
    (broken_walls, "csrc/learn/a.cpp", "#include <pybind11/pybind11.h>", "only for bind/"),
    (broken_sizes, "src/engine/models/a.py", "x = 1\n" * (MODULE_LINES + 1), "501 lines"),
    (broken_sizes, "src/engine/models/a.py", LONG, "f has 71 lines"),
    (broken_sizes, "csrc/learn/a.h", "\n" * (MODULE_LINES + 1), "501 lines"),
    (broken_names, "src/engine/utils.py", "", "utils"),
    (broken_names, "csrc/common/a.h", "", "common"),
]
GOOD = [
    (broken_arrows, "src/engine/models/a.py", "from engine.kernels import _native\nimport numpy"),
    (broken_arrows, "src/engine/models/a.py", "from . import linear\nfrom ..types import Batch"),
    (broken_arrows, "src/engine/loop.py", "from engine.comm import world"),
    (broken_walls, "src/engine/comm/a.py", "from mpi4py import MPI"),
    (broken_walls, "src/engine/kernels/jit.py", "import numba"),
    (broken_walls, "csrc/bind/a.cpp", "#include <pybind11/pybind11.h>"),
    (broken_sizes, "src/engine/models/a.py", LONG.removesuffix("    x = 1\n")),
]


def made_up(root, path, text):
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(text)
    return root


@pytest.mark.parametrize(("check", "path", "text", "said"), BAD)
def test_a_bad_tree_is_refused(tmp_path, check, path, text, said):
    found = check(made_up(tmp_path, path, text))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(("check", "path", "text"), GOOD)
def test_a_good_tree_passes(tmp_path, check, path, text):
    assert check(made_up(tmp_path, path, text)) == []
