"""Training one architecture from scratch; see ``nas.training.module_training``."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from latbench.blocks import Network, network_graph
from latbench.errors import InvalidFileError, MismatchError, in_one_line
from latbench.files import require_file
from latbench.progress import Progress, silent
from latbench.render.torch import NetworkModule
from nas.data.images import ImageData
from nas.supernet.candidates import Initial, initialise, modules_of
from nas.training import module_training
from nas.training.criterion import check_batches, criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.module_training import TrainingState
from nas.training.recipe import TrainingRecipe
from nas.training.regularisation import add_drop_connect, add_dropout
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice

_WHAT = "the weights of a trained run, RUN/weights.safetensors"


def train(
    network: Network,
    data: ImageData,
    recipe: TrainingRecipe,
    folder: RunFolder,
    *,
    group: Workers = ALONE,
    torch_device: TorchDevice = CPU,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train to the end of the recipe, write the weights, return the test metrics.

    Args:
        network: Blocks of the network.
        data: Data set; its task defines the loss and the metrics.
        recipe: Constants of the training.
        folder: Folder of the run; process 0 writes there.
        group: The processes that train together.
        torch_device: Device of the training; the recipe sets the precision.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: Network, data and recipe do not fit together, or an image is damaged.
    """
    check(network, data, recipe, group, torch_device=torch_device)
    with torch_device.guarded(work="the training", kept="its finished epochs are kept"):
        state = begin(network, data, recipe, torch_device)
        return module_training.train(state, data, recipe, folder, group=group, progress=progress)


def begin(
    network: Network,
    data: ImageData,
    recipe: TrainingRecipe,
    torch_device: TorchDevice = CPU,
) -> TrainingState:
    """A training before its first step: the network has random weights."""
    model = make_model(network, seed=recipe.seed, initial=recipe.initial)
    state = TrainingState(model, _criterion(network, data, recipe), recipe, torch_device)
    add_dropout(model, recipe.dropout)
    add_drop_connect(model, recipe.drop_connect)
    return state


def check(
    network: Network,
    data: ImageData,
    recipe: TrainingRecipe,
    group: Workers,
    *,
    torch_device: TorchDevice = CPU,
) -> None:
    """Refuse a network, data and recipe that do not fit together, before anything is written.

    Raises:
        LatbenchError: The criterion or an option is unknown, outputs do not fit the data, a batch
            does not divide among processes or classes, there are too few images for batch norm, or
            the device does not support the precision.
    """
    torch_device.at(recipe.precision)
    _criterion(network, data, recipe)
    check_batches(recipe, group, parts=[data.train])


def make_model(network: Network, *, seed: int, initial: Initial = "he") -> NetworkModule:
    """The network with random weights, channels last, of the modules that train fast on a CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NetworkModule(network, modules=modules_of("running"))
        model.apply(lambda module: initialise(module, initial))
    return model.to(memory_format=torch.channels_last)


def load_model(network: Network, weights: Path) -> NetworkModule:
    """The network with weights from a file.

    Raises:
        InvalidFileError: The file is missing or does not hold weights.
        MismatchError: The weights belong to another network.
    """
    require_file(weights, what=_WHAT)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InvalidFileError(f"{weights} is not {_WHAT}: {error}") from error
    model = make_model(network, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = in_one_line(error, most=200)
        raise MismatchError(f"{weights} holds weights of another network: {reason}") from error
    return model


def _criterion(network: Network, data: ImageData, recipe: TrainingRecipe) -> nn.Module:
    outputs = network_graph(network[-1:]).output_shape[0]
    return criterion_of(data, outputs, recipe, seed=recipe.seed, default="scratch")
