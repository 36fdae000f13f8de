"""The same over a real ssh, on the loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.ssh_server import NAME, lacking, ssh_server
from latbench.device import DeviceProfile, Host
from latbench.errors import RuntimeFailure
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import block_target
from latbench.profilers import make_profiler
from latbench.profilers.remote import RemoteProfiler
from nas.spaces import SearchSpace
from tests.conftest import make_quick_profile

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as found:
        yield found


@pytest.fixture
def device(programs: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return msgspec.structs.replace(make_quick_profile(), host=Host(ssh=NAME, python=sys.executable))


def test_a_pass_over_ssh(device: DeviceProfile, tiny_space: SearchSpace) -> None:
    profiler = make_profiler(device)
    assert isinstance(profiler, RemoteProfiler)
    targets = [
        block_target(id_, (spec,), device.sweep) for id_, spec in enumerate(tiny_space.blocks())
    ]
    record = sweep_pass(profiler, targets, number=0)
    profiler.close()
    assert len(record.visits) == len(targets)


def test_a_host_that_nobody_knows(device: DeviceProfile) -> None:
    unknown = msgspec.structs.replace(device, host=Host(ssh="nobody.invalid"))
    with pytest.raises(RuntimeFailure, match="check the name of the host"):
        make_profiler(unknown).versions()


def test_a_key_that_is_refused(device: DeviceProfile, programs: Path) -> None:
    """No password is asked for."""
    authorized = programs.parent / "authorized"
    keys = authorized.read_text()
    authorized.write_text("")
    try:
        with pytest.raises(RuntimeFailure, match="ssh-copy-id"):
            make_profiler(device).versions()
    finally:
        authorized.write_text(keys)


def test_a_python_that_is_not_there(device: DeviceProfile) -> None:
    wrong = msgspec.structs.replace(device, host=Host(ssh=NAME, python="/nowhere/python"))
    with pytest.raises(RuntimeFailure, match=r"name the Python there that has latbench"):
        make_profiler(wrong).versions()
