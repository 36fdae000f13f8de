"""Base of searchers that train a supernet: devices, limits, supernet, division of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from nas.optimize.constraints import Constraint, latency_limits
from nas.optimize.encoding import EncodedSpace
from nas.searchers.base import Searcher, budgets_of
from nas.spaces import Layer, SearchSpace, aligned_widths, plain_space
from nas.spaces.sgnas import is_unified
from nas.supernet.mixed_operations import Supernet, searchable_supernet
from nas.supernet.unified_supernet import UnifiedSupernet, unified_supernet

_ANY = 1 + 1e-6  # factor of the greatest latency: sums in another order differ in their last digits


class SupernetSearcher(Searcher):
    """Base of the searchers whose targets hold on every device that has a table.

    Without a table they search only under limits of MACs and parameters.
    """

    several_devices: ClassVar[bool] = True
    limited: ClassVar[bool] = True
    corrects_on_device: ClassVar[bool] = True
    needs_table: ClassVar[bool] = False

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        if len(self.devices) <= 1 or not targets_ms:
            super().check_targets(targets_ms)
        for target_ms in budgets_of(targets_ms):
            EncodedSpace(self.constraint(target_ms))

    def constraint(self, target_ms: float | None, *, aim_ms: float | None = None) -> Constraint:
        """A target on every device and the limits. Without a target any latency is allowed.

        Args:
            target_ms: The target.
            aim_ms: Limit of the latency on the first device instead of the target.
        """
        if not self.devices:
            return Constraint(self.settings.limits)
        if target_ms is None:
            target_ms = max(priced.feasible_ms()[1] for priced in self.devices) * _ANY
        latencies = latency_limits(self.devices, target_ms).limits
        if aim_ms is not None:
            latencies = (replace(latencies[0], budget=aim_ms), *latencies[1:])
        return Constraint((*latencies, *self.settings.limits))

    def allowed_widths(self, layer: Layer, op: str) -> Sequence[int]:
        """The widths that an elastic operation may have."""
        if self.devices:
            return self.priced.widths(layer, op)
        return aligned_widths(layer, op)


def supernet_of(space: SearchSpace, *, seed: int, alike: float = 0.0) -> Supernet | UnifiedSupernet:
    """The supernet of a space, channels last; a unified one if its layers are unified blocks.

    Args:
        space: Search space. A unified supernet has the plain variant.
        seed: Seed of the initial weights.
        alike: Correlation of the initial weights of a layer's operations or sub-blocks.
    """
    if is_unified(space):
        return unified_supernet(plain_space(space), seed=seed, alike=alike)
    return searchable_supernet(space, seed=seed, alike=alike)
