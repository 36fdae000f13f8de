"""Two tables compared: changes are found, and noise is not taken for one."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats

from latbench.device import DeviceProfile
from latbench.environment import current_environment
from latbench.errors import MismatchError
from latbench.measure.sweep import PassRecord
from latbench.measure.visit import Visit
from latbench.tables import SpaceLabel, TableStore
from latbench.tables.comparison import adjusted, compare, rank_test, signed_rank_test
from nas.spaces import SearchSpace

LABEL = SpaceLabel("tiny", 8, 10)


def _table(
    path: Path, profile: DeviceProfile, space: SearchSpace, *, seed: int, factors: dict[int, float]
) -> TableStore:
    """A table of noisy visits; ``factors`` make some blocks slower or faster."""
    rng = np.random.default_rng(seed)
    store = TableStore.create(
        path, device=profile, space=LABEL, environment=current_environment({})
    )
    store.add_blocks(space.blocks())
    sweep = store.begin_sweep("profile", store.environment)
    for number in range(30):
        visits = []
        for id_ in store.blocks():
            noise = 1 + 0.01 * rng.random() + (0.5 * rng.random() if rng.random() < 0.4 else 0)
            visits.append((id_, Visit((int(1e6 * factors.get(id_, 1.0) * noise),), ())))
        store.add_pass(sweep, PassRecord(number, visits))
    return store


def test_changes_are_found_and_noise_is_not(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    before = _table(tmp_path / "a", profile, tiny_space, seed=1, factors={})
    after = _table(tmp_path / "b", profile, tiny_space, seed=2, factors={1: 1.3, 2: 0.7})
    found = compare(before, after, tolerance=0.05)
    verdicts = [change.verdict for change in found.changes]
    assert verdicts[:2] == ["SLOWER", "FASTER"]
    assert found.count("SLOWER") == found.count("FASTER") == 1
    assert found.count("SAME") > 0.9 * (len(verdicts) - 2)
    assert found.changes[0].low <= found.changes[0].ratio <= found.changes[0].high
    again = compare(before, before, tolerance=0.05)
    assert again.ratio == 1
    assert again.count("SLOWER") == again.count("FASTER") == 0
    before.close()
    after.close()


def test_tables_of_two_states_of_the_caches_are_not_compared(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    cold = msgspec.structs.replace(profile, cache="cold")
    before = _table(tmp_path / "a", profile, tiny_space, seed=1, factors={})
    after = _table(tmp_path / "b", cold, tiny_space, seed=2, factors={})
    with pytest.raises(MismatchError, match="from cold caches"):
        compare(before, after, tolerance=0.05)
    before.close()
    after.close()


def test_batch_sizes_are_not_compared_and_other_settings_are_named(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    before = _table(tmp_path / "a", profile, tiny_space, seed=1, factors={})
    batches = msgspec.structs.replace(profile, batch_size=8)
    after = _table(tmp_path / "b", batches, tiny_space, seed=2, factors={})
    with pytest.raises(MismatchError, match=r"have 1 images, those of .* 8"):
        compare(before, after, tolerance=0.05)
    threads = msgspec.structs.replace(profile, threads=2)
    other = _table(tmp_path / "c", threads, tiny_space, seed=2, factors={})
    assert compare(before, other, tolerance=0.05).environment == ("threads is 2, was 1",)
    for store in (before, after, other):
        store.close()


def test_a_change_within_the_tolerance_is_no_change(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """Although many blocks are surely slower than before."""
    factors = dict.fromkeys(range(1, 40), 1.047)
    before = _table(tmp_path / "a", profile, tiny_space, seed=1, factors={})
    after = _table(tmp_path / "b", profile, tiny_space, seed=2, factors=factors)
    found = compare(before, after, tolerance=0.05)
    assert min(change.p_value for change in found.changes) > 0.05
    assert found.passed
    before.close()
    after.close()


def test_tables_of_two_spaces_are_not_compared(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    one = _table(tmp_path / "a", profile, tiny_space, seed=1, factors={})
    other = TableStore.create(
        tmp_path / "b",
        device=profile,
        space=SpaceLabel("other", 8, 10),
        environment=current_environment({}),
    )
    with pytest.raises(MismatchError, match="one space"):
        compare(one, other, tolerance=0.05)
    one.close()
    other.close()


def test_statistics_equal_scipys() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        x, y = rng.integers(0, 30, 25).astype(float), rng.integers(3, 33, 31).astype(float)
        expected = scipy.stats.mannwhitneyu(x, y, method="asymptotic").pvalue
        assert rank_test(x, y) == pytest.approx(expected)
    p = rng.random(40)
    for scale in (1, 100):  # with ties and zeros, and without
        pairs = np.round(scale * rng.normal(0.3, 1, 40))
        options = {"method": "asymptotic", "correction": True, "zero_method": "wilcox"}
        expected = scipy.stats.wilcoxon(pairs, **options).pvalue
        assert signed_rank_test(pairs) == pytest.approx(expected)
    assert signed_rank_test(np.zeros(5)) == 1
    assert adjusted([]) == []
    assert adjusted(list(p)) == pytest.approx(scipy.stats.false_discovery_control(p))
    assert rank_test(np.ones(5), np.ones(6)) == 1.0


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 9), (11, 11), (20, 30)])
def test_the_rank_test_of_few_visits_is_exact(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, 2.0):
        x, y = rng.normal(size=n), rng.normal(shift, size=m)
        for one, other in ((x, y), (y, x)):
            expected = scipy.stats.mannwhitneyu(one, other, method="exact").pvalue
            assert rank_test(one, other) == pytest.approx(expected)


def test_visits_that_are_all_slower_are_significant_among_a_thousand_blocks() -> None:
    before, after = np.arange(11.0), np.arange(11.0) + 100
    p = rank_test(before, after)
    assert p == pytest.approx(2 / comb(22, 11))
    assert min(adjusted([p, *[0.5] * 999])) < 0.05


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1)])
def test_the_command_fails_if_a_block_is_slower(
    factor: float,
    code: int,
    tmp_path: Path,
    profile: DeviceProfile,
    tiny_space: SearchSpace,
    run: Any,
) -> None:
    for name, seed, factors in (("a", 1, {}), ("b", 2, {1: factor})):
        _table(tmp_path / name, profile, tiny_space, seed=seed, factors=factors).close()
    found = run("table", "diff", tmp_path / "a", tmp_path / "b", "--json")
    assert found[0] == code, found[2]
    assert json.loads(found[1])
