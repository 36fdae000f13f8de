"""Landing on a target as measured: widths corrected until the device agrees.

A table predicts within some percent, and a machine moves by some more between two hours. Where
that is too much, the network itself is measured: by what it misses its target, the target of the
width scaling is moved, and so on until the measured latency is at the target or just below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from latbench.blocks import Network
from nas.priced import PricedSpace
from nas.scaling import Fit, fit_exact
from nas.spaces import Architecture

TOLERANCE = 0.01  # of the target: how far below it a network may be measured and be done
ROUNDS = 4
_AIM = 1 - TOLERANCE / 2  # the middle of what is good enough


@dataclass(frozen=True)
class Landing:
    """An architecture whose measured latency was brought to a target.

    Attributes:
        measured_ms: Latency of ``fit.architecture`` as measured in the last round it was in.
        rounds: Networks that were measured.
    """

    target_ms: float
    fit: Fit
    measured_ms: float
    rounds: int

    @property
    def error(self) -> float:
        """measured / target - 1."""
        return self.measured_ms / self.target_ms - 1


def land(
    priced: PricedSpace,
    architecture: Architecture,
    target_ms: float,
    measure_ms: Callable[[Network], float],
) -> Landing:
    """Scale widths until the measured latency is at most ``TOLERANCE`` below the target.

    Args:
        priced: The space and its prices.
        architecture: Operations, depths and the shape of the widths.
        target_ms: What is to be measured in the end.
        measure_ms: Measures a network, in ms.

    Returns:
        The best of what was measured: not above the target if any was not, then the closest.

    Raises:
        BudgetError: The operations and depths cannot reach the target.
    """
    fitted = fit_exact(priced, architecture, target_ms)
    landings: list[Landing] = []
    for number in range(1, ROUNDS + 1):
        measured_ms = measure_ms(priced.space.lower(fitted.architecture))
        landings.append(Landing(target_ms, fitted, measured_ms, number))
        if -TOLERANCE <= landings[-1].error <= 0:
            break
        aim_ms = target_ms * _AIM * fitted.latency_ms / measured_ms
        aim_ms = min(max(aim_ms, fitted.min_ms), fitted.max_ms)  # as far as the widths go
        corrected = fit_exact(priced, fitted.architecture, aim_ms)
        if corrected.architecture in [landing.fit.architecture for landing in landings]:
            break
        fitted = corrected
    best = min(landings, key=lambda landing: (landing.error > 0, abs(landing.error)))
    return Landing(target_ms, best.fit, best.measured_ms, len(landings))
