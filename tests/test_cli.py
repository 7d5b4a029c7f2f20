"""The command line: what it starts without, what it refuses, and what each verb is given."""
import json
import math
import os
import random
import subprocess
import sys
import types

import pytest

from engine import cli
from engine.config import Config, known, resolve
from engine.errors import ConfigError

LISTED = "import sys, runpy, contextlib\nsys.argv = ['engine', *%r]\ntry: runpy.run_module('engine', run_name='__main__')\n" \
    "except SystemExit: pass\nprint('loaded', sorted({'mpi4py', 'numpy', 'numba', 'blosc2'} & set(sys.modules)))"


def engine(*args, **more):
    return subprocess.run([sys.executable, "-m", "engine", *args], capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["train", "--help"], ["run", "-n", "2", "train", "--help"]])
def test_help_loads_nothing_heavy(args):
    done = subprocess.run([sys.executable, "-c", LISTED % args], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize(("args", "word"), [
    ("tarin", "invalid choice"), ("", "VERB"), ("train --lerner x", "unrecognized"), ("run train", "-n"),
    ("run -n 2", "expected a verb"), ("run -n 2 run", "expected a verb"), ("run -n two train", "-n"),
    ("run -n 0 train x", "at least 1 rank"), ("run -n 2 --mpi /nope train x", "/nope"), ("run -n 2 train --oops", "--oops"),
    ("train x model.lerner=1", "model.learner"), ("train", "no source"), ("inspect", "ckpt"),
    ("init lsf", "invalid choice"), ("train x --config /nope.toml", "/nope.toml"),
])
def test_usage_errors_are_64_in_one_message(args, word):
    done = engine(*args.split())
    assert done.returncode == 64, done.stderr
    assert word in done.stderr and done.stderr.count("error[E200]") == 1 and "Traceback" not in done.stderr


def test_a_traceback_is_shown_where_it_is_asked_for():
    done = engine("train", env={**os.environ, "ENGINE_TRACEBACK": "1"})
    assert done.returncode == 64 and "Traceback" in done.stderr


@pytest.fixture
def taken(monkeypatch):
    """Configurations that reach the learning verb."""
    found = []
    stub = types.ModuleType("engine.train")
    stub.train = lambda config, guard: found.append(config) or {"rows": 0}
    monkeypatch.setitem(sys.modules, "engine.train", stub)
    return found


def act(words):
    return cli.VERBS["train"](cli.parse(words), types.SimpleNamespace(rank=0))


def test_flags_are_settings_and_may_stand_anywhere(taken, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[model]\nlearner = 'sgd'\nrate = 0.5\n[loop]\nthreads = 3\n")
    assert act(["train", "model.l1=2", "a.csv", "--config", str(path), "--learner", "pa1", "--every", "10s", "--resume",
                "--target", "7", "exchange.every=5"]) == 0
    config = taken[0]
    assert (config.data.source, config.data.target) == ("a.csv", "7")
    assert (config.model.learner, config.model.rate, config.model.l1) == ("pa1", 0.5, 2.0)
    assert (config.loop.threads, config.exchange.every) == (3, 5)
    assert (config.checkpoint.every, config.checkpoint.resume) == (10.0, "auto")


def test_a_source_may_hold_an_equals_sign(taken):
    act(["train", "make:sea?rows=50&noise=.1"])
    assert taken[0].data.source == "make:sea?rows=50&noise=.1"


def test_every_flag_is_a_known_setting():
    from engine.config import known

    assert {key for key, _, _ in cli.FLAGS.values()} <= set(known())


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
def test_job_scripts_are_shell_and_requeue_on_75(scheduler, tmp_path):
    path = tmp_path / "job.sh"
    assert engine("init", scheduler, "-o", str(path)).returncode == 0
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)
    text = path.read_text()
    assert "-eq 75" in text and "--resume" in text and "engine doctor" in text
    assert engine("init", scheduler).stdout == text
    again = engine("init", scheduler, "-o", str(path))
    assert again.returncode == 64 and "already there" in again.stderr


def test_the_configuration_with_every_setting_is_the_default(tmp_path):
    path = tmp_path / "all.toml"
    assert engine("init", "toml", "-o", str(path)).returncode == 0
    assert resolve(path, env={}) == Config()
    text = path.read_text()
    assert all(f"{name.split('.')[1]} =" in text for name in known())
    assert 'learner = "auto"  # auto | sgd | adagrad' in text


def test_slurm_is_told_which_pmi_and_when_to_warn():
    text = engine("init", "slurm").stdout
    assert all(word in text for word in ("--mpi=pmix", "--mpi=pmi2", "--signal=USR1@", "--requeue"))


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(f"'{sys.executable}' -m engine init slurm | true; echo ${{PIPESTATUS[0]}}", shell=True,
                          executable="/bin/bash", capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0" and "Traceback" not in done.stderr


def test_settings_that_cannot_be_parsed_name_the_command_line():
    with pytest.raises(ConfigError, match=r"did you mean|unknown key"):
        cli.configured(cli.parse(["train", "x.csv", "nonsense=1"]))


def test_a_table_of_words_and_raw_numbers_is_learned_by_a_learner_that_takes_them(tmp_path):
    rng, lines = random.Random(0), ["at,site,age,price,clicked"]
    for i in range(3000):
        site, age = rng.choice(["news", "shop", "mail"]), rng.randrange(18, 80)
        yes = rng.random() < 1 / (1 + math.exp(-((site == "shop") * 2 - 0.05 * (age - 40))))
        lines.append(f"{1700000000 + i},{site},{age},{rng.gammavariate(2, 1000):.2f},{'yes' if yes else 'no'}")
    (tmp_path / "clicks.csv").write_text("\n".join(lines) + "\n")
    command = "train", "clicks.csv", "--run-dir", "-"
    done = engine(*command, "--json", cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accuracy"] > found["majority"] + 0.05 and found["logloss"] < 0.65
    assert "worse than guessing" not in done.stdout + done.stderr
    done = engine(*command, "--learner", "ftrl", cwd=tmp_path)
    assert done.returncode == 0 and "worse than guessing" in done.stdout + done.stderr
