"""Small ONNX models, sound and unsound, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

Shape = tuple[int | str, ...]


def conv_model(
    *, shape: Shape = (1, 3, 8, 8), channels: int = 64, weight: NDArray[Any] | None = None
) -> ModelProto:
    """One 3x3 convolution and a ReLU, input ``x``, output ``y``."""
    if weight is None:
        rng = np.random.default_rng(0)
        weight = rng.standard_normal((channels, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    return model_of(
        nodes,
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        weights=[numpy_helper.from_array(weight, "w")],
        rank=4,
    )


def model_of(
    nodes: list[onnx.NodeProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    weights: list[TensorProto],
    rank: int,
) -> ModelProto:
    """A model with one output ``y`` of float, of some rank and open sizes."""
    open_sizes = [f"y{number}" for number in range(rank)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, open_sizes)]
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )


def token_model() -> ModelProto:
    """An embedding with a mask: inputs ``tokens`` of int64 and ``mask`` of float."""
    table = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("Mul", ["rows", "mask"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ("n", "length")),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, ("n", "length", 1)),
    ]
    return model_of(nodes, inputs=inputs, weights=[numpy_helper.from_array(table, "table")], rank=3)


def save(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
