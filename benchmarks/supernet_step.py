"""What a step of a TF-NAS search takes, beside a plain implementation in the same run.

    python benchmarks/supernet_step.py [--steps N] [--set KEY=VALUE ...]

A bi-sampled weight step and an architecture step at 32 px with the strides of 224 px, batch 32, 100
classes, one thread; so many steps of each, interleaved, either side in a process of its own.
Settings are those of the TF-NAS recipe, such as ``autocast=true``. What the plain side does is in
``tfnas_sides.py``.
"""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser

import numpy as np
import torch
from sides import Side, serve
from tfnas_sides import Shape, our_steps, plain_steps

from latbench.environment import current_environment
from latbench.report.terminal import print_lines, print_table
from latbench.workflows.footprint import peak_bytes
from nas.recipes import load_recipe
from nas.searchers.tfnas.searcher import TFNASRecipe

SHAPE = Shape(input_size=32, batch_size=32)
WARMUP_STEPS = 3
STEPS, WIDTHS = ("weight", "architecture"), "widths"
KINDS = (*STEPS, WIDTHS)
SIDES = ("plain", "ours")


def main() -> None:
    """Compare the two sides, or be one of them."""
    parser = ArgumentParser(description="A step of a TF-NAS search, ours and plain.")
    parser.add_argument("--steps", type=int, default=30, help="of each kind (default 30)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--side", choices=SIDES, help=SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        _serve(asked.side, asked.settings)
        return
    command = [sys.executable, __file__, *(f"--set={each}" for each in asked.settings), "--side"]
    children = {side: Side([*command, side]) for side in SIDES}
    times: dict[tuple[str, str], list[float]] = {}
    for step in range(WARMUP_STEPS + asked.steps):
        for side in SIDES if step % 2 else SIDES[::-1]:
            for kind in STEPS:
                taken_ms = children[side].ask(kind)
                if step >= WARMUP_STEPS:
                    times.setdefault((kind, side), []).append(taken_ms)
    for _ in range(asked.steps):  # behind the steps: they change the widths of our side
        times.setdefault((WIDTHS, "ours"), []).append(children["ours"].ask(WIDTHS))
    memory_mb = {side: child.ask("memory") for side, child in children.items()}
    for child in children.values():
        child.close()
    environment = current_environment({"torch": torch.__version__})
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"command: python benchmarks/supernet_step.py {' '.join(sys.argv[1:])}",
            f"tfnas at {SHAPE.input_size} px, stem stride {SHAPE.stem_stride}, "
            f"{SHAPE.classes} classes, batch {SHAPE.batch_size}, 1 thread",
            "",
        ]
    )
    print_table(
        ("step", "side", "times", "median", "p10", "p90", "plain / ours"),
        [_row(kind, side, times) for kind in KINDS for side in SIDES if (kind, side) in times],
    )
    print_lines(
        [
            "",
            *(f"peak resident memory, {side}: {memory_mb[side]:.0f} MB" for side in SIDES),
            "wanted: plain / ours at least 2 for both steps, no more memory, widths below 50 ms",
        ]
    )


def _row(kind: str, side: str, times: dict[tuple[str, str], list[float]]) -> tuple[str, ...]:
    taken = times[kind, side]
    low, middle, high = np.quantile(taken, (0.1, 0.5, 0.9))
    ratio = ""
    if side == "ours" and (kind, "plain") in times:
        ratio = f"{np.median(times[kind, 'plain']) / middle:.2f}"
    ms = (f"{value:.1f} ms" for value in (middle, low, high))
    return (kind, side, str(len(taken)), *ms, ratio)


def _serve(side: str, settings: list[str]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if side == "ours":
        steps = our_steps(SHAPE, load_recipe(TFNASRecipe, None, settings))
    else:
        steps = plain_steps(SHAPE)
    serve(steps, {"memory": _peak_mb})


def _peak_mb() -> float:
    return peak_bytes() / 1e6


if __name__ == "__main__":
    main()
