"""A large table that is read when it is needed is the same table."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from latbench.device import DeviceProfile
from latbench.errors import InvalidFileError
from latbench.profilers import make_profiler
from latbench.tables import LatencyTable, TableStore, stored_estimates, table
from latbench.tables.formats import to_json
from latbench.tables.stored_estimates import StoredEstimates
from nas.latency.priced_space import PricedSpace
from nas.spaces import SearchSpace
from tests.conftest import profile_space


@pytest.fixture
def both(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    priced: None,
) -> tuple[LatencyTable, LatencyTable]:
    """A table with interpolated and held-out widths, read at once and when needed."""
    path = tmp_path / "t.sqlite"
    profile_space(make_profiler(quick_profile), path, tiny_space, time_limit_s=30)
    at_once = LatencyTable.open(path)
    monkeypatch.setattr(table, "AT_ONCE", 0)
    when_needed = LatencyTable.open(path)
    assert isinstance(when_needed.estimates, StoredEstimates)
    return at_once, when_needed


def test_prices_and_predictions_are_equal(
    both: tuple[LatencyTable, LatencyTable], tiny_space: SearchSpace
) -> None:
    at_once, when_needed = both
    rng = np.random.default_rng(0)
    for _ in range(20):
        network = tiny_space.lower(tiny_space.random(rng))
        assert when_needed.predict(network) == at_once.predict(network)
        for spec in network:
            assert when_needed.price(spec) == at_once.price(spec)
            assert (spec in when_needed.estimates) == (spec in at_once.estimates)
    one, other = (PricedSpace(tiny_space, each, efficient=True) for each in both)
    assert one.feasible_ms() == other.feasible_ms()


def test_blocks_read_together_are_those_read_alone(
    both: tuple[LatencyTable, LatencyTable],
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In several queries too, and blocks that the table does not have."""
    monkeypatch.setattr(stored_estimates, "_KEYS", 2)
    at_once, when_needed = both
    specs = tiny_space.lower(tiny_space.random(np.random.default_rng(1)))
    together = when_needed.estimates
    assert isinstance(together, StoredEstimates)
    together.read([*specs, *at_once.estimates])
    for spec in (*specs, *at_once.estimates):
        assert together.get(spec) == at_once.estimates.get(spec)


def test_everything_can_be_listed(both: tuple[LatencyTable, LatencyTable]) -> None:
    at_once, when_needed = both
    assert dict(when_needed.estimates) == dict(at_once.estimates)
    assert list(when_needed.estimates) == list(at_once.estimates)
    assert when_needed.curves.measured == at_once.curves.measured
    assert to_json(when_needed) == to_json(at_once)
    assert when_needed.check(None) == at_once.check(None)


def test_a_copy_reads_the_file(
    both: tuple[LatencyTable, LatencyTable],
) -> None:
    at_once, when_needed = both
    copy = pickle.loads(pickle.dumps(when_needed.estimates))
    spec = next(iter(at_once.estimates))
    assert copy[spec] == at_once.estimates[spec]


def test_a_newer_fit_is_not_mixed_with_an_older_one(
    both: tuple[LatencyTable, LatencyTable],
    tiny_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_estimates, "_CHECK_EVERY_S", 0.0)
    _, when_needed = both
    with TableStore.open(when_needed.path) as store:
        fit = store.fit()
        assert fit is not None
        store.set_results(store.estimates(), fit)
    with pytest.raises(InvalidFileError, match="open it once more"):
        when_needed.predict(tiny_space.lower(tiny_space.largest()))


def test_a_file_that_is_gone_is_told(
    both: tuple[LatencyTable, LatencyTable], tiny_space: SearchSpace
) -> None:
    _, when_needed = both
    when_needed.path.unlink()
    with pytest.raises(InvalidFileError, match="cannot read"):
        when_needed.predict(tiny_space.lower(tiny_space.largest()))


def test_a_table_that_nobody_needs_closes_its_file(both: tuple[LatencyTable, LatencyTable]) -> None:
    """Python 3.13 warns where the garbage collector has to close it."""
    _, when_needed = both
    copy = pickle.loads(pickle.dumps(when_needed.estimates))
    assert len(copy) > 0
    connection = copy._db
    del copy
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
