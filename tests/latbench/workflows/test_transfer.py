"""A table transferred from another device: all blocks are priced; transferred is not measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.errors import MismatchError
from latbench.measure.statistics import conformal_half_width
from latbench.models import read_model
from latbench.models.segments import cut
from latbench.profilers import make_profiler
from latbench.tables import Estimate, LatencyTable, TableStore
from latbench.workflows.predicted_blocks import features_of, predict_blocks, regress
from latbench.workflows.transfer import transfer
from nas.spaces import SearchSpace, spread_networks
from tests.conftest import profile_space
from tests.latbench.models.small import save
from tests.latbench.models.test_segments import Builder
from tests.latbench.workflows.test_profiling import PricedProfiler


def test_few_measurements_make_a_full_table(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """From one device to another of two threads: full, doubtful, and refined by profiling."""
    pretended = PricedProfiler(quick_profile)
    profile_space(pretended, tmp_path / "old.sqlite", tiny_space, time_limit_s=1e-3)
    source = LatencyTable.open(tmp_path / "old.sqlite")
    other = msgspec.structs.replace(quick_profile, name="other", threads=2)
    profiler, path = make_profiler(other), tmp_path / "new.sqlite"
    networks = spread_networks(tiny_space, 6, seed=0)
    result = transfer(profiler, path, source, networks=networks)
    table = LatencyTable.open(path)
    assert result.measured < 60 < result.blocks == len(source.estimates)
    assert table.device == other
    assert table.fit.price.networks == 6
    sources = [table.price(spec).source for spec in source.estimates]
    assert sources.count("measured") == result.measured
    transferred = [spec for spec in source.estimates if table.price(spec).source == "transferred"]
    assert len(transferred) > 50
    for spec in transferred:
        price = table.price(spec)
        assert price.low_ms < price.price_ms < price.high_ms
        assert table.estimates[spec].noisy
    noisy = sum(estimate.noisy for estimate in table.estimates.values())
    assert result.noisy == noisy >= len(transferred)
    assert result.as_dict().keys() >= {"interpolated", "noisy", "seconds", "heldout_error"}
    assert not table.check(None).passed
    with pytest.raises(MismatchError, match="transferred themselves do not count"):
        transfer(profiler, tmp_path / "third.sqlite", table, networks=networks)
    profile_space(profiler, path, tiny_space, time_limit_s=1e-3)
    refined = LatencyTable.open(path)
    assert {refined.price(spec).source for spec in refined.estimates} == {"measured"}
    assert refined.curves.alignment is not None
    assert refined.curves.alignment.error is not None
    transfer(profiler, path, source, networks=networks)
    assert LatencyTable.open(path).curves.alignment == refined.curves.alignment


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_blocks_are_predicted_as_much_slower_as_those_that_were_measured(
    factor: float, tiny_table: LatencyTable
) -> None:
    """Every third block was measured; noise of 1 % gives the intervals their width."""
    old, rng = dict(tiny_table.estimates), np.random.default_rng(0)
    new_ms = {spec: factor * e.hot_ms * rng.lognormal(0, 0.01) for spec, e in old.items()}
    measured_ms = dict(list(new_ms.items())[::3])
    found = predict_blocks(old, features_of(list(old), old), measured_ms, cold=False)
    assert found.latencies.keys() == old.keys()
    inside = []
    for spec, interval in found.latencies.items():
        assert interval.estimate_ms == pytest.approx(new_ms[spec], rel=0.1)
        inside.append(interval.low_ms <= new_ms[spec] <= interval.high_ms)
    assert np.mean(inside) > 0.9
    assert 0.003 < found.left_out_error < 0.03


def test_a_transfer_keeps_to_its_time_and_goes_on(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_fixed_space: SearchSpace
) -> None:
    """One pass is made at least; the same call makes the rest."""
    profiler, space = make_profiler(quick_profile), tiny_fixed_space
    profile_space(profiler, tmp_path / "old.sqlite", space, time_limit_s=1e-3)
    source, path = LatencyTable.open(tmp_path / "old.sqlite"), tmp_path / "new.sqlite"
    networks = spread_networks(space, 6, seed=0)
    reported: list[float] = []
    first = transfer(
        profiler,
        path,
        source,
        networks=networks,
        blocks=20,
        time_limit_s=1e-6,
        progress=lambda fraction, words: reported.append(fraction),
    )
    assert (first.passes, first.complete) == (1, False)
    assert reported[-1] == 1.0
    assert all(estimate.noisy for estimate in LatencyTable.open(path).estimates.values())
    rest = transfer(profiler, path, source, networks=networks, blocks=20)
    assert (rest.passes, rest.complete) == (quick_profile.sweep.min_passes, True)
    with TableStore.open(path) as store:
        sweep = store.profiling()
        assert sweep is not None
        visits = Counter(number for number, _, _ in store.numbered_visits(sweep))
    assert len(visits) == rest.passes
    assert len({*visits.values()}) == 1, "later passes visit what the first one did"
    assert rest.measured < rest.blocks


def test_a_transfer_pools_no_visits_of_two_versions_of_a_runtime(
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_fixed_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiler, space = make_profiler(quick_profile), tiny_fixed_space
    profile_space(profiler, tmp_path / "old.sqlite", space, time_limit_s=1e-3)
    source, path = LatencyTable.open(tmp_path / "old.sqlite"), tmp_path / "new.sqlite"
    networks = spread_networks(space, 6, seed=0)
    transfer(profiler, path, source, networks=networks, blocks=20, time_limit_s=1e-6)
    before = path.read_bytes()
    monkeypatch.setattr(profiler, "versions", lambda: {"onnxruntime": "0.0"})
    with pytest.raises(MismatchError, match=r"onnxruntime is 0\.0.*not pooled"):
        transfer(profiler, path, source, networks=networks, blocks=20)
    assert path.read_bytes() == before


def test_a_space_without_elastic_widths_is_transferred_too(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_fixed_space: SearchSpace
) -> None:
    profiler, space = make_profiler(quick_profile), tiny_fixed_space
    profile_space(profiler, tmp_path / "old.sqlite", space, time_limit_s=1e-3)
    source = LatencyTable.open(tmp_path / "old.sqlite")
    networks = spread_networks(space, 6, seed=0)
    result = transfer(profiler, tmp_path / "new.sqlite", source, networks=networks, blocks=20)
    table = LatencyTable.open(tmp_path / "new.sqlite")
    assert result.measured < result.blocks == len(space.blocks())
    assert all(spec in table for spec in space.blocks())
    assert table.curves.alignment is None


def test_a_table_of_few_blocks_tells_nothing(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_table: LatencyTable, tiny_space: SearchSpace
) -> None:
    networks = spread_networks(tiny_space, 6, seed=0)
    with pytest.raises(MismatchError, match="too few"):
        transfer(
            make_profiler(quick_profile),
            tmp_path / "new.sqlite",
            tiny_table,
            networks=networks,
            blocks=1000,
        )
    assert not (tmp_path / "new.sqlite").exists()


def test_the_regression_finds_what_made_the_data_and_doubts_itself_enough() -> None:
    rng = np.random.default_rng(2)
    features = rng.standard_normal((400, 6))
    truth = 0.7 + features @ np.array([0.2, -0.1, 0.0, 0.0, 0.05, 0.0])
    noisy = truth + 0.02 * rng.standard_normal(400)
    predicted, left_out = regress(features[:40], noisy[:40], features)
    assert np.abs(predicted - truth)[40:].mean() < 0.03
    half_width = conformal_half_width(left_out, 0.95)
    assert half_width is not None
    inside = np.abs(predicted - noisy)[40:] <= half_width
    assert inside.mean() > 0.85


def test_features_of_a_pooling_are_numbers(tmp_path: Path) -> None:
    """It has neither multiply-accumulates nor weights."""
    build = Builder()
    x = build.conv(build.add("MaxPool", build.conv("x", 8), kernel_shape=[2, 2]), 8)
    pieces = cut(read_model(save(build.build(x), tmp_path / "m.onnx")))
    specs = [piece.segment for piece in pieces]
    assert not all(block_cost(spec).macs for spec in specs)
    once = Estimate(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, visits=1, noisy=False)
    assert np.isfinite(features_of(specs, dict.fromkeys(specs, once))).all()
