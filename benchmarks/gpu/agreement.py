"""Steps on the GPU beside the same steps on the CPU: same seeds, same paths, same losses.

Sums are rounded in another order on another device, and a training makes small differences larger
step by step. So the measure is the CPU against itself with images that are a millionth brighter,
which the norms take out again, except for how numbers are rounded. A loss on the GPU may be as far
off as ``_FACTOR`` times the largest such difference up to that step, and ``_LEAST`` in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from time import monotonic
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from benchmarks.gpu.running import FAILED
from benchmarks.sgnas_sides import SUPERNET, sgnas_step
from benchmarks.tfnas_sides import Shape, our_steps
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.searcher import TFNASRecipe
from nas.spaces import make_space
from nas.training.strategies.kernel_paths import FairPaths
from nas.training.torch_device import CPU, TorchDevice, find_torch_device

_STEPS = 40
_CPU_S = 8.0  # time of the CPU for each kind of step
_FACTOR = 10.0
_LEAST = 1e-4

Values = Iterator[float]


def run(conditions: Conditions, record: Record) -> None:
    """Compare TF-NAS and SGNAS on both devices, as many steps as the CPU takes in its time."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = find_torch_device(conditions.on)
    most, seconds = (4, 2.0) if conditions.tiny else (_STEPS, _CPU_S)
    for name, steps in (("TF-NAS", _tfnas), ("SGNAS", _supernet)):
        paths: list[Any] = []
        our_paths: list[Any] = []
        expected = _until(steps(CPU, paths), most, monotonic() + seconds)
        ours = list(islice(steps(device, our_paths), len(expected)))
        rounding = [
            _difference(a, b) for a, b in zip(steps(CPU, [], 1 + 2**-20), expected, strict=False)
        ]
        apart = [_difference(a, b) for a, b in zip(ours, expected, strict=True)]
        allowed = [max(_LEAST, _FACTOR * max(rounding[: i + 1])) for i in range(len(apart))]
        agree = all(a <= b for a, b in zip(apart, allowed, strict=True))
        same = our_paths == paths
        if not (agree and same):
            record.end(FAILED)
        record.add(
            f"{name}, fp32, {len(expected)} steps: largest relative difference {max(apart):.1e} "
            f"(first step {apart[0]:.1e}), CPU against CPU {max(rounding):.1e}, "
            f"{'within' if agree else 'BEYOND'} the tolerance; {len(paths)} draws "
            f"{'identical' if same else 'DIFFERENT'}; last value {ours[-1]:.6g}, CPU "
            f"{expected[-1]:.6g}",
            **{
                name: {
                    "differences": apart,
                    "cpu_differences": rounding,
                    "allowed": allowed,
                    "agree": agree,
                    "same_paths": same,
                }
            },
        )


def _until(values: Values, most: int, end: float) -> list[float]:
    found: list[float] = []
    for value in islice(values, most):
        found.append(value)
        if monotonic() > end and len(found) >= 2:
            break
    return found


def _difference(a: float, b: float) -> float:
    return abs(a - b) / max(abs(b), 1e-12)


def _tfnas(device: TorchDevice, drawn: list[Any], scale: float = 1.0) -> Values:
    """Loss of a weight step plus expected latency of an architecture step."""
    with (
        mock.patch.object(Choices, "draw_first", _recording(Choices.draw_first, drawn)),
        mock.patch.object(Choices, "draw_second", _recording(Choices.draw_second, drawn)),
    ):
        take = our_steps(Shape(32, 16, classes=10, scale=scale), TFNASRecipe(), device)
        while True:
            yield float(take["weight"]()) + float(take["architecture"]())  # type: ignore[arg-type]


def _supernet(device: TorchDevice, drawn: list[Any], scale: float = 1.0) -> Values:
    """Losses of supernet steps."""
    with mock.patch.object(FairPaths, "step", _recording(FairPaths.step, drawn)):
        take = sgnas_step(
            SUPERNET, "ours", make_space("sgnas", 32, 10), 8, device=device, scale=scale
        )
        while True:
            yield float(take())  # type: ignore[arg-type]


def _recording(draw: Callable[..., Any], drawn: list[Any]) -> Callable[..., Any]:
    def recorded(*arguments: Any) -> Any:
        path = draw(*arguments)
        drawn.append([list(each) if isinstance(each, list) else each for each in path])
        return path

    return recorded
