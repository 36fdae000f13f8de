"""Neighbours that a runtime fuses: found by measuring, joined, and found again in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from latbench.blocks import BlockSpec, Network
from latbench.device import DeviceProfile
from latbench.measure import visiting
from latbench.models import read_model
from latbench.models.joining import empty_segment, merge
from latbench.models.segments import Piece, cut
from latbench.profilers import Profiler, Session, make_profiler
from latbench.tables import LatencyTable
from latbench.workflows.fused_segments import join_fused, joined_where
from tests.conftest import PricedSession, random_price
from tests.latbench.models.small import save
from tests.latbench.models.test_segments import Builder

CALL_MS = 0.01  # overhead of a call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Ten convolutions; those of 20 channels write, and those after them read, what is fused."""
    builder = Builder()
    x = "x"
    for channels in (8, 20, 12, 16, 8, 20, 12, 24, 16, 4):
        x = builder.conv(x, channels)
    return save(builder.build(x), tmp_path / "model.onnx")


def _pieces(model: Path) -> tuple[Piece, ...]:
    return cut(read_model(model))


def _price_ms(spec: BlockSpec) -> float:
    return 0.0 if spec == empty_segment() else 10 * random_price(spec)


@pytest.fixture
def fusing(model: Path, monkeypatch: pytest.MonkeyPatch) -> set[BlockSpec]:
    """A runtime that computes the third convolution within the second; returns what it fuses."""
    specs = [piece.segment for piece in _pieces(model)]
    first, second = specs[1:3]
    both = merge(first, second)

    def open_session(profiler: Profiler, network: Network) -> Session:
        total_ms, before = CALL_MS, None
        for spec in network:
            if spec == both:
                total_ms += _price_ms(first)
            elif (before, spec) != (first, second):
                total_ms += _price_ms(spec)
            before = spec
        return PricedSession(total_ms)

    monkeypatch.setattr(visiting, "open_session", open_session)
    return {both}


def test_fused_neighbours_are_found_and_joined(
    model: Path, fusing: set[BlockSpec], quick_profile: DeviceProfile
) -> None:
    pieces = _pieces(model)
    joined = join_fused(make_profiler(quick_profile), pieces)
    assert joined == joined_where(pieces, fusing.__contains__)
    places = [number for number, piece in enumerate(joined) if piece.segment in fusing]
    assert places == [1, 4]
    assert len(joined) == len(pieces) - 2
    assert [node for piece in joined for node in piece.nodes] == [
        node for piece in pieces for node in piece.nodes
    ]
    assert joined[1].name in {pieces[1].name, pieces[2].name}


def test_a_calls_overhead_is_no_fusion(
    model: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls in one save the overhead of a call, which here is most of a latency."""

    def open_session(profiler: Profiler, network: Network) -> Session:
        return PricedSession(1 + sum(map(random_price, network)))

    monkeypatch.setattr(visiting, "open_session", open_session)
    pieces = _pieces(model)
    assert join_fused(make_profiler(quick_profile), pieces) == pieces


@pytest.mark.usefixtures("fusing")
def test_a_table_remembers_what_was_joined(
    model: Path, quick_profile: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.sqlite"
    nas.profile(quick_profile, model, path, time_limit="1s")
    explained = nas.explain(model, table=path)
    assert len(explained.segments) == len(_pieces(model)) - 2
    predicted = nas.predict(model, path)
    assert explained.predicted_ms == predicted.latency_ms
    assert explained.measured_ms == pytest.approx(predicted.latency_ms, rel=0.02)
    before = LatencyTable.open(path).networks.keys()

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("the table says what was joined")

    monkeypatch.setattr("latbench.workflows.model_tables.join_fused", fail)
    nas.profile(quick_profile, model, path, time_limit="1s")
    assert LatencyTable.open(path).networks.keys() == before


def test_a_model_that_would_have_too_few_segments_is_left_as_it_is(
    quick_profile: DeviceProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder()
    x = "x"
    for channels in (8, 12, 16, 20):
        x = builder.conv(x, channels)
    model = save(builder.build(x), tmp_path / "short.onnx")

    def open_session(profiler: Profiler, network: Network) -> Session:
        return PricedSession(max(map(_price_ms, network)))

    monkeypatch.setattr(visiting, "open_session", open_session)
    found = nas.profile(quick_profile, model, tmp_path / "t.sqlite", time_limit="1s")
    assert set(found.estimates) == {piece.segment for piece in _pieces(model)}
