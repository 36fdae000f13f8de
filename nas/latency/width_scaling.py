"""Elasticity scaling: bring the widths of an architecture to a target latency.

``greedy`` follows Algorithm 1 of TF-NAS (``nas.latency.greedy_widths``). ``exact`` finds the
latency closest to the target from below among networks that keep the shape
(``nas.latency.exact_widths``). If no such network is as close as the greedy one, which need not
keep the shape, ``exact`` returns the greedy one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from latbench.errors import InvalidValueError
from nas.latency.closest_sum import GOOD_ENOUGH
from nas.latency.exact_widths import exact_widths
from nas.latency.feasible_range import check_feasible
from nas.latency.greedy_widths import greedy_widths
from nas.latency.priced_space import PricedSpace
from nas.latency.width_options import WidthOptions
from nas.spaces import Architecture, Choice, Layer


@dataclass(frozen=True)
class Fit:
    """An architecture with widths that bring it to a target.

    Attributes:
        target_ms: Latency that was asked for.
        latency_ms: Predicted latency of ``architecture``.
        min_ms: Least latency of its operations and depths over all widths.
        max_ms: Greatest latency of its operations and depths over all widths.
    """

    target_ms: float
    latency_ms: float
    min_ms: float
    max_ms: float
    architecture: Architecture


def fit_exact(
    priced: PricedSpace, architecture: Architecture, target_ms: float, *, clamp: bool = False
) -> Fit:
    """The closest latency at or below the target that keeps the network's shape.

    The result is at least as close as that of ``fit_greedy``. It is the same network if none that
    keeps the shape is closer.

    Args:
        priced: The space and its prices.
        architecture: Gives operations, depths and the ratios of the widths.
        target_ms: Latency not to exceed.
        clamp: Take the nearest feasible latency if the target is outside of the feasible range.

    Raises:
        BudgetError: The target is outside of the feasible range of these operations and depths,
            and ``clamp`` is off. Carries the nearest bound.
    """
    start = _Start.of(priced, architecture, target_ms, clamp=clamp)
    goal_ms = min(max(target_ms, start.low_ms), start.high_ms) if clamp else target_ms
    greedy = start.with_widths(start.greedy_widths(goal_ms))
    greedy_ms = priced.latency_ms(greedy)
    enough_ms = max(greedy_ms, goal_ms * (1 - GOOD_ENOUGH))
    found = exact_widths(priced.base_ms, start.options, goal_ms, enough_ms=enough_ms)
    if found is None:
        return start.fitted(greedy, greedy_ms)
    exact = start.with_widths(found[0])
    exact_ms = priced.latency_ms(exact)
    if exact_ms < greedy_ms <= goal_ms:
        return start.fitted(greedy, greedy_ms)
    return start.fitted(exact, exact_ms)


def fit_greedy(
    priced: PricedSpace, architecture: Architecture, target_ms: float, *, clamp: bool = False
) -> Fit:
    """Algorithm 1 of TF-NAS on priced widths.

    Args:
        priced: The space and its prices.
        architecture: Gives operations, depths and the first widths.
        target_ms: Latency not to exceed.
        clamp: Take the nearest feasible latency if the target is outside of the feasible range,
            as elasticity scaling inside a search does.

    Raises:
        BudgetError: The target is outside of the feasible range, and ``clamp`` is off.
    """
    start = _Start.of(priced, architecture, target_ms, clamp=clamp)
    scaled = start.with_widths(start.greedy_widths(max(target_ms, start.low_ms)))
    return start.fitted(scaled, priced.latency_ms(scaled))


class Method(Protocol):
    """A function that scales the widths of an architecture to a target, like ``fit_exact``."""

    def __call__(
        self,
        priced: PricedSpace,
        architecture: Architecture,
        target_ms: float,
        *,
        clamp: bool = False,
    ) -> Fit: ...


METHODS: dict[str, Method] = {
    "exact": fit_exact,
    "greedy": fit_greedy,
}


def width_range_ms(
    priced: PricedSpace, layers: Sequence[tuple[Layer, Choice]]
) -> tuple[float, float]:
    """Least and greatest latency over all widths, with fixed operations and depths."""
    options = [[(layer, choice.op)] for layer, choice in layers]
    return priced.fastest(options)[1], priced.slowest(options)[1]


@dataclass(frozen=True)
class _Start:
    """An architecture to scale, with its feasible range and the widths of its layers."""

    priced: PricedSpace
    architecture: Architecture
    target_ms: float
    low_ms: float
    high_ms: float
    options: WidthOptions

    @classmethod
    def of(
        cls, priced: PricedSpace, architecture: Architecture, target_ms: float, *, clamp: bool
    ) -> _Start:
        """The start of a fit. A target outside of the feasible range is refused without ``clamp``.

        Raises:
            BudgetError: The target is outside of the feasible range.
            InvalidValueError: The space has no elastic widths.
        """
        if not priced.space.elastic_width:
            raise InvalidValueError(f"the blocks of {priced.space.name} have no widths to scale")
        layers = priced.space.chosen_layers(architecture)
        low_ms, high_ms = width_range_ms(priced, layers)
        if not clamp:
            check_feasible(target_ms, low_ms, high_ms, what="this architecture")
        options = WidthOptions.of(priced, layers)
        return cls(priced, architecture, target_ms, low_ms, high_ms, options)

    def greedy_widths(self, goal_ms: float) -> list[int]:
        """The widths of Algorithm 1 for a goal, which must not be below the least latency."""
        depths = [len(stage) for stage in self.architecture.stages]
        return greedy_widths(
            self.priced.base_ms, self.options, depths, goal_ms, fastest=self._fastest_widths
        )

    def _fastest_widths(self) -> list[int]:
        layers = self.priced.space.chosen_layers(self.architecture)
        choices, _ = self.priced.fastest([[(layer, choice.op)] for layer, choice in layers])
        return [choice.width for choice in choices if choice.width is not None]

    def with_widths(self, widths: Sequence[int]) -> Architecture:
        """The architecture with other widths."""
        left = iter(widths)
        return self.priced.space.architecture(
            [
                [Choice(choice.op, next(left)) for choice in stage]
                for stage in self.architecture.stages
            ]
        )

    def fitted(self, architecture: Architecture, latency_ms: float) -> Fit:
        return Fit(self.target_ms, latency_ms, self.low_ms, self.high_ms, architecture)
