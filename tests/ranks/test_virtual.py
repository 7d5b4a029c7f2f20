"""`--reproducible`: the same bits on any number of ranks, and what that costs is said."""
import json

import pytest

from engine.store import checkpoint as store


@pytest.mark.parametrize("kind", ["linear", *(pytest.param(k, marks=pytest.mark.long) for k in ("forest", "mlp"))])
def test_any_number_of_ranks_gives_the_same_bits(kind, tmp_path, mpirun):
    found, states, replicas = [], [], 12 if kind == "mlp" else 8
    for n in (1, 2, 3) if kind == "mlp" else (1, 2, 4) if kind == "linear" else (1, 2):
        folder = tmp_path / str(n)
        args = ["-m", "engine", "train", "make:sea?rows=3000&drift=1500", "--reproducible", "--json", "--checkpoint", folder,
                "--run-dir", "-", "exchange.every=16", f"exchange.virtual={replicas}", f"model.kind={kind}", "tree.trees=3"]
        done = mpirun(n, args)
        assert done.returncode == 0, done.stderr
        assert f"{replicas} replicas in order took" in done.stderr
        found.append({key: value for key, value in json.loads(done.stdout).items()
                      if key in ("accuracy", "logloss", "auc", "kappa", "rows", "window_accuracy")})
        state, _ = store.load(store.latest(folder))
        states.append({path: block.data.tobytes() for path, block in state.items() if path.startswith(("model/", "policy/"))})
    assert found[0]["rows"] == 3000 and states[0]
    for other, state in zip(found[1:], states[1:], strict=True):
        assert other == found[0]
        assert state == states[0]


def test_what_does_not_divide_is_refused(mpirun):
    done = mpirun(2, ["-m", "engine", "train", "make:sea?rows=100", "--run-dir", "-", "exchange.virtual=3"])
    assert done.returncode == 64 and "multiple of 2 ranks" in done.stderr
    done = mpirun(2, ["-m", "engine", "train", "make:sea?rows=100", "--run-dir", "-", "--reproducible", "data.rule=hash"])
    assert done.returncode == 64 and "rule deal" in done.stderr
