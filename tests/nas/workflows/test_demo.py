"""The demo, as short as it can be: every stage, and what it leaves to go on with."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import nas
from latbench.device import DeviceProfile
from latbench.progress import PhaseText
from latbench.tables import LatencyTable
from nas.latency.measured_rounds import Measure
from nas.workflows import demo
from tests.nas.simulated_device import exactly


def test_the_demo_goes_through_its_stages_and_goes_on(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small space and a device that is measured by few calls, in this process."""
    sweep = msgspec.structs.replace(quick_profile.sweep, max_passes=2)
    device = msgspec.structs.replace(quick_profile, sweep=sweep)
    monkeypatch.setattr(demo, "DEVICE", device)
    monkeypatch.setattr(demo, "SPACE", "nasbench-macro")
    monkeypatch.setattr(demo, "INPUT_SIZE", 8)
    monkeypatch.setattr(demo, "SEARCH_IMAGES", 48)
    monkeypatch.setattr(demo, "SEARCH_EPOCHS", 2)
    monkeypatch.setattr(demo, "TRAIN_EPOCHS", 1)

    def as_predicted(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 0.996 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", as_predicted)
    fractions: list[float] = []
    names: list[str] = []

    def shown(fraction: float, words: str, /) -> None:
        fractions.append(fraction)
        if isinstance(words, PhaseText):
            names.append(words.phase)

    found = nas.run_demo(str(tmp_path / "demo"), progress=shown)
    assert list(dict.fromkeys(names)) == [phase.name for phase in demo.PHASES]
    assert fractions == sorted(fractions)
    assert max(fractions[:-1]) < 1 == fractions[-1]
    assert found.predicted_ms <= found.target_ms
    assert 0 <= found.top1 <= 1
    assert found.error == found.predicted_ms / found.measured_ms - 1
    assert found.as_dict()["status"] == found.correction.status
    documented = {"target_ms", "predicted_ms", "measured_ms", "top1", "status"}
    assert documented <= found.as_dict().keys()
    assert found.correction.measured_ms <= found.target_ms
    assert found.as_dict()["architecture"] == found.architecture.as_dict()
    again = nas.run_demo(tmp_path / "demo")
    assert (again.architecture, again.top1) == (found.architecture, found.top1)
