"""The child process of a peer: rounds, absent packages, failures; this interpreter stands in for the peers' own."""
import sys
from pathlib import Path

import pytest

from bench import peers
from bench.registry import Missing


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Writes a peer script and makes this interpreter the peers' environment."""
    host = peers.FOLDER / "host.py"
    (tmp_path / "host.py").write_text(host.read_text())
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setattr(peers, "PYTHON", Path(sys.executable))

    def write(text, name="one"):
        (tmp_path / f"{name}.py").write_text(text)
        return name
    return write


def test_rounds_are_timed_in_the_child(script):
    name = script("def prepare(n):\n print('chatter')\n return lambda: sum(range(n))\n")
    with peers.peer(name, n=1000) as made:
        sample = made()
        assert sample.result == 499500 and 0 < sample.wall < 5 and sample.cpu >= 0
    assert made.child.returncode == 0


def test_a_round_may_bring_its_own_time(script):
    name = script("def prepare():\n return lambda: {'wall': 3.0, 'cpu': 2.0, 'loss': .5}\n")
    with peers.peer(name) as made:
        sample = made()
    assert (sample.wall, sample.cpu, sample.result) == (3.0, 2.0, {"loss": 0.5})


def test_a_missing_package_is_named(script):
    name = script("def prepare():\n import surely_not_here\n")
    with peers.peer(name) as made:
        assert isinstance(made, Missing)
        assert str(made) == "surely_not_here not installed; python -m bench peers"


def test_no_environment_at_all_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "PYTHON", tmp_path / "python")
    with peers.peer("vw", path="x", arguments=[]) as made:
        assert "python -m bench peers" in str(made)


def test_a_failing_and_a_dying_peer_are_errors(script):
    failing = script("def prepare():\n raise ValueError('no')\n", "failing")
    with pytest.raises(RuntimeError, match="ValueError: no"), peers.peer(failing):
        pass
    dying = script("def prepare():\n import os; os._exit(7)\n", "dying")
    with pytest.raises(RuntimeError, match="exit code 7"), peers.peer(dying):
        pass
