"""Kinds of models by name: a builder registers itself under its kind, a job asks for one by `model.kind`.

A kind outside the engine is named `package.module:builder`; its builder takes a `Spec` as those here do.
"""
from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.types import Array, Model, Policy, Schema

# Module of this room for each kind, imported when it is first asked for.
HOME = {
    "linear": "linear", "mlp": "dense", "softmax": "dense", "factor": "factor", "table": "table", "tree": "forest",
    "forest": "forest", "kmeans": "cluster", "bayes": "stats", "ridge": "stats", "torch": "torch", "jax": "jax",
    "sklearn": "sklearn",
}


# What to do where a kind wants dense rows.
DENSE = "clean.stages='project?k=32' makes dense rows of sparse ones; linear, softmax, factor and table take them as they are"
GRADED = ("mlp", "softmax", "torch", "jax")  # kinds that learn by a chain of policies
STEP = {"softmax": 1}  # rows of a mini-batch of a graded kind where none are asked for; else 32
# Section of the configuration that holds a kind's own options, where it is not of the kind's name.
SECTION = {"forest": "tree", "kmeans": "stats", "ridge": "stats"}


@dataclass(frozen=True, slots=True)
class Spec:
    """What a builder needs. `options`: the settings that were given, by name; `classes`: labels of a multi-class task,
    else 1; `merge`: how totals are applied; `tracked`: whether updates are asked for; `policy`: the chain of a model
    that gives gradients; `detect()` makes a drift detector for a model that has use for one; `memory(rows)`: where the
    rows of a linear model live, if not in its own memory.
    """

    schema: Schema
    classes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    merge: str = "owner"
    tracked: bool = True
    seed: int = 0
    policy: Policy | None = None
    detect: Callable[[], Any] | None = None
    memory: Callable[[int], Array] | None = None

    def pick(self, *names: str) -> dict[str, Any]:
        """The options of these names that were given."""
        return {name: self.options[name] for name in names if self.options.get(name) is not None}


Builder = Callable[[Spec], Model]
KINDS: dict[str, Builder] = {}


def kind(name: str) -> Callable[[Builder], Builder]:
    """Registers the builder of a kind.

    >>> @kind("mean")
    ... def mean(spec: Spec) -> Model: ...
    """
    def enter(builder: Builder) -> Builder:
        KINDS[name] = builder
        return builder
    return enter


def step_rows(name: str, batch: int | None) -> int:
    """Rows of a mini-batch of a graded kind: as asked for, else the kind's own."""
    return batch or STEP.get(name, 32)


def learner_of(options: Mapping[str, Any], schema: Schema) -> str:
    """The learner of a linear model. `auto`: the normalised one where sparse rows hold numbers of any size, which nobody has
    scaled and the others would diverge on; FTRL for all else, and for mini-batches.
    """
    asked = str(options.get("learner") or "auto")
    wild = schema.sparse and schema.numbers and not options.get("batch") and not options.get("interactions")
    return asked if asked != "auto" else "nag" if wild else "ftrl"


def made_by(spec: Spec) -> Callable[[Spec], Any]:
    """The user's function that `model.make` names: it gives the module, function or estimator of an adapter."""
    name = str(spec.options.get("make") or "")
    module, _, attribute = name.partition(":")
    try:
        found: Callable[[Spec], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"model.make: cannot import {name!r}: {error}",
                          fix="model.make=package.module:function, a function that takes a Spec") from None
    return found


def build(name: str, spec: Spec) -> Model:
    """A new model of a kind; ConfigError names the nearest kind where there is none of this name."""
    return builder(name)(spec)


def builder(name: str) -> Builder:
    """The builder of a kind, its module imported if it has to be."""
    if name not in KINDS and name in HOME:
        importlib.import_module(f"engine.models.{HOME[name]}")
    if name not in KINDS and ":" in name:
        module, _, attribute = name.partition(":")
        try:
            KINDS[name] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"model.kind: cannot import {name!r}: {error}",
                              fix="name a function that takes a Spec, as package.module:function") from None
    if name not in KINDS:
        known = sorted({*HOME, *KINDS})
        near = difflib.get_close_matches(name, known, 1)
        raise ConfigError(f"model.kind: expected one of {', '.join(known)} or package.module:function, found {name!r}",
                          fix=f"did you mean {near[0]!r}?" if near else "see docs/models.md")
    return KINDS[name]
