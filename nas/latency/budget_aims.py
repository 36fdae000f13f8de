"""Where the next round of a verified budget aims, from what the rounds so far have measured.

A table errs in the same direction for networks that are alike, and the machine's drift changes all
of them. So the ratio of measured to predicted latency of the last candidates corrects the next
predictions: their median, shrunk towards 1 as far as the ratios scatter. This is a correction near
one budget. The table's prices do not change.

Glossary:

    ratio   measured over predicted latency of one candidate
    factor  expected ratio of the next candidate
    doubt   relative standard deviation of the next candidate's ratio
    goal    measured latency to aim at, as a fraction of the budget
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt

import numpy as np

from latbench.measure.swept_networks import HALF_WIDTH, SweptNetworks, spread
from nas.latency.verified_rounds import VerifiedRound

LEAST = 0.97  # a budget is used to this fraction at least
_STEPS = (-1.0, -1 / 3, 1 / 3, 1.0)  # from the middle aim to those of the candidates
_ROUNDS_USED = 2  # earlier candidates were further away from the budget
_FIRST_SPREAD = 0.006  # assumed before the first sweep
_ROOM = 1.2  # room below the budget, in half widths: a confirmation scatters as well
_GAP = 0.003  # room below the budget on a machine without noise: steps between widths
_NEAR = 0.01  # distance below the goal at which a further round is worth more than a confirmation
_LEAST_SCATTER = 0.002
_NARROW, _WIDE = 0.003, 0.03  # bounds of the distance from the middle aim to the outer ones


@dataclass(frozen=True)
class Learned:
    """What the rounds so far tell about the next candidates.

    Attributes:
        factor: Expected ratio of measured to predicted latency.
        doubt: Relative standard deviation of that ratio for one candidate.
        spread: Relative standard deviation of a latency from sweep to sweep.
    """

    factor: float
    doubt: float
    spread: float

    @property
    def half_width(self) -> float:
        """Expected half width of a confirmation's interval, relative to its latency."""
        return HALF_WIDTH * self.spread

    @property
    def goal(self) -> float:
        """As near to the budget as the noise allows; at least the middle of what is accepted."""
        middle = (LEAST + 1 - self.half_width) / 2
        return max(middle, 1 - _ROOM * self.half_width - _GAP)

    @property
    def lowest(self) -> float:
        """Smallest latency, as a fraction of the budget, that is worth a confirmation."""
        return max(LEAST, self.goal - _NEAR)

    @property
    def highest(self) -> float:
        """Largest latency, as a fraction of the budget, that is worth a confirmation."""
        return max(LEAST, 1 - 0.75 * self.half_width)

    def aims_ms(self, target_ms: float) -> list[float]:
        """Predicted latencies to ask for, the middle one at the goal."""
        beside = min(max(self.doubt, _NARROW), _WIDE)
        middle_ms = target_ms * self.goal / self.factor
        return [middle_ms * (1 + step * beside) for step in _STEPS]


def learn(rounds: Sequence[VerifiedRound], prior: float, *, first: float = 1.0) -> Learned:
    """What finished rounds tell.

    Args:
        rounds: The rounds, the latest one last.
        prior: Relative standard deviation of the table's errors.
        first: The factor before any round.
    """
    sweeps = [sweep for each in rounds for sweep in each.sweeps]
    if not sweeps:
        return Learned(first, prior, _FIRST_SPREAD)
    now = sweeps[-1]
    ratios = np.array(
        [
            log(each.measured_ms / each.predicted_ms) + _log_drift(made.sweeps[0], now)
            for made in rounds[-_ROUNDS_USED:]
            for each in made.candidates
        ]
    )
    middle = float(np.median(ratios))
    scatter = max(_LEAST_SCATTER, sqrt(float(np.mean((ratios - middle) ** 2))))
    error = scatter / sqrt(len(ratios))
    kept = prior**2 / (prior**2 + error**2)
    return Learned(exp(kept * middle), hypot(scatter, error), spread(sweeps))


def _log_drift(then: SweptNetworks, now: SweptNetworks) -> float:
    """Logarithm of the machine's latency now over that of an earlier sweep."""
    if then is now or then.drift is None or now.drift is None:
        return 0.0
    return log(now.drift / then.drift)
