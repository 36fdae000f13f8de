"""Tensors that may be infinite although the inputs of the model are not.

A weight of zero removes a channel only if the channel is finite, because zero times infinity is not
a number. So a channel may not be padded where it meets such a tensor. Sums, products, powers and
convolutions are taken not to overflow; an exponential does, and so does a division by what can be
zero. A tensor that is not a number makes every channel so, and needs no care.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from latbench.models.channels.static_graph import STANDARD, StaticGraph, attributes

_BOUNDED = {
    *(
        "Sigmoid",
        "HardSigmoid",
        "Tanh",
        "Softmax",
        "Erf",
        "Softsign",
        "Sin",
        "Cos",
        "Shape",
        "Size",
    ),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
    *("IsInf", "IsNaN", "ArgMax", "ArgMin", "OneHot", "NonZero", "Sign", "Hardmax"),
}
"""Operators that give finite numbers, whatever they read."""

_TAME = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "BatchNormalization", "LRN", "Celu"),
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Clip", "HardSwish", "Swish"),
    *("Gelu", "Mish", "Softplus", "LogSoftmax", "Neg", "Abs", "Sqrt", "Floor", "Ceil", "Round"),
    *("Identity", "Dropout", "Cast", "CastLike", "Add", "Sub", "Mul", "Sum", "Mean", "Max", "Min"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd"),
    *("ReduceSumSquare", "CumSum", "TopK", "Where", "Attention", "Range", "Mod"),
    *("Concat", "Split", "Slice", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad"),
    *("Resize", "Upsample", "Expand", "Tile", "Gather", "GatherElements", "GatherND"),
    *("ScatterND", "ScatterElements", "DepthToSpace", "SpaceToDepth", "GridSample", "Trilu"),
}
"""Operators that give finite numbers if they read finite ones."""

_NOT_NEGATIVE = {
    *("Abs", "Relu", "Exp", "Softplus", "Sigmoid", "HardSigmoid", "Softmax", "Sqrt"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare"),
}
_KEEPS_SIGN = {
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "AveragePool"),
    *("Identity", "Cast", "Reshape", "Expand", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
}
_LEAST = 1e-13  # a divisor above it gives no infinity for the activations of networks

Constants = Mapping[str, NDArray[Any]]


def possibly_infinite(graph: StaticGraph) -> Set[str]:
    """Names of the tensors that may be infinite; the inputs of the model are taken as finite."""
    constants = graph.constants
    found = {name for name, value in constants.items() if not _is_finite(value)}
    lowest: dict[str, float] = {}  # of tensors that are not negative
    positive: set[str] = set()
    for node in graph.nodes:
        if node.output[0] in constants:
            continue
        bound = _lowest(node, constants, lowest) if node.domain in STANDARD else None
        if bound is not None:
            lowest[node.output[0]] = bound
            positive.update(node.output[:1] if bound > _LEAST else ())
        if not _stays_finite(node, constants, found, positive):
            found.update(node.output)
    return found


def _is_finite(value: NDArray[Any]) -> bool:
    return value.dtype.kind not in "fV" or bool(np.isfinite(value.astype(np.float32)).all())


def _stays_finite(
    node: NodeProto, constants: Constants, infinite: Set[str], positive: Set[str]
) -> bool:
    """Whether the outputs of a node are finite, given which tensors before it may not be."""
    read = [name for name in node.input if name]
    if node.domain not in STANDARD:
        return False
    if node.op_type in _BOUNDED:
        return True
    if node.op_type == "Clip":
        return read[0] not in infinite or None not in _limits(node, constants)
    if node.op_type in ("Div", "Reciprocal"):
        divisor = constants.get(read[-1])
        known = read[-1] in positive or (divisor is not None and bool(divisor.all()))
    elif node.op_type == "Pow":
        exponent = constants.get(read[1])
        known = exponent is not None and bool((exponent >= 0).all())
    else:
        known = node.op_type in _TAME
    return known and infinite.isdisjoint(read)


def _limits(node: NodeProto, constants: Constants) -> list[float | None]:
    """Lower and upper limit of a Clip, None where it has none or an infinite one."""
    said = attributes(node)
    names = [*node.input[1:], "", ""][:2]
    found = []
    for name, key in zip(names, ("min", "max"), strict=True):
        limit = float(constants[name].ravel()[0]) if name in constants else said.get(key)
        found.append(limit if limit is not None and np.isfinite(limit) else None)
    return found


def _lowest(node: NodeProto, constants: Constants, lowest: Mapping[str, float]) -> float | None:
    """A bound from below that is not negative, as the divisors of norms have it; None without."""
    read, bound = list(node.input), None
    bounds = [_least(constants[name]) if name in constants else lowest.get(name) for name in read]
    known = [each for each in bounds if each is not None and each >= 0]
    squares = node.op_type == "Mul" and read[0] == read[1]
    if node.op_type == "Pow" and read[1] in constants:
        squares = bool((constants[read[1]] % 2 == 0).all())
    if node.op_type == "Clip":
        bound = _limits(node, constants)[0]
    elif node.op_type == "Max" and known:
        bound = max(known)
    elif node.op_type == "Add" and len(known) == len(read):
        bound = sum(known)
    elif node.op_type == "Sqrt" and known:
        bound = float(np.sqrt(known[0]))
    elif node.op_type in _KEEPS_SIGN and bounds[0] is not None:
        bound = bounds[0]
    elif node.op_type in _NOT_NEGATIVE or squares:
        bound = 0.0
    return bound if bound is not None and bound >= 0 else None


def _least(value: NDArray[Any]) -> float | None:
    return float(value.min()) if value.size and value.dtype.kind in "fiu" else None
