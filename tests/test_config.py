"""Configuration: who wins, what is refused and with which words, and that a file written is the one read."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import CHOICES, Config, known, resolve, stored
from engine.errors import ConfigError, StoreError


def test_later_sources_win(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[model]\nrate = 0.25\nl1 = 0.5\nlearner = "sgd"\n')
    env = {"ENGINE_MODEL_RATE": "0.5", "ENGINE_MODEL_LEARNER": "pa1", "ENGINE_TRACEBACK": "1", "HOME": "/"}
    assert resolve(env={}).model.learner == "auto"
    model = resolve(path, env={}).model
    assert (model.rate, model.l1, model.learner) == (0.25, 0.5, "sgd")
    model = resolve(path, env=env).model
    assert (model.rate, model.l1, model.learner) == (0.5, 0.5, "pa1")
    model = resolve(path, env=env, overrides=["model.learner=nag", "model.learner=adagrad"]).model
    assert (model.rate, model.l1, model.learner) == (0.5, 0.5, "adagrad")


@pytest.mark.parametrize(("setting", "said"), [
    ("model.lerner=sgd", "did you mean 'model.learner'?"),
    ("modle.learner=sgd", "did you mean 'model.learner'?"),
    ("model.learner=ftrll", "did you mean 'ftrl'?"),
    ("exchange.merge=ownr", "did you mean 'owner'?"),
    ("model.rate=fast", "expected a number, perhaps a duration (10s, 5m), found 'fast'"),
    ("data.hash_bits=1.5", "expected a whole number"),
    ("model.interactions=perhaps", "expected true or false, found 'perhaps'"),
    ("checkpoint.every=often", 'expected a row count ("5000rows") or a duration ("10s")'),
    ("exchange.every=0", "expected more than 0, found"),
    ("checkpoint.every=-5s", "expected more than 0, found '-5s'"),
    ("checkpoint.every=0rows", "expected more than 0, found '0rows'"),
    ("learner", "expected section.key=value"),
])
def test_a_wrong_setting_says_what_and_where(setting, said):
    with pytest.raises(ConfigError) as caught:
        resolve(env={}, overrides=[setting])
    assert said in str(caught.value)
    assert setting in str(caught.value)


def test_where_an_unknown_key_came_from(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[loop]\nthread = 2\n")
    with pytest.raises(ConfigError, match=r"unknown key 'loop.thread'") as caught:
        resolve(path, env={})
    assert caught.value.where == str(path)
    with pytest.raises(ConfigError) as caught:
        resolve(env={"ENGINE_LOOP_THREAD": "2"})
    assert "ENGINE_LOOP_THREAD" in caught.value.where
    assert "loop.threads" in caught.value.fix


@pytest.mark.parametrize("text", ["loop = 3", "[loop", "\x00"])
def test_a_file_that_is_none(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        resolve(path, env={})
    with pytest.raises(ConfigError, match="no such configuration file"):
        resolve(tmp_path / "absent.toml", env={})


@pytest.mark.parametrize(("setting", "value"), [
    ("checkpoint.every=5000rows", 5000), ("checkpoint.every=10s", 10.0), ("checkpoint.every=2m", 120.0),
    ("checkpoint.every=250ms", 0.25), ("checkpoint.every=", None), ("data.piece_bytes=64Ki", 65536),
    ("loop.window=2k", 2000), ("loop.stall_timeout=5min", 300.0), ("model.interactions=off", False), ("model.scale=yes", True),
    ("data.numeric=a, b,,c", ("a", "b", "c")), ("data.target=7", "7"), ("model.rate=1e-3", 1e-3),
])
def test_values_have_their_types(setting, value):
    name = setting.partition("=")[0]
    section, key = name.split(".")
    found = getattr(getattr(resolve(env={}, overrides=[setting]), section), key)
    assert found == value
    assert type(found) is type(value)


SETTINGS = st.lists(st.one_of(
    st.sampled_from([f"{name}={choice}" for name, choices in CHOICES.items() for choice in choices]),
    st.floats(0, 10).map(lambda x: f"model.rate={x!r}"),
    st.integers(1, 10**6).map(lambda n: f"checkpoint.every={n}rows"),
    st.floats(0.5, 1e4).map(lambda t: f"checkpoint.every={t!r}s"),
    st.booleans().map(lambda b: f"model.interactions={b}"),
    st.text("ab \"\\'é\t\x7f\U0001f600", max_size=8).map(lambda t: f"data.source=x{t}x"),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3).map(lambda names: f"data.labels={','.join(names)}"),
), max_size=6)


@given(settings=SETTINGS)
def test_a_configuration_written_is_the_one_read(tmp_path_factory, settings):
    config = resolve(env={}, overrides=settings)
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_text(config.to_toml())
    again = resolve(path, env={})
    assert again == config
    assert again.digest() == config.digest()


def test_the_digest_tells_any_two_configurations_apart():
    digests = {resolve(env={}, overrides=[s]).digest() for s in
               ("run.seed=0", "run.seed=1", "model.l1=0", "model.l1=1", "data.rule=hash", "checkpoint.every=10rows",
                "checkpoint.every=10s")}
    assert len(digests) == 7
    assert Config().digest() in digests


def test_every_key_is_known():
    assert {"data.source", "model.learner", "run.seed"} <= set(known())
    assert set(CHOICES) <= set(known())


def test_a_checkpoint_of_another_version_is_read_or_refused_by_name():
    held = Config().to_dict()
    held["model"]["rate"] = 0.25
    held["fault"]["later"] = 3  # does not shape what is predicted
    held["model"]["later"] = False  # is off
    held["moon"] = {"phase": None}
    assert stored(held).model.rate == 0.25 and stored(held).model.learner == Config().model.learner
    held["model"]["later"] = "yes"
    with pytest.raises(StoreError, match=r"model\.later = 'yes'"):
        stored(held)
