"""Every width of a block has a price, whatever was measured; doubt is marked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.blocks import BlockSpec, InvertedResidual, block_width, with_width
from latbench.device_files import load_device
from latbench.environment import current_environment
from latbench.tables import Estimate, LatencyTable, SpaceLabel, StoredFit
from latbench.tables.alignment import MODULI, Alignment, WidthClass
from latbench.tables.formats import entries
from latbench.tables.measured_widths import first_widths
from latbench.tables.price_model import PriceModel
from latbench.tables.width_curves import Curves

SHAPE = with_width(InvertedResidual(8, 8, 32, 3, 1, "relu", 8), 0)
SCANNED = with_width(InvertedResidual(8, 8, 32, 5, 1, "relu", 8), 0)
Known = dict[BlockSpec, Estimate]


@st.composite
def alignments(draw: st.DrawFn) -> Alignment:
    """Divisors in descending order, the last 1, each with a step that it divides."""
    divisors = {1, *draw(st.sets(st.sampled_from(MODULI)))}
    steps = {d: draw(st.sampled_from([m for m in MODULI if m >= d])) for d in divisors}
    return Alignment(tuple(WidthClass(d, steps[d]) for d in sorted(divisors, reverse=True)))


def _estimate(width: int, draw: float, *, cold: bool) -> Estimate:
    """A latency that grows with the width and has classes; some runs make no cold calls."""
    ms = (0.01 + 0.001 * width) * (1 if width % 4 == 0 else 3) * draw
    values = (ms, 0.9 * ms, 1.2 * ms)
    colds = tuple(2 * value for value in values) if cold else (None, None, None)
    return Estimate(*values, *colds, visits=20, noisy=False)  # type: ignore[arg-type]


def _table(alignment: Alignment, known: Known, held_out_error: float) -> LatencyTable:
    return LatencyTable(
        Path("t.sqlite"),
        device=load_device("cpu-onnxruntime"),
        space=SpaceLabel("tfnas", 8, 10),
        environment=current_environment({}),
        estimates=known,
        networks={},
        curves=Curves(alignment, known),
        included=frozenset(),
        fit=StoredFit(
            PriceModel(0.7, 0.2, -0.0001, 0.1),
            held_out_errors=(held_out_error,),
        ),
        origin=None,
    )


@given(
    alignment=alignments(),
    start=st.integers(17, 90),
    count=st.integers(2, 130),
    a_class=st.integers(1, 4),
    lost=st.sets(st.integers(0, 40)),
    cold=st.booleans(),
    draws=st.lists(st.floats(0.5, 2), min_size=1, max_size=5),
    held_out_error=st.floats(0, 3, allow_subnormal=False),
)
def test_every_width_has_a_price_and_doubt_is_marked(
    alignment: Alignment,
    start: int,
    count: int,
    a_class: int,
    lost: set[int],
    cold: bool,
    draws: list[float],
    held_out_error: float,
) -> None:
    """This holds for any classes and few measured widths, where all but the ends may be lost."""
    widths = list(range(start, start + count))
    chosen = first_widths(widths, alignment, count=a_class)
    assert {widths[0], widths[-1]} <= set(chosen) <= set(widths)
    inner = [w for i, w in enumerate(chosen[1:-1]) if i not in lost]

    def known(shape: BlockSpec, measured: list[int]) -> Known:
        return {
            with_width(shape, w): _estimate(w, draws[w % len(draws)], cold=cold) for w in measured
        }

    scan = known(SCANNED, list(range(64, 128)))  # a scan has members of every class
    measured = known(SHAPE, [widths[0], *inner, widths[-1]])
    table = _table(alignment, scan | measured, held_out_error)
    curve = table.curves.curve(with_width(SHAPE, start))
    assert curve is not None
    listed = {
        row["width"]: row
        for row in entries(table, interpolated=True)
        if '"kernel":3' in str(row["block"])
    }
    assert sorted(map(int, listed)) == widths  # type: ignore[call-overload]
    for width in widths:
        price = table.price(with_width(SHAPE, width))
        assert math.isfinite(price.price_ms)
        assert 0 <= price.low_ms <= price.price_ms <= price.high_ms < math.inf
        assert price.price_ms > 0
        rough = curve.at(width) is None
        assert listed[width]["noisy"] == price.noisy == rough
        if rough:
            below = max(w for w in curve.known if w < width)
            above = min(w for w in curve.known if w > width)
            for near in (below, above):
                estimate = table.curves.between(with_width(SHAPE, width))
                assert estimate is not None
                assert estimate.hot_low_ms <= curve.known[near][0] <= estimate.hot_high_ms
    between = set(table.curves.between_specs())
    rough_keys = [s for s in between if table.price(s).noisy]
    assert len(table.check(None).noisy) == len(rough_keys)


def test_widths_beyond_the_measured_ones_have_no_price() -> None:
    known = {with_width(SHAPE, w): _estimate(w, 1.0, cold=True) for w in (20, 21, 40, 41)}
    table = _table(Alignment((WidthClass(4, 4), WidthClass(1, 1))), known, 0.0)
    for width in (16, 19, 42, 44):
        assert with_width(SHAPE, width) not in table
    assert all(with_width(SHAPE, width) in table for width in range(20, 42))


def test_pandas_reads_widths_between_measured_ones() -> None:
    pandas = pytest.importorskip("pandas")
    known = {with_width(SHAPE, w): _estimate(w, 1.0, cold=True) for w in (20, 21, 40, 41)}
    table = _table(Alignment((WidthClass(4, 4), WidthClass(1, 1))), known, 0.0)
    frame = table.to_dataframe(interpolated=True)
    assert isinstance(frame, pandas.DataFrame)
    assert (frame.price_ms > 0).all()
    assert len(frame) > len(table.estimates)
    assert sorted(frame.width) == list(range(20, 42))
    assert frame.hot_ms.notna().sum() == len(table.estimates)


def test_a_class_that_no_block_was_measured_in_has_no_price() -> None:
    """Nothing says how slow it is, as in a published table of multiples of 8."""
    known = {with_width(SHAPE, w): _estimate(w, 1.0, cold=True) for w in (16, 24, 32)}
    table = _table(Alignment((WidthClass(8, 8), WidthClass(1, 1))), known, 0.0)
    priced = [w for w in range(16, 33) if with_width(SHAPE, w) in table]
    assert priced == [16, 24, 32]


def test_a_class_missing_around_a_width_is_estimated_from_the_nearest_widths() -> None:
    """Between a fast multiple of 4 and a slow odd width the truth may be either."""
    blocked = Alignment((WidthClass(4, 4), WidthClass(1, 1)))
    widths = {SHAPE: (32, 35, 64), SCANNED: (32, 33, 63, 64)}
    known = {
        with_width(shape, w): _estimate(w, 1.0, cold=False)
        for shape, measured in widths.items()
        for w in measured
    }
    curves = Curves(blocked, known)
    rough = curves.between(with_width(SHAPE, 34))
    assert rough is not None
    assert rough.noisy
    assert rough.hot_ms == pytest.approx(
        (known[with_width(SHAPE, 32)].hot_ms + 2 * known[with_width(SHAPE, 35)].hot_ms) / 3
    )
    assert rough.hot_low_ms == known[with_width(SHAPE, 32)].hot_low_ms
    assert rough.hot_high_ms == known[with_width(SHAPE, 35)].hot_high_ms
    inside = curves.between(with_width(SHAPE, 48))
    assert inside is not None
    assert not inside.noisy
    assert [block_width(s) for s in curves.between_specs() if s == with_width(SHAPE, 34)] == [34]
