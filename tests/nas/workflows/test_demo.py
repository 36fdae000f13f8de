"""The demo, as short as it can be: every stage, and what it leaves to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

import nas
from latbench.device import DeviceProfile
from latbench.profilers import make_profiler
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable
from latbench.workflows import network_errors
from nas.latency.correction import Measure
from nas.workflows import demo


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

    def verify_here(path: Path, networks: list[object], *, progress: Progress) -> object:
        opened = LatencyTable.open(path)
        return network_errors.verify(make_profiler(opened.device), opened, networks)  # type: ignore[arg-type]

    def as_predicted(opened: LatencyTable) -> Measure:
        return lambda network, progress: 0.996 * opened.predict(network).latency_ms

    monkeypatch.setattr(demo, "verify_apart", verify_here)
    monkeypatch.setattr("nas.latency.correction.measurer", as_predicted)
    opened: list[str] = []

    @contextmanager
    def stage(title: str) -> Iterator[Progress]:
        opened.append(title)
        yield silent

    found = nas.run_demo(str(tmp_path / "demo"), stage)
    assert opened == ["profile", "search", "train", "verify"]
    assert found.predicted_ms <= found.target_ms
    assert 0 <= found.top1 <= 1
    assert found.error == found.predicted_ms / found.measured_ms - 1
    assert found.as_dict()["architecture"] == found.architecture.as_dict()
    again = nas.run_demo(tmp_path / "demo")
    assert (again.architecture, again.top1) == (found.architecture, found.top1)
