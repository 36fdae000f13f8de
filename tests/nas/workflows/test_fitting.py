"""Fits as a function: methods, and widths that the device corrects."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from latbench.device import DeviceProfile
from latbench.errors import BudgetError, UnknownNameError
from latbench.tables import LatencyTable
from nas.latency.correction import Measure
from nas.spaces import make_space
from tests.conftest import write_table


@pytest.fixture
def table(tmp_path: Path, profile: DeviceProfile) -> LatencyTable:
    return write_table(tmp_path / "t.sqlite", make_space("tfnas", 32, 10), profile)


def test_what_is_measured_is_a_part_of_the_result_only_then(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that takes 5 % longer than its table says."""

    def slower(opened: LatencyTable) -> Measure:
        return lambda network, progress: 1.05 * opened.predict(network).latency_ms

    monkeypatch.setattr("nas.latency.correction.measurer", slower)
    arch = nas.make_space("tfnas", 32, 10).random(seed=2)
    target_ms = nas.predict(arch, table).latency_ms
    predicted = nas.fit(arch, table, target=target_ms)
    assert predicted.measured_ms is None
    assert "measured_ms" not in predicted.as_dict()
    measured = nas.fit(arch, table, target=target_ms, measured=True)
    assert measured.measured_ms == pytest.approx(1.05 * measured.latency_ms)
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
