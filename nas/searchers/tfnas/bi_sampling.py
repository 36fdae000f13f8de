"""The strategy of TF-NAS: two paths a weight step, a Gumbel softmax for architecture steps.

Bi-sampling (TF-NAS, Section 3.1): a weight step trains the path that Gumbel-argmax draws, and a
second one that differs from it in every layer (``nas.searchers.tfnas.choices``).
"""

from __future__ import annotations

import torch

from nas.latency.relaxation import Relaxed
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.training.strategies import Relaxation
from nas.training.strategies.base import ByStage


class BiSampling(Relaxation):
    """Draws the paths of TF-NAS and relaxes its choices.

    Args:
        choices: Alphas and betas, which architecture steps train.
        recipe: Temperatures, and the way to draw a second path.

    Attributes:
        tau: Temperature of the present epoch.
        both: Whether weight steps train a second path; not in warm-up.
    """

    def __init__(self, choices: Choices, recipe: TFNASRecipe) -> None:
        super().__init__(choices.space)
        self.choices, self.recipe = choices, recipe
        self.tau, self.both = recipe.tau_start, True

    def begin_epoch(self, epoch: int) -> None:
        self.tau = self.recipe.tau(epoch)
        self.both = epoch >= self.recipe.warmup_epochs

    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        first = self.choices.draw_first(rng, self.tau)
        paths = [first]
        if self.both and self.recipe.second_path != "none":
            paths.append(self.choices.draw_second(first, self.recipe.second_path, rng, self.tau))
        return [self.choices.path(path) for path in paths]

    def relaxed(self, rng: torch.Generator, progress: float) -> Relaxed:
        return self.choices.soft(rng, self.tau)

    def project(self) -> None:
        self.choices.project()

    def by_stage(self) -> ByStage:
        return self.choices.by_stage()
