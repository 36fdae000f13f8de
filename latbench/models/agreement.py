"""Whether two models compute the same, on random and on extreme inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from latbench.errors import RuntimeFailure, in_one_line
from latbench.models.onnx_model import OnnxModel, Values
from latbench.models.sessions import add_weights
from latbench.render.onnx import reference

_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_LARGE = 1e3
_SPIKES = 0.01  # share of the elements that are large where the others are zero


def largest_difference(model: OnnxModel, other: OnnxModel) -> float:
    """Largest difference of an output, relative to the largest absolute value of that output.

    Both models run in ONNX Runtime on the CPU, on normally distributed inputs, zeros, ones, large
    values of both signs, and zeros with a few large values. Its optimisations are off, because
    they choose kernels by the widths, and kernels add in different orders. Where an output of the
    first model is not finite, that of the other one must be the same.

    Args:
        model: The model whose outputs are right.
        other: A model with the same inputs and outputs.

    Returns:
        The difference; infinity if one is not finite where the other is.

    Raises:
        RuntimeFailure: ONNX Runtime refused a model.
    """
    first, second = _session(model), _session(other)
    largest = 0.0
    for inputs in _inputs(model):
        try:
            outputs = zip(first.run(None, inputs), second.run(None, inputs), strict=True)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _refused(model, error) from error
        largest = max([largest, *(_difference(a, b) for a, b in outputs)])
    return largest


def in_single_precision(model: OnnxModel) -> OnnxModel | None:
    """The model with its half-precision numbers as fp32; None if it has none.

    Where nothing is rounded to 8 or 11 bits, models that compute the same agree closely.
    """
    proto = onnx.load_model_from_string(model.graph)
    graph, weights = proto.graph, dict(model.weights)
    found = _widen_tensors(graph.initializer, weights)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _HALVES:
                attribute.i, found = TensorProto.FLOAT, True
            if attribute.HasField("t"):
                found |= _widen_tensors([attribute.t], {})
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
    if not found:
        return None
    inputs = tuple(
        replace(each, dtype=np.dtype(np.float32)) if _is_half(each.dtype) else each
        for each in model.inputs
    )
    return replace(model, graph=proto.SerializeToString(), weights=weights, inputs=inputs)


def _widen_tensors(tensors: Iterable[TensorProto], weights: dict[str, Values]) -> bool:
    """Change half-precision constants to fp32, also their values elsewhere; whether any was."""
    found = False
    for tensor in tensors:
        if tensor.data_type not in _HALVES:
            continue
        found = True
        if tensor.name in weights:
            weights[tensor.name] = weights[tensor.name].astype(np.float32)
            shape = weights[tensor.name].shape
            tensor.CopyFrom(reference(tensor.name, shape, TensorProto.FLOAT))
        else:
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return found


def _is_half(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize == 2 and dtype.kind in "fV"  # bf16 is no type of numpy


def can_run(model: OnnxModel) -> bool:
    """Whether ONNX Runtime computes the model, whose shapes may contradict a size written in it."""
    try:
        _session(model).run(None, next(_inputs(model)))
    except Exception:  # ONNX Runtime's exceptions share no base class
        return False
    return True


def _session(model: OnnxModel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    add_weights(options, model.weights)
    try:
        return ort.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refused(model, error) from error


def _refused(model: OnnxModel, error: Exception) -> RuntimeFailure:
    return RuntimeFailure(f"ONNX Runtime refused {model.name}: {in_one_line(error)}")


def _inputs(model: OnnxModel) -> Iterator[dict[str, Values]]:
    """Inputs on which models are compared; integers are zeros and ones."""
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...]) -> Values:
        return rng.standard_normal(shape)

    def spikes(shape: tuple[int, ...]) -> Values:
        return _LARGE * (rng.random(shape) < _SPIKES) * np.sign(rng.standard_normal(shape))

    draws: tuple[Callable[[tuple[int, ...]], Values], ...] = (
        normal,
        np.zeros,
        np.ones,
        lambda shape: np.full(shape, _LARGE),
        lambda shape: np.full(shape, -_LARGE),
        lambda shape: _LARGE * normal(shape),
        spikes,
    )
    for number, draw in enumerate(draws):
        yield {
            each.name: draw(each.shape).astype(each.dtype)
            if np.issubdtype(each.dtype, np.floating)
            else np.full(each.shape, number % 2, each.dtype)
            for each in model.inputs
        }


def _difference(right: Values, other: Values) -> float:
    """Largest absolute difference over the largest absolute value."""
    if right.shape != other.shape:
        return float("inf")
    if right.dtype.kind != "f":
        return 0.0 if np.array_equal(right, other) else float("inf")
    a, b = right.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not np.isfinite(b[finite]).all():
        return float("inf")
    scale = float(np.abs(a[finite]).max(initial=0.0))
    apart = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return apart / scale if scale else apart
