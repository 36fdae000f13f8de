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
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from latbench.device import DeviceProfile
from latbench.environment import current_environment
from latbench.errors import DeviceBusyError, InvalidFileError
from latbench.measure import lock
from latbench.measure.lock import FOLDER_VARIABLE, device_lock
from latbench.measure.sweep import PassRecord
from latbench.measure.visit import Visit
from latbench.profilers import make_profiler
from latbench.tables import LatencyTable, SpaceLabel, TableStore, table_file
from latbench.workflows import profiling
from nas.spaces import SearchSpace
from tests.conftest import profile_space, write_table

LABEL = SpaceLabel("tiny", 8, 10)


@pytest.fixture
def store(tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace) -> Iterator[TableStore]:
    made = TableStore.create(
        tmp_path / "t.sqlite", device=profile, space=LABEL, environment=current_environment({})
    )
    network = tiny_space.lower(tiny_space.smallest())
    made.add_blocks(tiny_space.blocks())
    made.add_networks([network], "profile")
    yield made
    made.close()


def _as_schema_2(path: Path) -> None:
    """Make a table's file one of schema 2, whose fits had two more coefficients."""
    with closing(sqlite3.connect(path)) as db, db:
        fields = "'$.price.slow_scale', 0.2, '$.price.slow_copies', 0.5"
        db.execute(f"UPDATE fits SET fit = json_set(fit, {fields})")
        db.execute("UPDATE fits SET fit = json_remove(fit, '$.price.fill_bytes_per_ms')")
        db.execute("ALTER TABLE passes DROP COLUMN conditions")
        db.execute("CREATE TABLE earlier AS SELECT id, role, key, width FROM targets")
        db.execute("DROP TABLE targets")  # and its indexes
        db.execute("ALTER TABLE earlier RENAME TO targets")
        db.execute("DELETE FROM meta WHERE key = 'widths'")
        db.execute("PRAGMA user_version = 2")


def _as_schema_4(path: Path) -> None:
    """Make a table's file one of schema 4, whose estimates had other levels."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE estimates SET hot_ms = 0.9 * hot_ms")
        db.execute("UPDATE fits SET fit = json_set(fit, '$.floor', 0.5)")
        db.execute("PRAGMA user_version = 4")


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("earlier", [_as_schema_2, _as_schema_4])
def test_a_measured_table_of_an_earlier_schema_is_fitted_again(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    earlier: Callable[[Path], None],
) -> None:
    path = tmp_path / "t.sqlite"
    profile_space(make_profiler(quick_profile), path, tiny_space, time_limit_s=30)
    made = LatencyTable.open(path)
    earlier(path)
    for _ in range(2):
        assert LatencyTable.open(path).fit == made.fit
        assert LatencyTable.open(path).estimates == made.estimates


def test_a_conversion_that_is_interrupted_is_made_again(
    tiny_table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_schema_2(tiny_table.path)
    with monkeypatch.context() as patched:
        patched.setattr(table_file, "_keep_widths", _interrupt)  # after other changes
        with pytest.raises(KeyboardInterrupt):
            LatencyTable.open(tiny_table.path)
    assert LatencyTable.open(tiny_table.path).fit == tiny_table.fit


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_imported_table_of_schema_2_keeps_its_prices(tiny_table: LatencyTable) -> None:
    _as_schema_2(tiny_table.path)
    assert LatencyTable.open(tiny_table.path).fit == tiny_table.fit


def test_an_imported_table_of_schema_4_keeps_its_prices(tiny_table: LatencyTable) -> None:
    with closing(sqlite3.connect(tiny_table.path)) as db, db:
        db.execute("PRAGMA user_version = 4")
    assert LatencyTable.open(tiny_table.path).fit == tiny_table.fit
    assert LatencyTable.open(tiny_table.path).estimates == tiny_table.estimates


def test_an_early_table_that_cannot_be_written_says_so(
    tiny_table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tiny_table.path)) as db, db:
        db.execute("PRAGMA user_version = 4")
    locked, connect = f"file:{tiny_table.path}?mode=ro", sqlite3.connect
    monkeypatch.setattr(table_file.sqlite3, "connect", lambda path: connect(locked, uri=True))
    with pytest.raises(InvalidFileError, match="copy it to a folder of your own"):
        LatencyTable.open(tiny_table.path)


def test_what_is_written_is_read_back(
    store: TableStore, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    record = PassRecord(0, [(1, Visit((5, 6), (7,))), (2, Visit((8,), ()))], 1.5, 0.5, 0.25)
    sweep = store.begin_sweep("profile", store.environment)
    store.add_pass(sweep, record)
    store.close()
    with TableStore.open(store.path) as again:
        assert again.device == profile
        assert again.space == LABEL
        assert list(again.blocks().values()) == tiny_space.blocks()
        assert list(again.networks("profile").values()) == [tiny_space.lower(tiny_space.smallest())]
        assert list(again.visits(sweep)) == record.visits
        assert again.timing(sweep) == {"seconds": 1.5, "open_s": 0.5, "calls_s": 0.25}


def test_targets_keep_their_ids_when_added_again(
    store: TableStore, tiny_space: SearchSpace
) -> None:
    before = store.blocks()
    store.add_blocks(reversed(tiny_space.blocks()), "held-out")
    assert store.blocks() == before


def test_a_pass_is_committed_whole_or_not_at_all(store: TableStore) -> None:
    bad = PassRecord(0, [(1, Visit((5,), ())), (2, Visit((2**70,), ()))])
    sweep = store.begin_sweep("profile", store.environment)
    with pytest.raises(OverflowError):
        store.add_pass(sweep, bad)
    assert store.passes(sweep) == 0
    assert list(store.visits(sweep)) == []


def test_an_unfinished_sweep_is_gone_on_with(store: TableStore) -> None:
    here = store.environment
    first = store.begin_sweep("calibration", here, detail="a")
    assert store.begin_sweep("calibration", here, detail="a") == first
    assert store.begin_sweep("calibration", here, detail="b") != first
    store.finish_sweep(first)
    assert store.begin_sweep("calibration", here, detail="a") != first
    assert store.sweeps("calibration") == [first]


def test_an_old_unfinished_sweep_is_abandoned_and_kept(store: TableStore) -> None:
    here = store.environment
    old = store.begin_sweep("verification", here)
    assert store.begin_sweep("verification", here, within_s=3600) == old  # it has no pass yet
    store.add_pass(old, PassRecord(0, [(1, Visit((5,), ()))]))
    assert store.begin_sweep("verification", here, within_s=3600) == old
    assert store.begin_sweep("verification", here, within_s=-1) != old
    assert len(list(store.visits(old))) == 1
    assert old not in store.sweeps("verification")  # nothing is fitted on a part of a sweep
    assert old not in store.sweeps("verification", done=False)


def test_a_store_that_nobody_has_closed_is_closed_with_its_last_reference(
    tiny_table: LatencyTable,
) -> None:
    """Python 3.13 warns of connections that are left open."""
    store = TableStore.open(tiny_table.path)
    connection = store._db
    connection.execute("SELECT 1")
    del store
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_table_without_prices_says_so(store: TableStore) -> None:
    with pytest.raises(InvalidFileError, match="no prices yet"):
        LatencyTable.open(store.path)


def test_a_table_that_was_killed_before_its_fit_has_the_prices_of_its_passes(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    priced: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    path, profiler = tmp_path / "cut.sqlite", make_profiler(quick_profile)
    monkeypatch.setattr(profiling, "work_out", killed)
    with pytest.raises(Killed):
        profile_space(profiler, path, tiny_space, time_limit_s=1e-3)
    monkeypatch.undo()
    with TableStore.open(path) as store:
        assert store.fit() is None
    table = LatencyTable.open(path)
    assert len(table.estimates) > 50
    assert table.predict(tiny_space.lower(tiny_space.smallest())).latency_ms > 0
    with TableStore.open(path) as store:
        assert store.fit() == table.fit


def test_a_table_is_never_written_over(
    store: TableStore, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it appeared after somebody looked; also where there are no hard links."""
    fields = {"device": profile, "space": LABEL, "environment": current_environment({})}
    before = store.path.read_bytes()

    def no_links(*_: object) -> None:
        raise PermissionError

    for _ in range(2):
        with pytest.raises(InvalidFileError, match="File exists"):
            TableStore.create(store.path, **fields)
        monkeypatch.setattr(os, "link", no_links)
    assert store.path.read_bytes() == before
    TableStore.create(store.path.with_name("new.sqlite"), **fields).close()
    assert [each.name for each in sorted(store.path.parent.iterdir())] == ["new.sqlite", "t.sqlite"]


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


def test_a_forked_process_does_not_keep_the_lock() -> None:
    """A runtime may fork one that outlives the measurement; it has a copy of the open file."""
    code = """
        import os, signal, time
        from latbench.measure.lock import device_lock

        with device_lock("test-device"):
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
        try:
            with device_lock("test-device"):
                print("held again")
        finally:
            os.kill(child, signal.SIGKILL)
        """
    asked = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("held again\n", "")


def test_the_lock_is_for_all_users_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    before = os.umask(0o077)
    try:
        with device_lock("shared"):
            pass
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o666


def test_a_lock_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))

    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(lock.os, "open", refuse)
    with (
        pytest.raises(InvalidFileError, match=r"latbench-shared.lock .*chmod a\+r"),
        device_lock("shared"),
    ):
        pass


PROFILING = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from latbench.device import DeviceProfile, SweepProtocol
    from latbench.profilers import make_profiler
    from tests.conftest import make_tiny_space, profile_space

    sweep = SweepProtocol(1, 1, 1, 0.0, 0.0, 2, int(sys.argv[2]), networks=6, scan_passes=1,
        network_visits=1)
    device = DeviceProfile(name="quick", runtime="onnxruntime", sweep=sweep)
    space = make_tiny_space()
    profile_space(make_profiler(device), Path(sys.argv[1]), space, time_limit_s=600)
    """
)


def _start_profiling(path: Path, passes: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", PROFILING, str(path), str(passes)], cwd=root, env=environment
    )


def test_killed_at_random_moments_no_finished_pass_is_lost(tmp_path: Path) -> None:
    """SIGKILL a profiling run again and again; what it had committed is whole, and it resumes."""
    path = tmp_path / "killed.sqlite"
    moments = random.Random(4)
    seen = 0
    for _ in range(3):
        process = _start_profiling(path, 10_000)
        committed = seen
        while process.poll() is None and committed <= seen:  # until it has got on
            committed = max(committed, _passes(path))
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with TableStore.open(path) as store:
            (sweep,) = store.sweeps("profile", done=False)
            passes = store.passes(sweep)
            assert passes >= committed > seen
            seen = passes
            assert _passes_are_whole(path)
    assert _start_profiling(path, 2).wait() == 0
    assert _passes(path) > seen
    LatencyTable.open(path)


def _passes_are_whole(path: Path) -> bool:
    """Whether every pass visited all blocks of the ones before it, and as many as any like it."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT pass, group_concat(target) FROM visits GROUP BY pass").fetchall()
        counted = db.execute("SELECT count(*) FROM passes").fetchone()[0]
    visited = [sorted(map(int, targets.split(","))) for _, targets in sorted(rows)]
    growing = all(set(a) <= set(b) for a, b in pairwise(visited))
    return len(visited) == counted and growing


def _passes(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with TableStore.open(path) as store:
            return sum(store.passes(sweep) for sweep in store.sweeps("profile", done=False))
    except (InvalidFileError, sqlite3.OperationalError):
        return -1  # it is being created, or a commit is under way
