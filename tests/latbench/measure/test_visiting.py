"""Order of calls and evictions in a visit, and the states of caches that a profile can ask for."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.environment import l2_bytes, last_cache_bytes
from latbench.errors import InvalidFileError
from latbench.measure.visiting import Target, block_target, network_target, visits_here
from latbench.profilers import CacheFlusher, Flush, Profiler, Session
from latbench.profilers.base import OtherData
from tests.conftest import make_quick_profile, make_tiny_space

SPACE = make_tiny_space()
NETWORK = SPACE.lower(SPACE.smallest())


class _Recorded(Session):
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def call(self) -> None:
        self._log.append("untimed")

    def timed_call(self) -> int:
        self._log.append("timed")
        return 1000

    def output(self) -> NDArray[np.float32]:
        return np.zeros(1, np.float32)

    def close(self) -> None:
        pass


class _Recorder(Profiler):
    """A profiler whose sessions and evictions are written down."""

    def __init__(self, profile: DeviceProfile) -> None:
        super().__init__(profile)
        self.log: list[str] = []

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def open(self, network: Network) -> Session:
        return _Recorded(self.log)

    def cache_flusher(self) -> Flush:
        return lambda: self.log.append("evict")

    def versions(self) -> dict[str, str]:
        return {}


def _calls(target: Target, **fields: Any) -> list[str]:
    profiler = _Recorder(msgspec.structs.replace(make_quick_profile(), **fields))
    list(visits_here(profiler, [target]))
    return [each for each in profiler.log if each != "untimed"]


BLOCK = block_target(0, NETWORK[:1], make_quick_profile().sweep)
WHOLE = network_target(0, NETWORK, make_quick_profile().sweep, visits=1)


def test_networks_are_called_for_longer_than_blocks() -> None:
    """A dwell of 0 leaves the least number of hot calls."""
    sweep = msgspec.structs.replace(
        make_quick_profile().sweep, block_dwell_ms=0.0, network_dwell_ms=20.0
    )
    block = block_target(0, NETWORK[:1], sweep)
    whole = network_target(0, NETWORK, sweep, visits=1)
    assert _calls(block, sweep=sweep).count("timed") == sweep.hot_calls + sweep.cold_calls
    assert _calls(whole, sweep=sweep).count("timed") > 20 * sweep.hot_calls


def test_no_garbage_is_collected_between_visits() -> None:
    """It would be timed; afterwards it is collected as before."""
    collecting: list[bool] = []

    class Watching(_Recorded):
        def timed_call(self) -> int:
            collecting.append(gc.isenabled())
            return 1000

    class Watched(_Recorder):
        def open(self, network: Network) -> Session:
            return Watching(self.log)

    for enabled in (True, False):
        was = gc.isenabled()
        (gc.enable if enabled else gc.disable)()
        try:
            list(visits_here(Watched(make_quick_profile()), [BLOCK, WHOLE]))
            assert gc.isenabled() == enabled
        finally:
            (gc.enable if was else gc.disable)()
    assert collecting and not any(collecting)


@pytest.mark.parametrize("fields", [{}, {"cache": "cold"}, {"cache": "shared", "shared_mb": 8}])
def test_a_block_has_hot_calls_and_cold_ones_in_any_state(fields: dict[str, Any]) -> None:
    sweep = make_quick_profile().sweep
    cold = ["evict", "timed"] * sweep.cold_calls
    assert _calls(BLOCK, **fields) == ["timed"] * sweep.hot_calls + cold


def test_calls_to_a_network_directly_follow_each_other() -> None:
    assert set(_calls(WHOLE)) == {"timed"}


@pytest.mark.parametrize("fields", [{"cache": "cold"}, {"cache": "shared", "shared_mb": 8}])
def test_each_call_to_a_network_begins_in_the_state_that_is_stated(fields: dict[str, Any]) -> None:
    calls = _calls(WHOLE, **fields)
    assert calls == ["evict", "timed"] * (len(calls) // 2)
    assert calls


def test_what_is_evicted_follows_the_profile() -> None:
    def evicted(**fields: Any) -> tuple[type, int]:
        made = _Recorder(msgspec.structs.replace(make_quick_profile(), **fields))
        flusher = Profiler.cache_flusher(made)
        flusher()
        if isinstance(flusher, OtherData):
            return OtherData, flusher.size_bytes
        assert isinstance(flusher, CacheFlusher)
        return CacheFlusher, l2_bytes()

    assert evicted() == (CacheFlusher, l2_bytes())
    assert evicted(cache="shared", shared_mb=3) == (OtherData, 3 << 20)
    kind, size = evicted(cache="cold")
    assert kind is OtherData
    assert size > last_cache_bytes() >= l2_bytes()


def test_every_line_of_other_data_is_read_once() -> None:
    read = np.concatenate(list(OtherData(3 << 20)._orders))
    assert sorted(read) == list(range((3 << 20) // 64))


def test_latencies_of_different_states_are_of_different_devices() -> None:
    own = load_device("cpu-onnxruntime")
    cold = msgspec.structs.replace(own, cache="cold")
    shared = msgspec.structs.replace(own, cache="shared", shared_mb=8)
    assert not own.same_device(cold)
    assert not shared.same_device(msgspec.structs.replace(shared, shared_mb=16))
    assert own.condition is None
    assert cold.condition == "from cold caches"
    assert shared.condition == "after 8 MB of other data"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('cache = "warm"', "warm"),
        ('cache = "shared"', "shared_mb = 16"),
        ('cache = "cold"\nshared_mb = 8', "shared_mb belongs"),
        ('cache = "shared"\nshared_mb = 0', "shared_mb"),
        ('device = "cuda"\ncache = "cold"', "device cpu"),
        ('threads = 2\ncache = "cold"', "one thread"),
    ],
)
def test_states_that_do_not_exist_are_refused(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'name = "own"\nruntime = "onnxruntime"\n{lines}\n')
    with pytest.raises(InvalidFileError, match=words):
        load_device(path)
