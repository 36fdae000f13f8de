"""A model with static shapes, as the rules for channels read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from latbench.errors import RuntimeFailure, in_one_line
from latbench.models.onnx_model import OnnxModel
from latbench.models.sessions import add_weights

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

REARRANGEMENTS = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast"}
"""Operators whose value is a constant if they read only constants."""

ARITHMETIC = {
    *("Gather", "Unsqueeze", "Squeeze", "Concat", "Slice", "Cast", "Identity", "Reshape"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "ReduceProd", "Where", "Equal"),
}
"""Operators that compute sizes from sizes."""

MOST_NUMBERS = 64
"""Most elements of a tensor of sizes."""


@dataclass(frozen=True)
class StaticGraph:
    """Nodes of a model with static shapes, and its constants.

    Attributes:
        proto: The model; large initializers are references.
        weights: Values of these initializers.
        shapes: Static shapes of activations.
    """

    proto: ModelProto
    weights: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(model: OnnxModel) -> StaticGraph:
        """The graph of a model.

        Raises:
            RuntimeFailure: ONNX Runtime refused the model.
        """
        proto = onnx.load_model_from_string(model.graph)
        return StaticGraph(proto, model.weights, _shapes(model, proto))

    @cached_property
    def nodes(self) -> list[NodeProto]:
        return list(self.proto.graph.node)

    @cached_property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    @cached_property
    def constants(self) -> dict[str, NDArray[Any]]:
        """Values of initializers, and of nodes that give or rearrange constants, by name."""
        found = {
            tensor.name: self.weights[tensor.name]
            if tensor.name in self.weights
            else numpy_helper.to_array(tensor)
            for tensor in self.proto.graph.initializer
        }
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.domain in STANDARD and all(name in found for name in node.input if name):
                feeds = {name: found[name] for name in node.input if name}
                few = all(value.size <= MOST_NUMBERS for value in feeds.values())
                if node.op_type not in REARRANGEMENTS and not (few and node.op_type in ARITHMETIC):
                    continue
                value = evaluated(node, self.proto, feeds)
                if value is not None:
                    found[node.output[0]] = value
        return found


def _shapes(model: OnnxModel, proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all activations: as inferred, else as one run of the model has them."""
    graph, found = proto.graph, {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    unknown = [name for node in graph.node for name in node.output if name and name not in found]
    if not unknown:
        return found
    wider = ModelProto()
    wider.CopyFrom(proto)
    given = {value.name for value in graph.output}
    wider.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in unknown if name not in given
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    add_weights(options, model.weights)
    try:
        session = ort.InferenceSession(
            wider.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(unknown, model.random_inputs())
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise RuntimeFailure(f"ONNX Runtime refused {model.name}: {in_one_line(error)}") from error
    measured = zip(unknown, values, strict=True)
    return found | {name: value.shape for name, value in measured if hasattr(value, "shape")}


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def evaluated(node: NodeProto, proto: ModelProto, feeds: Mapping[str, Any]) -> Any:
    """Output of a node, from the values of its inputs by name; None if it cannot be computed."""
    if node.op_type == "Identity":
        return next(iter(feeds.values()))
    values = [onnx.ValueInfoProto(name=name) for name in feeds]
    ends = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "constants", values, ends)
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    try:
        found: Any = ReferenceEvaluator(model).run(None, dict(feeds))
    except Exception:  # whatever an implementation of an operator raises
        return None
    return found[0]
