"""Comparison of networks on a device: all are measured in one interleaved sweep.

When networks are timed one after the other, a change of the machine looks like a difference between
them. Here every pass visits all of them in a random order, and networks are compared pass by pass:
their ratio is the median over passes of the ratio of their fastest calls. On a shared machine under
load, the ratio of a network to itself had a standard deviation of 2.2 % after 20 passes; the ratio
of the two low quantiles had 5.9 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.device import AnyDevice, as_device
from latbench.errors import InvalidValueError
from latbench.measure.lock import device_lock
from latbench.measure.samples import Samples
from latbench.measure.statistics import bootstrap, low_quantile_interval
from latbench.measure.sweep import Target, fraction_done, sweep_pass
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
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.tables.comparison import Verdict, adjusted, signed_rank_test, verdict_on
from latbench.units import as_duration_s
from latbench.workflows.footprint import Footprint, measure_footprint

Floats = NDArray[np.float64]

AnyModel: TypeAlias = "OnnxModel | Network | TorchModule | str | Path"
"""An ONNX model, the path of its file, a torch module, or a network of block specs."""

TOLERANCE = 0.02
"""Largest relative change of a latency that does not matter, unless another one is asked for."""

_MIN_PASSES = 20  # with fewer, an interval means nothing
_MAX_PASSES = 400
_PRECISE = 0.01  # relative half width of intervals at which the sweep ends
_NOISY = 0.03  # split-half noise above which the machine counts as noisy
_SIGNIFICANCE = 0.001  # a false alarm stops somebody's work
_DWELL_MS = 30.0  # a network needs several calls to load its weights into the shared cache


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
            ``UNSURE``.
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


@dataclass(frozen=True)
class MachineNoise:
    """Noise of the machine during the sweep.

    Attributes:
        passes: Number of passes.
        split_half: Mean difference between latencies in two halves of the sweep; None if unknown.
        slowdown: Median call over the latency, minus 1, averaged over networks: what the machine's
            other work adds to an ordinary call.
        verdict: ``quiet`` or ``noisy``.
    """

    passes: int
    split_half: float | None
    slowdown: float
    verdict: Literal["quiet", "noisy"]


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
        InvalidValueError: There is no model, a torch module cannot be exported, or a shape is
            missing or does not fit.
        RuntimeFailure: The runtime refused a model.
        DeviceBusyError: Another process measures on the device.
    """
    profile = as_device(device, batch_size=batch_size)
    profiler = make_profiler(profile)
    limit_s = as_duration_s(time_limit)
    listed = _listed(models)
    require_example(listed, example)
    read = [read_any(each, shapes, batch_size, example=example) for each in listed]
    require_inputs(shapes or {}, [model for model in read if isinstance(model, OnnxModel)])
    labels = _distinct(names if names is not None else _labels(read))
    with device_lock(profile.device):
        footprints = []
        for index, network in enumerate(read):
            progress(0.0, f"opening {labels[index]}")
            footprints.append(measure_footprint(profile, network))
        visits = _sweep(profiler, read, limit_s=limit_s, progress=progress)
    quantile = profile.sweep.quantile
    rows = _rows(labels, visits, footprints, quantile=quantile, tolerance=tolerance)
    return Bench(profile.name, rows, _noise(rows, visits, quantile), tolerance)


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


def _sweep(
    profiler: Profiler,
    networks: Sequence[OnnxModel | Network],
    *,
    limit_s: float,
    progress: Progress,
) -> dict[int, list[Visit]]:
    """Visit all networks in passes until the intervals are narrow; visits by index, by pass."""
    targets = [
        Target(index, network, visits=1, dwell_ms=_DWELL_MS, cold=False)
        for index, network in enumerate(networks)
    ]
    visits: dict[int, list[Visit]] = {target.id: [] for target in targets}
    begin, quantile = monotonic(), profiler.profile.sweep.quantile
    for number in range(_MAX_PASSES):
        for index, visit in sweep_pass(profiler, targets, number=number).visits:
            visits[index].append(visit)
        spent_s, width = monotonic() - begin, inf
        if number + 1 >= _MIN_PASSES:
            width = _widest(_fastest_ms(visits), quantile)
            if width <= _PRECISE or spent_s >= limit_s:
                break
        left_s = max(limit_s - spent_s, spent_s * (_MIN_PASSES / (number + 1) - 1))
        shown = f", ±{width:.1%}" if width < inf else ""
        progress(fraction_done(spent_s, left_s), f"pass {number + 1}{shown}")
    return visits


def _fastest_ms(visits: Mapping[int, Sequence[Visit]]) -> Floats:
    """Fastest call of every visit in ms, ``(networks, passes)``."""
    return np.array([[min(visit.hot_ns) / 1e6 for visit in each] for each in visits.values()])


def _widest(fastest_ms: Floats, quantile: float) -> float:
    """Largest relative half width of the intervals of latencies and of their ratios."""
    drawn = bootstrap(fastest_ms, quantile)  # (resamples, networks)
    ratios = bootstrap(fastest_ms[1:] / fastest_ms[0], 0.5)
    low, high = np.quantile(np.concatenate([drawn, ratios], axis=1), (0.025, 0.975), axis=0)
    return float(((high - low) / (high + low)).max())


def _rows(
    labels: Sequence[str],
    visits: Mapping[int, Sequence[Visit]],
    footprints: Sequence[Footprint],
    *,
    quantile: float,
    tolerance: float,
) -> tuple[ModelLatency, ...]:
    fastest_ms = _fastest_ms(visits)
    to_first = fastest_ms / fastest_ms[0]  # (networks, passes)
    p_values = [1.0, *adjusted([signed_rank_test(np.log(row)) for row in to_first[1:]])]
    rows = []
    for index, (label, footprint) in enumerate(zip(labels, footprints, strict=True)):
        own = _interval(fastest_ms[index], quantile)
        ratio = _interval(to_first[index], 0.5)
        verdict: Verdict | Literal["BASELINE"] = "BASELINE"
        if index:
            verdict = verdict_on(
                *ratio,
                p_value=p_values[index],
                tolerance=tolerance,
                significance=_SIGNIFICANCE,
            )
        calls_ms = np.concatenate([visit.hot_ns for visit in visits[index]]) / 1e6
        p50_ms, p90_ms, p99_ms = map(float, np.quantile(calls_ms, (0.5, 0.9, 0.99)))
        rows.append(
            ModelLatency(
                label,
                *own,
                p50_ms,
                p90_ms,
                p99_ms,
                footprint.load_ms,
                footprint.peak_mb,
                *ratio,
                verdict,
            )
        )
    return tuple(rows)


def _interval(samples: Floats, quantile: float) -> tuple[float, float, float]:
    """A quantile of samples with the ends of its 95 % interval."""
    estimate, low, high = low_quantile_interval(samples[None], quantile)
    return float(estimate[0]), float(low[0]), float(high[0])


def _noise(
    rows: Sequence[ModelLatency], visits: Mapping[int, Sequence[Visit]], quantile: float
) -> MachineNoise:
    samples = Samples.of((id_, visit) for id_, each in visits.items() for visit in each)
    split_half = samples.split_half_noise(visits, quantile)
    quiet = split_half is not None and split_half <= _NOISY
    return MachineNoise(
        passes=len(visits[0]),
        split_half=split_half,
        slowdown=float(np.mean([row.p50_ms / row.latency_ms for row in rows])) - 1,
        verdict="quiet" if quiet else "noisy",
    )
