"""How well scores rank networks: rank correlations and their intervals, for ``judge.py``.

Shapes: ``(N,)`` accuracies of N networks, ``(S, N)`` scores of them by S supernets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cells import CONFIDENCE
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

Values = NDArray[np.float64]
_RESAMPLES = 1_000
_TOP = 0.1  # share of the networks that count as the best


@dataclass(frozen=True)
class Ranks:
    """How one set of scores ranks networks.

    Attributes:
        tau: Kendall's rank correlation with the accuracies (tau-b, which counts ties).
        rho: Spearman's rank correlation.
        top: Share of the best tenth of the networks that is among the best-scored tenth.
        regret: Accuracy of the best network minus that of the best-scored one, in points; the mean
            of those that share the best score.
    """

    tau: float
    rho: float
    top: float
    regret: float


def ranks(scores: Values, accuracies: Values) -> Ranks:
    """Compare scores ``(N,)`` with accuracies ``(N,)``, fractions."""
    count = max(1, round(_TOP * len(scores)))
    best, chosen = (set(np.argsort(-x, kind="stable")[:count]) for x in (accuracies, scores))
    proposed = accuracies[scores == scores.max()]
    return Ranks(
        tau=float(kendalltau(scores, accuracies).statistic),
        rho=float(spearmanr(scores, accuracies).statistic),
        top=len(best & chosen) / count,
        regret=100 * float(accuracies.max() - proposed.mean()),
    )


class Resampled:
    """Bootstrap over networks: the same resamples for all strategies, so differences are paired.

    Args:
        accuracies: Accuracies of the networks ``(N,)``.
    """

    def __init__(self, accuracies: Values) -> None:
        rng = np.random.default_rng(0)
        self.accuracies = accuracies
        self.drawn = rng.integers(len(accuracies), size=(_RESAMPLES, len(accuracies)))

    def taus(self, scores: Values) -> Values:
        """Mean tau of scores ``(S, N)`` over supernets, for each resample ``(R,)``."""
        return np.array(
            [
                np.mean(
                    [kendalltau(row[index], self.accuracies[index]).statistic for row in scores]
                )
                for index in self.drawn
            ]
        )


def interval(values: Values) -> tuple[float, float]:
    """The ends of the percentile interval of bootstrapped values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
