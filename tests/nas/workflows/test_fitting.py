"""Fits as a function: methods, and widths that the device corrects."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import nas
from latbench.device import DeviceProfile
from latbench.errors import BudgetError, InvalidValueError, UnknownNameError
from latbench.tables import LatencyTable
from latbench.tables.chance import upper_margin
from nas.latency.measured_rounds import Measure
from nas.spaces import make_space
from tests.conftest import write_table
from tests.nas.simulated_device import exactly


@pytest.fixture
def table(tmp_path: Path, profile: DeviceProfile) -> LatencyTable:
    return write_table(tmp_path / "t.sqlite", make_space("tfnas", 32, 10), profile)


def test_what_is_measured_is_a_part_of_the_result_only_then(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that takes 10 % longer than its table says."""

    def slower(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 1.1 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", slower)
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    target_ms = nas.predict(arch, table).latency_ms
    predicted = nas.fit(arch, table, target=target_ms)
    assert predicted.measured_ms is None
    assert "measured_ms" not in predicted.as_dict()
    measured = nas.fit(arch, table, target=target_ms, measured=True)
    assert measured.measured_ms == pytest.approx(1.1 * measured.latency_ms)
    assert 0.99 * target_ms <= measured.as_dict()["measured_ms"] <= target_ms
    assert measured.rounds is not None
    assert measured.rounds > 1


def test_methods_and_targets_out_of_reach_are_refused(table: LatencyTable) -> None:
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    with pytest.raises(UnknownNameError, match="did you mean 'greedy'"):
        nas.fit(arch, table, target="9ms", method="greed")
    with pytest.raises(BudgetError) as caught:
        nas.fit(arch, table, target="1us")
    assert caught.value.nearest_ms is not None
    near = nas.fit(arch, table, target=caught.value.nearest_ms, method="greedy")
    assert near.latency_ms == pytest.approx(near.min_ms, rel=1e-4)


def _calibrated(table: LatencyTable, *, margin: float) -> LatencyTable:
    """The table after a calibration by which networks take up to ``1 + margin`` of predictions."""
    errors = tuple((1 / np.linspace(1 - margin, 1 + margin, 39) - 1).tolist())
    price = msgspec.structs.replace(table.price_model, left_out_errors=errors)
    table.fit = msgspec.structs.replace(table.fit, price=price, calibrated=True)
    return table


def test_a_confidence_takes_the_upper_end_for_the_prediction(table: LatencyTable) -> None:
    """What it leaves unused is the price of the confidence."""
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    target_ms = nas.predict(arch, table).latency_ms
    known = _calibrated(table, margin=0.05)
    found = nas.fit(arch, known, target=target_ms, confidence=0.95)
    margin = upper_margin(known, 0.95)
    assert found.latency_ms == pytest.approx(nas.predict(found.architecture, table).latency_ms)
    assert found.upper_ms == pytest.approx((1 + margin) * found.latency_ms)
    assert found.upper_ms is not None
    assert 0.995 * target_ms < found.upper_ms <= target_ms
    plain = found.as_dict()
    assert plain["confidence"] == 0.95
    assert plain["unused_ms"] == pytest.approx(target_ms - found.latency_ms)
    assert plain["unused"] == pytest.approx(margin / (1 + margin), abs=0.005)
    certain = nas.fit(arch, known, target=target_ms)
    assert certain.max_ms == pytest.approx(found.max_ms)
    assert "confidence" not in certain.as_dict()


def test_a_budget_below_everything_with_a_confidence_names_the_nearest_one(
    table: LatencyTable,
) -> None:
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    known = _calibrated(table, margin=0.05)
    least_ms = nas.fit(arch, known, target=nas.predict(arch, known).latency_ms).min_ms
    with pytest.raises(BudgetError, match=r"with a confidence of 0\.95") as caught:
        nas.fit(arch, known, target=1.01 * least_ms, confidence=0.95)
    nearest_ms = caught.value.nearest_ms
    assert nearest_ms == pytest.approx((1 + upper_margin(known, 0.95)) * least_ms)
    assert nearest_ms is not None
    near = nas.fit(arch, known, target=nearest_ms, confidence=0.95, method="greedy")
    assert near.latency_ms == pytest.approx(least_ms, rel=1e-4)
    with pytest.raises(InvalidValueError, match="at most"):
        nas.fit(arch, known, target=nearest_ms, confidence=0.99)


def test_a_confidence_lowers_the_first_aims_of_a_verification(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what was measured decides, with a confidence or without."""
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    target_ms = nas.predict(arch, table).latency_ms

    def slower(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 1.04 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", slower)
    known = _calibrated(table, margin=0.05)
    found = nas.fit(arch, known, target=target_ms, confidence=0.95, until_verified=True)
    plain = nas.fit(arch, known, target=target_ms, until_verified=True)
    means = []
    for each in (found, plain):
        assert each.correction is not None
        assert each.status == "met"
        first = each.correction.history.rounds[0].candidates
        means.append(np.mean([candidate.predicted_ms for candidate in first]))
    assert means[1] / means[0] == pytest.approx(1 + upper_margin(known, 0.95), rel=0.005)
    assert 0.97 * target_ms <= found.reached_ms <= target_ms
    assert found.reached_ms == pytest.approx(1.04 * found.latency_ms)
    assert found.as_dict()["unused_ms"] == pytest.approx(target_ms - found.reached_ms)
