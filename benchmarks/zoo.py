"""Networks that nobody here wrote: torchvision's, cut into segments, predicted and measured.

    python benchmarks/zoo.py -o RUN --hours 0.6 [--device cpu-onnxruntime] [--time-limit 2min]
        [--networks mobilenet_v2 resnet18 ...]

Each network is exported with random weights, read, cut into segments, and profiled: its segments,
the whole and chains of segments are visited in the same shuffled passes. Two predictions of the
whole are compared with its measured latency: by the prices that were fitted on it and the chains,
and by a fit without it. Exported models, tables and results stay in RUN; the same command goes on
with what is missing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torchvision
from cells import Clock, Progress, heading, parser, results, run_cells

import nas
from latbench.device_files import load_device
from latbench.models import read_model
from latbench.models.segments import cut
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable
from latbench.units import as_duration_s, format_ms
from latbench.workflows.model_tables import is_trusted, table_model

NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"),
    *("shufflenet_v2_x1_0", "mnasnet1_0", "resnet18", "regnet_y_400mf", "densenet121"),
    *("squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t"),
)
SIZE = 224


@dataclass(frozen=True)
class Row:
    """One network; errors are predicted / measured - 1.

    Attributes:
        segments: Number of segments.
        joined: Number of segments after neighbours were joined that the runtime fuses.
        distinct: Number of different ones among these.
        import_s: Time to read and cut the file.
        measured_ms: Latency of the whole.
        half_width: Relative half width of its 95 % interval.
        error: Error of the prices at the whole.
        error_left_out: Error at the whole of a fit without it.
        left_out_error: Mean absolute error at networks left out of the fit.
        trusted: Whether the prices give a latency at all.
    """

    segments: int
    joined: int
    distinct: int
    import_s: float
    measured_ms: float
    half_width: float
    error: float
    error_left_out: float
    left_out_error: float
    trusted: bool


def main() -> None:
    """Measure what is missing, and print all that is there."""
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument("--device", default="cpu-onnxruntime")
    arguments.add_argument("--time-limit", default="2min")
    arguments.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    asked = arguments.parse_args()

    def measure(name: str, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        path = _exported(name, asked.output / "models", seed)
        return asdict(_measured(path, run, asked.device, asked.time_limit, progress))

    folder = asked.output / asked.device
    run_cells(folder, [(name, 0) for name in asked.networks], measure, Clock(asked.hours))
    found = {name: Row(**row[0]) for name in asked.networks if (row := results(folder, name))}
    versions = make_profiler(load_device(asked.device)).versions()
    print_lines(heading({**versions, "torchvision": torchvision.__version__}))
    _show(found)


def _exported(name: str, folder: Path, seed: int) -> Path:
    """The ONNX file of a network with random weights."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        network = torchvision.models.get_model(name, weights=None).eval()
        image = torch.zeros(1, 3, SIZE, SIZE)
        torch.onnx.export(network, (image,), path, dynamo=True, verbose=False)
    return path


def _measured(path: Path, run: Path, device: str, limit: str, progress: Progress) -> Row:
    begin = perf_counter()
    segments = len(cut(read_model(path)))
    import_s = perf_counter() - begin
    run.mkdir(parents=True, exist_ok=True)
    table: LatencyTable = nas.profile(
        device, path, run / "t.sqlite", time_limit=as_duration_s(limit), progress=progress
    )
    network = table_model(table)
    whole = table.networks[network]
    left_out_error = table.price_model.loo_error
    assert left_out_error is not None, "a profiled table has networks"
    return Row(
        segments=segments,
        joined=len(network),
        distinct=len(set(network)),
        import_s=import_s,
        measured_ms=whole.hot_ms,
        half_width=(whole.hot_high_ms - whole.hot_low_ms) / 2 / whole.hot_ms,
        error=table.predict(network).latency_ms / whole.hot_ms - 1,
        error_left_out=table.predict_left_out(network).latency_ms / whole.hot_ms - 1,
        left_out_error=left_out_error,
        trusted=is_trusted(table),
    )


def _show(found: dict[str, Row]) -> None:
    columns = (
        "network",
        "segments, joined, distinct",
        "read",
        "measured",
        "error",
        "left out",
        "parts",
    )
    print_table(
        columns,
        [
            (
                name,
                f"{row.segments}, {row.joined}, {row.distinct}",
                f"{row.import_s:.1f} s",
                f"{format_ms(row.measured_ms)} ±{row.half_width:.1%}",
                f"{row.error:+.1%}",
                f"{row.error_left_out:+.1%}",
                f"{row.left_out_error:.1%}" + ("" if row.trusted else " !"),
            )
            for name, row in found.items()
        ],
    )
    predicted = [row for row in found.values() if row.trusted]
    lines = [
        f"{len(found)} networks; {len(found) - len(predicted)} without a prediction (!), because "
        "parts left out of the fit err by more than 5 %"
    ]
    for words, errors in (
        ("fitted on the whole too", [abs(row.error) for row in predicted]),
        ("fitted without the whole", [abs(row.error_left_out) for row in predicted]),
    ):
        within = ", ".join(
            f"{sum(error <= limit for error in errors)} within {limit:.0%}"
            for limit in (0.05, 0.10, 0.15)
        )
        lines.append(f"{words}: {within} of {len(errors)}")
    print_lines(lines)


if __name__ == "__main__":
    main()
