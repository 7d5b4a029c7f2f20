"""The embedding API on somebody else's communicator: polite, agreed, and alive after an error."""
import os
import subprocess
import sys

import numpy as np
import pytest

from engine import Session
from engine.comm import probe
from engine.errors import ConfigError, DataError

HOST = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
world = MPI.COMM_WORLD
environ, handlers, hook = dict(os.environ), [signal.getsignal(s) for s in (2, 10, 15)], sys.excepthook
from engine import Session, DataError, PeerError
half = world.Split(world.rank % 2, world.rank)
rng = np.random.default_rng(world.rank)
x = rng.normal(size=(300 + 100 * world.rank, 4)).astype(np.float32)
y = (x @ np.array([1, -2, 0.5, 0], np.float32) > 0).astype(np.float32)
for round in range(3):
    session = Session(half, width=4, **{"exchange.every": 8, "loop.threads": 1})
    session.partial_fit(x, y)
    session.partial_fit(x[:0], y[:0])
    summary = session.summary()
    assert summary["rows"] == half.allreduce(len(x)), summary
    assert summary["accuracy"] > 0.9, summary
    scores = session.predict(x[:50])
    w = session._job.team.models[0].state()["model/linear"].data
    assert all(other == w.tobytes() for other in half.allgather(w.tobytes()))
    try:
        session.partial_fit(x[:, :3] if half.rank == 0 else x, y)
        raise SystemExit("no error")
    except DataError as error:
        texts = half.allgather(str(error))
        assert len(set(texts)) == 1 and "(300, 4)" in texts[0] or "rank 0" in texts[0], texts
    session.partial_fit(x, y)
    session.close()
try:
    Session(world, width=4 + world.rank)
    raise SystemExit("no error")
except PeerError as error:
    assert "differs between ranks" in str(error)
assert handlers == [signal.getsignal(s) for s in (2, 10, 15)] and hook is sys.excepthook and environ == dict(os.environ)
assert MPI.Is_initialized() and not MPI.Is_finalized()
world.Barrier()
print("host lives", flush=True) if world.rank == 0 else None
"""


@pytest.mark.smoke
@pytest.mark.parametrize("n", [2, 3])
def test_a_session_is_polite_to_its_host(n, tmp_path):
    program = tmp_path / "host.py"
    program.write_text(HOST)
    mpiexec = probe.launcher()
    options, env = probe.flags(mpiexec, n)
    done = subprocess.run([mpiexec, *options, "-n", str(n), sys.executable, str(program)], env={**os.environ, **env},
                          capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "host lives"


def data(rows=500):
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.float32)


def test_alone_it_needs_no_mpi_and_learns():
    code = ("import sys, numpy as np; from engine import Session; s = Session(width=3);"
            "s.partial_fit(np.ones((4, 3), 'f4'), np.ones(4, 'f4')); assert 'mpi4py.MPI' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_calls_may_be_cut_anywhere():
    x, y = data()
    whole, parts = (Session(width=3, **{"loop.threads": 1}) for _ in range(2))
    whole.partial_fit(x, y)
    for a, b in ((0, 1), (1, 130), (130, 130), (130, 500)):
        parts.partial_fit(x[a:b], y[a:b])
    assert np.array_equal(whole.predict(x), parts.predict(x))
    assert whole.summary() == parts.summary()


def test_checkpoint_and_resume(tmp_path):
    x, y = data()
    first = Session(width=3).partial_fit(x, y)
    first.checkpoint(str(tmp_path))
    again = Session(width=3).resume(str(tmp_path))
    assert np.array_equal(first.predict(x), again.predict(x))
    assert first.partial_fit(x, y).summary() == again.partial_fit(x, y).summary()


def test_fit_yields_events_of_a_source(tmp_path):
    path = tmp_path / "rows.csv"
    x, y = data(3000)
    path.write_text("".join(f"{a},{b},{c},{int(label)}\n" for (a, b, c), label in zip(x.tolist(), y, strict=True)))
    session = Session(width=3)
    events = list(session.fit(str(path)))
    assert events[-1].rows == 3000
    assert session.summary()["accuracy"] > 0.9


def test_mistakes_are_named():
    session = Session(width=3)
    with pytest.raises(DataError, match=r"expected x of \(2, 3\)"):
        session.partial_fit(np.ones((2, 4), np.float32), np.ones(2))
    with pytest.raises(ConfigError, match="did you mean"):
        Session(width=3, **{"model.lerner": "ftrl"})
    with pytest.raises(ConfigError, match="directory"):
        session.checkpoint("")
