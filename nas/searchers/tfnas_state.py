"""What a TF-NAS search changes while it goes on: weights, choices and their optimisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.relaxation import Places
from nas.searchers.choices import Choices
from nas.searchers.tfnas_recipe import TFNASRecipe
from nas.spaces import Architecture, SearchSpace
from nas.supernet.supernet import searchable_supernet
from nas.training.epochs import Resumable
from nas.training.optimizer import ElasticSGD


class SearchState(Resumable):
    """Supernet, criterion, choices and their optimisers."""

    def __init__(
        self, space: SearchSpace, recipe: TFNASRecipe, criterion: nn.Module, seed: int
    ) -> None:
        self.recipe = recipe
        self.criterion = criterion
        self.supernet = searchable_supernet(space, seed=seed, initial=recipe.initial)
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
        super().__init__(
            supernet=self.supernet,
            criterion=criterion,
            choices=self.choices,
            sgd=self.sgd,
            adam=self.adam,
        )
        self.select()

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.select()

    def begin_epoch(self) -> None:
        """Let the optimisers begin anew, if the recipe asks for it."""
        if self.recipe.restart_optimizers:
            self.sgd.state.clear()
            self.adam.state.clear()

    def select(self) -> None:
        """Tell the optimiser which channels are in use."""
        self.sgd.select(self.supernet.selections())

    def set_widths(self, architecture: Architecture, places: Places) -> None:
        """Give the architecture's operations its widths, and the optimiser what goes with them."""
        keep = self.recipe.kept_channels
        self.sgd.move(self.supernet.set_widths(architecture, places, keep=keep))
        self.select()
