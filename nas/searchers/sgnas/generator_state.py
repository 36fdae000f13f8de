"""State of the training of an architecture generator, and its first weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.generator import Generator, GeneratorLabel, Kind
from nas.latency.priced_space import space_label
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.spaces import SearchSpace
from nas.training.epochs import Resumable, scaler_part
from nas.training.torch_device import CPU, TorchDevice


class GeneratorState(Resumable):
    """A generator, its optimiser, and the weights that gave the best answers so far.

    Args:
        generator: Generator to train; it is moved to the device.
        recipe: Settings of the training.
        devices_only: Whether only the vectors of devices are trained.
        torch_device: Device of the training.
    """

    def __init__(
        self,
        generator: Generator,
        recipe: SGNASRecipe,
        *,
        devices_only: bool = False,
        torch_device: TorchDevice = CPU,
    ) -> None:
        self.generator = generator.to(torch_device.device)
        trained = [self.generator.devices] if devices_only else self.generator.parameters()
        self.adam = torch.optim.Adam(trained, lr=recipe.generator_lr, betas=recipe.generator_betas)
        self.scaler = torch_device.scaler()
        super().__init__(generator=self.generator, adam=self.adam, **scaler_part(self.scaler))
        self.best_score = -math.inf
        self.best = self._weights()

    def keep_if_best(self, score: float) -> None:
        """Keep the present weights if no earlier ones had a higher score."""
        if score >= self.best_score:
            self.best_score, self.best = score, self._weights()

    def best_generator(self) -> Generator:
        """The generator with the best weights, in evaluation mode."""
        self.generator.load_state_dict(self.best)
        return self.generator.eval()

    def save(self) -> dict[str, Any]:
        return {**super().save(), "best": self.best, "best_score": self.best_score}

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self.best, self.best_score = saved["best"], saved["best_score"]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.generator.state_dict().items()}


def new_generator(
    space: SearchSpace, budgets: Budgets, *, recipe: SGNASRecipe, seed: int
) -> Generator:
    """A generator with random weights, whose priors are still all zeros.

    Args:
        space: Space of the answers, in the variant of the tables.
        budgets: Budgets that it will be trained on.
        recipe: Settings of the training.
        seed: Seed of the weights.
    """
    counted = tuple(costs.kind for costs in budgets.counts if costs.kind != "memory")
    kinds: tuple[Kind, ...] = ("latency", *counted) if budgets.latencies else counted
    places = np.linspace(recipe.low, recipe.high, recipe.priors + 2)[1:-1].tolist()
    plane = budgets.plane
    label = GeneratorLabel(
        format=1,
        form="conditioned",
        space=space_label(space),
        low=recipe.low,
        high=recipe.high,
        kinds=kinds,
        devices=tuple(budgets.latencies),
        priors=tuple(places),
        plane=plane.name,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = plane.decisions * plane.choices
        return Generator(label, torch.zeros(len(places), len(space.layers), width))
