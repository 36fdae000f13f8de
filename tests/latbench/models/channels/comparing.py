"""Comparison of small models with their padded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from latbench.models import OnnxModel, read_model
from latbench.models.agreement import largest_difference
from latbench.models.channels.groups import ChannelGroup, Channels, find_channels
from latbench.models.channels.padding import padded, padded_file
from tests.latbench.models.channels.random_graphs import Network
from tests.latbench.models.small import save


def outputs_of(model: ModelProto | OnnxModel, inputs: dict[str, Any]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    raw = model.whole() if isinstance(model, OnnxModel) else model.SerializeToString()
    session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, inputs)
    return found


def inputs_of(model: OnnxModel, batch: int = 1) -> dict[str, Any]:
    (each,) = model.inputs
    value = np.random.default_rng(3).standard_normal((batch, *each.shape[1:]))
    return {each.name: value.astype(each.dtype)}


def fitting(channels: Channels, wanted: dict[ChannelGroup, int]) -> dict[ChannelGroup, int]:
    """The wanted widths, without those that do not fit."""
    if channels.fits(wanted):
        return wanted
    plan: dict[ChannelGroup, int] = {}
    for group, width in wanted.items():
        if channels.fits({**plan, group: width}):
            plan[group] = width
    return plan


def pad_and_compare(
    path: Path, more: int = 5, *, tolerance: float = 1e-5
) -> dict[str, tuple[int, int]]:
    """Pad all groups of a file and compare outputs; widths before and after by tensor."""
    model = read_model(path, batch_size=1)
    channels = find_channels(model)
    plan = fitting(channels, {group: group.width + more for group in channels.groups})
    compare(path, model, channels, plan, tolerance=tolerance)
    return {group.tensor: (group.width, width) for group, width in plan.items()}


def compare(
    path: Path,
    model: OnnxModel,
    channels: Channels,
    plan: dict[ChannelGroup, int],
    *,
    tolerance: float = 1e-5,
    extremes: bool = False,
) -> ModelProto:
    """Pad groups of a file and compare outputs, also for extreme inputs; the padded file."""
    widening = channels.widen(plan)
    file = padded_file(path, widening)
    onnx.checker.check_model(file, full_check=True)
    inputs = inputs_of(model)
    (expected,) = outputs_of(onnx.load(path), inputs)
    assert np.isfinite(expected).all()
    atol = tolerance * np.abs(expected).max()
    for found in (file, padded(model, widening)):
        np.testing.assert_allclose(outputs_of(found, inputs)[0], expected, rtol=0, atol=atol)
    if extremes:
        difference = largest_difference(model, padded(model, widening))
        assert difference <= 10 * tolerance  # large numbers cancel, and sums have another order
    return file


def saved(net: Network, x: str, folder: Path, *, rank: int = 4, batch: int | str = 1) -> Path:
    return save(net.build(x, rank=rank, batch=batch), folder / "m.onnx")
