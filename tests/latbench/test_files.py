"""Units, names, profiles and writes: what people type, and what may go wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.device import DeviceProfile, load_profile, shipped_profiles
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, UnknownNameError
from latbench.files import write_atomically
from latbench.profilers import PROFILERS
from latbench.units import format_s, parse_duration_s, parse_latency_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [("15ms", 15), ("3.218ms", 3.218), ("0.8s", 800), ("250 us", 0.25), ("1e1ms", 10)],
)
def test_latencies_are_typed_with_a_unit(text: str, ms: float) -> None:
    assert parse_latency_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["15", "ms", "", "-3ms", "0ms", "15 km", "1e999ms", "nanms"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="latency"):
        parse_latency_ms(text)


@given(st.text(max_size=12))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(InvalidValueError):
        assert parse_duration_s(text) > 0


@pytest.mark.parametrize(("text", "s"), [("150s", 150), ("20min", 1200), ("2h", 7200)])
def test_durations(text: str, s: float) -> None:
    assert parse_duration_s(text) == s


@pytest.mark.parametrize(
    ("s", "text"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_are_shown_in_words(s: float, text: str) -> None:
    assert format_s(s) == text


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_are_what_they_are_called(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.runtime in list(PROFILERS)


def test_every_runtime_has_a_shipped_profile() -> None:
    assert {load_profile(name).runtime for name in shipped_profiles()} == set(PROFILERS.own)


def test_an_unknown_profile_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cpu-onnxruntime'") as caught:
        load_profile("cpu-onxruntime")
    assert caught.value.choices == shipped_profiles()


@pytest.mark.parametrize(
    "text",
    [
        "name = ",
        'name = "x"',
        'name = "x"\nruntime = "onnxruntime"\nthreads = 0',
        'name = "x"\nruntime = "onnxruntime"\nthread = 1',
        'name = "x"\nruntime = "onnxruntime"\n[sweep]\nquantile = 2.0',
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(InvalidFileError, match="no device profile"):
        load_profile(str(path))


def test_a_profile_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('name = "mine"\nruntime = "onnxruntime"\nthreads = 4')
    assert load_profile(str(path)) == DeviceProfile("mine", "onnxruntime", threads=4)


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InvalidFileError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_error_is_json_without_what_it_does_not_know() -> None:
    assert LatbenchError("no", nearest_ms=3.0).as_dict() == {
        "kind": "error",
        "message": "no",
        "nearest_ms": 3.0,
    }
