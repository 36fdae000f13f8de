"""One ONNX model from a chain of segments, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, external_data_helper, helper

from latbench.blocks.segment import Segment
from latbench.errors import MismatchError
from latbench.models.onnx_model import OnnxModel, Tensor, Values
from latbench.render.parameters import random_input

_INPUT = "input"


def join(network: Sequence[Segment]) -> OnnxModel:
    """The model that computes one segment after the other.

    Weights are random numbers of a sane scale; a latency does not depend on them.

    Args:
        network: Segments, each of which reads what its predecessor gives.

    Raises:
        MismatchError: A segment does not fit its predecessor.
    """
    graph, element = _joined(tuple(network))
    model = onnx.load_model_from_string(graph)
    weights = {
        tensor.name: random_weight(
            tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
        )
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
    }
    dtype = helper.tensor_dtype_to_np_dtype(element)
    inputs = (Tensor(_INPUT, network[0].input_shape, dtype),)
    return OnnxModel(str(network[0]), Path(), graph, weights, inputs)


@lru_cache(maxsize=1024)  # every pass of a sweep needs them, and they have some KB
def _joined(network: tuple[Segment, ...]) -> tuple[bytes, int]:
    """The serialised model without weights, and the element type of its input."""
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    models = [onnx.load_model_from_string(segment.model) for segment in network]
    read = _INPUT
    for place, (model, segment) in enumerate(zip(models, network, strict=True)):
        if place and network[place - 1].output_shape != segment.input_shape:
            raise MismatchError(f"{segment} does not read what {network[place - 1]} gives")
        names = {_INPUT: read, "": ""}

        def placed(name: str, place: int = place, names: dict[str, str] = names) -> str:
            return names.setdefault(name, f"{place}.{name}")

        for tensor in model.graph.initializer:
            tensor.name = placed(tensor.name)
            weights.append(tensor)
        for node in model.graph.node:
            node.input[:] = [placed(name) for name in node.input]
            node.output[:] = [placed(name) for name in node.output]
            nodes.append(node)
        read = placed(model.graph.output[0].name)
    first, last = models[0].graph.input[0], models[-1].graph.output[0]
    last.name = read
    joined: ModelProto = helper.make_model(
        helper.make_graph(nodes, "segments", [first], [last], weights),
        opset_imports=models[0].opset_import,
        ir_version=models[0].ir_version,
    )
    return joined.SerializeToString(), first.type.tensor_type.elem_type


def random_weight(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
    """Random values: about one in vectors, else of a variance that keeps activations in range."""
    values = random_input(shape)
    if len(shape) < 2:
        return (1 + 0.1 * np.abs(values)).astype(dtype)
    inputs = prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (values / np.float32(sqrt(inputs))).astype(dtype)
