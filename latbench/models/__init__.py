"""Networks of the user's own: ONNX models with static shapes."""

from __future__ import annotations

from latbench.models.onnx_model import OnnxModel, Tensor
from latbench.models.reading import read_model, require_inputs

__all__ = ["OnnxModel", "Tensor", "read_model", "require_inputs"]
