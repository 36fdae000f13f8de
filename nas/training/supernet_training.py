"""Training of the supernet of a space by a strategy; for both kinds of supernets.

Weight steps run SGD on the architectures that the strategy draws. Strategies that relax choices
also get architecture steps, by Adam (``nas.training.bilevel``). A step does not change parameters
that it does not compute: no decay and no momentum. The same holds for channels of elastic
operations beyond the widest width of a step.

A run resumes from its last finished epoch, bit-exactly. Under ``torchrun`` every process draws the
same batches and paths, computes on its part of each batch and averages gradients.

A network is evaluated as ``calibrate(supernet.cut(architecture), ...)``
(``nas.training.calibration``; SPOS, Guo et al. 2020, Section 3.2), because the supernet's running
statistics mix many paths and fit none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from latbench.progress import Progress, silent
from nas.data.images import ImageData, Source
from nas.recipes import Count, NotNegative, Positive, Rate
from nas.supernet.mixed_operations import Supernet, has_widths
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.bilevel import Bilevel
from nas.training.bilevel_settings import Objective, Plan, Streams, UpdateRules, adam_of
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import resume
from nas.training.optimizer import ElasticSGD, start_velocities
from nas.training.recipe import SearchRecipe
from nas.training.run_folder import RunFolder
from nas.training.steps import TrainingImages
from nas.training.strategies import Relaxation, Strategy
from nas.training.strategies.widths import RandomWidths
from nas.training.torch_device import CPU, TorchDevice


class SupernetRecipe(SearchRecipe, frozen=True, kw_only=True, tag="supernet"):
    """Settings of a supernet's training; the defaults are OSNASLib's for CIFAR-100.

    Attributes:
        clip: Largest norm of the gradient; 0 for none.
        alpha_lr: Learning rate of Adam on a differentiable strategy's parameters.
        alpha_every: Number of weight steps per architecture step.
    """

    epochs: Count = 100
    lr: Positive = 0.045
    weight_decay: NotNegative = 4e-5
    clip: NotNegative = 0.0
    alpha_lr: Positive = 1e-3
    alpha_betas: tuple[Rate, Rate] = (0.5, 0.999)
    alpha_weight_decay: NotNegative = 0.0
    alpha_every: Count = 1


def train_supernet(
    supernet: Supernet | UnifiedSupernet,
    strategy: Strategy,
    data: ImageData,
    recipe: SupernetRecipe,
    folder: RunFolder,
    *,
    relaxation: Relaxation | None = None,
    phase: str = "supernet",
    seed: int = 0,
    criterion: nn.Module | None = None,
    objective: Objective | None = None,
    parts: tuple[Source, Source] | None = None,
    workers: Workers = ALONE,
    torch_device: TorchDevice = CPU,
    progress: Progress = silent,
) -> None:
    """Train to the end of the recipe; the same call resumes an interrupted training.

    Args:
        supernet: Supernet to train; changed in place, and moved to the device.
        strategy: Strategy of the weight steps; changed in place if it has parameters.
        data: Data set. The recipe's fraction of the training images is held out
            (``data.held_out(recipe.held_out, seed=seed)``) and used only by architecture steps.
        recipe: Constants of the training.
        folder: Folder for checkpoints and metrics.
        relaxation: Relaxation that architecture steps train, changed in place. If None, the
            strategy itself, if it relaxes choices.
        phase: Name of the training in checkpoints and metrics.
        seed: Seed of order, shifts and paths.
        criterion: Loss of logits and labels, a scalar; its parameters are trained with the weights.
            Cross entropy if None.
        objective: Objective of architecture steps; the loss alone if None.
        parts: Images for the weights and images for architecture steps. If None, the recipe divides
            the training images.
        workers: The processes that train together.
        torch_device: Device and precision of the steps.
        progress: Callback with the fraction done and a short description.
    """
    state = supernet_state(
        supernet,
        strategy,
        criterion or nn.CrossEntropyLoss(),
        recipe,
        relaxation=relaxation,
        torch_device=torch_device,
        workers=workers,
    )
    resume(state, folder, phase)
    train, held_out = parts or data.held_out(recipe.held_out, seed=seed)
    plan = Plan(
        images=TrainingImages.of(data, train, recipe, workers=workers, torch_device=torch_device),
        streams=lambda epoch: Streams.of(seed, epoch),
        epochs=recipe.epochs,
        lr=recipe.lr,
        held_out=held_out,
        alpha_every=recipe.alpha_every,
        objective=objective,
    )
    state.run(plan, folder, phase=phase, progress=progress)


def supernet_state(
    supernet: Supernet | UnifiedSupernet,
    strategy: Strategy,
    criterion: nn.Module,
    recipe: SupernetRecipe,
    *,
    relaxation: Relaxation | None = None,
    torch_device: TorchDevice = CPU,
    workers: Workers = ALONE,
) -> Bilevel:
    """State of a supernet's training before its first step; arguments as in ``train_supernet``.

    Supernet and criterion are moved to the device; the strategy stays on the CPU.
    """
    torch_device.place(supernet)
    torch_device.place(criterion)
    if relaxation is None and isinstance(strategy, Relaxation):
        relaxation = strategy
    # a mixture that is only given widths is saved once, as the relaxation that it is
    is_sized = isinstance(strategy, RandomWidths) and strategy.inner is relaxation
    saved = relaxation if is_sized else strategy
    sgd = _sgd(supernet, [*supernet.parameters(), *criterion.parameters()], recipe)
    adam = None if relaxation is None else adam_of(relaxation, recipe)
    return Bilevel(
        supernet,
        strategy,
        criterion,
        sgd=sgd,
        relaxation=relaxation,
        adam=adam,
        rules=UpdateRules(clip=recipe.clip),
        torch_device=torch_device,
        workers=workers,
        parts={
            "supernet": supernet,
            "strategy": saved,
            "relaxation": None if relaxation is saved else relaxation,
            "criterion": criterion,
            "sgd": sgd,
            "adam": adam,
        },
    )


def _sgd(
    supernet: Supernet | UnifiedSupernet, parameters: Sequence[nn.Parameter], recipe: SupernetRecipe
) -> torch.optim.Optimizer:
    """SGD that does not change parameters or channels that a step does not compute."""
    if isinstance(supernet, Supernet) and has_widths(supernet.space):
        return ElasticSGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    sgd = torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    start_velocities(sgd)
    return sgd
