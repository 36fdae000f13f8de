"""Explanation of a network's latency: parts that add up, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

import latbench.workflows.recorded_passes
from latbench.blocks import Network
from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError, MismatchError
from latbench.measure import visiting
from latbench.models import read_model
from latbench.models.segments import cut, misaligned_channels
from latbench.profilers import Profiler, Session
from latbench.report.comparisons import show_explanation
from latbench.tables import LatencyTable
from latbench.tables.foreign import import_table
from latbench.tables.importers.base import ForeignEntry, ForeignTable
from latbench.tables.records import Origin, SpaceLabel
from latbench.workflows.explanation import explain
from tests.conftest import PricedSession, make_small_space, random_price
from tests.latbench.models.small import conv_model, save
from tests.latbench.models.test_segments import Builder, residual_network
from tests.latbench.workflows.test_profiling import interrupted_at

KEYS = {"name", "nodes", "latency_ms", "low_ms", "high_ms", "share", "macs_m", "advice"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(residual_network(), tmp_path / "model.onnx")


@pytest.mark.usefixtures("priced")
def test_parts_have_their_prices_and_add_up_to_the_whole(
    path: Path, quick_profile: DeviceProfile
) -> None:
    found = explain(path, quick_profile, time_limit="1s")
    prices = [random_price(piece.segment) for piece in cut(read_model(path))]
    assert [part.latency_ms for part in found.segments] == pytest.approx(prices, rel=0.02)
    assert sum(part.share for part in found.segments) == pytest.approx(1)
    assert found.predicted_ms == pytest.approx(sum(prices), rel=0.02)
    assert found.measured_ms == pytest.approx(sum(prices), rel=1e-4)
    assert found.left_out_error == pytest.approx(0, abs=0.02)
    for part in found.segments:
        assert part.low_ms <= part.latency_ms <= part.high_ms
        assert part.gmacs_per_s == pytest.approx(part.macs_m / part.latency_ms)


def test_what_makes_a_segment_slow_is_said(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder()
    x = "x"
    for channels in (16, 16, 17, 16, 16, 16, 16):
        x = builder.conv(x, channels)
    path = save(builder.build(x), tmp_path / "m.onnx")
    pieces = cut(read_model(path))
    price = {piece.segment: 2.0 if misaligned_channels(piece.segment) else 0.05 for piece in pieces}

    def open_session(profiler: Profiler, network: Network) -> Session:
        return PricedSession(sum(price.get(spec, 0.01) for spec in network))

    monkeypatch.setattr(visiting, "open_session", open_session)
    found = explain(path, quick_profile, time_limit="1s")
    slow = [part.advice for part in found.segments if part.advice]
    assert slow == ["channels 17 are not multiples of 4: round them up"] * 2
    assert [part.advice is None for part in found.segments].count(False) == 2


@pytest.mark.usefixtures("priced")
def test_the_result_is_the_documented_object(path: Path, quick_profile: DeviceProfile) -> None:
    plain = json.loads(json.dumps(explain(path, quick_profile, time_limit="1s").as_dict()))
    assert {"predicted_ms", "measured_ms", "measured_low_ms", "measured_high_ms"} < set(plain)
    assert all(set(part) >= KEYS for part in plain["segments"])
    assert plain["segments"][0]["name"] == "conv_0"
    assert plain["segments"][0]["nodes"] == ["conv_0", "relu_1"]


@pytest.mark.usefixtures("priced")
def test_a_table_that_was_kept_explains_again_and_no_other_network(
    path: Path, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    table = tmp_path / "t.sqlite"
    measured = explain(path, quick_profile, output=table, time_limit="1s")
    assert explain(path, table=table).as_dict() == measured.as_dict()
    other = save(conv_model(), tmp_path / "other.onnx")
    with pytest.raises(
        MismatchError, match=r"does not price .* profile this model into another file"
    ):
        explain(other, table=table)
    with pytest.raises(MismatchError, match="model-"):
        explain(
            save(residual_network(channels=24), tmp_path / "wider.onnx"),
            quick_profile,
            output=table,
            time_limit="1s",
        )


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize("batch_size", [1, 32])
def test_rates_are_those_of_the_whole_batch(
    batch_size: int, path: Path, quick_profile: DeviceProfile
) -> None:
    """An architecture is counted per image, a model of the same batch as it stands."""
    space = make_small_space()
    network = space.lower(space.largest())
    found = explain(network, quick_profile, batch_size=batch_size, time_limit="1s")
    for spec, part in zip(network, found.segments, strict=True):
        cost = block_cost(spec)
        moved = 4 * cost.params + batch_size * cost.activation_bytes
        assert part.macs_m == pytest.approx(batch_size * cost.macs / 1e6)
        assert part.gmacs_per_s == pytest.approx(part.macs_m / part.latency_ms)
        assert part.gbytes_per_s == pytest.approx(moved / 1e6 / part.latency_ms)


def test_blocks_of_the_base_time_have_no_rates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, table = make_small_space(), tmp_path / "imported.sqlite"
    network = space.lower(space.largest())
    stem, *rest = network
    entries = [ForeignEntry("block", None, spec, 0.1) for spec in dict.fromkeys(rest)]
    label = SpaceLabel("small", space.input_size, space.classes)
    foreign = ForeignTable(tuple(entries), base_ms=1.0, space=label, duplicates=0)
    origin = Origin("tfnas", "published.pkl", 0, 0, 0)
    import_table(foreign, table, device="published", origin=origin, included=[stem])
    found = explain(network, table=table)
    assert found.segments[0].gmacs_per_s is None
    assert all(part.gmacs_per_s is not None for part in found.segments[1:])
    show_explanation(found)
    assert "in the base time" in capsys.readouterr().out


def test_a_real_runtime_is_explained(path: Path, quick_profile: DeviceProfile) -> None:
    found = explain(path, quick_profile, time_limit="1ms")
    assert found.measured_ms is not None
    assert found.measured_ms > 0
    assert all(part.latency_ms > 0 for part in found.segments)


def test_a_batch_is_that_of_the_network_and_of_its_table(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    space = make_small_space()
    network, table = space.lower(space.largest()), tmp_path / "t.sqlite"
    explain(network, quick_profile, output=table, batch_size=4, time_limit="1ms")
    assert LatencyTable.open(table).device.batch_size == 4


@pytest.mark.usefixtures("priced")
def test_all_segments_are_visited_in_every_pass(
    path: Path, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    sweep = msgspec.structs.replace(quick_profile.sweep, design="sequential")
    device, table = msgspec.structs.replace(quick_profile, sweep=sweep), tmp_path / "t.sqlite"
    explain(path, device, output=table, time_limit="1s")
    assert LatencyTable.open(table).device.sweep.design == "uniform"


@pytest.mark.usefixtures("priced")
def test_ctrl_c_ends_an_explanation_and_keeps_its_table(
    path: Path, tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latbench.workflows.recorded_passes, "sweep_pass", interrupted_at(1))
    with pytest.raises(KeyboardInterrupt):
        explain(path, quick_profile, output=tmp_path / "t.sqlite", time_limit="1s")
    assert LatencyTable.open(tmp_path / "t.sqlite").networks


def test_a_device_or_a_table_is_needed_and_not_both(
    path: Path, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    with pytest.raises(InvalidValueError, match="not both"):
        explain(path)
    with pytest.raises(InvalidValueError, match="not both"):
        explain(path, quick_profile, table=tmp_path / "t.sqlite")


def test_a_network_of_one_segment_has_nothing_to_explain(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    single = save(conv_model(), tmp_path / "single.onnx")
    with pytest.raises(InvalidValueError, match="1 segments, which are too few"):
        explain(single, quick_profile, output=tmp_path / "t")
    assert not (tmp_path / "t").exists()
