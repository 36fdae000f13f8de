"""Several devices are profiled at once, and the failure of one leaves the others alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest

import nas
from benchmarks.fake_boards import block_ms, fake_boards
from latbench.blocks import block_key
from latbench.device import DeviceProfile, Host, SweepProtocol
from latbench.device_files import write_device
from latbench.errors import InvalidValueError
from latbench.profilers import remote_connection
from latbench.tables import LatencyTable
from nas.workflows import fleet_profiling
from tests.conftest import make_quick_profile
from tests.latbench.profilers.test_remote import served_here

QUICK = make_quick_profile()


@pytest.fixture
def boards(tmp_path: Path) -> list[DeviceProfile]:
    """Two boards that are this machine, each with a lock of its own."""
    made = []
    for name in ("one", "two"):
        host = served_here(tmp_path / name, locks=tmp_path / name).host
        made.append(msgspec.structs.replace(QUICK, name=name, host=host))
    return made


def test_every_device_has_its_table(tmp_path: Path, boards: list[DeviceProfile]) -> None:
    space = nas.make_space("nasbench-macro", 8, 10)
    dead = msgspec.structs.replace(QUICK, name="dead", host=Host(command=("false",)))
    found = nas.profile_devices([boards[0], dead, boards[1]], space, tmp_path / "tables")
    assert [each.device for each in found] == ["one", "dead", "two"]
    assert [each.error is None for each in found] == [True, False, True]
    assert not found[1].table.exists()
    for each in (found[0], found[2]):
        table = LatencyTable.open(each.table)
        assert table.device.name == each.device
        assert table.predict(space.lower(space.smallest())).latency_ms > 0


def test_boards_that_break_and_die_leave_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve boards: lines break at random, two boards die for good; all other tables are whole."""
    monkeypatch.setattr(remote_connection, "_PAUSES_S", (0.05,) * 3)
    sweep = SweepProtocol(min_passes=12, max_passes=12, networks=8)
    space = nas.make_space("nasbench-macro")
    names = [f"board{number}" for number in range(12)]
    dead = frozenset({"board3", "board8"})
    with fake_boards(breaks=0.03, dead=dead) as boards:
        devices = [boards.profile(name, sweep) for name in names]
        found = nas.profile_devices(devices, space, tmp_path / "tables")
        assert boards.broken > len(dead)
    assert {each.device for each in found if each.error} == dead
    network = space.lower(space.largest())
    truth_ms = sum(block_ms(block_key(spec)) for spec in network)
    for each in found:
        if each.device not in dead:
            table = LatencyTable.open(each.table)
            assert table.predict(network).latency_ms == pytest.approx(truth_ms, rel=0.01)
            assert all(e.visits == 12 for e in table.estimates.values())


def test_a_fault_of_the_program_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = fleet_profiling.fill

    def faulty(profiler: Any, *given: Any, **named: Any) -> Any:
        return 1 / 0 if profiler.profile.name == "faulty" else fill(profiler, *given, **named)

    monkeypatch.setattr(fleet_profiling, "fill", faulty)
    sweep = SweepProtocol(min_passes=12, max_passes=12, networks=8)
    with fake_boards() as boards:
        devices = [boards.profile(name, sweep) for name in ("faulty", "one")]
        found = nas.profile_devices(devices, nas.make_space("nasbench-macro"), tmp_path)
    assert [each.error for each in found] == ["ZeroDivisionError: division by zero", None]


def test_the_command(run: Any, tmp_path: Path, boards: list[DeviceProfile]) -> None:
    for board in boards:
        write_device(board, tmp_path / f"{board.name}.toml")
    paths = [tmp_path / f"{board.name}.toml" for board in boards]
    asked = ("profile", *paths, "nasbench-macro", "--input-size", 8, "-o", tmp_path / "tables")
    code, out, err = run(*asked, "--json")
    assert code == 0, err
    rows = json.loads(out)["devices"]
    assert [row["device"] for row in rows] == ["one", "two"]
    assert all(Path(row["table"]).exists() and row["blocks"] for row in rows)
    assert run("profile", *paths, "nasbench-macro", "--plan")[0] == 2
    assert run("profile", *paths, "nasbench-macro")[0] == 2
    assert run("profile", *paths, "nasbench-macro", "-o", paths[0])[0] == 2
    assert run("profile", paths[0], "nasbench-macro", "-o", tmp_path)[0] == 2


def test_an_interrupt_ends_all_and_keeps_their_passes(
    tmp_path: Path, boards: list[DeviceProfile]
) -> None:
    space = nas.make_space("nasbench-macro", 8, 10)
    interrupted: list[str] = []

    def progress_of(name: str) -> Any:
        def report(fraction: float, words: str, /) -> None:
            if "pass 3" in words and not interrupted:
                interrupted.append(name)
                raise KeyboardInterrupt

        return report

    many = msgspec.structs.replace(QUICK.sweep, min_passes=6, max_passes=6)
    slow = [msgspec.structs.replace(board, sweep=many) for board in boards]
    found = nas.profile_devices(slow, space, tmp_path / "tables", progress_of=progress_of)
    stopped = {each.device: each.result.stopped for each in found if each.result is not None}
    assert stopped[interrupted[0]] == "interrupted"
    again = nas.profile_devices(slow, space, tmp_path / "tables")
    assert all(each.result is not None and each.result.stopped == "pass limit" for each in again)
    for first, second in zip(found, again, strict=True):
        if first.result is not None and second.result is not None:
            assert second.result.passes == first.result.passes + 6


@pytest.fixture
def interrupt_when(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], object]], None]:
    """Ctrl-C in the main thread, which waits for the devices, once a function has returned."""

    def when(met: Callable[[Any], object]) -> None:
        def wait_once(running: Any) -> None:
            monkeypatch.setattr(fleet_profiling, "wait", wait)
            met(running)
            raise KeyboardInterrupt

        monkeypatch.setattr(fleet_profiling, "wait", wait_once)

    return when


def test_ctrl_c_prices_what_each_device_has(
    tmp_path: Path, interrupt_when: Callable[[Callable[[Any], object]], None]
) -> None:
    passed = {"one": Event(), "two": Event()}
    interrupt_when(lambda running: all(each.wait(60) for each in passed.values()))

    def progress_of(name: str) -> Any:
        return lambda fraction, words: passed[name].set() if "pass 3" in words else None

    sweep = SweepProtocol(min_passes=100_000, max_passes=100_000, networks=8)
    space = nas.make_space("nasbench-macro")
    with fake_boards() as boards:
        devices = [boards.profile(name, sweep) for name in passed]
        found = nas.profile_devices(devices, space, tmp_path, progress_of=progress_of)
    for each in found:
        assert each.interrupted
        assert each.result is not None, each.error
        assert each.result.passes >= 2
        assert LatencyTable.open(each.table).predict(space.lower(space.smallest())).latency_ms > 0


def test_ctrl_c_does_not_wait_for_a_device_that_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_when: Callable[[Callable[[Any], object]], None],
) -> None:
    monkeypatch.setattr(remote_connection, "_PAUSES_S", (600.0,))
    interrupt_when(lambda running: wait(running, return_when=FIRST_COMPLETED))
    sweep = SweepProtocol(min_passes=12, max_passes=12, networks=8)
    with fake_boards(dead=frozenset({"dead"})) as boards:
        devices = [boards.profile(name, sweep) for name in ("dead", "one")]
        dead, one = nas.profile_devices(devices, nas.make_space("nasbench-macro"), tmp_path)
    assert (dead.interrupted, one.interrupted) == (True, False)
    assert one.error is None


def test_a_command_that_was_interrupted_says_so(
    run: Any, tmp_path: Path, boards: list[DeviceProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a device had no prices yet."""
    paths = [tmp_path / f"{board.name}.toml" for board in boards]
    for board, path in zip(boards, paths, strict=True):
        write_device(board, path)
    interrupted = nas.ProfiledDevice(
        "one", tmp_path / "one.sqlite", None, "interrupted before it had prices"
    )
    monkeypatch.setattr(nas, "profile_devices", lambda *_, **__: [interrupted])
    assert run("profile", *paths, "nasbench-macro", "-o", tmp_path / "tables")[0] == 130


def test_devices_that_would_disturb_each_other_are_refused(
    tmp_path: Path, boards: list[DeviceProfile]
) -> None:
    space = nas.make_space("nasbench-macro", 8, 10)
    refused = (
        ([], "no device is given"),
        ([boards[0], boards[0]], "twice"),
        ([boards[0], QUICK], "alone"),
    )
    for devices, words in refused:
        with pytest.raises(InvalidValueError, match=words):
            nas.profile_devices(devices, space, tmp_path / "tables")


@pytest.mark.parametrize("name", ["../outside", "rack/pi", "/tmp/pi", "..", "", "a\0b", "a\n"])
def test_no_table_leaves_the_folder(tmp_path: Path, boards: list[DeviceProfile], name: str) -> None:
    odd = msgspec.structs.replace(boards[0], name=name)
    with pytest.raises(InvalidValueError, match="no name of a device"):
        nas.profile_devices([odd, boards[1]], "nasbench-macro", tmp_path / "tables")
    assert not (tmp_path / "tables").exists()
