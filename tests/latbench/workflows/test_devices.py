"""Devices and tables as functions: what is listed, checked and compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import latbench
from latbench.device import DeviceProfile
from latbench.device_files import shipped_profiles
from latbench.errors import MissingExtraError, UnknownNameError
from latbench.profilers import Profiler
from latbench.workflows import table_checks
from tests.conftest import make_tiny_space, write_table


def test_all_shipped_devices_are_listed_with_what_they_lack() -> None:
    listed = latbench.list_devices()
    assert [status.name for status in listed] == shipped_profiles()
    assert next(s for s in listed if s.name == "cpu-onnxruntime").available


def test_a_runtime_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (found,) = (status for status in latbench.list_devices() if status.name == "cpu-openvino")
    assert not found.available
    assert "latbench[openvino]" in str(found.reason)


def test_a_device_is_checked_by_profile_or_name(quick_profile: DeviceProfile) -> None:
    reported: list[str] = []
    found = latbench.check_device(
        quick_profile, duration=0.1, progress=lambda done, words: reported.append(words)
    )
    assert found.name == "quick"
    assert found.tolerance == found.as_dict()["tolerance"] > 0
    assert reported
    with pytest.raises(UnknownNameError, match="did you mean 'cpu-onnxruntime'"):
        latbench.check_device("cpu-onnxruntim")


def test_a_table_of_another_machine_is_stale(tmp_path: Path, profile: DeviceProfile) -> None:
    """The synthetic table names no version of its runtime."""
    table = write_table(tmp_path / "t.sqlite", make_tiny_space(), profile)
    found = latbench.check_table(str(table.path))
    assert found == latbench.check_table(table)
    assert found.stale
    assert not found.passed
    assert found.as_dict()["stale"] == list(found.stale)


def test_a_table_is_checked_where_its_runtime_is_missing(
    tmp_path: Path, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.sqlite", make_tiny_space(), profile)

    def missing(device: DeviceProfile) -> Profiler:
        raise MissingExtraError("openvino", "openvino")

    monkeypatch.setattr(table_checks, "profiler_of_table", missing)
    found = latbench.check_table(table)
    assert not found.stale
    assert found.entries == len(table.estimates)


def test_a_table_is_exported_by_method(tmp_path: Path, profile: DeviceProfile) -> None:
    table = write_table(tmp_path / "t.sqlite", make_tiny_space(), profile)
    table.export(str(tmp_path / "t.csv"), "csv")
    rows = (tmp_path / "t.csv").read_text().splitlines()
    assert len(rows) > len(table.estimates)
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        table.export(tmp_path / "t.parque", "parque")
    assert not (tmp_path / "t.parque").exists()
