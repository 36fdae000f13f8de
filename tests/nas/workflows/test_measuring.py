"""Profiling, calibration and verification as functions: what they return, and what they refuse."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pytest

import nas
from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError, LatbenchWarning, MismatchError
from latbench.measure import visiting
from latbench.profilers import Profiler, Session
from latbench.workflows import network_errors
from nas.workflows import drawn_networks
from nas.workflows.space_profiling import ProfiledTable
from tests.conftest import PricedSession, random_price, write_table


@pytest.fixture
def profiled(tmp_path: Path, quick_profile: DeviceProfile) -> ProfiledTable:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    return nas.profile(quick_profile, space, tmp_path / "t.sqlite", time_limit="1min")


def test_a_profile_is_a_table_that_says_what_was_reached(profiled: ProfiledTable) -> None:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    assert nas.predict(space.random(seed=1), profiled).latency_ms > 0
    assert profiled.result.blocks == profiled.result.measured == len(space.blocks())
    assert not profiled.result.interrupted
    assert profiled.result.as_dict().keys() >= {"blocks", "measured", "noisy", "seconds"}


def test_a_profile_of_another_space_is_refused(
    profiled: ProfiledTable, quick_profile: DeviceProfile
) -> None:
    with pytest.raises(MismatchError, match="nasbench-macro"):
        nas.profile(quick_profile, "spos", profiled.path, time_limit=1)


def test_everything_that_takes_long_reports_progress(
    tmp_path: Path, quick_profile: DeviceProfile, capfd: pytest.CaptureFixture[str]
) -> None:
    """A function that raises ends the work; without one nothing is printed."""
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    reported: list[float] = []
    path = str(tmp_path / "t.sqlite")
    nas.profile(
        quick_profile, space, path, time_limit=1, progress=lambda done, words: reported.append(done)
    )
    assert reported
    assert all(0 <= done <= 1 for done in reported)

    def stop(done: float, words: str) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        nas.calibrate(path, networks=1, progress=stop)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def misfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime on which networks differ by some percent from the sums of their blocks."""

    def open_session(profiler: Profiler, network: Network) -> Session:
        off = np.random.default_rng(crc32(repr(network).encode())).normal(0, 0.02)
        return PricedSession(sum(map(random_price, network)) * (1 + float(off)))

    monkeypatch.setattr(visiting, "open_session", open_session)


def test_calibration_gives_predictions_an_interval(misfit: None, profiled: ProfiledTable) -> None:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    found = nas.calibrate(profiled, networks=14, seed=1)
    assert found.before == profiled.price_model
    assert found.as_dict()["networks"] == found.fit.price.networks > found.before.networks
    predicted = nas.predict(space.random(seed=1), profiled.path)
    assert predicted.low_ms is not None
    assert predicted.high_ms is not None
    assert predicted.low_ms < predicted.latency_ms < predicted.high_ms


def test_every_calibration_adds_networks(misfit: None, profiled: ProfiledTable) -> None:
    """With the same seed and the same open table too."""
    counts = []
    for _ in range(2):
        found = nas.calibrate(profiled, networks=3)
        counts.append(found.fit.price.networks - found.before.networks)
    assert counts == [3, 3]


def test_a_calibration_without_a_further_network_fits_again(
    misfit: None, profiled: ProfiledTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_networks, "distinct_random", lambda *_, **__: [])
    with pytest.warns(LatbenchWarning, match=r"all networks of nasbench-macro.*fitted again"):
        found = nas.calibrate(profiled.path, networks=3)
    assert found.fit.price.networks == found.before.networks


def test_architectures_are_verified_by_name_or_number(
    profiled: ProfiledTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process where torch is not loaded."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    arch = space.random(seed=101)
    other = space.random(seed=102)
    other.save(tmp_path / "other.json")
    found = nas.verify([arch, tmp_path / "other.json"], profiled, random=1, seed=9, tolerance=1e6)
    assert found.names == ("network 1", "other.json", "random 1")
    assert found.architectures[:2] == (arch, other)
    assert found.passed
    plain = found.as_dict()
    assert [row["architecture"] for row in plain["rows"][:2]] == [arch.as_dict(), other.as_dict()]
    assert plain["passed"] is True
    assert plain["mape"] == found.mape
    assert replace(found, tolerance=1.01 * found.mape).passed
    assert not replace(found, tolerance=0.99 * found.mape).passed
    assert "rows" in found._repr_html_()


def test_a_process_that_may_have_trained_does_not_measure(
    profiled: ProfiledTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Apart(Exception):
        pass

    def apart(path: Path, networks: object, **rest: object) -> None:
        assert path == profiled.path
        raise Apart

    monkeypatch.setattr(network_errors, "verify_apart", apart)
    torch = SimpleNamespace(nn=SimpleNamespace(Module=Apart))
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(Apart):
        nas.verify([], profiled, random=1)


def test_there_must_be_something_to_verify(profiled: ProfiledTable) -> None:
    with pytest.raises(InvalidValueError, match="nothing to verify"):
        nas.verify([], profiled)


def test_a_table_is_transferred_from_another_device(
    tmp_path: Path, quick_profile: DeviceProfile, profile: DeviceProfile
) -> None:
    """A source of prices without measurements is refused, and so is one of another space."""
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    write_table(tmp_path / "s.sqlite", space, profile)
    with pytest.raises(MismatchError, match="too few"):
        nas.profile(quick_profile, space, tmp_path / "t.sqlite", source=tmp_path / "s.sqlite")
    with pytest.raises(MismatchError, match="nasbench-macro"):
        nas.profile(quick_profile, "spos", tmp_path / "t.sqlite", source=tmp_path / "s.sqlite")
    assert not (tmp_path / "t.sqlite").exists()


def test_a_forecast_measures_little(quick_profile: DeviceProfile) -> None:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    expected = nas.forecast(quick_profile, space, time_limit="10s")
    assert expected.blocks == len(space.blocks())
    assert expected.passes >= 1
    assert expected.memory_mib is not None
