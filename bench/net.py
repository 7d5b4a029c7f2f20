"""Programs on ranks for a bench: on this machine, or on hosts of their own, with links of a given rate (network namespaces,
where root and the kernel allow them)."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.launch import environment
from bench.machine import ROOT
from bench.registry import Missing

TIMEOUT_S = 240


def _sh(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Missing(f"{' '.join(words[:6])}: {done.stderr.strip()[-200:] or done.stdout.strip()[-200:]}")


def _down(count: int) -> None:
    for i in range(count):
        for rail in range(2):  # a namespace lives on while a process is in it, and its links with it
            subprocess.run(["ip", "link", "del", f"ev{rail}{i}"], capture_output=True)
        subprocess.run(["ip", "netns", "del", f"en{i}"], capture_output=True)
        shutil.rmtree(f"/etc/netns/en{i}", ignore_errors=True)
    for bridge in ("ebr0", "ebr1"):
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


@contextmanager
def hosts(count: int, rate: str, rails: int = 1) -> Iterator[list[str]]:
    """Names of `count` hosts en0, en1, … on one bridge a rail, every link shaped to `rate` both ways; Missing where refused.

    One user of a machine at a time: the lock is a file in the folder for temporary files.
    """
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        raise Missing("namespaces need root, ip and tc (iproute2)")
    lock = os.environ.get("ENGINE_NET_LOCK", str(Path(tempfile.gettempdir()) / "engine-net.lock"))
    import fcntl

    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            for rail in range(rails):
                _sh("ip", "link", "add", f"ebr{rail}", "type", "bridge")
                _sh("ip", "addr", "add", f"10.{77 + rail}.0.254/24", "dev", f"ebr{rail}")
                _sh("ip", "link", "set", f"ebr{rail}", "up")
            names = "127.0.0.1 localhost\n" + "".join(f"10.77.0.{j + 1} en{j}\n" for j in range(count))
            for i in range(count):
                _host(i, rate, rails, names)
            yield [f"en{i}" for i in range(count)]
        finally:
            _down(count)


def _host(i: int, rate: str, rails: int, names: str) -> None:
    _sh("ip", "netns", "add", f"en{i}")
    _sh("ip", "-n", f"en{i}", "link", "set", "lo", "up")
    folder = Path(f"/etc/netns/en{i}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text(names)
    shape = ["root", "tbf", "rate", rate, "burst", "512kb", "latency", "50ms"]
    for rail in range(rails):
        outer, inner = f"ev{rail}{i}", f"eth{rail}"
        _sh("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", f"en{i}")
        _sh("ip", "link", "set", outer, "master", f"ebr{rail}", "up")
        _sh("ip", "-n", f"en{i}", "addr", "add", f"10.{77 + rail}.0.{i + 1}/24", "dev", inner)
        _sh("ip", "-n", f"en{i}", "link", "set", inner, "up")
        _sh("ip", "netns", "exec", f"en{i}", "tc", "qdisc", "replace", "dev", inner, *shape)
        _sh("tc", "qdisc", "replace", "dev", outer, *shape)


AGENT = """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in -l|-o|-p) shift 2;; *) shift;; esac; done
h=$1; shift
exec ip netns exec "$h" unshare --uts bash -c "hostname $h; $*"
"""
PRIVATE = AGENT.replace(  # a node's memory is its own
    'unshare --uts bash -c "', 'unshare --uts --mount bash -c "mount -t tmpfs shm /dev/shm; ')
SUBNET = "10.77.0.0/24"


def line(names: Sequence[str], per_host: Sequence[int], agent: str) -> tuple[list[str], dict[str, str]]:
    """Launcher, options and environment for so many ranks on each named host; on this machine where none are named."""
    from engine.comm.probe import flags, launcher, vendor

    mpiexec, count = launcher(), sum(per_host)
    if not mpiexec:
        raise Missing("no mpiexec found")
    if not names:
        options, more = flags(mpiexec, count)
        return [mpiexec, *options, "-n", str(count)], more
    placed = ",".join(f"{name}:{n}" for name, n in zip(names, per_host, strict=True))
    crowded = count > len(os.sched_getaffinity(0))
    if vendor(mpiexec) == "openmpi":
        home = str(Path(mpiexec).resolve().parent.parent)
        return [mpiexec, "--allow-run-as-root", "--prtemca", "plm_ssh_agent", agent, "--prtemca", "oob_tcp_if_include", SUBNET,
                "--prefix", home, "--host", placed, "-n", str(count), "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl",
                "tcp,sm,self", "--mca", "btl_tcp_if_include", "eth0", "--mca", "osc", "^ucx", "-x", "PYTHONPATH", "-x",
                "PATH"], {"OMPI_MCA_mpi_yield_when_idle": "1"} if crowded else {}
    return [mpiexec, "-launcher", "ssh", "-launcher-exec", agent, "-localhost", "10.77.0.254", "-hosts", placed, "-n", str(count),
            "-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_NET_DEVICES", "eth0"], {
                "MPIR_CVAR_POLLS_BEFORE_YIELD": "0"} if crowded else {}


def ranks(names: Sequence[str], per_host: Sequence[int], module: str, *arguments: str,
          timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """`python -m module arguments` on ranks under the MPI of this Python; the last line of output as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        agent = Path(folder) / "agent"
        agent.write_text(AGENT)
        agent.chmod(0o755)
        launcher, more = line(names, per_host, str(agent))
        env = environment() | more
        env["PYTHONPATH"] = f"{ROOT}:{env['PYTHONPATH']}"
        try:
            done = subprocess.run([*launcher, sys.executable, "-m", module, *arguments], capture_output=True, text=True,
                                  timeout=timeout_s, env=env, stdin=subprocess.DEVNULL, cwd=ROOT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{module} {' '.join(arguments)} took more than {timeout_s:g} s") from None
    lines = [one for one in done.stdout.splitlines() if one.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{module}: exit {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def spread(count: int, module: str, *arguments: str) -> dict[str, Any]:
    """As `ranks`, one rank on each of `count` hosts."""
    return ranks([f"en{i}" for i in range(count)], [1] * count, module, *arguments)


def local(count: int, module: str, *arguments: str) -> dict[str, Any]:
    """As `ranks`, on this machine alone."""
    return ranks([], [count], module, *arguments)
