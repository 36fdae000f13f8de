"""What a step of the unified supernet takes, beside a plain implementation of it.

    python benchmarks/sgnas.py [--rounds N] [--small] [--generator WEIGHTS.npz PRIOR.json]

At batch 64, 32 px and 100 classes on one thread, with the small-image form of the space:

* supernet step: forward and backward of four paths, the same for both, and one update;
* architecture step: forward and backward of all choices under Gumbel-softmax probabilities (tau 5)
  with the supernet frozen and in evaluation mode, as the generator is trained. The generator's own
  network, some milliseconds on any side, is left out.

The plain implementation does what the published code does: NCHW, a module for every choice of
every sub-block, all sub-blocks computed and concatenated, a skip as a dense convolution times
zero; ``collecting`` has the supernet's weights gather gradients in the architecture step, as
published, ``frozen`` does not.

Every kind has a process of its own (what ours asks of the C library would help the plain one as
well); steps are taken in turn, ``--rounds`` of each after warm-up. Memory is the highest resident
size of the process, less its size before the supernet is made. ``--small`` is for trying: 8
images and 2 rounds. ``--generator`` times published weights as well: 37 budgets
generated and decoded in one batch, and one by one.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.environment import current_environment
from latbench.report.terminal import print_lines, print_table
from nas.generator.answers import raw_answers
from nas.generator.costs import count_costs
from nas.generator.generator import Request
from nas.generator.published import import_generator
from nas.generator.repair import PlaneLimit
from nas.priced import labelled_space
from nas.spaces import SearchSpace, make_space
from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS, MixLayer
from nas.supernet.unified import THRESHOLD, UnifiedSupernet
from nas.training.memory import keep_freed_memory
from nas.training.strategies.unified import FairPaths
from nas.training.unified import supernet_step

SIZE, CLASSES, TAU, SMOOTHING = 32, 100, 5.0, 0.1
STEPS = {
    "supernet step": ("ours", "plain"),
    "architecture step": ("ours", "plain, frozen", "plain, collecting"),
}
WARM_UP = 3
BUDGETS = 37  # of the published range in steps of 5 M

Paths = list[list[list[int]]]


def main() -> None:
    """Print times and memory of every kind of step."""
    parser = ArgumentParser(description="Steps of the unified supernet, ours and plain.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="8 images and 2 rounds, for trying")
    parser.add_argument("--generator", nargs=2, type=Path, metavar=("WEIGHTS", "PRIOR"))
    parser.add_argument("--serve", nargs=2, metavar=("STEP", "WHOSE"), help=SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    batch = 8 if arguments.small else 64
    rounds = 2 if arguments.small else arguments.rounds
    if arguments.serve:
        _serve(*arguments.serve, batch)
        return
    _print_machine(batch)
    rows = []
    for step, kinds in STEPS.items():
        servers = {whose: _Server(step, whose, small=arguments.small) for whose in kinds}
        for _ in range(rounds):
            for server in servers.values():
                server.take_step()
        ours = float(np.median(servers["ours"].times_s))
        for whose, server in servers.items():
            low, median, high = np.quantile(server.times_s, (0.25, 0.5, 0.75))
            spread = f"{low:.3f} - {high:.3f}"
            peak = f"{server.close():.0f}"
            rows.append((step, whose, f"{median:.3f}", spread, f"{median / ours:.2f}", peak))
    print_table(("step", "whose", "median s", "quartiles s", "x ours", "peak MiB"), rows)
    if arguments.generator:
        _print_generator(*arguments.generator, rounds=10 * rounds)


class _Server:
    """A process that takes steps of one kind, each when it is told to."""

    def __init__(self, step: str, whose: str, *, small: bool) -> None:
        command = [sys.executable, __file__, "--serve", step, whose] + ["--small"] * small
        self.times_s: list[float] = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ask("ready")  # has warmed up

    def take_step(self) -> None:
        self.times_s.append(self._ask("step"))

    def close(self) -> float:
        """End the process; return the memory it took at most, in MiB."""
        peak = self._ask("peak")
        self._process.communicate()
        return peak

    def _ask(self, what: str) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def _serve(step: str, whose: str, batch: int) -> None:
    if whose == "ours":
        keep_freed_memory()
    space = make_space("sgnas", SIZE, CLASSES)
    _load_libraries()
    idle = _status_mib("VmRSS")
    take = _step(step, whose, space, batch)
    for _ in range(WARM_UP):
        take()
    for line in sys.stdin:
        begin = perf_counter()
        if line.strip() == "step":
            take()
        took = perf_counter() - begin
        print(_status_mib("VmHWM") - idle if line.strip() == "peak" else took, flush=True)


def _print_generator(weights: Path, prior: Path, *, rounds: int) -> None:
    generator = import_generator(weights, prior)
    label = generator.label
    space = labelled_space(label.space)
    costs = count_costs(space, "macs")
    requests = [
        Request((PlaneLimit(costs, float(budget)),))
        for budget in np.linspace(label.low, label.high, BUDGETS)
    ]
    times_ms: dict[str, list[float]] = {"in one batch": [], "one by one": []}
    for _ in range(rounds):
        for how, batches in (
            ("in one batch", [requests]),
            ("one by one", [[request] for request in requests]),
        ):
            begin = perf_counter()
            for batch in batches:
                raw_answers(generator, space, batch)
            times_ms[how].append((perf_counter() - begin) * 1e3)
    rows = []
    for how, values in times_ms.items():
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        rows.append((how, f"{median:.1f}", f"{low:.1f} - {high:.1f}"))
    print_table((f"{BUDGETS} budgets", "median ms", "quartiles ms"), rows)


def _print_machine(batch: int) -> None:
    environment = current_environment({"torch": torch.__version__})
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"1 thread, batch {batch}, {SIZE} px, {CLASSES} classes",
            "",
        ]
    )


def _load_libraries() -> None:
    """What torch loads at a first step is no memory of the step."""
    weight = torch.zeros(3, 3, 1, 1, requires_grad=True)
    F.conv2d(torch.zeros(1, 3, 4, 4), weight).sum().backward()
    torch.optim.SGD([weight], lr=0.1).step()


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _step(step: str, whose: str, space: SearchSpace, batch: int) -> Callable[[], object]:
    """One kind of step; the same images, paths and noise whosever it is."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, SIZE, SIZE)
    labels = torch.randint(CLASSES, (batch,))
    layers = len(space.layers)
    model: UnifiedSupernet | PlainSupernet
    if whose == "ours":
        model = UnifiedSupernet(space, seed=0).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        model = PlainSupernet(space)
    if step == "supernet step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.064, momentum=0.9, weight_decay=4e-4)
        drawn = FairPaths(layers, np.random.default_rng(0))
        take = supernet_step if isinstance(model, UnifiedSupernet) else plain_step
        criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        return lambda: take(model, optimizer, images, labels, drawn.step(), criterion=criterion)  # type: ignore[arg-type]
    model.eval().requires_grad_(whose == "plain, collecting")
    logits = torch.zeros(layers, SUB_BLOCKS, SKIP + 1, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=1e-3, betas=(0.5, 0.999))
    noise = torch.Generator().manual_seed(0)

    def architecture_step() -> None:
        gumbel = -torch.empty(logits.shape).exponential_(generator=noise).log()
        probabilities = ((logits + gumbel) / TAU).softmax(-1)
        adam.zero_grad()
        F.cross_entropy(model(images, probabilities), labels).backward()
        adam.step()

    return architecture_step


def plain_step(
    supernet: PlainSupernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: Paths,
    *,
    criterion: nn.Module,
) -> None:
    """Gradients of the paths, summed, and one update."""
    optimizer.zero_grad()
    for path in paths:
        criterion(supernet(images, path), labels).backward()
    optimizer.step()


class PlainSupernet(nn.Module):
    """The unified supernet as one would write it first."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        layers = [layer for layer in space.layers if isinstance(layer, MixLayer)]
        first = layers[0]
        stride = SIZE // first.input_size
        self.stem = nn.Sequential(
            *_conv(3, 32, 3, stride=stride),
            *_conv(32, 32, 3, groups=32),
            nn.Conv2d(32, first.in_channels, 1, bias=False),
            nn.BatchNorm2d(first.in_channels),
        )
        self.layers = nn.ModuleList(PlainBlock(layer) for layer in layers)
        self.tail = nn.Sequential(
            *_conv(layers[-1].out_channels, 1280, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(1280, space.classes),
        )

    def forward(self, images: Tensor, choices: list[list[int]] | Tensor) -> Tensor:
        """``(N, 3, S, S)`` to logits ``(N, classes)``."""
        x = self.stem(images)
        for layer, chosen in zip(self.layers, choices, strict=True):
            x = layer(x, chosen)
        logits: Tensor = self.tail(x)
        return logits


class PlainBlock(nn.Module):
    """Six sub-blocks of four modules each."""

    def __init__(self, layer: MixLayer) -> None:
        super().__init__()
        channels = layer.in_channels
        wide = SUB_BLOCKS * channels
        self.residual = layer.stride == 1 and channels == layer.out_channels
        self.expand = nn.Sequential(*_conv(channels, wide, 1))
        self.sub_blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    *(
                        nn.Sequential(
                            *_conv(channels, channels, k, stride=layer.stride, groups=channels)
                        )
                        for k in KERNELS
                    ),
                    nn.Conv2d(channels, channels, 1, layer.stride, bias=False),
                ]
            )
            for _ in range(SUB_BLOCKS)
        )
        self.project = nn.Conv2d(wide, layer.out_channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.out_channels) for _ in range(SUB_BLOCKS))

    def forward(self, x: Tensor, choices: list[int] | Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        slices = self.expand(x).chunk(SUB_BLOCKS, dim=1)
        if isinstance(choices, Tensor):
            skips = round(sum(row[SKIP].item() for row in choices))
            outputs = [
                sum(
                    op(part) * (p if c != SKIP else 0)
                    for c, (op, p) in enumerate(zip(ops, row, strict=True))  # type: ignore[call-overload]
                    if p > THRESHOLD
                )
                for part, ops, row in zip(slices, self.sub_blocks, choices, strict=True)
            ]
        else:
            skips = choices.count(SKIP)
            outputs = [
                ops[c](part) * 0 if c == SKIP else ops[c](part)  # type: ignore[index]
                for part, ops, c in zip(slices, self.sub_blocks, choices, strict=True)
            ]
        y = self.norms[skips](self.project(torch.cat(outputs, dim=1)))
        return y + x if self.residual else y


def _conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


if __name__ == "__main__":
    main()
