"""An ONNX model with static shapes, its weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from latbench.render.parameters import random_input

Values = NDArray[Any]

KEPT_ELEMENTS = 1024
"""Initializers of so many elements lie beside the graph; shapes, axes and scales stay in it."""
_NAMED_WEIGHTS = 4  # version of the format from which an initializer need not be an input as well

PROTOBUF_LIMIT_BYTES = (1 << 31) - (1 << 20)
"""Largest message of protobuf, 2 GiB, less some room for what surrounds the weights."""


@dataclass(frozen=True)
class Tensor:
    """An input or a weight of a model.

    Attributes:
        name: Name in the graph.
        shape: Static shape.
        dtype: Type of the elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An ONNX model with static shapes.

    Attributes:
        name: Name in results.
        path: File of the model.
        graph: Serialised ``ModelProto`` with static shapes, in which large weights are references.
        weights: Values of these weights, by name of the initializer.
        inputs: Inputs in the order of the graph.
    """

    name: str
    path: Path
    graph: bytes
    weights: Mapping[str, Values]
    inputs: tuple[Tensor, ...]

    @property
    def weight_bytes(self) -> int:
        """Size of the large weights."""
        return sum(value.nbytes for value in self.weights.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the graph and the weights."""
        digest = sha256(self.graph)
        for name, value in sorted(self.weights.items()):
            digest.update(name.encode() + np.ascontiguousarray(value).view(np.uint8).data)
        return digest.hexdigest()

    def whole(self) -> bytes | None:
        """The serialised model with its weights inside; None if it exceeds protobuf's 2 GiB."""
        if self.weight_bytes > PROTOBUF_LIMIT_BYTES - len(self.graph):
            return None
        model = onnx.load_model_from_string(self.graph)
        for tensor in model.graph.initializer:
            if tensor.name in self.weights:
                tensor.CopyFrom(numpy_helper.from_array(self.weights[tensor.name], tensor.name))
        serialised: bytes = model.SerializeToString()
        return serialised

    def random_inputs(self) -> dict[str, Values]:
        """Input values for measuring: normally distributed numbers; ones for other types.

        Ones are valid tokens, indices and masks in the usual networks.
        """
        return {
            each.name: random_input(each.shape).astype(each.dtype)
            if np.issubdtype(each.dtype, np.floating)
            else np.ones(each.shape, each.dtype)
            for each in self.inputs
        }


def name_constants(model: ModelProto) -> None:
    """Make large ``Constant`` nodes initializers, which can lie beside the graph."""
    if model.ir_version < _NAMED_WEIGHTS:
        return
    nodes = []
    for node in model.graph.node:
        values = [each.t for each in node.attribute if each.name == "value"]
        if node.op_type == "Constant" and values and element_count(values[0]) >= KEPT_ELEMENTS:
            values[0].name = node.output[0]
            model.graph.initializer.append(values[0])
        else:
            nodes.append(node)
    if len(nodes) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def element_count(tensor: TensorProto) -> int:
    """Number of elements that a tensor claims to have."""
    return prod(tensor.dims)
