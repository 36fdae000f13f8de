"""Comparison of networks on a device: all are measured in one interleaved sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from latbench.blocks import Network
from latbench.device_files import AnyDevice, as_device
from latbench.errors import InvalidValueError
from latbench.measure.load import LoadMeter, load_meter
from latbench.measure.lock import held
from latbench.measure.visit import Visit
from latbench.models import OnnxModel, read_model, require_inputs
from latbench.models.torch_modules import (
    Example,
    TorchModule,
    is_torch_module,
    read_module,
    require_example,
)
from latbench.profilers import Profiler, make_profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables.comparison import Verdict
from latbench.units import as_duration_s
from latbench.workflows.footprint import Footprint, measure_footprint
from latbench.workflows.machine_noise import MachineNoise, calls_ms, is_loaded, machine_noise
from latbench.workflows.side_by_side import (
    Change,
    compare_with_first,
    fastest_ms,
    interval,
    visit_in_turn,
)

AnyModel: TypeAlias = "OnnxModel | Network | TorchModule | str | Path"
"""An ONNX model, the path of its file, a torch module, or a network of block specs."""

TOLERANCE = 0.02
"""Largest relative change of a latency that does not matter, unless another one is asked for."""

_QUANTILES = (0.5, 0.9, 0.99)  # of all calls
_OPEN_S = 2.0  # expected time to read and open a network


@dataclass(frozen=True)
class ModelLatency:
    """Latency of one network, and its comparison with the first one.

    Attributes:
        model: Name of the network.
        latency_ms: Low quantile over visits of the fastest call of each visit, for one batch.
        low_ms: Lower end of its 95 % interval.
        high_ms: Upper end of its 95 % interval.
        p50_ms: Median of all calls.
        p90_ms: 90 % quantile of all calls.
        p99_ms: 99 % quantile of all calls.
        load_ms: Time to open the network, in a process of its own with its weights in memory.
        peak_mb: Growth of that process's memory, or of the GPU's, by opening and calling, in
            10^6 bytes.
        ratio: Latency relative to the first network: median over passes of the ratio of the
            fastest calls.
        ratio_low: Lower end of the 95 % interval of the ratio.
        ratio_high: Upper end of the 95 % interval of the ratio.
        verdict: ``BASELINE`` for the first network, otherwise ``SAME``, ``FASTER``, ``SLOWER`` or
            ``UNSURE``. On a loaded machine no network is called ``SAME``: a load changes the ratio
            of two networks.
    """

    model: str
    latency_ms: float
    low_ms: float
    high_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    load_ms: float
    peak_mb: float
    ratio: float
    ratio_low: float
    ratio_high: float
    verdict: Verdict | Literal["BASELINE"]


@dataclass(frozen=True, repr=False)
class Bench(Result):
    """Latencies of some networks on one device.

    Attributes:
        device: Name of the device profile.
        rows: Latency of every network, in the order of the request.
        noise: Noise of the machine.
        tolerance: Largest relative change that does not matter.
    """

    device: str
    rows: tuple[ModelLatency, ...]
    noise: MachineNoise
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether no network is slower than the first."""
        return all(row.verdict != "SLOWER" for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The device, the rows and the noise as plain JSON values."""
        return {
            "device": self.device,
            "rows": [asdict(row) for row in self.rows],
            "noise": asdict(self.noise),
        }


# long because it has a description of every argument
def bench(
    models: Sequence[AnyModel] | AnyModel,
    device: AnyDevice = "cpu-onnxruntime",
    *,
    names: Sequence[str] | None = None,
    example: Example | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    time_limit: str | float = "60s",
    tolerance: float = TOLERANCE,
    progress: Progress = silent,
) -> Bench:
    """Measure networks in one interleaved sweep and compare them with the first.

    The sweep ends when all intervals are within 1 %, or at the time limit.

    Args:
        models: ONNX models, paths of their files, torch modules, or networks of block specs.
        device: A device profile, its name or its path.
        names: Names in the result; by default the files' names and the modules' classes. Names
            that occur several times are numbered.
        example: Input of the torch modules, which are exported in evaluation mode: a tensor, or
            several as a tuple or by name of the argument.
        shapes: Shapes of inputs that files leave open, by name of the input.
        batch_size: Number of images a call, for models that leave their first dimension open and
            for networks of block specs; by default the device's, and files must fix theirs.
        time_limit: Duration of the sweep, as text such as ``"60s"`` or in seconds. At least 20
            passes are made.
        tolerance: Largest relative change of a latency that does not matter.
        progress: Callback that reports the progress.

    Raises:
        InvalidFileError: A file is not an ONNX model or cannot be measured.
        InvalidValueError: There is no model, a torch module cannot be exported, a shape is missing
            or does not fit, or there are more or fewer names than models.
        RuntimeFailure: The runtime refused a model.
        DeviceBusyError: Another process measures on the device.
    """
    profile = as_device(device, batch_size=batch_size)
    profiler = make_profiler(profile)
    limit_s = as_duration_s(time_limit)
    listed = _listed(models)
    require_example(listed, example)
    if names is not None and len(names) != len(listed):
        raise InvalidValueError(
            f"names are {len(names)}, models are {len(listed)}: give one for each"
        )
    opening = Phase("open", seconds=_OPEN_S * len(listed))
    parts = [opening, Phase("measure", seconds=limit_s, steady=True)]
    with Phases(progress, parts) as phases:
        read = []
        for number, each in enumerate(listed):
            phases["open"](0.5 * number / len(listed), f"reading network {number + 1}")
            read.append(read_any(each, shapes, batch_size, example=example))
        onnx = [model for model in read if isinstance(model, OnnxModel)]
        require_inputs(shapes or {}, onnx)
        if len(onnx) < len(read):
            _require_images(onnx, profile.batch_size)
        labels = _distinct(names if names is not None else _labels(read))
        with held(profiler):
            footprints = _footprints(profiler, read, labels, phases["open"])
            quantile, meter = profile.sweep.quantile, load_meter(profiler)
            decided = partial(_is_decided, meter=meter, tolerance=tolerance)
            visits = visit_in_turn(
                profiler, read, limit_s=limit_s, is_decided=decided, progress=phases["measure"]
            )
            noise = machine_noise(visits, meter, quantile, throttled=profiler.spoilt)
        rows = _rows(labels, visits, footprints, noise, quantile=quantile, tolerance=tolerance)
        return Bench(profile.name, rows, noise, tolerance)


def _require_images(models: Sequence[OnnxModel], count: int) -> None:
    """Refuse models that compute other numbers of images a call than networks of block specs.

    Raises:
        InvalidValueError: A model has another batch size.
    """
    for model in models:
        batches = {each.shape[0] for each in model.inputs if len(each.shape) > 1}
        if batches and count not in batches:
            raise InvalidValueError(
                f"{model.name} computes {min(batches)} images a call, and architectures {count} on "
                f"this device: give both one batch size, such as --batch-size {min(batches)}"
            )


def _footprints(
    profiler: Profiler,
    networks: Sequence[OnnxModel | Network],
    labels: Sequence[str],
    progress: Progress,
) -> list[Footprint]:
    """Time and memory that each network takes to open, in the second half of a phase."""

    def opening(number: int) -> Progress:
        return lambda fraction, words: progress(
            0.5 + 0.5 * (number + fraction) / len(networks), f"opening {labels[number]}, {words}"
        )

    return [
        measure_footprint(profiler, network, progress=opening(number))
        for number, network in enumerate(networks)
    ]


def _is_decided(
    visits: Mapping[int, Sequence[Visit]], *, meter: LoadMeter, tolerance: float
) -> bool:
    loaded = is_loaded(meter.read())
    changes = compare_with_first(fastest_ms(visits), tolerance=tolerance)
    return all(_verdict(change, loaded=loaded) != "UNSURE" for change in changes[1:])


def _verdict(change: Change, *, loaded: bool) -> Verdict:
    return "UNSURE" if loaded and change.verdict == "SAME" else change.verdict


def _listed(models: Sequence[AnyModel] | AnyModel) -> list[AnyModel]:
    single = isinstance(models, str | Path | OnnxModel)
    single = single or is_torch_module(models) or _is_network(models)
    listed: list[Any] = [models] if single else list(models)  # type: ignore[arg-type]
    if not listed:
        raise InvalidValueError("there is no model to measure: give at least one")
    return listed


def _is_network(models: object) -> bool:
    listed = isinstance(models, tuple) and bool(models) and not is_torch_module(models[0])
    return listed and hasattr(models[0], "graph")  # type: ignore[index]


def read_any(
    model: AnyModel,
    shapes: Mapping[str, tuple[int, ...]] | None,
    batch_size: int | None,
    *,
    example: Example | None = None,
) -> OnnxModel | Network:
    """The network of a workflow: an ONNX file is read, a torch module exported with its example.

    Raises:
        LatbenchError: The model cannot be exported or measured, or a shape is missing or does not
            fit.
    """
    if isinstance(model, str | Path):
        return read_model(model, shapes=shapes, batch_size=batch_size)
    if isinstance(model, OnnxModel | tuple):
        return model
    if not is_torch_module(model):
        raise InvalidValueError(
            f"{type(model).__name__} is no model: give the path of an ONNX file, a torch module or "
            "a network of block specs"
        )
    require_example([model], example)
    assert example is not None
    return read_module(model, example, shapes=shapes, batch_size=batch_size)


def _labels(read: Sequence[OnnxModel | Network]) -> list[str]:
    return [
        model.name if isinstance(model, OnnxModel) else f"network {number}"
        for number, model in enumerate(read, start=1)
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur several times with a number."""
    counted: Counter[str] = Counter()
    numbered = []
    for name in names:
        counted[name] += 1
        numbered.append(f"{name} ({counted[name]})" if names.count(name) > 1 else name)
    return numbered


def _rows(
    labels: Sequence[str],
    visits: Mapping[int, Sequence[Visit]],
    footprints: Sequence[Footprint],
    noise: MachineNoise,
    *,
    quantile: float,
    tolerance: float,
) -> tuple[ModelLatency, ...]:
    fastest = fastest_ms(visits)
    changes = compare_with_first(fastest, tolerance=tolerance)
    rows = []
    for index, (label, footprint) in enumerate(zip(labels, footprints, strict=True)):
        own = interval(fastest[index], quantile)
        change = changes[index]
        p50_ms, p90_ms, p99_ms = map(float, np.quantile(calls_ms(visits[index]), _QUANTILES))
        rows.append(
            ModelLatency(
                label,
                *own,
                p50_ms,
                p90_ms,
                p99_ms,
                footprint.load_ms,
                footprint.peak_mb,
                change.ratio,
                change.low,
                change.high,
                _verdict(change, loaded=noise.loaded) if index else "BASELINE",
            )
        )
    return tuple(rows)
