"""Quantised operators, and the constants whose values a latency depends on."""

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
_RESIZING = {"Resize", "Upsample"}  # all inputs but the first say what is computed, also floats


def is_quantised(node: NodeProto) -> bool:
    """Whether a node quantises, dequantises, or computes with integers."""
    return node.op_type.startswith(_OPERATORS) or node.op_type in _INTEGER


def meaningful_values(graph: GraphProto) -> set[str]:
    """Names of the initializers whose values a latency depends on.

    These are the scales and zero points of quantised operators, because with other values a runtime
    does not fuse what is around them. A single number, vectors or tables of integers, and the
    factors of a resizing say what is computed: exponents, shapes, indices. The values of all other
    weights are free; quantised weights are matrices and kernels of 8 bits.
    """
    read = {name for node in graph.node if is_quantised(node) for name in node.input}
    read |= {name for node in graph.node if node.op_type in _RESIZING for name in node.input[1:]}
    return {
        each.name
        for each in graph.initializer
        if not _has_free_values(each) or (len(each.dims) < 2 and each.name in read)
    }


def _has_free_values(tensor: TensorProto) -> bool:
    """Whether a weight can have any values, unless it is a quantisation parameter."""
    if element_count(tensor) <= 1:
        return False
    return tensor.data_type in _FLOATS or (
        len(tensor.dims) > 1 and tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)
    )
