"""The configuration of a run: defaults < TOML file < environment ENGINE_SECTION_KEY < `section.key=value`.

An unknown key is an error that suggests the nearest known one; a wrong value says what was expected, found, and where.
"""
from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from engine.errors import ConfigError, StoreError
from engine.settings import CHOICES, LOWEST, PATTERNS, Config, Every, Names

__all__ = ["CHOICES", "Config", "known", "resolve", "stored"]

ASIDE = ("run", "loop", "checkpoint", "fault", "degrade", "transport", "embed")  # sections that do not shape what is predicted


def resolve(path: str | os.PathLike[str] | None = None, *, text: str = "", overrides: Iterable[str] = (),
            env: Mapping[str, str] | None = None) -> Config:
    """The configuration from a TOML file or `text`, `ENGINE_*` variables and `section.key=value` settings, later ones first.

    >>> resolve(overrides=["model.learner=pa1", "checkpoint.every=5000rows"]).model.learner
    'pa1'
    """
    config = Config()
    if path is not None or text:
        where = "the given text" if path is None else str(path)
        for section, values in (_parsed(text, where) if path is None else _read(Path(path))).items():
            if not isinstance(values, dict):
                raise ConfigError(f"expected a [section], found {section} = {values!r}", where=where)
            for key, value in values.items():
                _set(config, f"{section}.{key}", value, where)
    for name, text in sorted((os.environ if env is None else env).items()):
        match = re.fullmatch(rf"ENGINE_({'|'.join(f.name.upper() for f in fields(Config))})_(\w+)", name)
        if match:
            _set(config, f"{match[1].lower()}.{match[2].lower()}", text, f"environment {name}")
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"expected section.key=value, found {item!r}", fix="for example model.learner=ftrl")
        _set(config, key.strip(), text.strip(), f"setting {item}")
    return config


def stored(sections: Mapping[str, Mapping[str, Any]]) -> Config:
    """The configuration that a checkpoint holds. A setting of another version that is on and shapes the model is an error."""
    config = Config()
    for name, values in sections.items():
        section = getattr(config, name, None)
        for key, value in values.items():
            if hasattr(section, key):
                setattr(section, key, value)
            elif value and name not in ASIDE:
                raise StoreError(f"the checkpoint sets {name}.{key} = {value!r}, which this version does not know",
                                 fix="read it with the version that wrote it (engine inspect names it), or a later one")
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(), str(path))
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}", fix="check the path given to --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration: {error}", where=str(path)) from None


def _parsed(text: str, where: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read the configuration: {error}", where=where) from None


def known() -> list[str]:
    """Every `section.key`."""
    config = Config()
    return [f"{s.name}.{f.name}" for s in fields(config) for f in fields(getattr(config, s.name))]


def _set(config: Config, name: str, value: Any, where: str) -> None:
    section, _, key = name.partition(".")
    if name not in known():
        near = difflib.get_close_matches(name, known(), 1, 0.5) or [n for n in known() if n.endswith(f".{name}")]
        raise ConfigError(f"unknown key {name!r}", where=where,
                          fix=f"did you mean {near[0]!r}?" if near else "see `engine train --help` for the keys")
    holder = getattr(config, section)
    setattr(holder, key, _value(name, value, get_type_hints(type(holder))[key], where))


def _value(name: str, value: Any, kind: Any, where: str) -> Any:
    if name == "data.header" and isinstance(value, bool):
        value = "yes" if value else "no"
    found = _parse(name, value, kind, where)
    options = CHOICES.get(name)
    if options and found is not None and found not in options:
        near = difflib.get_close_matches(str(found), options, 1)
        raise ConfigError(f"{name}: expected one of {', '.join(options)}, found {found!r}", where=where,
                          fix=f"did you mean {near[0]!r}?" if near else "")
    if name in ("checkpoint.every", "exchange.every") and found is not None and found <= 0:
        raise ConfigError(f"{name}: expected more than 0, found {value!r}", where=where)
    if name in PATTERNS and not re.fullmatch(PATTERNS[name][0], str(found)):
        raise ConfigError(f"{name}: expected {PATTERNS[name][1]}, found {found!r}", where=where)
    if name in LOWEST and found is not None and found < LOWEST[name]:
        raise ConfigError(f"{name}: expected at least {LOWEST[name]}, found {found}", where=where)
    return found


def _parse(name: str, value: Any, kind: Any, where: str) -> Any:
    optional = kind in (str | None, int | None, float | None, bool | None)
    if optional and (value is None or value == ""):
        return None
    base = next(k for k in kind.__args__ if k is not type(None)) if optional else kind
    parsers: dict[Any, tuple[Callable[[Any], Any], str]] = {
        str: (str, "text"), bool: (_bool, "true or false"), int: (_int, "a whole number, perhaps with a unit (64Ki, 2M)"),
        float: (_seconds, "a number, perhaps a duration (10s, 5m)"), Names: (_names, "a list, comma separated"),
        Every: (_every, 'a row count ("5000rows") or a duration ("10s")'),
    }
    parse, expected = parsers[base]
    try:
        return parse(value)
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{name}: expected {expected}, found {value!r}", where=where) from None


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}[
        str(value).lower()]


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
TIMES = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    match = re.fullmatch(r"(-?\d[\d_]*)\s*([kmg]?i?)b?(rows)?", str(value).strip().lower())
    if not match:
        raise ValueError
    return int(match[1]) * UNITS[match[2]]


def _seconds(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    match = re.fullmatch(r"([-+.\deE_]+?)\s*(ms|s|min|m|h|)", str(value).strip())
    if not match:
        raise ValueError
    return float(match[1]) * TIMES[match[2]]


def _every(value: Any) -> Every:
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    return _seconds(text) if text.endswith(("s", "m", "h", "min")) and not text.endswith("rows") else _int(text)


def _names(value: Any) -> Names:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(str(part) for part in value)
