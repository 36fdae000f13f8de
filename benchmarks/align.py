"""Networks with odd widths before and after ``latbench align``.

    python benchmarks/align.py [--device cpu-onnxruntime] [--time-limit 3min] [--tfnas FILE]

Three networks with random weights: TF-NAS-A as published, if ``--tfnas`` is a file of its
architecture, or of a list of named ones; MobileNetV2 after random pruning, every width drawn from
half of it to all of it; ShuffleNetV2 1.0, whose channels are split and shuffled in widths of 58,
116 and 232. Beside TF-NAS-A stands its twin: the architecture with every width rounded up to a
multiple of 8, which computes another function and says what padding could reach.

Prints a row for each network: latency before and after, their ratio with its 95 % interval, the
number of groups of channels that were padded, and how far the outputs differ.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torchvision
from cells import heading
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

import latbench
import nas
from latbench.report.terminal import print_lines, print_table, progress_bar
from latbench.units import format_ms
from nas.spaces import Architecture
from nas.spaces.architecture import parse_architecture

_MULTIPLE = 8  # of the widths of the twin
_SIDE = 224


def main() -> None:
    """Align the networks and print a row for each."""
    parser = ArgumentParser(description="Networks with odd widths before and after align.")
    parser.add_argument("--device", default="cpu-onnxruntime")
    parser.add_argument("--time-limit", default="3min")
    parser.add_argument("--tfnas", type=Path, metavar="FILE", help="TF-NAS-A's architecture")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pruning")
    asked = parser.parse_args()
    versions = {
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    print_lines([*heading(versions), ""])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for path in _networks(Path(name), asked.tfnas, asked.seed):
            output = path.with_name(f"faster-{path.name}")
            with progress_bar(path.stem) as progress:
                found = latbench.align(
                    path,
                    asked.device,
                    output=output,
                    time_limit=asked.time_limit,
                    progress=progress,
                )
            rows.append(_row(path.stem, found))
            twin = path.with_name(f"twin-{path.name}")
            if twin.exists():
                rows.append(_twin_row([path, twin], asked.device))
    print_table(("network", "before", "after", "ratio", "interval", "groups", "difference"), rows)


def _row(name: str, found: latbench.Alignment) -> tuple[str, ...]:
    return (
        name if found.path else f"{name} (left alone)",
        format_ms(found.before_ms),
        format_ms(found.after_ms),
        f"{found.ratio:.3f}",
        f"{found.ratio_low:.3f} to {found.ratio_high:.3f}",
        str(len(found.padded)),
        f"{found.max_abs_difference:.0e}",
    )


def _twin_row(paths: list[Path], device: str) -> tuple[str, ...]:
    with progress_bar("twin") as progress:
        before, after = latbench.bench(paths, device, progress=progress).rows
    return (
        f"its widths rounded up to {_MULTIPLE}",
        format_ms(before.latency_ms),
        format_ms(after.latency_ms),
        f"{after.ratio:.3f}",
        f"{after.ratio_low:.3f} to {after.ratio_high:.3f}",
        "",
        "",
    )


def _networks(folder: Path, tfnas: Path | None, seed: int) -> Iterator[Path]:
    """Files of the networks; that of a twin lies beside its network's."""
    if tfnas is not None:
        architecture = _published(tfnas)
        nas.export(architecture, folder / "tfnas-a.onnx")
        nas.export(_rounded_up(architecture), folder / "twin-tfnas-a.onnx")
        yield folder / "tfnas-a.onnx"
    torch.manual_seed(seed)
    modules = {
        "mobilenet_v2-pruned": pruned_mobilenet_v2(seed),
        "shufflenet_v2_x1_0": torchvision.models.shufflenet_v2_x1_0(weights=None),
    }
    for name, module in modules.items():
        path = folder / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this exporter is an old one; it needs no extra
            torch.onnx.export(
                module.eval(), (torch.randn(1, 3, _SIDE, _SIDE),), str(path), dynamo=False
            )
        yield path


def _published(path: Path) -> Architecture:
    """TF-NAS-A from the file of its architecture, or of a list of named architectures."""
    found = json.loads(path.read_text())
    if isinstance(found, list):
        (found,) = (each["architecture"] for each in found if each["name"] == "TF-NAS-A")
    return parse_architecture(json.dumps(found), source=str(path))


def _rounded_up(architecture: Architecture) -> Architecture:
    """The architecture with every width rounded up."""
    plain = json.loads(json.dumps(architecture.as_dict()))
    for stage in plain["stages"]:
        for layer in stage:
            layer["width"] = -(-layer["width"] // _MULTIPLE) * _MULTIPLE
    return parse_architecture(json.dumps(plain), source="the twin")


def pruned_mobilenet_v2(seed: int) -> nn.Module:
    """MobileNetV2 with every width drawn from half of it to all of it.

    The blocks of a stage have one width outside, because residuals add them; each has its own
    width inside.
    """
    rng = np.random.default_rng(seed)

    def pruned(width: int) -> int:
        return int(rng.integers(-(-width // 2), width + 1))

    network = torchvision.models.mobilenet_v2(weights=None)
    stem = pruned(32)
    features: list[nn.Module] = [Conv2dNormActivation(3, stem, stride=2, activation_layer=nn.ReLU6)]
    width, last = stem, pruned(1280)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expansion, full, count, stride in (*stages, (6, 160, 3, 2), (6, 320, 1, 1)):
        outside = pruned(full)
        for number in range(count):
            inside = width if expansion == 1 else pruned(expansion * width)
            step = stride if number == 0 else 1
            features.append(InvertedResidual(width, outside, step, inside / width))
            width = outside
    features.append(Conv2dNormActivation(width, last, kernel_size=1, activation_layer=nn.ReLU6))
    network.features = nn.Sequential(*features)
    network.classifier = nn.Sequential(nn.Linear(last, 1000))
    return network


if __name__ == "__main__":
    main()
