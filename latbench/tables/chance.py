"""The margin with which a network keeps its target with a given confidence.

A prediction is off for two reasons: the table errs, and the machine has another speed than at the
profiling. The first part is known from the networks that were left out of the fit, the second one
from the drifts of the sweeps after the profiling. Every error is combined with every drift, and the
margin is the one-sided conformal upper end of all combinations. With one sweep, it is that of the
errors.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from latbench.errors import InvalidValueError
from latbench.tables.table import LatencyTable

_LEAST, _MOST = 0.5, 1.0
_ROUNDING = 1e-9


def upper_margin(table: LatencyTable, confidence: float) -> float:
    """Relative margin: a network takes at most ``1 + margin`` of its predicted latency.

    Args:
        table: A calibrated table.
        confidence: Probability that this is true for a network that is like those of the
            calibration; 0.95 means that at most 5 % of networks take longer.

    Returns:
        The margin, at least 0.

    Raises:
        InvalidValueError: The confidence is not between 0.5 and 1, or the table has too few
            networks for it.
    """
    if not _LEAST <= confidence < _MOST:
        raise InvalidValueError(
            f"{confidence:g} is not a confidence: choose one from 0.5 to below 1, such as 0.95"
        )
    errors = np.array(table.price_model.left_out_errors)
    count = len(errors)
    needed = ceil(confidence / (1 - confidence) - _ROUNDING)
    if not table.fit.calibrated or count < needed:
        raise InvalidValueError(_too_few(table, confidence, needed))
    ratios = 1 / (1 + errors)  # measured over predicted
    drifts = np.array([1.0, *table.fit.drifts])
    combined = np.sort(np.outer(ratios, drifts).ravel())
    rank = ceil(confidence * (count + 1) * len(drifts) - _ROUNDING)  # of count * len(drifts)
    return max(0.0, float(combined[rank - 1]) - 1)


def _too_few(table: LatencyTable, confidence: float, needed: int) -> str:
    count = len(table.price_model.left_out_errors)
    more = max(needed - count, 24 if not table.fit.calibrated else 1)
    add = f"run `latbench calibrate {table.path} --networks {more}`"
    if not table.fit.calibrated:
        return (
            f"{table.path} was not calibrated, so its errors bound no latency with a confidence of "
            f"{confidence:g}: {add}"
        )
    return (
        f"the {count} networks of {table.path} bound latencies with a confidence of at most "
        f"{count / (count + 1):.3f}, and {confidence:g} needs {needed}: {add}, or lower the "
        "confidence"
    )
