"""Pruning to a latency against Torch-Pruning's uniform ratio, at equal measured latency.

    python benchmarks/prune.py -o RUN --hours 2 [--network mobilenet_v2] [--share 0.6]
        [--data fashion-mnist] [--images 20000] [--input-size 32] [--seeds 3] [--epochs 6]
        [--fine-tuning 3] [--device cpu-onnxruntime] [--time-limit 5min]

For each seed a torchvision network is trained on the data. It is then pruned to a share of its
latency, once by `nas.prune`, once with one ratio for all layers and widths that are multiples of 8,
the smallest ratio that meets the same latency as measured. Both are fine-tuned in the same way.
Results stay in RUN; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from cells import Clock, Progress, chosen, heading, parser, results, run_cells, shown
from safetensors.torch import load_file
from torch import nn

import nas
from latbench.device_files import load_device
from latbench.files import write_atomically
from latbench.models.torch_modules import read_module
from latbench.profilers import make_profiler
from latbench.report.terminal import print_lines, print_table
from latbench.units import format_span_ms
from nas.data import load_data
from nas.data.images import ImageData
from nas.pruning.measured_choice import bench_apart
from nas.training import module_training
from nas.training.criterion import criterion_of
from nas.training.module_training import Distillation, TrainingState
from nas.training.recipe import FineTuningRecipe, NetworkRecipe, TrainingRecipe
from nas.training.run_folder import RunFolder

HALVINGS = 6


def main() -> None:
    """Do what is missing, and print all that is there."""
    asked = _arguments()
    data = load_data(
        asked.data, input_size=asked.input_size, classes=asked.classes, images=asked.images
    )
    job = _Job(asked, data)
    seeds = range(asked.seeds)
    cells = [(name, seed) for seed in seeds for name in ("trained", "ours", "uniform")]
    of_data = ("data", "classes", "images", "input_size")
    settings = chosen(asked, *of_data, "network", "share", "epochs", "fine_tuning", "device")
    run_cells(asked.output, cells, job.do, Clock(asked.hours), settings=settings)
    versions = make_profiler(load_device(asked.device)).versions()
    versions |= {"torch": torch.__version__, "torch-pruning": torch_pruning.__version__}
    print_lines(heading(versions))
    _show(asked.output)


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__, one_target=False)
    arguments.add_argument("--network", default="mobilenet_v2")
    arguments.add_argument("--share", type=float, default=0.6)
    arguments.add_argument("--data", default="fashion-mnist")
    arguments.add_argument("--classes", type=int, default=10)
    arguments.add_argument("--images", type=int, default=20_000)
    arguments.add_argument("--input-size", type=int, default=32)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--fine-tuning", type=int, default=3)
    arguments.add_argument("--device", default="cpu-onnxruntime")
    arguments.add_argument("--time-limit", default="5min")
    return arguments.parse_args()


class _Job:
    """The cells of one network."""

    def __init__(self, asked: argparse.Namespace, data: ImageData) -> None:
        self.asked, self.data = asked, data
        self.device = load_device(asked.device)
        self.example = torch.rand(1, 3, asked.input_size, asked.input_size)

    def do(self, name: str, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        """One cell."""
        if name == "trained":
            recipe = TrainingRecipe(
                epochs=self.asked.epochs, batch_size=128, lr_per_256=0.2, shift=2, seed=seed
            )
            metrics = self._train(self._fresh(seed), recipe, run, None, progress)
            return {"metrics": metrics}
        trained = self._fresh(seed)
        trained.load_state_dict(load_file(self._run("trained", seed) / module_training.WEIGHTS))
        return getattr(self, f"_{name}")(trained.eval(), seed, run, progress)

    def _run(self, name: str, seed: int) -> Path:
        return Path(self.asked.output / "runs" / f"{name}-{seed}")

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return torchvision.models.get_model(
            self.asked.network, weights=None, num_classes=self.asked.classes
        )

    def _train(
        self,
        module: nn.Module,
        recipe: NetworkRecipe,
        run: Path,
        distillation: Distillation | None,
        progress: Progress,
    ) -> dict[str, float]:
        criterion = criterion_of(self.data, self.asked.classes, recipe, default="scratch")
        module = module.to(memory_format=torch.channels_last)
        state = TrainingState(module, criterion, recipe, distillation=distillation)
        folder = RunFolder(run, {"seed": recipe.seed, "epochs": recipe.epochs})
        return module_training.train(state, self.data, recipe, folder, progress=progress)

    def _recipe(self, seed: int) -> FineTuningRecipe:
        return FineTuningRecipe(epochs=self.asked.fine_tuning, batch_size=128, shift=2, seed=seed)

    def _target_ms(self, trained: nn.Module, progress: Progress) -> float:
        """The share of the whole network's latency, measured once and then kept."""
        file = self.asked.output / "target.txt"
        if not file.exists():
            whole = read_module(trained, self.example)
            found = bench_apart([whole, whole], self.device, progress)
            write_atomically(file, f"{self.asked.share * found.rows[0].latency_ms}\n")
        return float(file.read_text())

    def _ours(self, trained: nn.Module, seed: int, run: Path, progress: Progress) -> dict[str, Any]:
        target_ms = self._target_ms(trained, progress)
        recipe = self._recipe(seed)
        found = nas.prune(
            trained,
            self.data,
            target=target_ms,
            table=self.asked.output / "widths.sqlite",
            output=run,
            device=self.device,
            input_size=self.asked.input_size,
            time_limit=self.asked.time_limit,
            settings=[f"shift={recipe.shift}"],
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            seed=seed,
            progress=progress,
        )
        return found.as_dict()

    def _uniform(
        self, trained: nn.Module, seed: int, run: Path, progress: Progress
    ) -> dict[str, Any]:
        ratio = self._ratio(trained, progress)
        pruned = self._with_ratio(trained, ratio)
        whole, own = (read_module(each, self.example) for each in (trained, pruned))
        found = bench_apart([whole, own], self.device, progress)
        recipe = self._recipe(seed)
        teacher = copy.deepcopy(trained).requires_grad_(False)
        learnt = Distillation(teacher, recipe.distillation, recipe.temperature)
        metrics = self._train(pruned, recipe, run, learnt, progress)
        row = found.rows[1]
        return {
            "pruning_ratio": ratio,
            "measured_ms": row.latency_ms,
            "measured_low_ms": row.low_ms,
            "measured_high_ms": row.high_ms,
            "ratio": row.ratio,
            "metrics": metrics,
        }

    def _ratio(self, trained: nn.Module, progress: Progress) -> float:
        """The smallest ratio whose network meets the target as measured; the same for all seeds."""
        file = self.asked.output / "ratio.txt"
        if not file.exists():
            target_ms = self._target_ms(trained, progress)
            whole = read_module(trained, self.example)
            low, high = 0.0, 1.0
            for _ in range(HALVINGS):
                ratio = (low + high) / 2
                own = read_module(self._with_ratio(trained, ratio), self.example)
                row = bench_apart([whole, own], self.device, progress).rows[1]
                low, high = (low, ratio) if row.high_ms <= target_ms else (ratio, high)
            write_atomically(file, f"{high}\n")
        return float(file.read_text())

    def _with_ratio(self, trained: nn.Module, ratio: float) -> nn.Module:
        module = copy.deepcopy(trained)
        outputs = [
            each
            for each in module.modules()
            if isinstance(each, nn.Linear) and each.out_features == self.asked.classes
        ]
        torch_pruning.pruner.BasePruner(
            module,
            self.example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            round_to=8,
            ignored_layers=outputs,
        ).step()
        return module


def _show(folder: Path) -> None:
    rows = []
    for name in ("trained", "ours", "uniform"):
        found = results(folder, name)
        if not found:
            continue
        top1 = [each["metrics"]["top1"] for each in found.values()]
        measured = [each["measured_ms"] for each in found.values() if "measured_ms" in each]
        latency = format_span_ms(min(measured), max(measured)) if measured else ""
        each = " ".join(f"{value:.1%}" for value in top1)
        rows.append((name, str(len(found)), latency, shown(top1, ".2%"), each))
    print_table(("network", "seeds", "latency", "top-1", "each seed"), rows)
    ours, uniform = (results(folder, name) for name in ("ours", "uniform"))
    both = sorted(ours.keys() & uniform.keys())
    gains = [ours[s]["metrics"]["top1"] - uniform[s]["metrics"]["top1"] for s in both]
    if gains:
        print_lines([f"ours - uniform: {shown(gains, '.2%')} over {len(both)} seeds"])


if __name__ == "__main__":
    main()
