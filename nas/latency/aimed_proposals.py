"""Architectures for one aim after another: by other widths if they suffice, else proposed anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from latbench.errors import BudgetError
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit, Method, fit_exact
from nas.spaces import Architecture

Range = tuple[float, float]
"""Lower and upper end of a range of latencies in ms."""

F = TypeVar("F", bound=Fit)
F_co = TypeVar("F_co", bound=Fit, covariant=True)


class Propose(Protocol[F_co]):
    """A function that proposes an architecture for a latency."""

    def __call__(self, aim_ms: float, width_range_ms: Range, /) -> F_co:
        """An architecture predicted at or just below ``aim_ms``.

        Args:
            aim_ms: Upper limit of the predicted latency.
            width_range_ms: Range of latencies that the architecture should cover by its widths
                alone, if any architecture does.

        Raises:
            BudgetError: There is no further architecture to propose.
        """


def widths_of(
    priced: PricedSpace, architecture: Architecture, *, scale: Method = fit_exact
) -> Propose[Fit]:
    """Propose always the same operations and depths, with the widths that fit best."""

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        return scale(priced, architecture, aim_ms)

    return propose


class NearestArchitectures(Generic[F]):
    """Gives an architecture for each aim, with the same operations and depths as far as possible.

    Args:
        priced: The space and its prices.
        propose: Proposes the first architecture, and another one whenever widths do not suffice.
        target_ms: The budget, which is the first aim.
        scale: Method that scales widths to a predicted latency.

    Raises:
        BudgetError: There is no architecture to propose for the budget.
    """

    def __init__(
        self, priced: PricedSpace, propose: Propose[F], target_ms: float, *, scale: Method
    ) -> None:
        self.priced = priced
        self.propose = propose
        self.scale = scale
        self.low_ms = self.high_ms = target_ms
        self.current = propose(target_ms, (target_ms, target_ms))

    def at(self, aim_ms: float) -> F:
        """An architecture at or below an aim, or the nearest one if the aim is out of reach."""
        current = self.current
        if current.min_ms < current.max_ms and current.min_ms <= aim_ms <= current.max_ms:
            return self._scaled(current, aim_ms)
        self.low_ms, self.high_ms = min(self.low_ms, aim_ms), max(self.high_ms, aim_ms)
        try:
            self.current = self.propose(aim_ms, (self.low_ms, self.high_ms))
        except BudgetError:  # the closest latency that its widths allow
            return self._scaled(current, aim_ms)
        return self.current

    def _scaled(self, fitted: F, aim_ms: float) -> F:
        """The same operations and depths, with widths as close to a latency as possible."""
        if fitted.min_ms == fitted.max_ms:
            return fitted  # widths are fixed, or do not change the latency
        found = self.scale(self.priced, fitted.architecture, aim_ms, clamp=True)
        return replace(fitted, **vars(found))
