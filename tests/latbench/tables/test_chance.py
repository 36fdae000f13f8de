"""The margin for a confidence: its level by simulation, and the tables that cannot give it."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from latbench.errors import InvalidValueError
from latbench.tables import LatencyTable
from latbench.tables.chance import upper_margin


def _with_ratios(
    table: LatencyTable, ratios: NDArray[np.float64], drifts: tuple[float, ...] = ()
) -> LatencyTable:
    """A calibrated table whose left-out networks took so many times their predictions."""
    errors = tuple((1 / ratios - 1).tolist())
    price = msgspec.structs.replace(table.price_model, left_out_errors=errors)
    table.fit = msgspec.structs.replace(table.fit, price=price, calibrated=True, drifts=drifts)
    return table


@pytest.mark.parametrize(("confidence", "count"), [(0.95, 19), (0.95, 39), (0.9, 40), (0.8, 24)])
def test_so_many_networks_exceed_their_target(
    tiny_table: LatencyTable, confidence: float, count: int
) -> None:
    """One-sided: of errors that are far larger on the fast side, only the slow side counts."""
    rng = np.random.default_rng(0)

    def drawn(number: int) -> NDArray[np.float64]:
        scatter = rng.normal(size=number)
        return np.exp(np.where(scatter < 0, 0.2, 0.03) * scatter)

    exceeding = []
    for _ in range(600):
        margin = upper_margin(_with_ratios(tiny_table, drawn(count)), confidence)
        exceeding.append(float(np.mean(drawn(200) > 1 + margin)))
    allowed = 1 - confidence
    assert 0.8 * (allowed - 1 / (count + 1)) < np.mean(exceeding) < 1.12 * allowed


def test_networks_exceed_no_more_often_where_the_machine_drifts(tiny_table: LatencyTable) -> None:
    """Drifts of later sweeps widen the margin as far as they predict those of the next ones."""
    rng = np.random.default_rng(1)
    exceeding = []
    for _ in range(400):
        drifts = np.exp(0.05 * rng.normal(size=12))
        table = _with_ratios(tiny_table, np.exp(0.02 * rng.normal(size=39)), tuple(drifts))
        fresh = np.exp(0.02 * rng.normal(size=200) + 0.05 * rng.normal(size=200))
        exceeding.append(float(np.mean(fresh > 1 + upper_margin(table, 0.95))))
    assert np.mean(exceeding) < 0.06
    alone = upper_margin(_with_ratios(tiny_table, np.linspace(0.96, 1.04, 39)), 0.95)
    wider = upper_margin(_with_ratios(tiny_table, np.linspace(0.96, 1.04, 39), (1.1,)), 0.95)
    assert wider > alone == pytest.approx(0.04 * 18 / 19)


def test_latencies_that_are_always_overestimated_need_no_margin(tiny_table: LatencyTable) -> None:
    assert upper_margin(_with_ratios(tiny_table, np.full(39, 0.9)), 0.95) == 0.0


def test_too_few_networks_are_refused_with_what_they_can_give(tiny_table: LatencyTable) -> None:
    """The error names the confidence that they can give, and the command that adds enough."""
    with pytest.raises(InvalidValueError, match=r"not calibrated.*calibrate .* --networks"):
        upper_margin(tiny_table, 0.95)
    few = _with_ratios(tiny_table, np.full(16, 1.01))
    with pytest.raises(InvalidValueError, match=r"at most 0\.941") as caught:
        upper_margin(few, 0.95)
    found = re.search(r"--networks (\d+)", caught.value.message)
    assert found
    upper_margin(_with_ratios(few, np.full(16 + int(found[1]), 1.01)), 0.95)
    assert upper_margin(_with_ratios(few, np.full(16, 1.01)), 0.94) == pytest.approx(0.01)


@pytest.mark.parametrize("confidence", [0.49, 1.0, 95.0, -1.0, float("nan")])
def test_what_is_no_confidence_is_refused(tiny_table: LatencyTable, confidence: float) -> None:
    with pytest.raises(InvalidValueError, match="is not a confidence"):
        upper_margin(tiny_table, confidence)
