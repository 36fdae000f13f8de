"""The table's file: what was finished is there, whatever happened."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latbench.device import DeviceProfile
from latbench.environment import current_environment
from latbench.errors import DeviceBusyError, InvalidFileError
from latbench.measure.lock import device_lock
from latbench.measure.sweep import PassRecord
from latbench.measure.visit import Visit
from latbench.tables import LatencyTable, SpaceLabel, TableStore
from nas.spaces import SearchSpace
from tests.conftest import write_table

LABEL = SpaceLabel("tiny", 8, 10)


@pytest.fixture
def store(tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace) -> Iterator[TableStore]:
    made = TableStore.create(
        tmp_path / "t.sqlite", device=profile, space=LABEL, environment=current_environment({})
    )
    network = tiny_space.lower(tiny_space.smallest())
    made.add_targets(tiny_space.blocks(), [network])
    yield made
    made.close()


def test_what_is_written_is_read_back(
    store: TableStore, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    record = PassRecord(0, [(1, Visit((5, 6), (7,))), (2, Visit((8,), ()))], 1.5, 0.5, 0.25)
    store.add_pass(record)
    store.close()
    with TableStore.open(store.path) as again:
        assert again.device == profile
        assert again.space == LABEL
        assert list(again.blocks().values()) == tiny_space.blocks()
        assert list(again.networks().values()) == [tiny_space.lower(tiny_space.smallest())]
        assert list(again.visits()) == record.visits
        assert again.timing() == {"seconds": 1.5, "open_s": 0.5, "calls_s": 0.25}


def test_targets_keep_their_ids_when_added_again(
    store: TableStore, tiny_space: SearchSpace
) -> None:
    before = store.blocks()
    store.add_targets(reversed(tiny_space.blocks()), [])
    assert store.blocks() == before


def test_a_pass_is_committed_whole_or_not_at_all(store: TableStore) -> None:
    bad = PassRecord(0, [(1, Visit((5,), ())), (2, Visit((2**70,), ()))])
    with pytest.raises(OverflowError):
        store.add_pass(bad)
    assert store.passes() == 0
    assert list(store.visits()) == []


def test_a_table_without_prices_says_so(store: TableStore) -> None:
    with pytest.raises(InvalidFileError, match="no prices yet"):
        LatencyTable.open(store.path)


def test_foreign_and_damaged_files_are_refused(
    tmp_path: Path, tiny_space: SearchSpace, profile: DeviceProfile
) -> None:
    whole = tmp_path / "whole.sqlite"
    write_table(whole, tiny_space, profile)
    raw = whole.read_bytes()

    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.executescript("CREATE TABLE x (y);")
    connection.close()
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to have a header of a hundred bytes" * 4)
    truncated = tmp_path / "truncated.sqlite"
    truncated.write_bytes(raw[: len(raw) // 2])
    corrupt = tmp_path / "corrupt.sqlite"
    corrupt.write_bytes(raw[:8192] + os.urandom(4096) + raw[12288:])
    newer = tmp_path / "newer.sqlite"
    newer.write_bytes(raw)
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    for path in (foreign, text, truncated, corrupt, newer, tmp_path / "absent", tmp_path):
        with pytest.raises(InvalidFileError):
            LatencyTable.open(path)
    LatencyTable.open(whole)


def test_a_second_measurement_on_the_device_is_refused() -> None:
    with (
        device_lock("test-device"),
        pytest.raises(DeviceBusyError, match=str(os.getpid())),
        device_lock("test-device"),
    ):
        pass
    with device_lock("test-device"):
        pass


PROFILING = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from latbench.device import DeviceProfile, SweepProtocol
    from latbench.profilers import make_profiler
    from nas.priced import profile_space
    import latbench.measure.lock
    from tests.conftest import make_tiny_space

    sweep = SweepProtocol(1, 1, 1, 0.0, 0.0, 2, int(sys.argv[2]), networks=6, network_visits=1)
    device = DeviceProfile(name="quick", runtime="onnxruntime", sweep=sweep)
    space = make_tiny_space()
    latbench.measure.lock.LOCK_FOLDER = Path(sys.argv[1]).parent
    profile_space(make_profiler(device), Path(sys.argv[1]), space, time_limit_s=600)
    """
)


def _start_profiling(path: Path, passes: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", PROFILING, str(path), str(passes)], cwd=root, env=environment
    )


def test_killed_at_random_moments_no_finished_pass_is_lost(tmp_path: Path) -> None:
    """SIGKILL a profiling run again and again; what it had committed is whole, and it resumes."""
    path = tmp_path / "killed.sqlite"
    moments = random.Random(4)
    seen = 0
    for _ in range(4):
        process = _start_profiling(path, 10_000)
        deadline = time.monotonic() + 60
        committed = seen
        while time.monotonic() < deadline and committed <= seen:  # until it has got on
            committed = max(committed, _passes(path))
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with TableStore.open(path) as store:
            passes = store.passes()
            assert passes >= committed > seen
            seen = passes
            blocks, networks = len(store.blocks()), len(store.networks())
            assert sum(1 for _ in store.visits()) == passes * (blocks + networks)
    assert _start_profiling(path, 2).wait() == 0
    assert _passes(path) > seen
    LatencyTable.open(path)


def _passes(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with TableStore.open(path) as store:
            return store.passes()
    except (InvalidFileError, sqlite3.OperationalError):
        return -1  # it is being created, or a commit is under way
