"""Comparison and explanation of the latency of ONNX models, torch modules and architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import latbench
from latbench.blocks import Network
from latbench.device_files import AnyDevice
from latbench.files import is_json_file
from latbench.models import OnnxModel
from latbench.models.torch_modules import Example, TorchModule, is_torch_module
from latbench.progress import Progress, silent
from latbench.workflows.bench import TOLERANCE, Bench
from latbench.workflows.explanation import Explanation
from nas.spaces import Architecture
from nas.workflows.inputs import AnyTable, as_architecture, as_list, require_no_shapes

AnyModel: TypeAlias = "OnnxModel | Architecture | TorchModule | str | Path"
"""An ONNX model or an architecture, or the path of its file; or a torch module."""


def bench(
    models: Sequence[AnyModel] | AnyModel,
    device: AnyDevice = "cpu-onnxruntime",
    *,
    example: Example | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    time_limit: str | float = "60s",
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Bench:
    """Measure ONNX models and architectures in one sweep and compare them with the first.

    Args:
        models: ONNX models, architectures, or paths of their files; or torch modules. A file's
            content says which it is, and its name only if the content does not.
        device: A device profile, its name or its path.
        example: Input of the torch modules; see ``latbench.bench``.
        shapes: Shapes of inputs that ONNX files leave open, by name of the input.
        batch_size: Number of images a call; see ``latbench.bench``.
        time_limit: Duration of the sweep, as text such as ``"60s"`` or in seconds.
        tolerance: Largest relative change of a latency that does not matter.
        progress: Callback that reports the progress.

    Raises:
        LatbenchError: A model cannot be read or measured; see ``latbench.bench``.
    """
    listed = [models] if is_torch_module(models) else as_list(models)  # some are iterable
    return latbench.bench(
        [_network(model) for model in listed],
        device,
        names=[_name(model, number) for number, model in enumerate(listed, start=1)],
        example=example,
        shapes=shapes,
        batch_size=batch_size,
        time_limit=time_limit,
        tolerance=tolerance,
        progress=progress,
    )


def explain(
    model: AnyModel,
    device: AnyDevice | None = None,
    *,
    table: AnyTable | None = None,
    output: str | Path | None = None,
    example: Example | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    time_limit: str | float = "2min",
    progress: Progress = silent,
) -> Explanation:
    """Say where the latency of an ONNX model or an architecture comes from.

    Args:
        model: An ONNX model or an architecture, or the path of its file; or a torch module. A
            file's content says which it is, and its name only if the content does not.
        device: A device profile, its name or its path; the network is measured there.
        table: Instead of a device, a table that prices the network's segments or blocks.
        output: With a device, path of the latency table of the segments, which is kept.
        example: Input of a torch module; see ``latbench.explain``.
        shapes: Shapes of inputs that an ONNX file leaves open, by name of the input.
        batch_size: Number of images a call, for a file that leaves its first dimension open.
        time_limit: Duration of the measurement, as text such as ``"2min"`` or in seconds.
        progress: Callback that reports the progress.

    Raises:
        LatbenchError: The model cannot be read, cut or measured; see ``latbench.explain``.
    """
    if _is_architecture(model):
        require_no_shapes(shapes)
    return latbench.explain(
        _network(model),
        device,
        table=table,
        output=output,
        example=example,
        shapes=shapes,
        batch_size=batch_size,
        time_limit=time_limit,
        progress=progress,
    )


def _is_architecture(model: AnyModel) -> bool:
    if isinstance(model, str | Path):
        return is_json_file(Path(model))
    return isinstance(model, Architecture)


def _network(model: AnyModel) -> OnnxModel | Network | TorchModule | str | Path:
    if _is_architecture(model):
        architecture, space = as_architecture(model)  # type: ignore[arg-type]
        return space.lower(architecture)
    return model  # type: ignore[return-value]


def _name(model: AnyModel, number: int) -> str:
    if isinstance(model, str | Path):
        return Path(model).name
    if is_torch_module(model):
        return type(model).__name__
    return model.name if isinstance(model, OnnxModel) else f"architecture {number}"
