"""How often `bench` is right: a model against itself, and against a copy that is 3 % slower.

    python benchmarks/bench_verdicts.py MODEL.onnx [--runs 20] [--slower 10] [--loaded 5]
        [--device cpu-onnxruntime] [--time-limit 60s]

The slower copy has one to three more 1x1 convolutions that give what they read. They are put behind
several tensors in turn; the place whose ratio is nearest to 1.03 in a first, long comparison is
taken. Then each comparison is run several times, also while other processes keep all cores busy.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from cells import heading
from load import load
from onnx import ModelProto, helper, numpy_helper

import latbench
from latbench.device_files import load_device
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table, progress_bar

WANTED = 1.03
PLACES = 8


def main() -> None:
    """Run all comparisons and print the verdicts."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--slower", type=int, default=10)
    arguments.add_argument("--loaded", type=int, default=5)
    arguments.add_argument("--device", default="cpu-onnxruntime")
    arguments.add_argument("--time-limit", default="60s")
    asked = arguments.parse_args()
    print_lines(heading(make_profiler(load_device(asked.device)).versions()))
    with TemporaryDirectory() as folder:
        slower, ratio = _slower_copy(asked.model, Path(folder), asked.device)
        print_lines([f"the slower copy takes {ratio:.3f} times as long"])
        same, other = [asked.model, asked.model], [asked.model, slower]
        rows = [
            _verdicts("itself", same, asked.runs, asked),
            _verdicts("slower copy", other, asked.slower, asked),
        ]
        with load() as start:
            start()
            rows += [
                _verdicts("itself, under load", same, asked.loaded, asked),
                _verdicts("slower copy, under load", other, asked.loaded, asked),
            ]
    print_table(("compared with", "runs", "verdicts", "ratios", "passes"), rows)


def _slower_copy(path: Path, folder: Path, device: str) -> tuple[Path, float]:
    """A copy with one more convolution, about 3 % slower, and its ratio."""
    copies = _with_convolution(path, folder)
    with progress_bar("looking for a copy that is 3 % slower") as progress:
        found = latbench.bench([path, *copies], device, time_limit="90s", progress=progress)
    ratios = [row.ratio for row in found.rows[1:]]
    best = int(np.argmin(np.abs(np.array(ratios) - WANTED)))
    return copies[best], ratios[best]


def _with_convolution(path: Path, folder: Path) -> list[Path]:
    """Copies with one to three more 1x1 convolutions whose MACs are about 3 % of the model's."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
    }
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    total = sum(
        prod(shapes[node.output[0]]) * prod(weights[node.input[1]][1:]) for node in convolutions
    )
    places = {  # one for each different shape
        tuple(shape): node.output[0]
        for node in convolutions
        if len(shape := shapes[node.output[0]]) == 4 and shape[2] > 1
    }
    tried = [(shape, count) for shape in places for count in (1, 2, 3)]
    tried.sort(key=lambda each: abs(each[1] * each[0][1] * prod(each[0]) / total + 1 - WANTED))
    paths = []
    for number, (shape, count) in enumerate(tried[:PLACES]):
        paths.append(folder / f"slower-{number}.onnx")
        onnx.save(_inserted(model, places[shape], shape[1], count), paths[-1])
    return paths


def _inserted(model: ModelProto, tensor: str, channels: int, count: int) -> ModelProto:
    """The model with some convolutions behind a tensor that give what they read."""
    copied = ModelProto()
    copied.CopyFrom(model)
    names = [tensor, *(f"slower.{number}" for number in range(count))]
    for node in copied.graph.node:
        node.input[:] = [names[-1] if name == tensor else name for name in node.input]
    weight = np.eye(channels, dtype=np.float32)[:, :, None, None]
    copied.graph.initializer.append(numpy_helper.from_array(weight, "slower.weight"))
    place = next(i for i, node in enumerate(model.graph.node) if tensor in node.output)
    for number, (read, written) in enumerate(pairwise(names), start=1):
        added = helper.make_node("Conv", [read, "slower.weight"], [written], name=written)
        copied.graph.node.insert(place + number, added)
    return copied


def _verdicts(
    name: str, models: Sequence[Path], runs: int, asked: argparse.Namespace
) -> tuple[str, ...]:
    """A row of the table: how often each verdict was given."""
    found = []
    with progress_bar(name) as progress:
        for run in range(runs):
            found.append(latbench.bench(models, asked.device, time_limit=asked.time_limit))
            progress((run + 1) / runs, f"run {run + 1} of {runs}")
    counts = Counter(bench.rows[1].verdict for bench in found)
    ratios = [bench.rows[1].ratio for bench in found]
    passes = [bench.noise.passes for bench in found]
    return (
        name,
        str(runs),
        ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()),
        f"{min(ratios, default=1):.3f} to {max(ratios, default=1):.3f}",
        f"{min(passes, default=0)} to {max(passes, default=0)}",
    )


if __name__ == "__main__":
    main()
