"""What a uniform step of each space's supernet takes, beside a plain implementation of it.

    python benchmarks/components_step.py [--rounds N] [--batch N] [--space NAME ...]

A step is forward, backward and update on a path of every layer's first operation, at 32 px and
100 classes on one thread, in every space of fixed operations. A batch has 64 images by default.

* ``ours``: the supernet as ``nas.training.supernet_training`` trains it: channels last,
  convolutions of ``nas.supernet.candidates``, one fused update.
* ``plain``: the same layers as torch's modules in the usual order of dimensions (NCHW), with the
  usual loop over parameters for an update. It holds the modules of this one path, so it is spared
  walking through those of all others.

Both have affine batch norms with running statistics and the same number of parameters on the path.
Steps are taken in turn, ``--rounds`` of each after warm-up. A time is that of the processor, which
on one thread is the time of an idle machine. The ratio is of medians, and its interval is a
bootstrap over rounds.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from time import process_time

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from latbench.environment import current_environment
from latbench.render.torch import NetworkModule
from latbench.report.terminal import print_lines, print_table
from nas.latency.relaxation import one_hot
from nas.spaces import SPACES, Architecture, SearchSpace, every_width, make_space
from nas.supernet.mixed_operations import fixed_supernet
from nas.training.memory import keep_freed_memory

SIZE, CLASSES = 32, 100
LR, MOMENTUM, DECAY = 0.045, 0.9, 4e-5  # OSNASLib's for CIFAR-100
WARM_UP = 3
RESAMPLES = 2000

Step = Callable[[Tensor, Tensor], float]


def main() -> None:
    """Print a row for each space."""
    parser = ArgumentParser(description="A uniform step of each space, ours and plain.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--space", nargs="+", default=fixed_spaces(), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    environment = current_environment({"torch": torch.__version__})
    print_lines(
        [
            f"{environment.cpu}, {environment.system}, {environment.taken_at}, "
            f"torch {torch.__version__}, 1 thread",
            f"batch {arguments.batch}, {SIZE} px, {CLASSES} classes, all first operations, "
            f"{arguments.rounds} rounds",
            "",
        ]
    )
    rows = []
    for name in arguments.space:
        times_ms = _times_ms(make_space(name, SIZE, CLASSES), arguments.batch, arguments.rounds)
        low, high = ratio_interval(times_ms["plain"], times_ms["ours"])
        ratio = np.median(times_ms["plain"]) / np.median(times_ms["ours"])
        rows.append(
            (
                name,
                spread(times_ms["ours"]),
                spread(times_ms["plain"]),
                f"{ratio:.2f} ({low:.2f} - {high:.2f})",
            )
        )
    print_table(("space", "ours, ms (quartiles)", "plain, ms (quartiles)", "plain / ours"), rows)


def fixed_spaces() -> list[str]:
    """Names of the spaces whose operations are one block each."""
    return [
        name
        for name in SPACES
        if all(
            len(layer.choices(op, every_width)) == 1
            for layer in make_space(name).layers
            for op in layer.ops
        )
    ]


def first_operations(space: SearchSpace) -> Architecture:
    """The deepest architecture of every layer's first operation."""
    return space.architecture(
        [[layer.choices(layer.ops[0], every_width)[0] for layer in row] for row in space.stages]
    )


def _ours(space: SearchSpace, architecture: Architecture) -> Step:
    supernet = fixed_supernet(space, seed=0)
    optimizer = torch.optim.SGD(
        supernet.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
    )
    path = one_hot(space, architecture)

    def step(x: Tensor, labels: Tensor) -> float:
        inputs = x.contiguous(memory_format=torch.channels_last)
        return _step(optimizer, lambda: supernet(inputs, path), labels)

    return step


def _plain(space: SearchSpace, architecture: Architecture) -> Step:
    model: nn.Module = NetworkModule(space.lower(architecture))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, foreach=False
    )
    return lambda x, labels: _step(optimizer, lambda: model(x), labels)


def _step(optimizer: torch.optim.Optimizer, forward: Callable[[], Tensor], labels: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(forward(), labels)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _times_ms(space: SearchSpace, batch: int, rounds: int) -> dict[str, NDArray[np.float64]]:
    architecture = first_operations(space)
    steps = {"ours": _ours(space, architecture), "plain": _plain(space, architecture)}
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, SIZE, SIZE, generator=rng)
    labels = torch.randint(CLASSES, (batch,), generator=rng)
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            begin = process_time()
            step(x, labels)
            if turn >= WARM_UP:
                times_ms[name].append((process_time() - begin) * 1e3)
    return {name: np.array(values) for name, values in times_ms.items()}


def spread(times_ms: NDArray[np.float64]) -> str:
    """Median and quartiles in ms."""
    low, median, high = np.quantile(times_ms, (0.25, 0.5, 0.75))
    return f"{median:.1f} ({low:.1f} - {high:.1f})"


def ratio_interval(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the ratio of medians; rounds are drawn as a whole."""
    drawn = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
    ratios = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
