"""What searchers on a supernet of separate operations share: devices, recipe, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from nas.coding import CodedSpace
from nas.constraints import Constraint, latency_limits
from nas.data.images import ImageData, Source, require_images
from nas.priced import PricedSpace
from nas.searchers.base import Searcher, SearchSettings, budgets_of
from nas.training.supernet import SupernetRecipe

_ANY = 1 + 1e-6  # times the slowest: sums in another order differ in their last digits


class SupernetSearcher(Searcher):
    """Base of the searchers whose targets hold on every device that there is a table of."""

    several_devices: ClassVar[bool] = True
    limited: ClassVar[bool] = True

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        super().__init__(priced, settings)
        self.devices = (priced, *settings.others)

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        if len(self.devices) == 1 or not targets_ms:
            super().check_targets(targets_ms)
        for target_ms in budgets_of(targets_ms):
            CodedSpace(self.constraint(target_ms))

    def constraint(self, target_ms: float | None) -> Constraint:
        """A target on every device and the limits; without a target, any latency."""
        if target_ms is None:
            target_ms = max(priced.reachable_ms()[1] for priced in self.devices) * _ANY
        latencies = latency_limits(self.devices, target_ms)
        return Constraint((*latencies.limits, *self.settings.limits))


def divided(data: ImageData, recipe: SupernetRecipe, *, seed: int) -> tuple[Source, Source]:
    """The training images and the held-out ones, as ``train_supernet`` divides them.

    Raises:
        InvalidValueError: There are too few of them.
    """
    train, held_out = data.held_out(recipe.held_out, seed=seed)
    require_images(data, train, held_out)
    return train, held_out
