"""A model after the basic optimisations of ONNX Runtime, with the values that have meaning."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, external_data_helper

from latbench.errors import RuntimeFailure, in_one_line
from latbench.models.onnx_model import OnnxModel
from latbench.models.quantised import meaningful_values
from latbench.models.sessions import add_weights


def optimised(model: OnnxModel) -> ModelProto:
    """The model after ONNX Runtime's basic optimisations, which fold constants and norms.

    Large weights whose values do not matter are references to a file that is gone.

    Raises:
        RuntimeFailure: ONNX Runtime cannot read the model.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # errors are raised
    add_weights(options, model.weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "weights.bin"
        )
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
        try:
            ort.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise RuntimeFailure(
                f"ONNX Runtime cannot read {model.name}: {in_one_line(error)}"
            ) from error
        found: ModelProto = onnx.load_model(path, load_external_data=False)
        _load_values(found.graph, folder)
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(found, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return found  # operators that onnx does not know: shapes as ONNX Runtime wrote them
    return inferred


def _load_values(graph: GraphProto, folder: str) -> None:
    """Load the external values that segments keep: indices, shapes, scales, zero points."""
    kept = meaningful_values(graph)
    for tensor in graph.initializer:
        if tensor.name in kept and external_data_helper.uses_external_data(tensor):
            external_data_helper.load_external_data_for_tensor(tensor, folder)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
