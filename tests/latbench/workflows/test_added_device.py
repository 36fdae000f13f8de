"""A device elsewhere is added once, and then used by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import latbench
from latbench.conditions import Conditions
from latbench.device import DeviceProfile, Host
from latbench.device_files import load_device, of_table, own_folder, write_device
from latbench.environment import current_environment
from latbench.errors import (
    InvalidFileError,
    InvalidValueError,
    LatbenchError,
    RuntimeFailure,
    UnknownNameError,
)
from latbench.workflows import added_device
from tests.latbench.profilers.test_remote import served_here


@pytest.fixture(autouse=True)
def _own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_device_is_found_by_its_name(tmp_path: Path) -> None:
    host = served_here(tmp_path / "served").host
    assert host is not None
    elsewhere = Host(command=("false",))
    moved = DeviceProfile("pi5", "onnxruntime", batch_size=8, threads=3, host=elsewhere)
    write_device(moved, own_folder() / "pi5.toml")  # where it was before
    added = latbench.add_device("pi5", host, threads=2)
    assert added.path == own_folder() / "pi5.toml"
    assert load_device("pi5") == msgspec.structs.replace(moved, threads=2, host=host)
    assert json.loads(json.dumps(added.as_dict()))["path"] == str(added.path)
    assert added.environment.memory_mib > 0
    listed = {row.name: row for row in latbench.list_devices()}
    assert listed["pi5"].host == str(host)
    assert listed["cpu-onnxruntime"].host is None
    assert latbench.check_device("pi5", duration=0.1).noise.visits > 0


def test_a_profile_that_hides_a_shipped_one_is_named() -> None:
    name = "cpu-onnxruntime-mt"
    hidden = DeviceProfile(name, "onnxruntime", threads=8)
    write_device(hidden, own_folder() / f"{name}.toml")
    with pytest.raises(InvalidFileError, match="comes with latbench: give file and profile"):
        load_device(name)
    (row,) = [row for row in latbench.list_devices() if row.name == name]
    assert row.reason is not None and "comes with latbench" in row.reason
    assert load_device(own_folder() / f"{name}.toml") == hidden


def test_a_table_follows_a_device_that_moved() -> None:
    """The table has the address of its profiling."""
    then = DeviceProfile("pi5", "onnxruntime", host=Host(ssh="pi@old"))
    assert of_table(then).host == then.host
    now = msgspec.structs.replace(then, host=Host(ssh="pi@new"))
    write_device(now, own_folder() / "pi5.toml")
    assert of_table(then).host == now.host
    other = msgspec.structs.replace(then, threads=4)
    assert of_table(other).host == other.host, "another device of that name"


@pytest.mark.parametrize(
    ("content", "reason"),
    [("name = [", "is not a device profile"), ('name = "b"\nruntime = "openvino"', "one name")],
)
def test_a_profile_that_cannot_be_used_is_listed_and_hinders_no_other(
    content: str, reason: str
) -> None:
    own_folder().mkdir(parents=True)
    (own_folder() / "a.toml").write_text(content)
    listed = {row.name: row for row in latbench.list_devices()}
    assert not listed["a"].available and reason in str(listed["a"].reason)
    assert listed["cpu-onnxruntime"].runtime == "onnxruntime"
    with pytest.raises(LatbenchError, match=reason):
        load_device("a")
    board = DeviceProfile("pi", "onnxruntime", host=Host(command=("reach",)))
    write_device(board, own_folder() / "pi.toml")
    assert of_table(board) == board


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "cpu-onnxruntime", "a" * 65])
def test_names_that_are_no_files_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        latbench.add_device(name, Host(command=("true",)))


def test_a_device_that_does_not_answer_is_not_added() -> None:
    with pytest.raises(RuntimeFailure, match="no latbench answers"):
        latbench.add_device("gone", Host(command=("false",)))
    with pytest.raises(UnknownNameError):
        load_device("gone")


def test_a_runtime_that_is_not_there_is_told(tmp_path: Path) -> None:
    host = served_here(tmp_path / "served").host
    assert host is not None
    with pytest.raises(LatbenchError, match="cannot run here"):
        latbench.add_device("board", host, runtime="tensorrt")
    with pytest.raises(LatbenchError, match="unknown runtime"):
        latbench.add_device("board", host, runtime="nonsense")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    profile = msgspec.structs.replace(
        load_device("cpu-openvino"),
        name="x",
        options={"a.b": 'say "x"'},
        host=Host(command=("docker", "exec", "-i", "a b")),
    )
    write_device(profile, tmp_path / "x.toml")
    assert load_device(tmp_path / "x.toml") == profile


def test_advice_names_what_is_wrong() -> None:
    machine = msgspec.structs.replace(current_environment({}), governor="powersave")
    hot = Conditions(temperature_c=81.0, free_mib=100, limits=("the processor is throttled",))
    advice = added_device._advice(machine, hot)
    assert len(advice) == 4
    quiet = msgspec.structs.replace(machine, governor="performance")
    assert added_device._advice(quiet, Conditions(temperature_c=40.0, free_mib=4000)) == []


def test_the_command(run: Any) -> None:
    code, out, err = run("devices", "--add", "board")
    assert code == 2
    assert "--ssh" in err
    code, out, err = run("devices", "--add", "board", "--ssh", "a;b", "--json")
    assert code == 2
    assert "invalid-value" in out


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        (["--runtime", "openvino"], "--add"),
        (["--threads", "2", "--check", "cpu-onnxruntime"], "--add"),
        (["--duration", "5s"], "--check"),
    ],
)
def test_options_that_nothing_would_use_are_refused(
    run: Any, given: list[str], needed: str
) -> None:
    code, out, err = run("devices", *given)
    assert (code, out) == (2, "")
    assert f"{given[0]} belongs to {needed}" in err
