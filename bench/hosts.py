"""Programs on ranks for a bench: on this machine, or on emulated hosts (network namespaces with shaped links, as root)."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.registry import Missing
from engine.comm import probe

NET = ROOT.parent / "shared" / "net"
SUBNET = "10.77.0.0/24"


@contextmanager
def hosts(count: int, rate: str, delay: str = "50us") -> Iterator[list[str]]:
    """Names of `count` hosts, each link shaped to `rate`; Missing where the kernel or the user may not make them."""
    folder = Path(os.environ.get("ENGINE_NET", NET))
    if not (folder / "netem_up.sh").exists() or os.getuid():
        raise Missing(f"no emulated hosts: {folder}/netem_up.sh and root are needed (name its folder with ENGINE_NET)")
    try:
        up = subprocess.run(["bash", str(folder / "netem_up.sh"), str(count), rate, delay], capture_output=True, text=True, timeout=60)
        if up.returncode:
            raise Missing(f"no emulated hosts: {up.stderr.strip()[-200:]}")
        yield [f"en{i}" for i in range(count)]
    finally:
        subprocess.run(["bash", str(folder / "netem_down.sh")], capture_output=True, timeout=60)


def line(names: list[str], per_host: list[int]) -> tuple[list[str], dict[str, str]]:
    """Launcher, options and environment for so many ranks on each named host; on this machine where none are named."""
    mpiexec, ranks = probe.launcher(), sum(per_host)
    if not mpiexec:
        raise Missing("no mpiexec found")
    if not names:
        options, more = probe.flags(mpiexec, ranks)
        return [mpiexec, *options, "-n", str(ranks)], more
    agent = str(Path(os.environ.get("ENGINE_NET", NET)) / "nsrsh")
    if probe.vendor(mpiexec) == "openmpi":
        home = str(Path(mpiexec).resolve().parent.parent)
        placed = ",".join(f"{name}:{n}" for name, n in zip(names, per_host, strict=True))
        return [mpiexec, "--allow-run-as-root", "--prtemca", "plm_ssh_agent", agent, "--prtemca", "oob_tcp_if_include", SUBNET,
                "--prefix", home, "--host", placed, "-n", str(ranks), "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl",
                "tcp,sm,self", "--mca", "btl_tcp_if_include", "eth0", "--mca", "osc", "^ucx", "-x", "PYTHONPATH", "-x", "PATH"], {
                    "OMPI_MCA_mpi_yield_when_idle": "1"}
    placed = ",".join(f"{name}:{n}" for name, n in zip(names, per_host, strict=True))
    return [mpiexec, "-launcher", "ssh", "-launcher-exec", agent, "-localhost", "10.77.0.254", "-hosts", placed, "-n", str(ranks),
            "-genv", "UCX_TLS", "tcp,self", "-genv", "UCX_NET_DEVICES", "eth0"], {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0"}


def ranks(program: str, args: list[str], names: list[str], per_host: list[int], timeout_s: float = 110.0) -> dict[str, Any]:
    """Runs `bench/PROGRAM` and returns the JSON object its rank 0 prints last; Missing with what it said where it fails."""
    launcher, more = line(names, per_host)
    env = {**os.environ, **more, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    call = [*launcher, sys.executable, str(ROOT / "bench" / program), *args]
    try:
        done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Missing(f"{program} {' '.join(args)} took more than {timeout_s:g} s") from None
    found = [text for text in done.stdout.splitlines() if text.startswith("{")]
    if done.returncode or not found:
        raise Missing(f"{program} {' '.join(args)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    made: dict[str, Any] = json.loads(found[-1])
    return made
