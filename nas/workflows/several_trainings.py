"""Trainings of several architectures from scratch, one after the other or by a crew of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench.errors import InvalidValueError, LatbenchError, in_one_line
from latbench.json_lines import read_json_lines
from latbench.progress import Phase, Phases, PhaseText, Progress, silent
from latbench.result import Result
from nas.crew.base import CrewSettings, WorkersDiedError, make_crew, one_thread
from nas.data.images import ImageData
from nas.recipes import load_recipe, shipped_recipes
from nas.spaces import Architecture
from nas.training.distributed import process_count
from nas.training.recipe import TrainingRecipe
from nas.training.run_files import metrics_file
from nas.training.torch_device import TorchDevice
from nas.workflows.data import AnyData, as_data
from nas.workflows.inputs import AnyArchitecture, as_architecture, as_torch_device, repeated
from nas.workflows.training import train

_MOST = 0.99  # the end is said when all answers are there


@dataclass(frozen=True, repr=False)
class TrainingOutcome(Result):
    """What became of one of several trainings.

    Attributes:
        name: Name of the architecture.
        output: Folder of its run.
        metrics: Metrics of the data's task, such as ``top1``; fractions. None if it failed.
        error: Reason why it failed; None if it did not.
    """

    name: str
    output: Path
    metrics: dict[str, float] | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """Name, folder, error and the metrics as plain JSON values."""
        about = {"name": self.name, "output": str(self.output), "error": self.error}
        return about | (self.metrics or {})


# long because it describes every argument of a training
def train_several(
    architectures: Mapping[str, AnyArchitecture] | Sequence[str | Path],
    data: AnyData,
    *,
    output: str | Path,
    recipe: str | Path | None = None,
    settings: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    images: int | None = None,
    torch_device: str | TorchDevice = "auto",
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = silent,
) -> list[TrainingOutcome]:
    """Train several architectures from scratch; the failure of one leaves the others alone.

    The same call with the same output resumes what is not finished. Every run is one of
    ``nas.train``. Without workers, this process trains one network after the other with all its
    threads. Workers compute with one thread each, and their number changes no result.

    Args:
        architectures: Architectures or paths of their files by name; or only the paths, whose names
            are those of the files.
        data: A data set, or its name.
        output: Folder with a run for each name. With ``ray`` all nodes must see it at this path.
        recipe: Name of a shipped recipe or path of a TOML file; None uses the defaults of
            ``nas.training.recipe.TrainingRecipe``.
        settings: Single settings of the recipe, such as ``["lr_per_256=0.2"]``.
        epochs: Number of epochs; None keeps the recipe's.
        batch_size: Images a step; None keeps the recipe's.
        seed: Seed of weights and of the order of images; None keeps the recipe's.
        data_dir: Folder of a named data set's files.
        images: Number of training images to draw; None takes all.
        torch_device: Device of training and evaluation: ``auto`` (the CUDA GPU if there is
            one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Number of workers; None is this process, and with ``ray`` all processors of the
            cluster. On a GPU only the workers of a cluster train, each with a GPU of its own.
        ray: Address of a Ray cluster that has the workers; ``local`` starts one here, ``auto``
            finds the one that runs here. By default they are processes of this machine.
        progress: Callback with the fraction done and a short description.

    Returns:
        What became of each architecture, in the order of the request.

    Raises:
        LatbenchError: An architecture, the data or the recipe cannot be read.
        InvalidValueError: Two architectures have one name, a name cannot be that of a folder, or
            the workers cannot share the work.
        RuntimeFailure: Workers died one after the other, and no training was finished.
    """
    progress(0.0, PhaseText("reading the data", "train", 0.0, None))
    named = _named(architectures)
    crew = CrewSettings(workers, ray)
    if process_count() > 1:
        raise InvalidValueError(
            "the processes of torchrun train one network together: give one architecture, or use "
            "--workers instead of torchrun"
        )
    trains_on = str(torch_device) if ray and torch_device == "cuda" else _name_of(torch_device)
    if ray and torch_device == "auto":
        trains_on = trains_on.partition(":")[0]  # a cluster gives each worker its GPU
    on_gpu = trains_on.startswith("cuda")
    if ray and trains_on not in ("cpu", "cuda"):
        raise InvalidValueError(
            f"workers of a cluster get a GPU from it, or train on processors, not on {trains_on}: "
            "give --torch-device cuda or cpu"
        )
    crew.require_work(gpu=on_gpu)
    if recipe is not None and str(recipe) not in shipped_recipes(TrainingRecipe):
        recipe = Path(recipe).absolute() if Path(recipe).exists() else recipe
    data_dir = None if data_dir is None else Path(data_dir).absolute()  # for other nodes
    asked: dict[str, Any] = {"recipe": recipe, "settings": settings, "epochs": epochs}
    asked |= {"batch_size": batch_size, "seed": seed, "torch_device": trains_on}
    chosen = load_recipe(
        TrainingRecipe, recipe, settings, epochs=epochs, batch_size=batch_size, seed=seed
    )
    work = _Training(data, data_dir, images, asked)
    work.data_of(next(iter(named.values())))  # an error of the data is one of all trainings
    folder = Path(output).absolute()
    tasks = [_Task(name, each, folder / name) for name, each in named.items()]
    found: list[TrainingOutcome] = []
    if crew.is_alone:
        alike = one_thread() if crew.is_asked else nullcontext()
        with Phases(progress, [Phase(task.name) for task in tasks]) as phases, alike:
            found += (work(task, phases[task.name]) for task in tasks)
        return found
    beat = _Beat([task.output for task in tasks], chosen.epochs, progress)
    try:
        with make_crew(work, crew, at_once=len(tasks), gpu=on_gpu) as made:
            found.extend(made.map(tasks, beat=beat))
    except WorkersDiedError as error:
        if not error.found:
            raise
        lost = [TrainingOutcome(task.name, task.output, None, error.message) for task in tasks]
        found = [error.found.get(number, each) for number, each in enumerate(lost)]
    progress(1.0, "done")
    return found


def _name_of(torch_device: str | TorchDevice) -> str:
    """Name of the torch device."""
    return str(as_torch_device(torch_device).device)


def _named(
    architectures: Mapping[str, AnyArchitecture] | Sequence[str | Path],
) -> dict[str, Architecture]:
    """The architectures by name."""
    if not isinstance(architectures, Mapping):
        names = [Path(path).stem for path in architectures]
        twice = repeated(names)
        if twice:
            raise InvalidValueError(
                f"{', '.join(twice)} is given twice, and runs are named after the files of "
                "architectures: rename one, or train them into different folders"
            )
        architectures = dict(zip(names, architectures, strict=True))
    if not architectures:
        raise InvalidValueError("give one architecture or more")
    for name in architectures:
        if name in ("", ".", "..") or set(name) & {"/", "\\"}:
            raise InvalidValueError(
                f"{name!r} cannot name an architecture, because its run is a folder of this name: "
                "choose a name without slashes"
            )
    return {name: as_architecture(each)[0] for name, each in architectures.items()}


@dataclass(frozen=True)
class _Task:
    """One training that a worker is asked for."""

    name: str
    architecture: Architecture
    output: Path


class _Training:
    """The function of a worker: it trains, and keeps the data for the next network."""

    def __init__(
        self,
        data: AnyData,
        data_dir: str | Path | None,
        images: int | None,
        asked: Mapping[str, Any],
    ) -> None:
        self._data, self._data_dir, self._images = data, data_dir, images
        self._asked = dict(asked)
        self._loaded: dict[tuple[int, int], ImageData] = {}  # by input size and classes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": {}}  # each worker reads the files of the data itself

    def data_of(self, architecture: Architecture) -> ImageData:
        """The data for an architecture."""
        key = architecture.input_size, architecture.classes
        if key not in self._loaded:
            self._loaded[key] = as_data(
                self._data, architecture, data_dir=self._data_dir, images=self._images
            )
        return self._loaded[key]

    def __call__(self, task: _Task, progress: Progress = silent) -> TrainingOutcome:
        try:
            trained = train(
                task.architecture,
                self.data_of(task.architecture),
                output=task.output,
                progress=progress,
                **self._asked,
            )
        except LatbenchError as error:
            return TrainingOutcome(task.name, task.output, None, error.message)
        except Exception as error:  # whatever one network runs into, the others go on
            reason = f"{type(error).__name__}: {in_one_line(error)}"
            return TrainingOutcome(task.name, task.output, None, reason)
        return TrainingOutcome(task.name, task.output, trained.metrics, None)


class _Beat:
    """Progress of workers, which is read from the folders of their runs."""

    def __init__(self, folders: Sequence[Path], epochs: int, progress: Progress) -> None:
        self._folders, self._epochs, self._progress = folders, epochs, progress

    def __call__(self) -> None:
        reached = [self._reached(folder) for folder in self._folders]
        fraction = sum(reached) / len(reached)
        finished = sum(part == 1 for part in reached)
        self._progress(
            min(_MOST, fraction),
            f"{finished} of {len(reached)} networks trained, {fraction:.0%} of all epochs",
        )

    def _reached(self, folder: Path) -> float:
        """Part of a training that is finished."""
        try:
            lines = read_json_lines(metrics_file(folder), dict[str, Any])
        except (LatbenchError, OSError):  # the worker says what is wrong with the file
            return 0.0
        if any(line.get("phase") == "test" for line in lines):
            return 1.0
        trained = [line["epoch"] + 1 for line in lines if line.get("phase") == "train"]
        return max(trained, default=0) / self._epochs
