"""The doctor: what it finds, what it says of what is wrong, and that it starts nothing."""
import json
import subprocess
import sys

import pytest

from engine import doctor
from engine.comm import probe


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in doctor.JOBS:
        monkeypatch.delenv(name, raising=False)


def lines():
    return {line.name: line for look in doctor.CHECKS for line in look()}


def test_without_an_mpi_it_fails_and_says_how_to_get_one(capsys, monkeypatch):
    monkeypatch.setattr(probe, "libmpi", lambda: "none")
    assert doctor.main() == 64
    bad = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert any(line.startswith("fail  mpi") for line in bad)
    assert all("fix: " in line for line in bad)


def test_json_is_one_object_with_every_line(capsys):
    doctor.main(True)
    found = json.loads(capsys.readouterr().out)
    assert {"engine", "python", "numpy", "isa", "mpi", "launcher", "cores", "threads", "shm", "disk"} <= set(found)
    assert all(line["fix"] for line in found.values() if line["state"] != "ok")


@pytest.mark.smoke
def test_the_mpi_of_this_environment_is_found_and_matches_and_nothing_is_started():
    found = lines()
    assert found["mpi"].state == found["launcher"].state == "ok"
    code = ("import sys; from engine import doctor; [list(look()) for look in doctor.CHECKS];"
            "print(sorted({'mpi4py.MPI', 'numba', 'blosc2'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("job", doctor.JOBS)
def test_a_wheel_in_a_batch_job_is_warned_of(job, monkeypatch):
    monkeypatch.setenv(job, "17")
    found = lines()["mpi"]
    assert found.state == "warn" and doctor.JOBS[job] in found.found and "site's MPI" in found.fix


@pytest.mark.parametrize(("said", "launcher", "state"), [
    ("MPICH Version: 5.0.2", "mpich", "ok"), ("MPICH Version: 5.0.2", "intel", "ok"), ("Open MPI v5.0.11", "openmpi", "ok"),
    ("MPICH Version: 5.0.2", "openmpi", "fail"), ("Open MPI v5.0.11", "mpich", "fail"), ("Open MPI v5.0.11", "unknown", "ok"),
])
def test_the_launcher_belongs_to_the_library(said, launcher, state, monkeypatch):
    monkeypatch.setattr(probe, "launcher", lambda given="": "/somewhere/mpiexec")
    monkeypatch.setattr(probe, "vendor", lambda mpiexec: launcher)
    assert doctor.match(said).state == state


def test_the_core_limit_of_both_cgroup_versions(tmp_path):
    assert doctor.quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("250000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert doctor.quota(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert doctor.quota(tmp_path) == 0.5


def test_a_folder_that_cannot_be_written_fails(tmp_path):
    assert doctor.space("disk", tmp_path, 1, "mend").state == "ok"
    assert doctor.space("disk", tmp_path, 1 << 62, "mend").state == "warn"
    assert doctor.space("disk", tmp_path / "absent", 1, "mend").state == "fail"
