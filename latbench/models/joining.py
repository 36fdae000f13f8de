"""One ONNX model from a chain of segments, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper

from latbench.blocks.segment import Segment
from latbench.errors import MismatchError
from latbench.models.onnx_model import OnnxModel, Tensor, Values
from latbench.render.onnx import IR_VERSION, OPSET
from latbench.render.parameters import random_input


@dataclass(frozen=True, eq=False)
class JoinedModel(OnnxModel):
    """A model whose weights follow from its graph."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the graph."""
        return sha256(self.graph).hexdigest()


def join(network: Sequence[Segment]) -> JoinedModel:
    """The model that computes one segment after the other.

    The first segment may have several inputs, and the last one several outputs.

    Weights are random numbers of a sane scale; a latency does not depend on them.

    Args:
        network: Segments in the order of execution: each reads the output of the one before it.

    Raises:
        MismatchError: A segment does not fit the one before it.
    """
    graph, inputs, weights = _joined(tuple(network))
    values = {each.name: random_weight(each.shape, each.dtype) for each in weights}
    return JoinedModel(str(network[0]), Path(), graph, values, inputs)


@lru_cache(maxsize=1024)  # every pass of a sweep needs them, and they have some KB
def _joined(
    network: tuple[Segment, ...],
) -> tuple[bytes, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The serialised model without the values of its weights, its inputs and these weights."""
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    models = [onnx.load_model_from_string(segment.model) for segment in network]
    inputs, outputs = list(models[0].graph.input), list(models[-1].graph.output)
    read = [each.name for each in inputs]
    for place, (model, segment) in enumerate(zip(models, network, strict=True)):
        own = [each.name for each in model.graph.input]
        if place and not (
            len(read) == len(own) == 1 and network[place - 1].output_shape == segment.input_shape
        ):
            raise MismatchError(f"{segment} does not read what {network[place - 1]} gives")
        names = {"": "", **dict(zip(own, read, strict=True))}

        def placed(name: str, place: int = place, names: dict[str, str] = names) -> str:
            return names.setdefault(name, f"{place}.{name}")

        for tensor in model.graph.initializer:
            tensor.name = placed(tensor.name)
            weights.append(tensor)
        for node in model.graph.node:
            node.input[:] = [placed(name) for name in node.input]
            node.output[:] = [placed(name) for name in node.output]
            nodes.append(node)
        read = [placed(each.name) for each in model.graph.output]
    for each, name in zip(outputs, read, strict=True):
        each.name = name
    joined: ModelProto = helper.make_model(
        helper.make_graph(nodes, "segments", inputs, outputs, weights),
        opset_imports=models[0].opset_import,
        ir_version=models[0].ir_version,
    )
    apart = [tensor for tensor in weights if external_data_helper.uses_external_data(tensor)]
    return (
        joined.SerializeToString(),
        tuple(_tensor(each.name, _dims(each), each.type.tensor_type.elem_type) for each in inputs),
        tuple(_tensor(each.name, each.dims, each.data_type) for each in apart),
    )


def merge(first: Segment, second: Segment) -> Segment:
    """One segment that computes two segments after each other.

    Equal pairs give equal segments. The second segment has one input, and the first one output.

    Raises:
        MismatchError: The second segment does not read what the first one gives.
    """
    graph, _, _ = _joined((first, second))
    model = onnx.load_model_from_string(graph)
    model.graph.name = "segment"
    ends = (*model.graph.input, *model.graph.output)
    names = {each.name: each.name.partition(".")[2] or each.name for each in ends}
    inner = [*(name for node in model.graph.node for name in (*node.input, *node.output))]
    inner += [tensor.name for tensor in model.graph.initializer]
    for name in inner:
        if name:
            names.setdefault(name, f"t{len(names)}")
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for named in (*model.graph.initializer, *ends):
        named.name = names[named.name]
    return Segment(
        model.SerializeToString(deterministic=True),
        first.input_shape,
        second.output_shape,
        f"{first.operators}, {second.operators}",
        first.conv_macs + second.conv_macs,
        first.linear_macs + second.linear_macs,
        first.params + second.params,
        first.activation_bytes + second.activation_bytes,
    )


def empty_segment() -> Segment:
    """A segment of one operator on one number: its latency is the overhead of a call."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in ("input", "output")
    ]
    node = helper.make_node("Relu", ["input"], ["output"])
    graph = helper.make_graph([node], "segment", ends[:1], ends[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return Segment(model.SerializeToString(deterministic=True), (1,), (1,), "Relu")


def _dims(value: ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _tensor(name: str, dims: Sequence[int], element: int) -> Tensor:
    return Tensor(name, tuple(dims), helper.tensor_dtype_to_np_dtype(element))


def random_weight(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Values:
    """Random values: about one in vectors, else of a variance that keeps activations in range.

    Integers are spread over the range of their type.
    """
    values = random_input(shape)
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        spread = (low + high) / 2 + (high - low) / 8 * values
        clipped: Values = np.clip(spread, low, high).astype(dtype)
        return clipped
    if len(shape) < 2:
        return (1 + 0.1 * np.abs(values)).astype(dtype)
    inputs = prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (values / np.float32(sqrt(inputs))).astype(dtype)
