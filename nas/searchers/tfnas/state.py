"""State of a TF-NAS search: weights, choices and their optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from nas.latency.relaxation import Places
from nas.searchers.tfnas.bi_sampling import BiSampling
from nas.searchers.tfnas.choices import Choices
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.spaces import Architecture, SearchSpace
from nas.supernet.mixed_operations import Supernet, searchable_supernet
from nas.training.bilevel import Bilevel
from nas.training.bilevel_settings import UpdateRules, adam_of
from nas.training.distributed import ALONE, Workers
from nas.training.optimizer import ElasticSGD
from nas.training.strategies.base import Drawn
from nas.training.torch_device import CPU, TorchDevice


class SearchState(Bilevel):
    """Supernet, criterion, choices and their optimisers.

    Supernet and criterion are on the device, the choices on the CPU
    (``nas.searchers.tfnas.choices``).
    """

    supernet: Supernet
    strategy: BiSampling
    sgd: ElasticSGD

    def __init__(
        self,
        space: SearchSpace,
        recipe: TFNASRecipe,
        criterion: nn.Module,
        seed: int,
        *,
        torch_device: TorchDevice = CPU,
        workers: Workers = ALONE,
    ) -> None:
        self.recipe = recipe
        self.choices = Choices(space, recipe.depth)
        torch_device.place(criterion)
        supernet = torch_device.place(
            searchable_supernet(space, seed=seed, initial=recipe.initial, alike=recipe.alike)
        )
        strategy = BiSampling(self.choices, recipe)
        sgd = ElasticSGD(
            [*supernet.parameters(), *criterion.parameters()],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        adam = adam_of(strategy, recipe)
        super().__init__(
            supernet,
            strategy,
            criterion,
            sgd=sgd,
            relaxation=strategy,
            adam=adam,
            rules=UpdateRules(recipe.clip, recipe.alpha_clip, "first", recipe.restart_optimizers),
            torch_device=torch_device,
            workers=workers,
            parts={
                "supernet": supernet,
                "criterion": criterion,
                "choices": self.choices,
                "sgd": sgd,
                "adam": adam,
            },
        )
        self._select_widths()

    def load(self, saved: dict[str, Any]) -> None:
        super().load(saved)
        self._select_widths()

    def select(self, drawn: Sequence[Drawn]) -> None:
        """Nothing changes in a step: the channels in use were set with the widths."""

    def set_widths(self, architecture: Architecture, places: Places) -> None:
        """Set the widths of the architecture in the supernet, and move the optimiser's state."""
        keep = self.recipe.kept_channels
        self.sgd.move(self.supernet.set_widths(architecture, places, keep=keep))
        self._select_widths()

    def _select_widths(self) -> None:
        self.sgd.select(self.supernet.selections())
