"""Export of a network as a deployable ONNX model, checked against torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from latbench.blocks import Network, network_graph
from latbench.errors import LatbenchError
from latbench.files import write_atomically
from latbench.progress import Phase, Phases, Progress, silent
from latbench.render.onnx import render_onnx
from latbench.result import Result
from nas.training.from_scratch import load_model, make_model
from nas.workflows.inputs import AnyArchitecture, as_architecture
from nas.workflows.training import TrainedNetwork

TOLERANCE = 1e-4  # largest difference of a logit, relative to the largest logit


@dataclass(frozen=True, repr=False)
class ExportedModel(Result):
    """An ONNX model that was written.

    Attributes:
        path: File of the model.
        deviation: Largest difference from torch of a logit, relative to the largest logit.
    """

    path: Path
    deviation: float

    def as_dict(self) -> dict[str, Any]:
        """Path and deviation as plain JSON values."""
        return {"path": str(self.path), "deviation": self.deviation}


def export(
    network: TrainedNetwork | AnyArchitecture,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    progress: Progress = silent,
) -> ExportedModel:
    """Write a network as a deployable ONNX model, checked against torch.

    Batch norms are folded into convolutions. The model takes images fp32 ``(1, 3, S, S)`` and
    gives logits ``(1, classes)``.

    Args:
        network: A trained network; or an architecture, or the path of its file, with ``weights``.
        output: Path of the model.
        weights: Path of a trained run's weights; random weights if None.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: The weights do not fit, or the model deviates from torch. Nothing is written.
    """
    if isinstance(network, TrainedNetwork):
        weights = network.weights if weights is None else weights
        network = network.architecture
    found, space = as_architecture(network)
    path = Path(output)
    read = Path(weights) if weights else None
    with Phases(progress, [Phase("export")]) as phases:
        deviation = export_onnx(space.lower(found), read, path, progress=phases["export"])
    return ExportedModel(path, deviation)


def export_onnx(
    network: Network, weights: Path | None, output: Path, *, progress: Progress = silent
) -> float:
    """Write the model with batch norms folded; return its largest deviation from torch.

    Args:
        network: Blocks of the network.
        weights: File of a trained run's weights; random weights if None.
        output: Path of the model.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: The weights do not fit, or the model deviates beyond ``TOLERANCE``. Nothing
            is written.
    """
    progress(0.0, "making the network")
    model = load_model(network, weights) if weights else make_model(network, seed=0)
    model.eval()
    graph = network_graph(network)
    progress(0.4, "writing the graph")
    raw = render_onnx(graph, model.parameter_values()).SerializeToString()
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    progress(0.6, "comparing with torch")
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
