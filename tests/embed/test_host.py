"""engine.h from a C host on real ranks: it learns, the same under both MPIs; every mistake is a code; the host lives."""
import json
import re
import subprocess

import pytest

from tests.embed.conftest import HERE, compiled, environment, other, started


@pytest.mark.smoke
def test_a_c_solver_learns(tmp_path):
    program = compiled(HERE / "solver.c", tmp_path / "solver")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    assert "libpython" not in linked
    first, info = started(program, 2).stdout.splitlines()[:2]
    weights = [float(word) for word in first.split()[3:]]
    assert weights == pytest.approx([1, 2, 3, 4], abs=0.3)
    found = json.loads(info)
    assert found["rows"] == 2 * 100 * 64 and found["width"] == 4 and found["state"] == "idle"
    if other():
        foreign = compiled(HERE / "solver.c", tmp_path / "foreign", other())
        assert started(foreign, 2, prefix=other()).stdout.splitlines()[0] == first


@pytest.mark.long
def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_three(tmp_path):
    """By `checkpoint.dir` alone: each run opens, finds what the last left, and goes on from there."""
    program = compiled(HERE / "solver.c", tmp_path / "solver")
    toml = (f"loop.threads = 1\nexchange.every = 16\nmodel.learner = 'nag'\nembed.width = 4\n"
            f"checkpoint = {{dir = '{tmp_path / 'kept'}', resume = 'auto'}}\n")
    weights, info = started(program, 2, [toml, 100, "keep"]).stdout.splitlines()[:2]
    assert json.loads(info)["rows"] == 2 * 100 * 64
    for n in (1, 3):
        same, info = started(program, n, [toml, 0]).stdout.splitlines()[:2]
        assert same.split()[3:] == weights.split()[3:] and json.loads(info)["rows"] == 2 * 100 * 64
    further, info = started(program, 3, [toml, 10]).stdout.splitlines()[:2]
    assert json.loads(info)["rows"] == 2 * 100 * 64 + 3 * 10 * 64
    assert [float(word) for word in further.split()[3:]] == pytest.approx([1, 2, 3, 4], abs=0.3)


@pytest.mark.smoke
def test_solvers_learn_newest_rows_and_a_learner_apart(tmp_path):
    program = compiled(HERE / "apart.c", tmp_path / "apart")
    toml = "loop.threads = 1\nexchange.every = 64\nmodel.learner = 'nag'\n"
    found = started(program, 3, [toml, toml + "embed = {asynchronous = true, full = 'newest', queue = 1}\n"]).stdout.split()
    assert found[:3] == ["1", "1", "1"]  # both solvers: one model, one count; every row was learned or counted as dropped
    assert found[3:5] == [str(2 * 100 * 64), "0"] and float(found[5]) < 0.3


@pytest.mark.smoke
def test_mistakes_are_codes_and_the_host_lives(tmp_path):
    program = compiled(HERE / "errors.c", tmp_path / "errors")
    done = started(program, 2, NO_CUDA="1")
    assert sorted(done.stdout.splitlines()) == ["rank 0: host alive", "rank 1: host alive"]
    assert done.stderr == ""


def test_libengine_links_neither_mpi_nor_python():
    from engine import lib

    linked = subprocess.run(["ldd", lib.HOME / "libengine.so"], capture_output=True, text=True, check=True).stdout
    assert not any(word in linked for word in ("mpi", "python", "stdc++"))


@pytest.mark.parametrize(("name", "value", "said"), [
    ("ENGINE_LIBPYTHON", "/no/such/libpython.so", "cannot load the Python library"),
    ("ENGINE_LIBPYTHON", "", "no Python found"),
    ("ENGINE_LIBPYTHON", "libm.so.6", "has no entry"),
])
def test_a_missing_python_is_a_code_with_the_fix(tmp_path, name, value, said):
    program = tmp_path / "alone"
    source = tmp_path / "alone.c"
    source.write_text("""
#include <stdio.h>
#include "engine.h"
int main(void) {
    engine_t *e = (engine_t *)&e;
    int code = engine_open(ENGINE_ALONE, NULL, &e);
    printf("%d %d\\n%s\\n", code, e == NULL, engine_error(NULL));
    return 0;
}""")
    compiled(source, program)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, env={**environment(), name: value})
    assert done.returncode == 0 and done.stderr == ""
    first, *message = done.stdout.splitlines()
    assert first == "69 1"
    assert said in message[0] and "engine embed --env" in done.stdout


def test_only_the_calls_of_engine_h_are_exported():
    from engine import lib

    table = subprocess.run(["nm", "-D", "--defined-only", lib.HOME / "libengine.so"], capture_output=True, text=True)
    names = {line.split()[-1] for line in table.stdout.splitlines()}
    header = (lib.INCLUDE / "engine.h").read_text()
    assert table.returncode or names == set(re.findall(r"\b(engine_\w+)\(", header.split("#define ENGINE_API")[1]))


@pytest.mark.long
def test_opening_and_closing_leaves_nothing(tmp_path):
    program = compiled(HERE / "leak.c", tmp_path / "leak")
    lines = [list(map(int, line.split())) for line in started(program, 2, [200]).stdout.splitlines()]
    _, (_, half, files, threads), (_, whole, files_end, threads_end) = lines
    assert files_end == files and threads_end <= threads + 1
    assert whole - half < 1024  # KiB in 100 rounds; MPI and the allocator settle


SINGLE = """
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include "engine.h"
int main(int argc, char **argv) {
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    if (level == MPI_THREAD_MULTIPLE) { puts("skip"); MPI_Finalize(); return 0; }
    engine_t *e;
    int code = engine_open(ENGINE_COMM(MPI_COMM_WORLD), "[embed]\\nwidth = 3\\nasynchronous = true\\n", &e);
    int right = code == ENGINE_USAGE && strstr(engine_error(NULL), "MPI_THREAD_MULTIPLE") && !e;
    code = engine_open(ENGINE_COMM(MPI_COMM_WORLD), "[embed]\\nwidth = 3\\n", &e);
    printf("%d %d\\n", right, code == ENGINE_OK && engine_close(e) == ENGINE_OK);
    MPI_Finalize();
    return 0;
}
"""


def test_a_thread_needs_an_mpi_that_takes_threads(tmp_path):
    (tmp_path / "single.c").write_text(SINGLE)
    said = started(compiled(tmp_path / "single.c", tmp_path / "single"), 2).stdout.split()
    if "skip" in said:
        pytest.skip("this MPI always gives MPI_THREAD_MULTIPLE")
    assert said == ["1", "1", "1", "1"]
