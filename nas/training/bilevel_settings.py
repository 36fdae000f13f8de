"""Settings of a bilevel training (``nas.training.bilevel``): objective, updates, plan of epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from nas.data.images import Source, generator
from nas.training.steps import TrainingImages
from nas.training.strategies import Relaxation
from nas.training.strategies.base import Drawn


@dataclass(frozen=True)
class Objective:
    """The objective that an architecture step minimises.

    Attributes:
        cost: Function from a relaxed architecture to its expected cost, a scalar on the
            relaxation's device.
        total: Function from the loss on held-out images and the cost, both on the device, to the
            objective.
        cost_first: Whether a CPU computes the cost before the loss. The order fixes how gradients
            are rounded. On a GPU the cost is always first, because it is copied with the choices.
    """

    cost: Callable[[Drawn], Tensor]
    total: Callable[[Tensor, Tensor], Tensor]
    cost_first: bool = False


@dataclass(frozen=True)
class UpdateRules:
    """Settings of both kinds of updates.

    Attributes:
        clip: Largest norm of the weights' gradient; 0 for none.
        alpha_clip: Largest norm of the choices' gradient; 0 for none.
        reported: Loss that a weight step reports: the mean over its architectures, or the first.
        restart: Whether the optimisers' moments are reset at every epoch.
    """

    clip: float = 0.0
    alpha_clip: float = 0.0
    reported: Literal["mean", "first"] = "mean"
    restart: bool = False


PLAIN_UPDATES = UpdateRules()
"""Updates without clipping."""


@dataclass(frozen=True)
class Streams:
    """Random streams of an epoch: order, shifts, architectures, order of held-out images."""

    order: torch.Generator
    shifts: torch.Generator
    architectures: torch.Generator
    held_out: torch.Generator

    @classmethod
    def of(cls, *numbers: int) -> Streams:
        """Streams that follow from numbers, such as the seed and the epoch."""
        return cls(*(generator(*numbers, use) for use in range(4)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of the epochs of a training.

    Attributes:
        images: Batches of the weight steps.
        streams: Function from the number of an epoch to its random streams.
        epochs: Number of epochs over which the learning rate falls to zero.
        lr: Learning rate at the start.
        lr_changes: Unit after which the learning rate changes.
        held_out: Images of the architecture steps; None for an epoch without such steps.
        alpha_every: Number of weight steps for each architecture step.
        objective: Objective of architecture steps; the loss alone if None.
    """

    images: TrainingImages
    streams: Callable[[int], Streams]
    epochs: int
    lr: float
    lr_changes: Literal["epoch", "step"] = "epoch"
    held_out: Source | None = None
    alpha_every: int = 1
    objective: Objective | None = None


class _AlphaSettings(Protocol):
    """The part of a recipe that names the settings of Adam on choices."""

    @property
    def alpha_lr(self) -> float: ...

    @property
    def alpha_betas(self) -> tuple[float, float]: ...

    @property
    def alpha_weight_decay(self) -> float: ...


def adam_of(relaxation: Relaxation, recipe: _AlphaSettings) -> torch.optim.Adam:
    """Adam on the choices of a relaxation, with the settings of a recipe."""
    return torch.optim.Adam(
        relaxation.parameters(),
        lr=recipe.alpha_lr,
        betas=recipe.alpha_betas,
        weight_decay=recipe.alpha_weight_decay,
    )
