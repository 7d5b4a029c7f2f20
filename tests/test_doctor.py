"""The doctor: what it finds, what it says of what is wrong, and that it starts nothing."""
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from engine import doctor
from engine.comm import probe


def found(name):
    return next(f for f in doctor.examine() if f.name == name)


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in doctor.JOBS:
        monkeypatch.delenv(name, raising=False)


def test_every_failing_line_ends_with_its_fix(capsys, monkeypatch):
    monkeypatch.setattr(probe, "libmpi", lambda: "none")
    monkeypatch.setattr(probe, "launcher", lambda given="": "")
    assert doctor.main() == 69
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert {line.split()[1] for line in bad} >= {"mpi", "launcher"}
    assert all("; fix: " in line for line in bad)
    assert all(f.fix for f in doctor.examine() if not f.ok)


def test_json_is_one_object_with_every_finding(capsys):
    doctor.main(json=True)
    rows = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in rows}
    assert {"python", "numpy", "mpi4py", "kernels", "mpi", "cores", "threads", "shm", "disk"} <= names
    assert all(set(row) == {"name", "ok", "text", "fix"} for row in rows)


@pytest.mark.smoke
def test_the_mpi_of_this_environment_is_found_and_matches():
    assert found("mpi").ok
    assert found("launcher").ok


@pytest.mark.smoke
def test_nothing_is_started():
    code = ("import sys; from engine import doctor; doctor.examine();"
            "print(sorted({'mpi4py', 'mpi4py.MPI', 'numba', 'blosc2'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("job", doctor.JOBS)
def test_a_wheel_in_a_batch_job_is_warned_of(job, monkeypatch):
    assert all(f.name != "batch" for f in doctor.examine())
    monkeypatch.setenv(job, "17")
    monkeypatch.setattr(probe, "libmpi", lambda: f"{sys.prefix}/lib/libmpi.so.12")
    assert not found("batch").ok
    assert "(wheel)" in found("mpi").text
    monkeypatch.setattr(probe, "libmpi", lambda: "/opt/site/lib/libmpi.so.12")
    assert found("batch").ok
    assert "(system)" in found("mpi").text


@pytest.mark.parametrize(("library", "kind", "good"), [
    ("/a/libmpi.so.12", "mpich", True), ("/a/libmpi.so.12", "intel", True), ("/a/libmpi.so.12", "openmpi", False),
    ("/a/libmpi.so.40", "openmpi", True), ("/a/libmpi.so.40", "mpich", False), ("/a/libmpi.so", "mpich", True),
])
def test_the_launcher_belongs_to_the_library(library, kind, good):
    assert doctor.matches(library, kind) is good


def test_the_core_limit_of_both_cgroup_versions(tmp_path):
    assert doctor.cores_limit(tmp_path) == 0
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert doctor.cores_limit(tmp_path) == 0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    assert doctor.cores_limit(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.cores_limit(tmp_path) == 0
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert doctor.cores_limit(tmp_path) == 0.5


def test_small_or_missing_shared_memory_and_leftovers(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SHM", tmp_path)
    assert found("leftovers").ok
    (tmp_path / "engine-17").touch()
    assert "engine-17" in found("leftovers").fix
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert "1 MiB" in found("shm").text
    assert not found("shm").ok
    assert not found("disk").ok
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "SHM", tmp_path / "none")
    assert not found("shm").ok


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setenv("ENGINE_LOOP_THREADS", "100000")
    assert not found("threads").ok
