"""Training of an architecture from scratch, and testing of trained networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latbench.blocks import Network
from latbench.errors import InvalidFileError, MismatchError
from latbench.progress import Phase, Phases, PhaseText, Progress, silent
from latbench.result import Result
from nas.recipes import load_recipe
from nas.spaces import Architecture, space_of
from nas.spaces.architecture import parse_architecture
from nas.spaces.identity import network_digest
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.distributed import workers
from nas.training.recipe import TrainingRecipe
from nas.training.run_config import STRUCTURE, read_config
from nas.training.torch_device import TorchDevice
from nas.workflows.data import AnyData, as_data, data_identity
from nas.workflows.inputs import AnyArchitecture, as_architecture, as_torch_device
from nas.workflows.runs import run_folder


@dataclass(frozen=True, repr=False)
class TrainedNetwork(Result):
    """A trained network with its test metrics.

    Attributes:
        architecture: Architecture of the network.
        metrics: Metrics of the data's task, such as ``top1`` and ``top5``; fractions.
        output: Folder of the run.
    """

    architecture: Architecture
    metrics: dict[str, float]
    output: Path

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.output / module_training.WEIGHTS

    def as_dict(self) -> dict[str, Any]:
        """The metrics as plain JSON values."""
        return dict(self.metrics)


# long because it describes every argument of a training
def train(
    architecture: AnyArchitecture,
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
    progress: Progress = silent,
) -> TrainedNetwork:
    """Train an architecture from scratch, and test it.

    The same call with the same output resumes an interrupted training, and ends as an uninterrupted
    one: on a CPU bit for bit, on a GPU up to rounding. Under ``torchrun``, all processes train
    together.

    Args:
        architecture: An architecture, or the path of its file.
        data: A data set, or its name.
        output: Folder of the run, new or to resume.
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
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: Architecture, data and recipe do not fit together.
        MismatchError: The folder holds another run.
        DivergedError: The loss or a weight is not finite.
    """
    progress(0.0, PhaseText("reading the data", "train", 0.0, None))
    found, space = as_architecture(architecture)
    chosen = load_recipe(
        TrainingRecipe, recipe, settings, epochs=epochs, batch_size=batch_size, seed=seed
    )
    trains_on = as_torch_device(torch_device)
    loaded = as_data(data, found, data_dir=data_dir, images=images)
    progress(0.0, PhaseText("making the network", "train", 0.0, None))
    network = space.lower(found)
    config = {
        "command": "train",
        "architecture": found.as_dict(),
        STRUCTURE: network_digest(network),
        **data_identity(loaded),
        "recipe": chosen,
    }
    with workers(trains_on) as group:
        scratch.check(network, loaded, chosen, group, torch_device=trains_on)
        folder = run_folder(output, config, group)
        shown = progress if group.leads else silent
        metrics = scratch.train(
            network,
            loaded,
            chosen,
            folder,
            group=group,
            torch_device=trains_on,
            progress=shown,
        )
    return TrainedNetwork(found, metrics, folder.path)


def evaluate(
    run: str | Path,
    data: AnyData,
    *,
    data_dir: str | Path | None = None,
    torch_device: str | TorchDevice = "auto",
    progress: Progress = silent,
) -> TrainedNetwork:
    """Test a trained network.

    Args:
        run: Folder of the training.
        data: A data set, or its name.
        data_dir: Folder of a named data set's files.
        torch_device: Device of the test: ``auto`` (the CUDA GPU if there is one, else the CPU),
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        progress: Callback with the fraction done and a short description.

    Raises:
        InvalidFileError: The folder holds no finished training.
        MismatchError: The data set has another number of classes, or the space has other blocks
            than at the training.
    """
    output = Path(run)
    architecture, network = _trained(output)
    with Phases(progress, [Phase("prepare"), Phase("test", share=4.0)]) as phases:
        phases["prepare"](0.0, "reading data and weights")
        loaded = as_data(data, architecture, data_dir=data_dir)
        tested_on = as_torch_device(torch_device)
        model = scratch.load_model(network, output / module_training.WEIGHTS)
        with tested_on.guarded(work="the test", kept="the run is as it was"):
            metrics = module_training.test(tested_on.place(model), loaded, progress=phases["test"])
    return TrainedNetwork(architecture, metrics, output)


def _trained(run: Path) -> tuple[Architecture, Network]:
    """The architecture of a run folder's training, and its network."""
    config = read_config(run)
    if "architecture" not in config:
        raise InvalidFileError(f"{run} holds a {config.get('command')} run, not a training")
    text = json.dumps(config["architecture"], allow_nan=False)
    architecture = parse_architecture(text, source=f"{run}/config.json")
    network = space_of(architecture).lower(architecture)
    if config.get(STRUCTURE) not in (None, network_digest(network)):
        raise MismatchError(
            f"{run} holds weights of another network: {architecture.space} has other blocks now "
            "than at the training; undo the change, or train again in another folder"
        )
    return architecture, network
