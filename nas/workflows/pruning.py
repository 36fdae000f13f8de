"""A trained torch module brought to a latency: channels removed, fine-tuned, exported, measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latbench.device_files import AnyDevice
from latbench.models import OnnxModel
from latbench.models.channels.groups import find_channels
from latbench.models.segments import cut
from latbench.models.torch_modules import export_module, read_module
from latbench.profilers import Profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.units import as_duration_s, as_latency_ms
from latbench.workflows.bench import Bench
from latbench.workflows.model_tables import model_label
from nas.data.images import ImageData, batches, generator
from nas.pruning.choice import PricedWidths
from nas.pruning.classifiers import output_count, weights_digest
from nas.pruning.groups import PrunableModule
from nas.pruning.measured_choice import bench_apart, meet_target
from nas.pruning.priced_module import price_widths
from nas.pruning.rounds import Round, best_round, rounds_file
from nas.recipes import load_recipe
from nas.training import module_training
from nas.training.criterion import check_batches, criterion_of
from nas.training.module_training import Distillation, TrainingState
from nas.training.recipe import FineTuningRecipe
from nas.training.run_folder import RunFolder, require_own_folder
from nas.training.torch_device import TorchDevice
from nas.workflows.data import AnyData, data_identity, fitting_data
from nas.workflows.inputs import as_profiler, as_torch_device
from nas.workflows.runs import run_folder

MODEL = "model.onnx"
"""File of the exported network in the folder of a pruning."""

_BATCHES, _BATCH = 32, 32  # images that importances are estimated on
_CHOSEN_S, _FINISHED_S = 150.0, 300.0  # expected times on a small data set


@dataclass(frozen=True, repr=False)
class PrunedNetwork(Result):
    """A network that was pruned to a latency and fine-tuned.

    Attributes:
        target_ms: Latency not to exceed.
        measured: Predicted and measured latencies, and the removed channels.
        status: ``met`` if the upper end of the 95 % interval of the pruned network's latency is at
            most the target, otherwise ``missed``.
        rounds: Number of pruned networks that were measured.
        widths: Channels before and after, by the name of the first layer that makes them.
        metrics_before: Test metrics of the original, such as ``top1``; fractions.
        metrics: Test metrics of the pruned network after its fine-tuning.
        output: Folder of the run.
    """

    target_ms: float
    measured: Round
    status: Literal["met", "missed"]
    rounds: int
    widths: Mapping[str, tuple[int, int]]
    metrics_before: Mapping[str, float]
    metrics: Mapping[str, float]
    output: Path

    @property
    def path(self) -> Path:
        """File of the exported network."""
        return self.output / MODEL

    def as_dict(self) -> dict[str, Any]:
        """The latencies, widths and metrics as plain JSON values."""
        found = self.measured
        ratio, ratio_low, ratio_high = found.ratio
        return {
            "target_ms": self.target_ms,
            "predicted_ms": found.predicted_ms,
            "measured_ms": found.measured.estimate_ms,
            "measured_low_ms": found.measured.low_ms,
            "measured_high_ms": found.measured.high_ms,
            "status": self.status,
            "rounds": self.rounds,
            "original_ms": found.original.estimate_ms,
            "ratio": ratio,
            "ratio_low": ratio_low,
            "ratio_high": ratio_high,
            "widths": {name: list(widths) for name, widths in self.widths.items()},
            "metrics_before": dict(self.metrics_before),
            "metrics": dict(self.metrics),
            "path": str(self.path),
        }


# long because it describes every argument of a pruning
def prune(
    module: nn.Module,
    data: AnyData,
    *,
    target: str | float,
    table: str | Path,
    output: str | Path,
    device: AnyDevice = "cpu-onnxruntime",
    input_size: int = 224,
    time_limit: str | float = "10min",
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    images: int | None = None,
    torch_device: str | TorchDevice = "auto",
    progress: Progress = silent,
) -> PrunedNetwork:
    """Remove channels of a trained network until it meets a latency, and fine-tune it.

    The network's segments are measured at several widths first, into the table. The widths that
    lose least importance under the target are then chosen exactly, and the network with them is
    measured; if it misses the target, the aim is corrected and widths are chosen again. The same
    call resumes an interrupted one. See docs/pruning.md.

    Args:
        module: A trained module that takes images ``(N, 3, S, S)`` and gives logits; it is not
            changed.
        data: A data set, or its name.
        target: Latency not to exceed, such as ``"8ms"``, or in ms.
        table: Path of the table of the network's widths, new or to go on with. It serves every
            target.
        output: Folder of the run, new or to resume.
        device: A device profile, its name or its path.
        input_size: Side of the images in pixels.
        time_limit: Wall time of the profiling of widths, such as ``"10min"``, or in seconds.
        recipe: Name of a shipped recipe or path of a TOML file; None uses the defaults of
            ``nas.training.recipe.FineTuningRecipe``.
        settings: Single settings of the recipe, such as ``["distillation=0"]``.
        epochs: Number of epochs; None keeps the recipe's.
        batch_size: Images a step; None keeps the recipe's.
        seed: Seed of the order of images; None keeps the recipe's.
        data_dir: Folder of a named data set's files.
        images: Number of training images to draw; None takes all.
        torch_device: Device of the training: ``auto`` (the CUDA GPU if there is one, else the CPU),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        progress: Callback with the fraction done and a short description.

    Raises:
        BudgetError: The target is below the narrowest network, or above the whole one.
        InvalidValueError: The module cannot be exported, or has no channels to remove.
        MismatchError: The folder holds another run, the table is of another network, or the data
            set has another number of classes.
        DeviceBusyError: Another process measures on the device.
        DivergedError: The loss or a weight is not finite.
    """
    chosen = load_recipe(
        FineTuningRecipe, recipe, settings, epochs=epochs, batch_size=batch_size, seed=seed
    )
    profiler, trains_on = as_profiler(device), as_torch_device(torch_device)
    trains_on.at(chosen.precision)
    original = copy.deepcopy(module).cpu().eval()
    example = torch.rand(profiler.profile.batch_size, 3, input_size, input_size)
    loaded = _data(data, original, example, data_dir=data_dir, images=images)
    check_batches(chosen, parts=[loaded.train])
    limit_s = as_duration_s(time_limit)
    parts = [
        Phase("measure widths", seconds=limit_s),
        Phase("choose widths", seconds=_CHOSEN_S),
        Phase("fine-tune", seconds=_FINISHED_S),
    ]
    with Phases(progress, parts) as phases:
        phases["measure widths"](0.0, "following the channels")
        target_ms = as_latency_ms(target)
        job = _Pruning(original, example, loaded, chosen, profiler, trains_on, target_ms)
        require_own_folder(Path(output), job.config())  # before minutes of measurements
        priced = price_widths(
            job.prunable,
            job.model,
            profiler,
            Path(table),
            limit_s=limit_s,
            progress=phases["measure widths"],
        )
        priced.check_target(job.target_ms)  # a target that cannot be met leaves no folder
        folder = run_folder(output, job.config())
        rounds = job.choose(priced, folder, phases["choose widths"])
        kept = "its measurements and finished epochs are kept"
        with trains_on.guarded(work="the fine-tuning", kept=kept):
            return job.finish(rounds, folder, phases["fine-tune"])


class _Pruning:
    """A network, the data, the device and the target of a pruning."""

    def __init__(
        self,
        original: nn.Module,
        example: Tensor,
        data: ImageData,
        recipe: FineTuningRecipe,
        profiler: Profiler,
        torch_device: TorchDevice,
        target_ms: float,
    ) -> None:
        self.original, self.example, self.data = original, example, data
        self.recipe, self.profiler, self.torch_device = recipe, profiler, torch_device
        self.target_ms = target_ms
        self.criterion = criterion_of(
            data, output_count(original, example), recipe, seed=recipe.seed, default="scratch"
        )
        self.model: OnnxModel = read_module(original, example)
        self.prunable = PrunableModule(original, example, find_channels(self.model))

    def config(self) -> dict[str, Any]:
        """Everything that the result depends on."""
        return {
            "command": "prune",
            "network": weights_digest(self.original),
            "segments": model_label(cut(self.model)).name,
            "input_size": self.example.shape[-1],
            "device": self.profiler.profile.name,
            "target_ms": self.target_ms,
            **data_identity(self.data),
            "recipe": self.recipe,
        }

    def choose(self, priced: PricedWidths, folder: RunFolder, progress: Progress) -> list[Round]:
        """Rounds of the choice of widths."""
        progress(0.0, "estimating the importance of channels")
        return meet_target(
            self.prunable,
            priced,
            self.prunable.importances(self._losses()),
            self.target_ms,
            self._measure,
            file=rounds_file(folder.path),
            progress=progress,
        )

    def _losses(self) -> Iterator[Tensor]:
        """Losses of some batches of training images, without random changes."""
        drawn = batches(self.data.train.plain(), _BATCH, generator(self.recipe.seed))
        for _, (raw, labels) in zip(range(_BATCHES), drawn, strict=False):
            loss: Tensor = self.criterion(self.prunable.module(self.data.to_input(raw)), labels)
            yield loss

    def _measure(self, module: nn.Module, progress: Progress) -> Bench:
        pruned = read_module(module, self.example)
        return bench_apart([self.model, pruned], self.profiler.profile, progress)

    def finish(
        self, rounds: Sequence[Round], folder: RunFolder, progress: Progress
    ) -> PrunedNetwork:
        """Fine-tune the network of the best round, test it and export it."""
        best = best_round(rounds, self.target_ms)
        groups = {group.name: group for group in self.prunable.groups}
        removed = {groups[name]: channels for name, channels in best.removed.items()}
        pruned = self.prunable.pruned(removed).to(memory_format=torch.channels_last)
        state = TrainingState(
            pruned, self.criterion, self.recipe, self.torch_device, self._distillation()
        )
        data = self.data.to(self.torch_device.device)
        parts = [Phase("test the original"), Phase("train", share=30.0), Phase("export", share=0.5)]
        with Phases(progress, parts) as phases:
            testing, training = phases["test the original"], phases["train"]
            testing(0.0, "reading the images")
            original = self.torch_device.place(self.original)
            before = module_training.test(original, data, progress=testing)
            metrics = module_training.train(state, data, self.recipe, folder, progress=training)
            phases["export"](0.0, "exporting")
            export_module(state.result.cpu(), self.example, folder.path / MODEL)
        return PrunedNetwork(
            self.target_ms,
            best,
            best.status(self.target_ms),
            len(rounds),
            {
                group.name: (group.width, group.width - len(channels))
                for group, channels in removed.items()
            },
            before,
            metrics,
            folder.path,
        )

    def _distillation(self) -> Distillation | None:
        if not self.recipe.distillation:
            return None
        teacher = copy.deepcopy(self.original).requires_grad_(False)
        placed = self.torch_device.place(teacher)
        return Distillation(placed, self.recipe.distillation, self.recipe.temperature)


def _data(
    data: AnyData,
    module: nn.Module,
    example: Tensor,
    *,
    data_dir: str | Path | None,
    images: int | None,
) -> ImageData:
    """The data set for a module's images and outputs.

    Raises:
        MismatchError: It has another number of classes, or images of another size.
    """
    return fitting_data(
        data,
        input_size=example.shape[-1],
        classes=output_count(module, example),
        data_dir=data_dir,
        images=images,
    )
