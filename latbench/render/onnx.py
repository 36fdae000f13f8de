"""Conversion of a graph to an ONNX model, node by node; it takes about a millisecond a block.

The input and the output are called ``input`` and ``output``. The batch size is fixed. ONNX has no
Swish before opset 24, so Swish becomes Sigmoid and Mul, which runtimes recognise. A model in fp16
reads, computes and writes fp16 throughout, because some runtimes take their types from the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latbench.blocks.graph import (
    INPUT,
    NORM_EPSILON,
    Act,
    Add,
    AveragePool,
    Concat,
    Conv,
    Flatten,
    Graph,
    Linear,
    Mul,
    Node,
    Norm,
    Pool,
    PReLU,
    Shuffle,
    sliced_map,
)
from latbench.blocks.norm_folding import fold_norms
from latbench.device import Precision
from latbench.render.parameters import (
    Parameters,
    fold_parameters,
    parameter_shapes,
    random_parameters,
)

OUTPUT = "output"
OPSET = 17  # has HardSwish, and the runtimes of small boards support it
IR_VERSION = 8  # the one that belongs to opset 17

ELEMENT_TYPES: dict[Precision, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
}
_ONNX_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
_POINTWISE = {"relu": "Relu", "sigmoid": "Sigmoid", "hswish": "HardSwish"}


def render_onnx(
    graph: Graph,
    parameters: Parameters | None = None,
    *,
    batch_size: int = 1,
    precision: Precision = "fp32",
    fold: bool = True,
) -> onnx.ModelProto:
    """Build the ONNX model of a graph.

    Args:
        graph: Layers of a block or of a whole network.
        parameters: Values by torch name; if None, random values that keep activations in scale.
        batch_size: N of the input ``(N, C, H, W)``.
        precision: Precision of weights, activations, input and output.
        fold: Whether to fold batch norms into convolutions, as in a deployed model.

    Returns:
        A model that reads ``input`` ``(N, C, H, W)`` and writes ``output``: ``(N, K)`` if the
        last layer is linear or flattens, else ``(N, C, H, W)``.
    """
    if fold:
        folded = fold_norms(graph)
        if parameters is None:
            parameters = random_parameters(folded)
        else:
            parameters = fold_parameters(graph, parameters)
        graph = folded
    elif parameters is None:
        parameters = random_parameters(graph)
    tensors = [_tensor(name, value, precision) for name, value in parameters.items()]
    return _model(graph, tensors, batch_size, precision)


def render_onnx_apart(
    graph: Graph, *, batch_size: int = 1, precision: Precision = "fp32"
) -> onnx.ModelProto:
    """Build the ONNX model of a graph without parameter values; it refers to them by name.

    Runtimes that take weights from memory use it, so that megabytes of weights are not copied into
    the model and out of it again. Batch norms are not folded.
    """
    references = [
        reference(f"{node.name}.{name}", shape, _ONNX_TYPES[precision])
        for node in graph.nodes
        for name, shape in parameter_shapes(node.layer).items()
    ]
    return _model(graph, references, batch_size, precision)


def _model(
    graph: Graph, weights: list[onnx.TensorProto], batch_size: int, precision: Precision
) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for slices, group in groupby(graph.nodes, key=sliced_map):
        if slices:
            nodes.append(_split(list(group), constants))
            continue
        for node in group:
            output = OUTPUT if node.name == graph.output else node.name
            nodes.extend(_nodes(node, output, constants))
    if any(isinstance(node.layer, Act) and node.layer.kind == "relu6" for node in graph.nodes):
        constants += [
            _tensor(f"relu6.{name}", np.float32(v), precision) for name, v in _CLIP.items()
        ]

    flat_end = bool(graph.nodes) and isinstance(graph.nodes[-1].layer, Linear | Flatten)
    out_shape = graph.output_shape[:1] if flat_end else graph.output_shape
    model_graph = helper.make_graph(
        nodes,
        "latbench",
        [_value(INPUT, (batch_size, *graph.input_shape), precision)],
        [_value(OUTPUT, (batch_size, *out_shape), precision)],
        weights + constants,
    )
    return helper.make_model(
        model_graph,
        producer_name="latbench",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


_CLIP = {"min": 0.0, "max": 6.0}


def _split(slices: list[Node], constants: list[onnx.TensorProto]) -> onnx.NodeProto:
    """Convert all slices of a map to one Split, which some runtimes do without copies."""
    source, names = slices[0].inputs[0], [node.name for node in slices]
    sizes = _integers(f"{names[0]}.sizes", [node.shape[0] for node in slices], constants)
    return helper.make_node("Split", [source, sizes], names, names[0], axis=1)


def _shuffle(
    node: Node, groups: int, output: str, constants: list[onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    channels, height, width = node.shape
    name = node.name
    apart = _integers(f"{name}.apart", [0, groups, channels // groups, height, width], constants)
    whole = _integers(
        f"{name}.whole", [0, channels, height, width], constants
    )  # 0 keeps the batch size
    grouped, turned = f"{name}.grouped", f"{name}.turned"
    yield helper.make_node("Reshape", [*node.inputs, apart], [grouped], grouped)
    yield helper.make_node("Transpose", [grouped], [turned], turned, perm=[0, 2, 1, 3, 4])
    yield helper.make_node("Reshape", [turned, whole], [output], name)


def _integers(name: str, values: list[int], constants: list[onnx.TensorProto]) -> str:
    constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    return name


def _nodes(node: Node, output: str, constants: list[onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    layer, inputs, name = node.layer, list(node.inputs), node.name
    if isinstance(layer, Conv):
        parameters = [f"{name}.weight"] + ([f"{name}.bias"] if layer.bias else [])
        yield helper.make_node(
            "Conv",
            inputs + parameters,
            [output],
            name,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=layer.groups,
        )
    elif isinstance(layer, Norm):
        parameters = [f"{name}.{p}" for p in ("weight", "bias", "running_mean", "running_var")]
        yield helper.make_node(
            "BatchNormalization", inputs + parameters, [output], name, epsilon=NORM_EPSILON
        )
    elif isinstance(layer, Act):
        yield from _activation(layer, inputs, output, name)
    elif isinstance(layer, Add | Mul):
        yield helper.make_node(type(layer).__name__, inputs, [output], name)
    elif isinstance(layer, Concat):
        yield helper.make_node("Concat", inputs, [output], name, axis=1)
    elif isinstance(layer, PReLU):
        yield helper.make_node("PRelu", [*inputs, f"{name}.slope"], [output], name)
    elif isinstance(layer, Shuffle):
        yield from _shuffle(node, layer.groups, output, constants)
    elif isinstance(layer, AveragePool):
        side = [layer.size] * 2
        yield helper.make_node(
            "AveragePool", inputs, [output], name, kernel_shape=side, strides=side, ceil_mode=1
        )
    elif isinstance(layer, Flatten):
        yield helper.make_node("Flatten", inputs, [output], name)
    elif isinstance(layer, Pool):
        yield helper.make_node("GlobalAveragePool", inputs, [output], name)
    elif isinstance(layer, Linear):
        flat = f"{name}.flat"
        yield helper.make_node("Flatten", inputs, [flat], flat)
        weights = [f"{name}.weight", f"{name}.bias"]
        yield helper.make_node("Gemm", [flat, *weights], [output], name, transB=1)


def _activation(layer: Act, inputs: list[str], output: str, name: str) -> Iterator[onnx.NodeProto]:
    if layer.kind == "swish":
        gate = f"{name}.sigmoid"
        yield helper.make_node("Sigmoid", inputs, [gate], gate)
        yield helper.make_node("Mul", [*inputs, gate], [output], name)
    elif layer.kind == "relu6":
        bounds = [f"relu6.{bound}" for bound in _CLIP]
        yield helper.make_node("Clip", inputs + bounds, [output], name)
    elif layer.kind == "hsigmoid":
        yield helper.make_node("HardSigmoid", inputs, [output], name, alpha=1 / 6, beta=0.5)
    else:
        yield helper.make_node(_POINTWISE[layer.kind], inputs, [output], name)


def _tensor(name: str, value: np.ndarray | np.float32, precision: Precision) -> onnx.TensorProto:
    little_endian = ELEMENT_TYPES[precision].newbyteorder("<")  # as ONNX stores numbers
    data = np.ascontiguousarray(value, dtype=little_endian)
    tensor = onnx.TensorProto(name=name, data_type=_ONNX_TYPES[precision], dims=np.shape(value))
    tensor.raw_data = data.tobytes()
    return tensor


def reference(name: str, shape: tuple[int, ...], data_type: int) -> onnx.TensorProto:
    """Tensor whose values are passed by name when the model is loaded.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        data_type: Its type, a value of ``TensorProto.DataType``.
    """
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    length = helper.tensor_dtype_to_np_dtype(data_type).itemsize * prod(shape)
    where = {"location": "memory", "offset": "0", "length": str(length)}
    for key, text in where.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def _value(name: str, shape: tuple[int, ...], precision: Precision) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ONNX_TYPES[precision], shape)
