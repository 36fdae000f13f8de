"""What a step of a TF-NAS search takes, beside a plain implementation in the same run.

    python benchmarks/supernet_step.py [--steps N] [--set KEY=VALUE ...]

A bi-sampled weight step and an architecture step at 32 px with the strides of 224 px, batch 32, 100
classes, one thread; so many steps of each, interleaved, either side in a process of its own.
Settings are those of the TF-NAS recipe, such as ``autocast=true``. The plain side does what the
published code does: eager, NCHW, all eight operations of a layer as separate modules, gradients
of all weights in every backward pass. Prices are made up, the arithmetic with them is not.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import BlockSpec
from latbench.blocks.graph import Norm
from latbench.cost import block_cost
from latbench.environment import current_environment
from latbench.render.torch import Modules, render_torch
from latbench.report.terminal import print_lines, print_table
from latbench.tables import LatencyTable, Origin
from latbench.tables.foreign import import_table
from latbench.tables.importers import ForeignEntry, ForeignTable
from nas.data.images import generator
from nas.priced import PricedSpace, space_label
from nas.recipes import load_recipe
from nas.searchers.base import SearchSettings
from nas.searchers.choices import gumbel
from nas.searchers.tfnas import TFNASRecipe, TFNASSearcher
from nas.spaces import Choice, SearchSpace
from nas.spaces.tfnas import tfnas_strided
from nas.training.memory import keep_freed_memory

INPUT_SIZE, CLASSES, BATCH = 32, 100, 32
TAU = 1.0
WARMUP_STEPS = 3
KINDS = ("weight", "architecture", "widths")
SIDES = ("plain", "ours")
NEEDED = {"weight": "2 x", "architecture": "2 x", "widths": "50 ms"}


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
    children = {side: _Child(side, asked.settings) for side in SIDES}
    times: dict[tuple[str, str], list[float]] = {}
    for step in range(WARMUP_STEPS + asked.steps):
        for side in SIDES if step % 2 else SIDES[::-1]:
            for kind in KINDS:
                if kind == "widths" and side == "plain":
                    continue
                taken_ms = children[side].ask(kind)
                if step >= WARMUP_STEPS:
                    times.setdefault((kind, side), []).append(taken_ms)
    memory_mb = {side: child.ask("memory") for side, child in children.items()}
    for child in children.values():
        child.close()
    environment = current_environment({"torch": torch.__version__})
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"command: python benchmarks/supernet_step.py {' '.join(sys.argv[1:])}",
            f"tfnas at {INPUT_SIZE} px, stem stride 2, {CLASSES} classes, batch {BATCH}, 1 thread",
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


class _Child:
    """One side in a process of its own, which does one step at a time."""

    def __init__(self, side: str, settings: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", side, *(f"--set={each}" for each in settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _serve(side: str, settings: list[str]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    steps = _ours(settings) if side == "ours" else _plain()
    for line in sys.stdin:
        kind = line.strip()
        if kind == "memory":
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, flush=True)
            continue
        gc.disable()
        begin = perf_counter()
        steps[kind]()
        taken_ms = (perf_counter() - begin) * 1e3
        gc.enable()
        print(taken_ms, flush=True)


def _space() -> SearchSpace:
    return tfnas_strided(INPUT_SIZE, CLASSES, stem_stride=2)


def _batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, INPUT_SIZE, INPUT_SIZE)
    return images, torch.randint(CLASSES, (BATCH,))


def _price_ms(spec: BlockSpec) -> float:
    return 0.02 + block_cost(spec).macs * 1e-7


def _priced(space: SearchSpace, folder: Path) -> PricedSpace:
    blocks = space.blocks()
    entries = tuple(ForeignEntry("", None, spec, _price_ms(spec)) for spec in blocks)
    table = ForeignTable(entries, 0.2, space_label(space), 0)
    path = folder / "prices.sqlite"
    import_table(table, path, origin=Origin("tfnas", "", 0, 0, 0, ()), device="made up")
    return PricedSpace(space, LatencyTable.open(path))


def _ours(settings: list[str]) -> dict[str, Callable[[], object]]:
    keep_freed_memory()
    recipe = load_recipe(TFNASRecipe, None, settings)
    with tempfile.TemporaryDirectory() as folder:
        priced = _priced(_space(), Path(folder))
        searcher = TFNASSearcher(priced, SearchSettings(recipe=recipe))
        low, high = priced.reachable_ms()
    target_ms = (low + high) / 2
    state = searcher.begin()
    images, labels = _batch()
    x = images.contiguous(memory_format=torch.channels_last)
    noise = generator(0)
    return {
        "weight": lambda: searcher.weight_step(state, x, labels, noise, TAU, both=True),
        "architecture": lambda: searcher.architecture_step(state, x, labels, noise, TAU, target_ms),
        "widths": lambda: searcher.scale(state, target_ms),
    }


def _norm(layer: Any) -> nn.Module:
    return nn.BatchNorm2d(layer.channels, affine=False, track_running_stats=False)


_MODULES: Modules = {Norm: _norm}  # all else as rendered


class _PlainLayer(nn.Module):
    """Eight operations as separate modules."""

    def __init__(self, space: SearchSpace, stage: int, index: int) -> None:
        super().__init__()
        layer = space.stages[stage][index]
        blocks = [layer.block(Choice(op, layer.start_width(op))) for op in layer.ops]
        self.ops = nn.ModuleList(render_torch(b, modules=_MODULES) for b in blocks if b is not None)
        self.prices_ms = [_price_ms(block) for block in blocks if block is not None]
        self.alpha = nn.Parameter(torch.zeros(len(blocks)))

    def soft(self, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        weights = gumbel(self.alpha, noise, TAU).softmax(0)
        y = sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))
        latency_ms = sum(w * p for w, p in zip(weights, self.prices_ms, strict=True))
        assert isinstance(y, Tensor) and isinstance(latency_ms, Tensor)
        return y, latency_ms


class _PlainNetwork(nn.Module):
    """The supernet of the published code in a page."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(render_torch(s, modules=_MODULES) for s in space.stem))
        self.stages = nn.ModuleList(
            nn.ModuleList(_PlainLayer(space, s, i) for i in range(len(layers)))
            for s, layers in enumerate(space.stages)
        )
        self.tail = nn.Sequential(*(render_torch(s, modules=_MODULES) for s in space.tail))
        self.betas = nn.ParameterList(torch.zeros(len(layers)) for layers in space.stages)

    def path(self, x: Tensor, pick: Callable[[_PlainLayer], int]) -> Tensor:
        x = self.stem(x)
        for stage, beta in zip(self.stages, self.betas, strict=True):
            outputs = []
            for layer in stage:  # type: ignore[union-attr]
                x = layer.ops[pick(layer)](x)
                outputs.append(x)
            x = sum(w * y for w, y in zip(beta.softmax(0), outputs, strict=True))
        return self.tail(x)

    def soft(self, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        x, latency_ms = self.stem(x), torch.zeros(())
        for stage, beta in zip(self.stages, self.betas, strict=True):
            outputs, so_far = [], torch.zeros(())
            weights = beta.softmax(0)
            for layer, weight in zip(stage, weights, strict=True):  # type: ignore[arg-type]
                x, layer_ms = layer.soft(x, noise)
                outputs.append(x)
                so_far = so_far + layer_ms
                latency_ms = latency_ms + weight * so_far
            x = sum(w * y for w, y in zip(weights, outputs, strict=True))
        return self.tail(x), latency_ms


def _plain() -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    network, noise = _PlainNetwork(_space()), generator(0)
    choices = [p for name, p in network.named_parameters() if "alpha" in name or "betas" in name]
    chosen = {id(parameter) for parameter in choices}
    weights = [p for p in network.parameters() if id(p) not in chosen]
    sgd = torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=1e-5)
    adam = torch.optim.Adam(choices, lr=0.01, betas=(0.5, 0.999), weight_decay=5e-4)
    images, labels = _batch()

    def weight_step() -> None:
        sgd.zero_grad()
        first: dict[_PlainLayer, int] = {}

        def one(layer: _PlainLayer) -> int:
            first[layer] = int(gumbel(layer.alpha.detach(), noise, TAU).argmax())
            return first[layer]

        def other(layer: _PlainLayer) -> int:
            drawn = int(torch.randint(len(layer.ops) - 1, (1,), generator=noise))
            return drawn + (drawn >= first[layer])

        loss = F.cross_entropy(network.path(images, one), labels)
        loss = loss + F.cross_entropy(network.path(images, other), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        sgd.step()

    def architecture_step() -> None:
        adam.zero_grad()
        logits, latency_ms = network.soft(images, noise)
        loss = F.cross_entropy(logits, labels) + 0.1 * (latency_ms / 5 - 1).abs()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        adam.step()
        with torch.no_grad():
            for parameter in choices:
                parameter.copy_(parameter.log_softmax(0))

    return {"weight": weight_step, "architecture": architecture_step}


if __name__ == "__main__":
    main()
