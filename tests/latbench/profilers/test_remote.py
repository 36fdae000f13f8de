"""A device elsewhere: it measures as one that is here, and no fault hangs or lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from math import inf, nan
from pathlib import Path
from threading import Timer
from typing import Any

import msgspec
import numpy as np
import pytest

import latbench
import nas
from benchmarks import fake_boards as boards_module
from benchmarks.fake_boards import fake_boards
from benchmarks.kills import passes_of, profile_with_kills
from latbench import serve
from latbench.conditions import Conditions
from latbench.device import DeviceProfile, Host, SweepProtocol
from latbench.device_files import load_device, of_table, own_folder, write_device
from latbench.errors import (
    DeviceBusyError,
    InvalidFileError,
    InvalidValueError,
    MismatchError,
    RuntimeFailure,
)
from latbench.measure.lock import FOLDER_VARIABLE, device_lock, held
from latbench.measure.noise import check_noise
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import Target, block_target
from latbench.models import OnnxModel
from latbench.models.reading import read_model
from latbench.profilers import (
    make_profiler,
    remote,
    remote_connection,
    remote_link,
    remote_messages,
)
from latbench.profilers.remote import RemoteProfiler
from latbench.profilers.remote_link import LineLostError
from latbench.profilers.remote_messages import (
    MARK,
    MAX_MESSAGE_BYTES,
    AddModel,
    Beat,
    ConditionsNow,
    FootprintNow,
    Forget,
    Load,
    LoadNow,
    NoiseNow,
    Open,
    Request,
    Taken,
    TakenVisit,
    TensorHeader,
    Welcome,
    packed,
)
from latbench.tables import LatencyTable
from latbench.workflows.footprint import measure_footprint
from nas.spaces import SearchSpace
from tests.conftest import make_quick_profile, profile_space, write_table
from tests.latbench.models.small import conv_model, save

QUICK = make_quick_profile()


@pytest.fixture
def device(tmp_path: Path) -> DeviceProfile:
    """A profile whose host is this machine."""
    return served_here(tmp_path / "served")


def served_here(folder: Path, *, locks: Path | None = None) -> DeviceProfile:
    """A profile whose host is a server on this machine, with the test's locks or its own."""
    folder.mkdir()
    own = f"export {FOLDER_VARIABLE}={locks}\n" if locks else ""
    return _served_by(folder, f'{own}exec "$@" {folder}/served')  # a mark of the process


@pytest.fixture
def profiler(device: DeviceProfile) -> Iterator[RemoteProfiler]:
    made = make_profiler(device)
    assert isinstance(made, RemoteProfiler)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_connection, "_PAUSES_S", (0.01,) * 3)
    monkeypatch.setattr(remote_connection, "_BUSY_S", 5.0)
    monkeypatch.setattr(remote_connection, "_BUSY_PAUSE_S", 0.05)
    monkeypatch.setattr(remote_link, "_LINGER_S", 0.2)


def _served_by(folder: Path, script: str) -> DeviceProfile:
    """A profile whose host runs a script in place of the server."""
    path = folder / "host.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    host = Host(command=(str(path),), python=sys.executable)
    return msgspec.structs.replace(QUICK, host=host)


def test_a_pass_has_the_visits_of_a_pass_here(
    profiler: RemoteProfiler, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    targets = [
        block_target(id_, (spec,), quick_profile.sweep)
        for id_, spec in enumerate(tiny_space.blocks())
    ]
    targets.append(Target(99, tiny_space.lower(tiny_space.smallest()), 3, 1.0, cold=False))
    there = sweep_pass(profiler, targets, number=4)
    here = sweep_pass(make_profiler(quick_profile), targets, number=4)
    assert [id_ for id_, _ in there.visits] == [id_ for id_, _ in here.visits]
    assert [len(v.cold_ns) for _, v in there.visits] == [len(v.cold_ns) for _, v in here.visits]
    assert there.open_s > 0
    assert there.calls_s > 0
    assert all(min(visit.hot_ns) > 0 for _, visit in there.visits)


def test_the_device_tells_its_own_state(
    profiler: RemoteProfiler, quick_profile: DeviceProfile
) -> None:
    here = make_profiler(quick_profile)
    assert profiler.versions() == here.versions()
    assert profiler.environment().differences(here.environment()) == []
    assert profiler.begin(meter=True).free_mib
    time.sleep(0.05)
    load = profiler.load()
    assert load is None or (load.others >= 0 and load.cores == os.cpu_count())


def test_models_with_weights_are_measured(profiler: RemoteProfiler, tmp_path: Path) -> None:
    model = read_model(save(conv_model(), tmp_path / "m.onnx"))
    record = sweep_pass(profiler, [Target(0, model, 2, 1.0, cold=False)], number=0)
    assert len(record.visits) == 2
    footprint = measure_footprint(profiler, model)
    assert footprint.load_ms > 0


def test_a_segment_that_fits_into_no_message_is_refused_in_one_line(
    profiler: RemoteProfiler, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of 4-bit weights, which stay in its graph."""
    profiler.versions()  # the line is up
    monkeypatch.setattr(remote_messages, "MAX_MESSAGE_BYTES", 300)
    whole = tiny_space.lower(tiny_space.largest())
    target = block_target(0, whole, profiler.profile.sweep)
    with pytest.raises(RuntimeFailure, match=r"a segment cannot be sent.*on the device itself"):
        sweep_pass(profiler, [target], number=0)


def test_models_that_are_gone_here_are_freed_there(
    profiler: RemoteProfiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As variants of a model that are compared and dropped; also after the line was made again."""
    sent: list[object] = []
    send = remote_link.RemoteLink.send

    def recorded(link: remote_link.RemoteLink, message: Request, *, within_s: float) -> None:
        if isinstance(message, AddModel | Forget):
            sent.append((type(message), message.number))
        send(link, message, within_s=within_s)

    monkeypatch.setattr(remote_link.RemoteLink, "send", recorded)
    path = save(conv_model(), tmp_path / "m.onnx")

    def visit(model: OnnxModel) -> None:
        sweep_pass(profiler, [Target(0, model, 1, 1.0, cold=False)], number=0)

    kept = read_model(path)
    visit(kept)
    for _ in range(2):
        visit(read_model(path))
    visit(kept)
    assert sent == [(AddModel, 0), (AddModel, 1), (Forget, 1), (AddModel, 2)]
    profiler.close()
    visit(kept)
    visit(read_model(path))
    assert sent[4:] == [(AddModel, 3), (AddModel, 4)]


def test_weights_of_all_models_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "memory_bytes", lambda: 10_000_000)
    weights = (TensorHeader("w", (1_500_000,), "float32"),)
    first, second = (AddModel(number, "m", b"", (), weights) for number in range(2))

    def refused(*requests: Request) -> dict[int, str]:
        source = BytesIO(b"".join(map(packed, requests)))
        server = serve.Server(serve.Line(source, BytesIO()))
        server.run()
        return server._refused

    assert "6 MB beside 6 MB of other models" in refused(first, second)[1]
    assert refused(first, Forget(0), second) == {}


def test_a_fault_of_the_device_s_software_is_told_and_not_tried_again(
    profiler: RemoteProfiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ImportError("libcurand.so.10: cannot open shared object file")

    source, sink = BytesIO(packed(Open(QUICK, client="test"))), BytesIO()
    monkeypatch.setattr(serve, "make_profiler", broken)
    serve.Server(serve.Line(source, sink)).run()
    assert b"ImportError: libcurand.so.10: cannot open" in sink.getvalue()


def test_a_graph_that_is_too_large_for_a_message_is_refused(
    profiler: RemoteProfiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(save(conv_model(), tmp_path / "m.onnx"))
    profiler.versions()
    monkeypatch.setattr("latbench.profilers.remote_messages.MAX_MESSAGE_BYTES", 100)
    with pytest.raises(RuntimeFailure, match=r"m\.onnx cannot be sent, because its graph"):
        profiler.connection.number(model)


def test_noise_is_checked_there(profiler: RemoteProfiler) -> None:
    found = check_noise(profiler, profiler.environment(), seconds=0.1)
    assert len(found.targets) == 3
    assert found.tolerance >= 0


@pytest.mark.parametrize("command", ["profile", "bench"])
def test_workflows_run_there(
    tmp_path: Path, device: DeviceProfile, tiny_space: SearchSpace, command: str
) -> None:
    if command == "bench":
        path = save(conv_model(), tmp_path / "m.onnx")
        found = latbench.bench([path], device=device, time_limit=0.1)
        assert found.rows[0].latency_ms > 0
        return
    path = tmp_path / "t.sqlite"
    profile_space(make_profiler(device), path, tiny_space, time_limit_s=20)
    table = LatencyTable.open(path)
    assert table.device == device
    assert table.environment.cpu == make_profiler(make_quick_profile()).environment().cpu


def test_a_plan_does_not_tell_the_memory_of_this_machine(
    run: Any, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    with fake_boards() as boards:
        write_device(boards.profile("board", quick_profile.sweep), tmp_path / "board.toml")
        asked = ("profile", tmp_path / "board.toml", "nasbench-macro", "--plan")
        assert json.loads(run(*asked, "--json")[1])["memory_mib"] is None
        assert "MiB" not in run(*asked)[1]


def test_a_broken_line_is_made_again(
    profiler: RemoteProfiler, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """The server is killed several times in a pass; the pass is whole and in order."""
    targets = [
        block_target(id_, (spec,), quick_profile.sweep)
        for id_, spec in enumerate(tiny_space.blocks())
    ]
    whole = sweep_pass(make_profiler(quick_profile), targets, number=1)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done in {1, 5, total - 1}:
            assert profiler.connection.link is not None
            killed.append(profiler.connection.link._process.pid)
            os.kill(killed[-1], signal.SIGKILL)

    with held(profiler):
        broken = sweep_pass(profiler, targets, number=1, on_visit=kill)
    assert len(set(killed)) >= 2
    assert [id_ for id_, _ in broken.visits] == [id_ for id_, _ in whole.visits]


def test_a_line_that_broke_while_nobody_used_it_is_made_again(profiler: RemoteProfiler) -> None:
    """As during a training between two measurements."""
    profiler.versions()
    assert profiler.connection.link is not None
    os.kill(profiler.connection.link._process.pid, signal.SIGKILL)
    with held(profiler):
        assert profiler.begin().free_mib
    with held(profiler):
        assert profiler.connection.is_held


@pytest.mark.parametrize("own", [True, False])
def test_a_server_that_does_not_notice_its_lost_client_yet_is_waited_for(
    own: bool, profiler: RemoteProfiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an outage: the old server has the device until its connection ends too."""
    holder = remote_connection._client() if own else "process 1 on another host"
    connection, tries = profiler.connection, []

    def connected() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise DeviceBusyError(f"the CPU is being measured by {holder}")

    monkeypatch.setattr(connection, "connected", connected)
    if own:
        connection.reconnect(LineLostError("lost"), 1)
        assert len(tries) == 3
    else:
        with pytest.raises(DeviceBusyError, match="another host"):
            connection.reconnect(LineLostError("lost"), 1)


def test_a_line_that_stays_broken_ends_with_what_to_do(
    profiler: RemoteProfiler, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = block_target(0, (tiny_space.blocks()[0],), QUICK.sweep)
    sweep_pass(profiler, [target], number=0)
    assert profiler.connection.link is not None
    os.kill(profiler.connection.link._process.pid, signal.SIGKILL)
    gone = Host(command=("false",), python=sys.executable)
    monkeypatch.setattr(profiler.connection, "host", gone)
    with pytest.raises(RuntimeFailure, match="run the same command again when the device is back"):
        sweep_pass(profiler, [target], number=1)


def test_a_hanging_line_is_given_up(
    profiler: RemoteProfiler, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pulled cable: the other side neither answers nor ends."""
    target = block_target(0, (tiny_space.blocks()[0],), QUICK.sweep)
    sweep_pass(profiler, [target], number=0)
    assert profiler.connection.link is not None
    os.kill(profiler.connection.link._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(remote_connection, "SILENCE_S", 0.3)
    monkeypatch.setattr(remote, "OPEN_S", 10.0)
    record = sweep_pass(profiler, [target], number=1)
    assert len(record.visits) == 1, "on a new line"


def test_a_request_that_always_breaks_the_line_is_given_up(tiny_space: SearchSpace) -> None:
    """As where the memory of the board does not suffice for a network."""
    with fake_boards(breaks=1.0) as boards:
        profiler = make_profiler(boards.profile("board", QUICK.sweep))
        target = block_target(0, (tiny_space.blocks()[0],), QUICK.sweep)
        with pytest.raises(RuntimeFailure, match="5 times at the same request"):
            sweep_pass(profiler, [target], number=0)


def test_a_board_that_comes_back_otherwise_is_not_measured(tiny_space: SearchSpace) -> None:
    """As after a reboot that reset the governor."""
    with fake_boards(breaks=0.5, moody=True) as boards:
        profiler = make_profiler(boards.profile("board", QUICK.sweep))
        assert profiler.environment().governor == "governor 1"
        targets = [
            block_target(n, (spec,), QUICK.sweep) for n, spec in enumerate(tiny_space.blocks())
        ]
        with pytest.raises(MismatchError, match="governor is governor 2, was governor 1"):
            for number in range(20):
                sweep_pass(profiler, targets, number=number)


def test_visits_that_nobody_waits_for_do_not_disturb_later_requests(
    profiler: RemoteProfiler, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    targets = [
        block_target(id_, (spec,), quick_profile.sweep)
        for id_, spec in enumerate(tiny_space.blocks())
    ]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with held(profiler):
        with pytest.raises(KeyboardInterrupt):
            sweep_pass(profiler, targets, number=0, on_visit=stop)
        assert profiler.environment().cpu
        assert len(sweep_pass(profiler, targets, number=0).visits) == len(targets)


def test_an_interrupt_does_not_wait_for_the_device(profiler: RemoteProfiler) -> None:
    """The line is closed, whose end the device notices at its next sign of life."""

    def stop(fraction: float, words: str, /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiler.noise(0.1, progress=stop)
    assert profiler.connection.link is None
    assert profiler.environment().cpu
    with pytest.raises(KeyboardInterrupt), held(profiler):
        raise KeyboardInterrupt
    assert profiler.connection.link is None
    with held(profiler):
        assert profiler.environment().cpu


@pytest.mark.parametrize("gone", [Host(command=("sleep", "600")), Host(command=("false",))])
def test_another_thread_stops_whoever_waits_for_the_device(
    profiler: RemoteProfiler, monkeypatch: pytest.MonkeyPatch, gone: Host
) -> None:
    """For a device that does not answer, and for one that cannot be reached."""
    connection = profiler.connection
    connection.versions()
    monkeypatch.setattr(remote_connection, "_PAUSES_S", (600.0,))
    monkeypatch.setattr(connection, "host", gone)
    Timer(0.2, connection.stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        connection.reconnect(LineLostError("the line broke"), 1)


def test_a_stop_after_the_last_answer_discards_nothing(profiler: RemoteProfiler) -> None:
    with held(profiler):
        profiler.connection.stop.set()
    assert profiler.connection.link is None


def test_one_client_holds_a_device(
    profiler: RemoteProfiler, device: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_connection, "_BUSY_S", 0.1)
    other = make_profiler(device)
    assert isinstance(other, RemoteProfiler)
    with held(profiler):
        with pytest.raises(DeviceBusyError, match=f"by process {os.getpid()} on"), held(other):
            pass
        with pytest.raises(DeviceBusyError), device_lock("cpu"):
            pass
    with held(other):
        pass
    other.close()


def test_a_killed_client_gives_the_device_back(tmp_path: Path, device: DeviceProfile) -> None:
    script, profile = tmp_path / "client.py", tmp_path / "device.toml"
    write_device(device, profile)
    script.write_text(
        "import time\n"
        "from latbench.device_files import load_device\n"
        "from latbench.measure.lock import held\n"
        "from latbench.profilers import make_profiler\n"
        f"with held(make_profiler(load_device({str(profile)!r}))):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    client = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"held\n"
    client.kill()
    client.wait()
    client.stdout.close()
    mine = make_profiler(device)
    assert isinstance(mine, RemoteProfiler)
    with held(mine):
        pass
    mine.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "the command ended with code 3"),
        ("echo 'ssh: Could not resolve hostname x' >&2; exit 255", "check the name of the host"),
        ("echo 'pi@x: Permission denied (publickey).' >&2; exit 255", "ssh-copy-id"),
        ("echo 'No module named latbench' >&2; exit 1", r"-m pip install latbench-\*\.whl"),
        ("echo 'sh: python9: not found' >&2; exit 127", "name the Python there that has latbench"),
        ("echo 'OSError: No space left on device' >&2; exit 1", "its disk is full"),
        ("head -c 1000000 /dev/zero", "no latbench answers"),
        ("yes", "no latbench answers"),
    ],
)
def test_a_host_without_a_server_is_told_apart(tmp_path: Path, script: str, words: str) -> None:
    profiler = make_profiler(_served_by(tmp_path, script))
    with pytest.raises(RuntimeFailure, match=words) as told:
        profiler.versions()
    assert "\n" not in told.value.message


@pytest.mark.parametrize(
    ("word", "words"), [("a\0b", "null byte"), ("/nowhere/ssh", "No such file"), ("\ud800", "")]
)
def test_a_command_that_cannot_be_started_is_told(word: str, words: str) -> None:
    profiler = make_profiler(msgspec.structs.replace(QUICK, host=Host(command=(word,))))
    with pytest.raises(RuntimeFailure, match=f"cannot start .*{words}"):
        profiler.versions()


def test_other_versions_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_bytes(MARK + packed(Welcome(1, "9.9", "3.11.0")))
    profiler = make_profiler(_served_by(tmp_path, f"cat {answer}; sleep 5"))
    told = r"has latbench 9\.9, .* build a wheel .* -m pip install --force-reinstall WHEEL"
    with pytest.raises(MismatchError, match=told):
        profiler.versions()


ABSURD = (
    Taken((TakenVisit((), (5,), 0.0),)),
    Taken((TakenVisit((5, 0), (5,), 0.0),)),
    Taken((TakenVisit((5,), (-5,), 0.0),)),
    Taken((TakenVisit((2**63,), (5,), 0.0),)),
    Taken((TakenVisit((5,), (5,), nan),)),
    FootprintNow(nan, 1.0),
    FootprintNow(1.0, inf),
    LoadNow(Load(nan, 0.0, 2)),
    ConditionsNow(Conditions(temperature_c=nan)),
    NoiseNow({"targets": [{"noise": inf}]}),
    Beat(nan, "pass 1"),
)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), "that is no latbench"),
        (b"\x00\x00\x00\x03abc", "no message"),
        *((packed(answer), "no message") for answer in ABSURD),
    ],
)
def test_garbage_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    answer = tmp_path / "answer"
    answer.write_bytes(MARK + raw)
    profiler = make_profiler(_served_by(tmp_path, f"cat {answer}; sleep 5"))
    with pytest.raises(RuntimeFailure, match=words):
        profiler.versions()


def test_what_a_login_shell_prints_is_passed_over(tmp_path: Path) -> None:
    made = make_profiler(_served_by(tmp_path, 'echo "Welcome to the board"; exec "$@"'))
    assert isinstance(made, RemoteProfiler)
    assert made.versions()
    made.close()


def test_a_wrong_time_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_space: SearchSpace
) -> None:
    path = tmp_path / "t.sqlite"
    monkeypatch.setattr(boards_module, "_visit", lambda latency_ms: TakenVisit((), (5,), 0.0))
    with fake_boards() as boards:
        profiler = make_profiler(boards.profile("board", QUICK.sweep))
        with pytest.raises(RuntimeFailure, match=r"^bash .* sent what is no message"):
            profile_space(profiler, path, tiny_space, time_limit_s=20)
    assert not path.exists()


def test_a_noise_check_without_its_fields_is_refused(
    profiler: RemoteProfiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = profiler.environment()
    monkeypatch.setattr(profiler, "noise", lambda seconds, progress: {"visits": 8})
    with pytest.raises(RuntimeFailure, match="sent no noise check"):
        check_noise(profiler, environment, seconds=0.1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x0f\x81\xa4type\xa8Ask\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02\x00\x00",
        b"\x00\x00\x00\x05abc",
        bytes(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)),
    ],
)
def test_a_server_that_gets_garbage_ends(data: bytes) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "latbench.serve"],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout.startswith(MARK)
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "section",
    [
        'ssh = "pi@board; rm -rf /"',
        'ssh = "-oProxyCommand=x"',
        'ssh = "pi@board"\npython = "$(id)"',
        'ssh = "pi@board"\npython = "-c"',
        'python = "python3"',
        'ssh = "pi@board"\ncommand = ["env"]',
        'ssh = "pi board"',
    ],
)
def test_hosts_that_a_shell_would_read_are_refused(tmp_path: Path, section: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(f'name = "board"\nruntime = "onnxruntime"\n[host]\n{section}\n')
    with pytest.raises(InvalidFileError):
        load_device(path)


def test_ssh_never_asks_and_gets_one_word_for_the_shell() -> None:
    host = Host(ssh="pi@board", python="~/latbench/bin/python")
    words = host.run_command("-m", "latbench.serve", options=remote_link._ssh_options())
    assert "BatchMode=yes" in words
    assert words[-3:] == ["--", "pi@board", "~/latbench/bin/python -m latbench.serve"]


def test_a_command_of_a_stranger_s_table_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only if the user has a device profile with the same command."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mark = tmp_path / "ran"
    host = Host(command=("touch", str(mark)))
    profile = msgspec.structs.replace(QUICK, name="gift", host=host)
    path = tmp_path / "gift.sqlite"
    write_table(path, nas.make_space("nasbench-macro", 8, 10), profile)
    with pytest.raises(InvalidValueError, match=r"gift\.toml"):
        nas.verify([], path, random=2)
    with pytest.raises(InvalidValueError, match=r"gift\.toml"):
        nas.calibrate(path)
    assert not latbench.check_table(path).stale, "entries are looked at all the same"
    assert not mark.exists()
    assert of_table(msgspec.structs.replace(profile, host=Host(ssh="pi@board"))).host is not None
    write_device(msgspec.structs.replace(profile, name="own"), own_folder() / "own.toml")
    assert of_table(profile) == profile


def test_a_device_may_move(device: DeviceProfile) -> None:
    moved = msgspec.structs.replace(device, host=Host(ssh="pi@elsewhere"))
    assert moved.same_device(device)
    assert not moved.same_device(msgspec.structs.replace(device, threads=2, sweep=SweepProtocol()))


def test_kills_of_both_sides_change_nothing_but_times(tmp_path: Path) -> None:
    """Whatever is killed, the finished passes are those of a run that was never disturbed."""
    protocol = SweepProtocol(
        **{**msgspec.structs.asdict(QUICK.sweep), "min_passes": 20, "max_passes": 20}
    )
    tables = []
    for name, kills in (("quiet", 0), ("killed", 4)):
        folder = tmp_path / name
        device = msgspec.structs.replace(served_here(folder, locks=folder), sweep=protocol)
        write_device(device, folder / "board.toml")
        table = folder / "t.sqlite"
        command = ["profile", str(folder / "board.toml"), "nasbench-macro", "--input-size", "8"]
        met = profile_with_kills(
            [*command, "-o", str(table)],
            kills=kills,
            seed=1,
            server=str(folder / "served"),
            within_s=(0.8, 1.8),
        )
        assert met >= kills // 2
        tables.append(passes_of(table))
    quiet, killed = tables
    assert len(killed) >= len(quiet) == 20
    assert killed[: len(quiet)] == quiet
