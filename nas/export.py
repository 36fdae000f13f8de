"""From an architecture to a deployable ONNX model, checked against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from latbench.blocks import Network, network_graph
from latbench.errors import LatbenchError
from latbench.files import write_atomically
from latbench.render.onnx import render_onnx
from nas.training.from_scratch import load_model, make_model

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit


def export_onnx(network: Network, weights: Path | None, output: Path) -> float:
    """Write the model with batch norms folded; return its largest deviation from torch.

    Args:
        network: The blocks.
        weights: A trained run's weights; fresh ones if None.
        output: Where the model goes.

    Raises:
        LatbenchError: The weights do not fit, or the model deviates beyond ``TOLERANCE``;
            nothing was written.
    """
    model = load_model(network, weights) if weights else make_model(network, seed=0)
    model.eval()
    graph = network_graph(network)
    raw = render_onnx(graph, model.parameter_values()).SerializeToString()
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    session = ort.InferenceSession(raw, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": image})[0]
    deviation = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not deviation <= TOLERANCE:
        raise LatbenchError(
            f"the ONNX model deviates from torch by {deviation:.2g} of the largest logit; "
            f"{TOLERANCE} is allowed"
        )
    write_atomically(output, raw)
    return deviation
