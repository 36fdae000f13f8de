"""A model whose slow widths are padded with channels that are zero, where that saves time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from latbench.device_files import AnyDevice, as_device
from latbench.errors import InvalidValueError, LatbenchError, in_one_line
from latbench.measure.lock import held
from latbench.models import OnnxModel, read_model, require_inputs
from latbench.models.agreement import can_run, in_single_precision, largest_difference
from latbench.models.channels.padding import padded_file
from latbench.models.writing import require_writable, write_model
from latbench.profilers import Profiler, make_profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.units import as_duration_s
from latbench.workflows.padded_widths import PaddingSearch, Plan, named
from latbench.workflows.side_by_side import (
    compare_with_first,
    fastest_ms,
    interval,
    visit_in_turn,
)

TOLERANCE = 1e-5
"""Largest difference of an output, relative to the largest: other orders of sums stay below."""

_HALF_TOLERANCE = 1e-2  # where weights have 8 or 11 bits, and every layer rounds
_COMPARE_S = 5.0  # expected time to compare outputs and to write
_SEARCH = 0.7  # share of the time; the rest compares the result with the model


@dataclass(frozen=True)
class PaddedChannels:
    """Channels that were padded together.

    Attributes:
        tensor: First tensor of these channels.
        before: Its number of channels in the model.
        after: Its number of channels in the written model.
    """

    tensor: str
    before: int
    after: int


@dataclass(frozen=True, repr=False)
class Alignment(Result):
    """A model before and after its slow widths were padded.

    Attributes:
        before_ms: Latency of the model.
        after_ms: Latency of the padded model; of the best one that was tried if no padding pays.
        ratio: Latency after relative to before: median over passes of the ratio of the fastest
            calls.
        ratio_low: Lower end of the 95 % interval of the ratio.
        ratio_high: Upper end of the 95 % interval of the ratio.
        max_abs_difference: Largest absolute difference of an output, relative to the largest
            absolute value of that output.
        padded: Channels that were padded; none if no padding pays.
        path: File of the padded model; None if no padding pays.
    """

    before_ms: float
    after_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    max_abs_difference: float
    padded: tuple[PaddedChannels, ...]
    path: Path | None

    def as_dict(self) -> dict[str, Any]:
        """The latencies, the padded channels and the path as plain JSON values."""
        return {
            "before_ms": self.before_ms,
            "after_ms": self.after_ms,
            "ratio": self.ratio,
            "ratio_low": self.ratio_low,
            "ratio_high": self.ratio_high,
            "max_abs_difference": self.max_abs_difference,
            "padded": [
                {"tensor": each.tensor, "from": each.before, "to": each.after}
                for each in self.padded
            ],
            "path": None if self.path is None else str(self.path),
        }


def align(
    model: str | Path,
    device: AnyDevice,
    *,
    output: str | Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    time_limit: str | float = "3min",
    progress: Progress = silent,
) -> Alignment:
    """Pad the slow widths of a model with channels that are zero, if that makes it faster.

    The outputs stay the same. The padded model is written only if one sweep shows it to be faster.

    Args:
        model: Path of an ONNX file. A PyTorch module is exported first.
        device: A device profile, its name or its path.
        output: Path of the padded model.
        shapes: Shapes of inputs that the file leaves open, and the written file too, by name.
        batch_size: Number of images a call, for a file that leaves its first dimension open.
        time_limit: Duration of all measurements, as text such as ``"3min"`` or in seconds.
        progress: Callback that reports the progress.

    Raises:
        InvalidFileError: The file is not an ONNX model, cannot be measured or is quantised, or a
            file exists at ``output`` or cannot be written there.
        InvalidValueError: A shape is missing or does not fit, or ``model`` is not a path.
        RuntimeFailure: The runtime refused the model.
        DeviceBusyError: Another process measures on the device.
        LatbenchError: The outputs of the padded model differ. Nothing is written.
    """
    if not isinstance(model, str | PathLike):
        raise InvalidValueError(
            f"align reads ONNX files, and {type(model).__name__} is not the path of one: export it "
            'first, as by torch.onnx.export(module, inputs, "model.onnx", dynamo=True)'
        )
    path, written = Path(model), Path(output)
    require_writable(written)
    profile = as_device(device, batch_size=batch_size)
    profiler = make_profiler(profile)
    limit_s = as_duration_s(time_limit)
    read = named(read_model(path, shapes=shapes, batch_size=batch_size))
    require_inputs(shapes or {}, [read])
    parts = [
        Phase("choose widths", seconds=_SEARCH * limit_s),
        Phase("measure the whole", seconds=(1 - _SEARCH) * limit_s, steady=True),
        Phase("compare outputs", seconds=_COMPARE_S),
    ]
    with Phases(progress, parts) as phases:
        phases["choose widths"](0.0, "following the channels")
        search = PaddingSearch(profiler, read)
        with held(profiler):
            found, plan = _measure(profiler, search, limit_s, phases)
        if plan is None:
            return found
        phases["compare outputs"](0.0, "comparing the outputs")
        difference = _write(path, written, search, plan, phases["compare outputs"])
    padded = tuple(PaddedChannels(group.tensor, group.width, w) for group, w in plan.items())
    return replace(found, max_abs_difference=difference, padded=padded, path=written)


def _measure(
    profiler: Profiler, search: PaddingSearch, limit_s: float, phases: Phases
) -> tuple[Alignment, Plan | None]:
    """Choose widths and compare them with the model; no plan if none is faster."""
    plans = search.run(limit_s=_SEARCH * limit_s, progress=phases["choose widths"])
    networks = [search.model, *(search.pad(plan) for plan in plans)]
    left_s = (1 - _SEARCH) * limit_s if plans else 0.0  # alone, the least passes suffice
    whole = phases["measure the whole"]
    fastest = fastest_ms(visit_in_turn(profiler, networks, limit_s=left_s, progress=whole))
    changes = compare_with_first(fastest, tolerance=0.0)
    tried = range(1, len(networks)) if plans else (0,)
    best = min(tried, key=lambda index: changes[index].ratio)
    change, quantile = changes[best], profiler.profile.sweep.quantile
    before_ms, after_ms = (interval(fastest[index], quantile)[0] for index in (0, best))
    found = Alignment(
        before_ms, after_ms, change.ratio, change.low, change.high, 0.0, padded=(), path=None
    )
    pays = best > 0 and change.verdict == "FASTER" and change.high < 1
    return found, plans[best - 1] if pays else None


def _write(
    path: Path, output: Path, search: PaddingSearch, plan: Plan, progress: Progress
) -> float:
    """Write the padded model if its outputs are right; their largest difference.

    Raises:
        LatbenchError: They are not.
    """
    proto = padded_file(path, search.channels.widen(plan))
    differences: list[float] = []

    def accept(written: Path) -> None:
        _require_valid(path, written)
        compared = _shapes(path, search.model)
        for number, shapes in enumerate(compared):
            progress((number + 1) / (len(compared) + 1), f"input {number + 1} of {len(compared)}")
            original, other = (read_model(each, shapes=shapes) for each in (path, written))
            differences.append(_require_same(path, original, other))

    write_model(output, proto, accept=accept)
    return float(np.max(differences))


def _require_valid(path: Path, written: Path) -> None:
    """Refuse a file that ONNX does not accept although it accepts the original."""
    problem = _problem(written)
    if problem is not None and _problem(path) is None:
        raise LatbenchError(
            f"the padded model of {path} is not valid ({problem}): nothing is written; please "
            "report it"
        )


def _problem(path: Path) -> str | None:
    """Complaint of ONNX's checker about a file; None if it has none."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # ONNX's exceptions share no base class
        return in_one_line(error)
    return None


def _require_same(path: Path, original: OnnxModel, other: OnnxModel) -> float:
    """Refuse outputs that differ; their largest difference.

    Models in half precision are compared twice: as they are, where every layer rounds, and with
    all numbers in fp32, where a fault does not hide behind the rounding.
    """
    difference = largest_difference(original, other)
    wide = in_single_precision(original)
    compared = [(difference, TOLERANCE if wide is None else _HALF_TOLERANCE)]
    if wide is not None:
        compared.append((largest_difference(wide, in_single_precision(other) or other), TOLERANCE))
    for found, tolerance in compared:
        if not found <= tolerance:
            raise LatbenchError(
                f"the padded model deviates from {path} by {found:.2g} of the largest output, and "
                f"{tolerance} is allowed: nothing is written; please report it"
            )
    return difference


def _shapes(path: Path, model: OnnxModel) -> list[dict[str, tuple[int, ...]]]:
    """Shapes on which outputs are compared: the measured ones, and a larger batch if it may be."""
    measured = {each.name: each.shape for each in model.inputs}
    larger = {name: (shape[0] + 1, *shape[1:]) for name, shape in measured.items() if shape}
    try:
        works = can_run(read_model(path, shapes=larger))
    except LatbenchError:
        works = False
    return [measured, larger] if works else [measured]
