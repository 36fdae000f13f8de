"""Load of the machine by other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from latbench.measure import load
from latbench.measure.load import LoadMeter


def count(path: Path, *ticks: int) -> None:
    path.write_text(f"cpu  {' '.join(map(str, ticks))} 5 5\ncpu0 1 2 3\n")


def test_what_others_use_is_all_but_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "_STAT", stat)
    monkeypatch.setattr(load.os, "sysconf", lambda _: 100)
    clocks = {"wall": 0.0, "own": 0.0}
    monkeypatch.setattr(load, "monotonic", lambda: clocks["wall"])
    monkeypatch.setattr(load, "process_time", lambda: clocks["own"])
    count(stat, 1000, 0, 500, 9000, 0, 0, 0, 0)
    meter = LoadMeter()
    clocks.update(wall=10.0, own=8.0)
    count(stat, 2000, 0, 900, 9500, 100, 0, 0, 0)  # busy for 14 s, this process for 8 s
    found = meter.read()
    assert found is not None
    assert found.others == pytest.approx(0.6)
    assert found.idle == pytest.approx(0.6)


@pytest.mark.parametrize("text", ["", "cpu a b", "cpu 1 2"])
def test_a_system_that_does_not_count_has_no_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(load, "_STAT", tmp_path / "stat")
    assert LoadMeter().read() is None
