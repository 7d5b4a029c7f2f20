"""The examples compile, run on real ranks and learn; C++ and Fortran give the same lines, under every MPI that is here."""
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine import lib
from engine.comm import probe
from tests.embed.conftest import EXAMPLES, compiled, environment, other, spaceless, started

INTEL = Path(os.environ.get("ENGINE_INTEL", EXAMPLES.parent / ".venv-intel"))


def fortran(out, prefix=None):
    """heat.f90 with the MPI of this suite or of `prefix`; skips without gfortran or mpicc."""
    home = spaceless(Path(probe.launcher()).parent if prefix is None else prefix / "bin")
    if not shutil.which("gfortran") or not (home / "mpicc").exists():
        pytest.skip("no gfortran, or no mpicc")
    folder = out.parent
    glue = folder / "heat_mpi.o"
    libraries = home.parent / "lib"
    strict = ["-Wall", "-Wextra", "-Werror"]
    for line in ([home / "mpicc", *strict, *shlex.split(lib.text("cflags")), "-c", EXAMPLES / "heat_mpi.c", "-o", glue],
                 ["gfortran", "-O2", "-fwrapv", "-std=f2008", *strict, f"-J{folder}", lib.text("fortran"),
                  EXAMPLES / "heat.f90", glue, *shlex.split(lib.text("libs")), f"-L{libraries}", "-lmpi",
                  f"-Wl,-rpath,{libraries}", "-o", out]):
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return out


def ratios(text):
    """Error over the error of no change, step by step."""
    return [float(error) / float(still) for _, error, still in (line.split() for line in text.splitlines())]


def check(text, below):
    found = ratios(text)
    assert found[0] == pytest.approx(1) and sorted(found[-50:])[25] < below


@pytest.mark.smoke
def test_the_heat_equation_is_learned_in_cpp(tmp_path):
    program = compiled(EXAMPLES / "heat.cpp", tmp_path / "heat")
    check(started(program, 2, ["async"]).stdout, 0.15)
    text = started(program, 2).stdout
    check(text, 0.1)
    if other():
        assert started(compiled(EXAMPLES / "heat.cpp", tmp_path / "foreign", other()), 2, prefix=other()).stdout == text


@pytest.mark.long
def test_the_heat_equation_is_learned_in_fortran(tmp_path):
    text = started(fortran(tmp_path / "heat"), 2).stdout
    check(text, 0.1)
    assert started(compiled(EXAMPLES / "heat.cpp", tmp_path / "same"), 2).stdout == text


@pytest.mark.long
def test_the_same_program_runs_under_intel_mpi(tmp_path):
    """Intel's MPI has the ABI of MPICH: a program linked with one runs with the other."""
    if not (INTEL / "bin" / "mpiexec").exists() or probe.vendor(probe.launcher()) != "mpich":
        pytest.skip("no Intel MPI in .venv-intel, or the suite runs under another MPI than MPICH")
    program = compiled(EXAMPLES / "heat.cpp", tmp_path / "heat")
    env = {**environment(), "LD_LIBRARY_PATH": str(INTEL / "lib"), "I_MPI_ROOT": str(INTEL), "I_MPI_FABRICS": "shm"}
    done = subprocess.run([INTEL / "bin" / "mpiexec", "-n", "2", program], capture_output=True, text=True, timeout=100, env=env,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == started(program, 2).stdout


@pytest.mark.smoke
@pytest.mark.parametrize("full", ["wait", "newest"])
def test_the_spectral_solver_finds_its_equation(mpirun, full):
    done = mpirun(2, [EXAMPLES / "spectral.py", 200, full])
    assert done.returncode == 0, done.stderr
    check(done.stdout, 0.35 if full == "newest" else 0.25)
    line = done.stderr.split("u_t = ")[1].strip().replace(" -", "\n-").replace(" +", "\n+")
    found = {term.split(" ", 1)[1]: float(term.split(" ", 1)[0]) for term in line.split("\n")}
    for name in ("u_xx", "u_xxxx", "u u_x"):
        assert found[name] == pytest.approx(-1, abs=0.35)


def test_the_examples_are_short():
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert len(path.read_text().splitlines()) <= 100, path.name


CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(solver LANGUAGES CXX)
find_package(engine REQUIRED)
add_executable(solver solver.cpp)
target_link_libraries(solver engine::engine)
"""
ALONE = """
#include <cstdio>
#include "engine.hpp"
int main() {
    double x[64][2], y[64], out[64];
    engine::Engine model(ENGINE_ALONE, "model = {learner = 'nag'}");
    for (int i = 0; i < 64; ++i) x[i][0] = i % 8 - 3.5, x[i][1] = i / 8 - 3.5, y[i] = x[i][0] - 2 * x[i][1];
    model.publish("x", &x[0][0], {64, 2});
    model.publish("y", y, {64});
    model.publish("backwards", y + 63, {64}, {-1});
    model.publish("flipped", &x[63][1], {64, 2}, {-2, -1});
    model.publish("out", out, {64});
    try {
        model.learn("x", "nothing");
    } catch (const engine::Error& error) {
        std::printf("%d\\n", error.code());
    }
    for (int k = 0; k < 50; ++k) model.learn("x", "y");
    engine::Engine other = std::move(model);
    other.predict("x", "out");
    double worst = 0;
    for (int i = 0; i < 64; ++i) worst = std::max(worst, (out[i] - y[i]) * (out[i] - y[i]));
    std::printf("%d %d\\n", worst < 0.1, other.info().find("\\"rows\\": 3200") != std::string::npos);
}
"""


def test_a_cpp_program_by_cmake_and_by_pkg_config(tmp_path):
    """RAII, exceptions, moves, negative strides; found by CMake's package file and by pkg-config."""
    (tmp_path / "solver.cpp").write_text(ALONE.replace("#include <cstdio>", "#include <algorithm>\n#include <cstdio>"))
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    if not shutil.which("cmake") or not shutil.which("pkg-config"):
        pytest.skip("no cmake or no pkg-config")
    build = tmp_path / "build"
    for line in (["cmake", "-S", tmp_path, "-B", build, f"-Dengine_DIR={lib.text('cmake')}"], ["cmake", "--build", build]):
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "engine"], capture_output=True, text=True, check=True,
                           env={**os.environ, "PKG_CONFIG_PATH": lib.text("pkgconfig")}).stdout
    subprocess.run(["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", tmp_path / "solver.cpp", "-o", tmp_path / "direct",
                    *shlex.split(flags)], check=True, timeout=120)
    for program in (build / "solver", tmp_path / "direct"):
        done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment())
        assert done.stdout.split() == ["64", "1", "1"], done.stderr


def test_the_command_line_prints_what_a_compiler_needs():
    done = subprocess.run([sys.executable, "-m", "engine", "embed", "--cflags", "--libs"], capture_output=True, text=True,
                          check=True)
    cflags, libs = done.stdout.splitlines()
    (folder,) = shlex.split(cflags)
    assert Path(folder[2:], "engine.h").exists() and Path(folder[2:], "engine.hpp").exists()
    assert "-lengine" in libs and "rpath" in libs
    done = subprocess.run([sys.executable, "-m", "engine", "embed", "--env"], capture_output=True, text=True)
    if done.returncode == 0:
        (setting,) = shlex.split(done.stdout.splitlines()[0].removeprefix("export "))
        assert Path(setting.split("=", 1)[1]).exists()
