"""State of a TF-NAS search: weights, choices and their optimisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.latency.relaxation import Places
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.spaces import Architecture, SearchSpace
from nas.supernet.mixed_operations import searchable_supernet
from nas.training.epochs import Resumable, scaler_part
from nas.training.optimizer import ElasticSGD
from nas.training.torch_device import CPU, TorchDevice


class SearchState(Resumable):
    """Supernet, criterion, choices and their optimisers.

    Supernet and criterion are on the device, the choices on the CPU
    (``nas.searchers.tfnas.choices``).
    """

    def __init__(
        self,
        space: SearchSpace,
        recipe: TFNASRecipe,
        criterion: nn.Module,
        seed: int,
        *,
        torch_device: TorchDevice = CPU,
    ) -> None:
        self.recipe = recipe
        self.criterion = torch_device.place(criterion)
        self.supernet = torch_device.place(
            searchable_supernet(space, seed=seed, initial=recipe.initial)
        )
        self.choices = Choices(space, recipe.depth)
        self.weights = [*self.supernet.parameters(), *criterion.parameters()]
        self.sgd = ElasticSGD(
            self.weights,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.adam = torch.optim.Adam(
            self.choices.parameters(),
            lr=recipe.alpha_lr,
            betas=recipe.alpha_betas,
            weight_decay=recipe.alpha_weight_decay,
        )
        self.scaler = torch_device.scaler()
        super().__init__(
            supernet=self.supernet,
            criterion=criterion,
            choices=self.choices,
            sgd=self.sgd,
            adam=self.adam,
            **scaler_part(self.scaler),
        )
        self.select()

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.select()

    def begin_epoch(self) -> None:
        """Reset the optimisers, if the recipe asks for it."""
        if self.recipe.restart_optimizers:
            self.sgd.state.clear()
            self.adam.state.clear()

    def select(self) -> None:
        """Set the channels in use in the optimiser."""
        self.sgd.select(self.supernet.selections())

    def set_widths(self, architecture: Architecture, places: Places) -> None:
        """Set the widths of the architecture in the supernet, and move the optimiser's state."""
        keep = self.recipe.kept_channels
        self.sgd.move(self.supernet.set_widths(architecture, places, keep=keep))
        self.select()
