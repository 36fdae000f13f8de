"""Weights that are passed to ONNX Runtime beside their model."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort
from onnx import helper

from latbench.models.onnx_model import Values

_BUILTIN = 1  # of numpy; bf16 and fp8 are types of ml_dtypes


def add_weights(options: ort.SessionOptions, weights: Mapping[str, Values]) -> None:
    """Give a session the large weights to which its graph refers, without copying them."""
    options.add_external_initializers(list(weights), [_shared(each) for each in weights.values()])


def _shared(values: Values) -> ort.OrtValue:
    if values.dtype.isbuiltin == _BUILTIN:
        return ort.OrtValue.ortvalue_from_numpy(values)
    element = helper.np_dtype_to_tensor_dtype(values.dtype)
    raw = values.view(f"u{values.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, element)
