"""The doctor: every line that fails ends with its fix, and a healthy machine has none."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import doctor, guard
from engine.comm import probe

NAMES = {"engine", "python", "numpy", "mpi4py", "numba", "blosc2", "isa", "mpi", "launcher", "cores", "threads", "shm", "disk",
         "tmp", "ulimit"}


def lines(look):
    return {line.name: line for line in look()}


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A machine with an MPI of the system and its own launcher."""
    for name in ("ENGINE_MPIEXEC", "MPI4PY_LIBMPI", *doctor.JOBS, *guard.SIZES, *guard.STEPS):
        monkeypatch.delenv(name, raising=False)
    mpiexec = tmp_path / "bin" / "mpiexec"
    mpiexec.parent.mkdir()
    mpiexec.write_text("#!/bin/sh\necho 'mpiexec (Open MPI) 5'\n")
    mpiexec.chmod(0o755)
    monkeypatch.setattr(probe, "libmpi", lambda: str(tmp_path / "lib" / "libmpi.so.40"))
    monkeypatch.setattr(doctor, "library_version", lambda path: "Open MPI v5.0.11")
    return monkeypatch


@pytest.mark.smoke
def test_a_machine_that_runs_this_suite_is_well():
    env = {name: value for name, value in os.environ.items() if name not in (*guard.SIZES, *guard.STEPS, *doctor.JOBS)}
    line = [sys.executable, "-m", "engine", "doctor", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= NAMES
    assert {line["state"] for line in found.values()} <= {"ok", "warn"}
    assert str(probe.libmpi()) in found["mpi"]["found"]


@pytest.mark.smoke
def test_mpi_is_found_but_not_started():
    code = "import sys; from engine import doctor; doctor.main(); print('mpi4py.MPI' in sys.modules, file=sys.stderr)"
    env = {name: value for name, value in os.environ.items() if name not in (*guard.SIZES, *guard.STEPS)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=env)
    assert done.stderr.strip() == "False"


def test_a_line_that_fails_ends_with_its_fix():
    assert doctor.render(doctor.Line("mpi", "fail", "none", "load a module")).endswith("none   fix: load a module")
    assert "fix" not in doctor.render(doctor.Line("mpi", "ok", "all well"))


def test_one_failure_is_the_exit_code(site, capsys):
    site.setattr(doctor, "CHECKS", [lambda: iter([doctor.Line("a", "ok", "1"), doctor.Line("b", "warn", "2", "x")])])
    assert doctor.main() == 0
    site.setattr(doctor, "CHECKS", [lambda: iter([doctor.Line("a", "ok", "1"), doctor.Line("b", "fail", "2", "x")])])
    assert doctor.main(as_json=True) == 64
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["b"]["fix"] == "x"


def test_a_launcher_of_another_mpi_fails(site, tmp_path):
    assert lines(doctor.library)["launcher"].state == "ok"
    site.setattr(doctor, "library_version", lambda path: "MPICH Version: 5.0.2")
    line = lines(doctor.library)["launcher"]
    assert line.state == "fail" and "openmpi" in line.found and "mpich" in line.found and "--mpi" in line.fix
    site.setattr(probe, "vendor", lambda mpiexec: "intel")
    assert lines(doctor.library)["launcher"].state == "ok"


def test_no_mpi_and_a_broken_one_fail_with_a_fix(site):
    site.setattr(doctor, "library_version", lambda path: "")
    assert lines(doctor.library)["mpi"].state == "fail" and "MPI4PY_LIBMPI" in lines(doctor.library)["mpi"].fix
    site.setattr(probe, "libmpi", lambda: "none")
    assert lines(doctor.library)["mpi"].state == "fail" and "engine[mpi]" in lines(doctor.library)["mpi"].fix


def test_a_wheels_mpi_inside_a_batch_job_is_warned_of(site):
    site.setenv("SLURM_JOB_ID", "12")
    assert lines(doctor.library)["mpi"].state == "ok"
    site.setattr(probe, "libmpi", lambda: str(Path(sys.prefix) / "lib" / "libmpi.so.12"))
    line = lines(doctor.library)["mpi"]
    assert line.state == "warn" and "Slurm" in line.found and "module" in line.fix


def test_a_file_that_is_no_library_has_no_version(tmp_path):
    (tmp_path / "libmpi.so").write_text("no")
    assert doctor.library_version(str(tmp_path / "libmpi.so")) == ""
    assert doctor.kind(doctor.library_version(probe.libmpi())) in ("mpich", "openmpi", "intel")


@pytest.mark.parametrize(("name", "text", "cores"), [
    ("cpu.max", "max 100000", None), ("cpu.max", "150000 100000", 1.5), ("cpu.max", "?", None),
    ("cpu/cpu.cfs_quota_us", "-1", None), ("cpu/cpu.cfs_quota_us", "200000", 2.0),
])
def test_cpu_time_of_the_cgroup(tmp_path, name, text, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / name).write_text(text)
    assert doctor.quota(tmp_path) == cores


def test_fewer_cores_by_cgroup_and_thread_caps_are_warned_of(site):
    site.setattr(doctor, "quota", lambda: 0.5)
    site.setenv("OMP_NUM_THREADS", "8")
    found = lines(doctor.cores)
    assert (found["cgroup"].state, found["threads"].state) == ("warn", "warn")
    assert "OMP_NUM_THREADS" in found["threads"].fix


def test_space_that_is_small_or_not_writable(tmp_path):
    assert doctor.space("disk", tmp_path, 1, "x").state == "ok"
    tight = doctor.space("disk", tmp_path, 1 << 62, "x")
    assert (tight.state, tight.fix) == ("warn", "x") and str(tmp_path) in tight.found
    assert doctor.space("disk", tmp_path / "missing", 1, "x").state == "fail"
    assert doctor.nearest(tmp_path / "a" / "b") == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_files_that_nobody_maps(tmp_path):
    import mmap

    for name in ("engine-old", "engine-live", "other"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    with (tmp_path / "engine-live").open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert doctor.orphans(tmp_path) == [tmp_path / "engine-old"]
    assert doctor.orphans(tmp_path) == [tmp_path / "engine-live", tmp_path / "engine-old"]
