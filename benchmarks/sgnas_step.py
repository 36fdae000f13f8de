"""What a step of the unified supernet takes, beside a plain implementation of it.

    python benchmarks/sgnas_step.py [--rounds N] [--small] [--generator WEIGHTS.npz PRIOR.json]

At batch 64, 32 px and 100 classes on one thread, with the small-image form of the space. What the
steps are, and what the plain implementation does, is in ``sgnas_sides.py``.

Every kind has a process of its own (what ours asks of the C library would help the plain one as
well); steps are taken in turn, ``--rounds`` of each after warm-up. Memory is the highest resident
size of the process, less its size before the supernet is made. ``--small`` is for trying: 8
images and 2 rounds. ``--generator`` times published weights as well: 37 budgets
generated and decoded in one batch, and one by one.
"""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from sgnas_sides import STEPS, sgnas_step
from sides import Side, serve

from latbench.environment import current_environment
from latbench.report.terminal import print_lines, print_table
from nas.generator.answers import raw_answers
from nas.generator.expected_costs import count_costs
from nas.generator.generator import Request
from nas.generator.published import import_generator
from nas.generator.repair import PlaneLimit
from nas.latency.priced_space import labelled_space
from nas.spaces import make_space
from nas.training.memory import keep_freed_memory

SIZE, CLASSES = 32, 100
WARM_UP = 3
BUDGETS = 37  # of the published range in steps of 5 M


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
        small = ["--small"] * arguments.small
        command = [sys.executable, __file__, *small, "--serve", step]
        sides = {whose: Side([*command, whose]) for whose in kinds}
        for side in sides.values():
            side.ask("ready")  # has warmed up
        times_s: dict[str, list[float]] = {whose: [] for whose in kinds}
        for _ in range(rounds):
            for whose, side in sides.items():
                times_s[whose].append(side.ask("step") / 1e3)
        ours = float(np.median(times_s["ours"]))
        for whose, side in sides.items():
            low, median, high = np.quantile(times_s[whose], (0.25, 0.5, 0.75))
            spread = f"{low:.3f} - {high:.3f}"
            peak = f"{side.ask('peak'):.0f}"
            side.close()
            rows.append((step, whose, f"{median:.3f}", spread, f"{median / ours:.2f}", peak))
    print_table(("step", "whose", "median s", "quartiles s", "x ours", "peak MiB"), rows)
    if arguments.generator:
        _print_generator(*arguments.generator, rounds=10 * rounds)


def _serve(step: str, whose: str, batch: int) -> None:
    if whose == "ours":
        keep_freed_memory()
    _load_libraries()
    idle = _status_mib("VmRSS")
    take = sgnas_step(step, whose, make_space("sgnas", SIZE, CLASSES), batch)
    for _ in range(WARM_UP):
        take()
    serve({"step": take}, {"peak": lambda: _status_mib("VmHWM") - idle, "ready": float})


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


if __name__ == "__main__":
    main()
