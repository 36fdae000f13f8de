"""Actors of a Ray cluster that score architectures: the answer is that of one process."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Timer

import pytest

import nas
from latbench.device_files import load_device
from latbench.errors import InvalidValueError, RuntimeFailure
from nas.crew.base import CrewSettings
from nas.crew.ray_cluster import RayCrew
from nas.evaluators.crew import crewed
from nas.latency.priced_space import PricedSpace
from tests.conftest import write_table
from tests.nas.crew.test_processes import SPACE, Refusing, Slow, drawn, searched
from tests.nas.runs import tiny_data

pytest.importorskip("ray")
_MOST_S = 600.0  # far more than the half minute that two idle processors take


@pytest.fixture(autouse=True)
def _at_most() -> Iterator[None]:
    """End a test that waits for a cluster for ever."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(round(2 * _MOST_S))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("deaths", [0, 2])
def test_scores_come_in_order_whoever_dies(tmp_path: Path, deaths: int) -> None:
    asked = drawn(10)
    expected = [Slow(tmp_path).score(each) for each in asked]
    settings = CrewSettings(3, ray="local")
    with crewed(Slow(tmp_path, deaths), settings, at_once=6) as crew:
        assert list(crew.scores(asked[:6])) == expected[:6]
        assert list(crew.scores(asked[6:])) == expected[6:]
    assert len(list(tmp_path.glob("death*"))) == deaths


def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeFailure, match="3 workers died with the same task"),
        RayCrew(Slow(tmp_path, deaths=100).score, "local", 1, at_once=4) as crew,
    ):
        list(crew.map(drawn(2)))


def test_an_error_of_a_score_is_raised_here() -> None:
    with (
        pytest.raises(InvalidValueError, match="nothing"),
        RayCrew(Refusing().score, "local", 2, at_once=4) as crew,
    ):
        list(crew.map(drawn(2)))


def test_a_search_is_the_same_on_a_cluster(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.sqlite", SPACE, load_device("cpu-onnxruntime"))
    priced = PricedSpace(SPACE, table)
    alone = searched(priced, tmp_path / "alone", CrewSettings())
    assert searched(priced, tmp_path / "ray", CrewSettings(2, ray="local")) == alone


def test_trainings_are_the_same_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with paths that are relative to this process's folder."""
    monkeypatch.chdir(tmp_path)
    space = nas.make_space("nasbench-macro", 8, 10)
    networks = {f"network{seed}": space.random(seed=seed) for seed in range(2)}
    metrics, weights = [], []
    for output, ray in (("here", None), ("there", "local")):
        found = nas.train_several(
            networks, tiny_data(), output=output, workers=2, ray=ray, epochs=1, batch_size=16
        )
        assert [each.error for each in found] == [None, None]
        metrics.append([each.metrics for each in found])
        weights.append([(each.output / "weights.safetensors").read_bytes() for each in found])
    assert metrics[0] == metrics[1]
    assert weights[0] == weights[1]
    assert (tmp_path / "there" / "network1" / "config.json").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nonsense"])
def test_a_cluster_that_is_not_there_is_told(address: str) -> None:
    there = address.format(port=_free_port())
    with pytest.raises(RuntimeFailure, match="ray start --head"):
        CrewSettings(ray=there).require_work(gpu=False)
    with pytest.raises(RuntimeFailure, match="ray start --head"):
        RayCrew(Refusing().score, address.format(port=_free_port()), 2, at_once=4)


def _free_port() -> int:
    with closing(socket.socket()) as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@contextmanager
def _node(*options: str) -> Iterator[int]:
    """A node of a cluster on this machine, until the context ends; its process."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus", "2"]
    node = subprocess.Popen(
        [*command, "--disable-usage-stats", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield node.pid
    finally:
        _kill(node.pid)
        node.wait()


def _kill(pid: int) -> None:
    """Kill a process and all that it started."""
    for each in [*_started_by(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _started_by(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                own = int(stat.parent.name)
                found += [*_started_by(own), own]
    return found


_DRIVER = """
import logging, sys, time
import ray
from pathlib import Path
from nas.crew.base import CrewSettings
from nas.evaluators.crew import crewed
from tests.nas.crew.test_processes import Slow, drawn

folder, address = sys.argv[1:]
while True:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        time.sleep(0.2)
        continue
    alive = sum(node["Alive"] for node in ray.nodes())
    ray.shutdown()
    if alive == 2:
        break
with crewed(Slow(Path(folder)), CrewSettings(ray=address), at_once=8) as crew:
    for score in crew.scores(drawn(16)):
        print(score, flush=True)
"""


def test_a_cluster_loses_a_node_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes on this machine, made by ``ray start``; the second is killed."""
    monkeypatch.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # the driver is a process that never had another
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    expected = [Slow(tmp_path).score(each) for each in drawn(16)]
    port = _free_port()
    address = f"127.0.0.1:{port}"
    head = ("--head", "--port", str(port), "--include-dashboard", "false")
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,  # short
        _node(*head, "--temp-dir", folder),
        _node("--address", address) as second,
    ):
        command = [sys.executable, "-c", _DRIVER, str(tmp_path), address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            timer = Timer(_MOST_S, driver.kill)
            timer.start()
            try:
                assert driver.stdout is not None
                found = [float(line) for line in itertools.islice(driver.stdout, 5)]
                _kill(second)
                found += map(float, driver.stdout)
            finally:
                timer.cancel()
        assert driver.returncode == 0, "it failed, or took longer than any machine should"
    assert found == expected
