"""A model as ONNX: what `engine predict` computes, as a graph that any runtime of that format can run.

Dense rows come in as `x` float32 `(rows, columns)`. Rows of keys come in as `keys` int64 and `values` float32, both `(rows,
most keys of a row)`; shorter rows are filled up with key 0 and value 0. Out come, for a binary task, `label` and
`probability` (or `score`, where the model gives none); for more classes `label` and `scores`; for a regression `value`.
A label is text where the labels have names, else int64.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.clean.fitted import Fitted
from engine.clean.number import Impute, Range, Scale
from engine.clean.pipeline import Pipeline
from engine.errors import ConfigError
from engine.models.dense import Mlp
from engine.models.graded import Graded
from engine.models.linear import Linear
from engine.models.loss import FLOOR
from engine.models.stats import Ridge
from engine.types import Array, Batch, Model, Schema, Stage

OPSET, IR = 17, 8
MOST_BYTES = 2**31 - 2**20  # a protobuf message is no longer
KINDS = "linear (without pairs), softmax, mlp and ridge, behind the stages range (not drop), impute and scale"
NPZ = "export to .npz"


class Graph:
    """Nodes and constants as they are added; each method returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.bytes = 0

    def constant(self, data: Any) -> str:
        from onnx import numpy_helper

        array = np.array(data, order="C")
        self.bytes += array.nbytes
        self.constants.append(numpy_helper.from_array(array, f"c{len(self.constants)}"))
        return f"c{len(self.constants) - 1}"

    def add(self, kind: str, *inputs: str, named: str = "", **options: Any) -> str:
        from onnx import helper

        name = named or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **options))
        return name

    def cast(self, x: str, dtype: Any) -> str:
        from onnx import helper

        return self.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def affine(self, x: str, less: Array, over: Array) -> str:
        """`(x - less) / over` in float64, as float32."""
        wide = self.add("Sub", self.cast(x, np.float64), self.constant(less.astype(np.float64)))
        return self.cast(self.add("Div", wide, self.constant(over.astype(np.float64))), np.float32)


def export(model: Model, stage: Stage | None, schema: Schema, about: dict[str, str]) -> bytes:
    """The model as a serialized ONNX graph. `schema`: of the rows that come in; `about`: text kept as metadata.

    ConfigError where the package onnx is absent, where a graph cannot say what the model or a stage does, or where it would
    be longer than the format's 2 GiB.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError:
        raise ConfigError("export: a .onnx file is written by the package onnx, which is not installed",
                          fix=f"pip install 'engine[onnx]', or {NPZ}") from None
    graph, info = Graph(), helper.make_tensor_value_info
    if schema.sparse:
        if stage is not None:
            raise ConfigError("export: a graph cannot express stages of rows of keys", fix=NPZ)
        inputs = [info("keys", TensorProto.INT64, ["rows", "most"]), info("values", TensorProto.FLOAT, ["rows", "most"])]
    else:
        inputs = [info("x", TensorProto.FLOAT, ["rows", schema.width])]
    x = "" if schema.sparse else _staged(graph, stage, schema, "x")
    tags = _finished(graph, _raw(graph, model, x), model, schema)
    if graph.bytes > MOST_BYTES:
        raise ConfigError(f"export: {graph.bytes} bytes of parameters; an ONNX file holds {MOST_BYTES}", fix=NPZ)
    kinds = {"label": TensorProto.STRING if schema.labels else TensorProto.INT64}
    outputs = [info(name, kinds.get(name, TensorProto.FLOAT), ["rows", len(schema.labels) or "classes"] if name == "scores"
                    else ["rows"]) for name in tags]
    made = helper.make_model(helper.make_graph(graph.nodes, "engine", inputs, outputs, graph.constants),
                             opset_imports=[helper.make_opsetid("", OPSET)], producer_name="engine", ir_version=IR)
    helper.set_model_props(made, about)
    checker.check_model(made)
    return bytes(made.SerializeToString())


def _raw(graph: Graph, model: Model, x: str) -> str:
    """Raw outputs of the model, `(rows, outputs)`."""
    if isinstance(model, Linear) and not model.options["interactions"]:
        return _linear(graph, model, x)
    if isinstance(model, Graded) and isinstance(model.net, Mlp):
        return _net(graph, model, model.net, x)
    if isinstance(model, Ridge) and x:
        w, b = model.weights()
        out = graph.add("MatMul", graph.cast(x, np.float64), graph.constant(w))
        return graph.cast(graph.add("Add", out, graph.constant(b)), np.float32)
    pairs = " with interactions" if isinstance(model, Linear) else ""
    raise ConfigError(f"export: a graph cannot express a model of kind {type(model).__name__.lower()}{pairs}; it can {KINDS}",
                      fix=NPZ)


def _weighted(graph: Graph, x: str, w: Array) -> str:
    """Rows times `w` `(columns or keys, outputs)`."""
    if x:
        return graph.add("MatMul", x, graph.constant(w))
    picked = graph.add("Gather", graph.constant(w), "keys", axis=0)
    each = graph.add("Unsqueeze", "values", graph.constant(np.array([2])))
    return graph.add("ReduceSum", graph.add("Mul", picked, each), graph.constant(np.array([1])), keepdims=0)


def _linear(graph: Graph, model: Linear, x: str) -> str:
    options, scale = model.options, model.view().get("stage/scale")
    w = model.view()["model/linear"].data[:, 0].reshape(-1, options["classes"])
    if x and scale is not None:
        n, mean, square = scale.data.T
        part = square / np.maximum(n, 1)
        x = graph.affine(x, mean, np.where(part > 0, np.sqrt(part), np.inf))
    out = _weighted(graph, x, w[: options["width"]])
    return graph.add("Add", out, graph.constant(w[-1] * np.float32(options["bias"]))) if options["bias"] else out


def _net(graph: Graph, model: Graded, net: Mlp, x: str) -> str:
    state = model.state()
    if x and "stage/scale" in state:
        n, mean, square = state["stage/scale"].data.T
        inverse = np.divide(1.0, np.sqrt(square / np.maximum(n, 1)), out=np.zeros_like(n), where=square > 0)
        x = graph.add("Sub", x, graph.constant(mean.astype(np.float32)))
        x = graph.add("Mul", x, graph.constant(inverse.astype(np.float32)))
    for layer, (a, b) in enumerate(zip(net.sizes, net.sizes[1:], strict=False)):
        w = net.theta[net.spans[f"w{layer}"]].reshape(a, b)
        x = graph.add("Add", _weighted(graph, x, w), graph.constant(net.theta[net.spans[f"b{layer}"]]))
        if layer + 2 < len(net.sizes):
            x = graph.add("Relu" if net.activation == "relu" else "Tanh", x)
    return x


def _finished(graph: Graph, raw: str, model: Model, schema: Schema) -> list[str]:
    """Names of the outputs, as `engine predict` prints them."""
    if schema.task == "multiclass":
        scores = raw
        if isinstance(model, Graded):  # log odds over the classes seen so far
            live = model.seen > 0
            shut = np.where(live | ~live.any(), np.float32(0), np.float32(-1e30))
            if not live.any():
                raw = graph.add("Mul", raw, graph.constant(np.float32(0)))
            p = graph.add("Softmax", graph.add("Add", raw, graph.constant(shut)), axis=1)
            p = graph.add("Clip", p, graph.constant(np.float32(FLOOR)), graph.constant(np.float32(1 - FLOOR)))
            rest = graph.add("Sub", graph.constant(np.float32(1)), p)
            scores = graph.add("Sub", graph.add("Log", p), graph.add("Log", rest))
        graph.add("Identity", scores, named="scores")
        _label(graph, graph.add("ArgMax", scores, axis=1, keepdims=0), schema.labels)
        return ["label", "scores"]
    score = graph.add("Squeeze", raw, graph.constant(np.array([1])))
    loss = model.options["loss"] if isinstance(model, Linear) else model.loss if isinstance(model, Graded) else "squared"
    shape = {"logistic": "Sigmoid", "poisson": "Exp"}.get(loss, "Identity")
    if schema.task == "regression":
        graph.add(shape, score, named="value")
        return ["value"]
    name = "probability" if loss == "logistic" else "score"
    graph.add(shape, score, named=name)
    over = graph.add("Greater", score, graph.constant(np.float32(0)))
    _label(graph, graph.cast(over, np.int64), schema.labels)
    return ["label", name]


def _label(graph: Graph, place: str, labels: Sequence[str]) -> None:
    if labels:
        graph.add("Gather", graph.constant(np.array([str(label) for label in labels], object)), place, named="label")
    else:
        graph.add("Identity", place, named="label")


def _staged(graph: Graph, stage: Stage | None, schema: Schema, x: str) -> str:
    stages = stage.stages if isinstance(stage, Pipeline) else [] if stage is None else [stage]
    width = schema.width
    for one in stages:
        made = _stage(graph, one, width, x) if isinstance(one, Fitted) else None
        if made is None:
            raise ConfigError(f"export: a graph cannot express the stage {type(one).__name__.lower()}; it can {KINDS}", fix=NPZ)
        x, width = made
    return x


def _stage(graph: Graph, one: Fitted, width: int, x: str) -> tuple[str, int] | None:
    """(rows behind the stage, their columns); None where there is no way to say it."""
    at = np.arange(width) if one.at is None else one.at

    def spread(values: Array, other: float) -> Array:
        out = np.full(width, other, np.float64)
        out[at] = values
        return out

    if isinstance(one, Scale):
        low, over = one.affine()
        return _scaled(graph, one, x, spread(low, 0), spread(over, 1), spread(np.zeros(len(at)), 1) == 0), width
    if isinstance(one, Range) and one.how != "drop":
        low, high = (spread(np.full(len(at), edge), side).astype(np.float32) for edge, side in zip(one.edges, (-np.inf, np.inf),
                                                                                                strict=True))
        if one.how == "clip":
            return graph.add("Min", graph.add("Max", x, graph.constant(low)), graph.constant(high)), width
        odd = graph.add("Or", graph.add("Less", x, graph.constant(low)), graph.add("Greater", x, graph.constant(high)))
        return graph.add("Where", odd, graph.constant(np.float32(np.nan)), x), width
    if isinstance(one, Impute):
        row = np.full((1, width), np.nan, np.float32)
        fill = one.transform(Batch(np.zeros(1, np.float32), np.zeros(1, np.int64), np.zeros(1, np.float32), x=row)).x
        assert fill is not None
        gone = graph.add("IsNaN", x)
        out = graph.add("Where", gone, graph.constant(fill[0, :width]), x)
        if fill.shape[1] == width:
            return out, width
        flags = graph.add("Gather", graph.cast(gone, np.float32), graph.constant(at.astype(np.int64)), axis=1)
        return graph.add("Concat", out, flags, axis=1), fill.shape[1]
    return None


def _scaled(graph: Graph, one: Scale, x: str, low: Array, over: Array, mine: Array) -> str:
    """minmax holds what it gives in 0 to 1, and gives .5 where a column never varied."""
    out = graph.affine(x, low, over)
    if one.how != "minmax":
        return out
    sides = [np.where(mine, edge, far).astype(np.float32) for edge, far in ((0, -np.inf), (1, np.inf))]
    out = graph.add("Min", graph.add("Max", out, graph.constant(sides[0])), graph.constant(sides[1]))
    flat = mine & ~np.isfinite(over)
    if not flat.any():
        return out
    half = graph.add("Where", graph.add("IsNaN", x), x, graph.constant(np.float32(0.5)))
    return graph.add("Where", graph.constant(flat), half, out)
