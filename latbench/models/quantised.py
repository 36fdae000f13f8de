"""Quantised operators, and the values that they cannot be compiled without."""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto

from latbench.models.onnx_model import element_count

_OPERATORS = ("Quantize", "Dequantize", "DynamicQuantize", "QLinear", "QGemm", "QAttention")
_INTEGER = {"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits"}
_FLOATS = {
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
    *(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ),
    *(TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ),
}


def is_quantised(node: NodeProto) -> bool:
    """Whether a node quantises, dequantises, or computes with integers."""
    return node.op_type.startswith(_OPERATORS) or node.op_type in _INTEGER


def quantisation_parameters(graph: GraphProto) -> set[str]:
    """Names of all scales and zero points: vectors and numbers that quantised operators read.

    With other values a runtime does not fuse the operators around them.
    """
    read = {name for node in graph.node if is_quantised(node) for name in node.input}
    return {each.name for each in graph.initializer if len(each.dims) < 2 and each.name in read}


def has_free_values(tensor: TensorProto) -> bool:
    """Whether a latency does not depend on a weight's values, quantisation parameters aside.

    A single number, and vectors or tables of integers, say what is computed: exponents, shapes,
    indices. Quantised weights are matrices and kernels of 8 bits.
    """
    if element_count(tensor) <= 1:
        return False
    return tensor.data_type in _FLOATS or (
        len(tensor.dims) > 1 and tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)
    )
