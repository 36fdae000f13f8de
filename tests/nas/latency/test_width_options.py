"""Indices and sums of the widths of all layers at once equal those of one layer after another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas.latency.extremes import Layers, cheapest, costliest
from nas.latency.width_options import SHAPE_TOLERANCE, Floats, WidthOptions

SEEDS = st.integers(0, 100_000)


def _drawn(rng: np.random.Generator) -> tuple[Floats, WidthOptions]:
    """Some layers of random widths, with prices that need not grow with width."""
    layers, pieces = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    counts = rng.integers(1, 40, size=layers)
    widths = tuple(np.sort(rng.choice(np.arange(1, 300), n, replace=False)) for n in counts)
    addends = tuple(rng.normal(size=(n, pieces)) for n in counts)
    return rng.normal(size=pieces), WidthOptions(
        rng.integers(1, 400, layers) * 1.0, widths, addends
    )


@given(seed=SEEDS)
def test_picks_are_the_nearest_widths(seed: int) -> None:
    """The narrower one of two widths that are equally near."""
    rng = np.random.default_rng(seed)
    _, options = _drawn(rng)
    layers = len(options.widths)
    fractions = rng.uniform(-5, 500, size=(7, layers))
    for wanted in (fractions, np.round(fractions * 2) / 2, fractions.astype(np.int64)):
        picks = options.picks(wanted)
        for row, asked in zip(picks, wanted, strict=True):
            nearest = [np.abs(w - x).argmin() for w, x in zip(options.widths, asked, strict=True)]
            assert row.tolist() == nearest


@given(seed=SEEDS)
def test_spans_are_the_widths_within_the_tolerance(seed: int) -> None:
    """The nearest one if there is none; their least and greatest addends are those of slices."""
    rng = np.random.default_rng(seed)
    _, options = _drawn(rng)
    scales = np.geomspace(0.01, 20, 9)
    first, last = options.spans(scales)
    lows, highs = options.ranges_ms(first, last)
    for n, scale in enumerate(scales):
        for layer, (w, a) in enumerate(zip(options.widths, options.addends_ms, strict=True)):
            wanted = options.start[layer] * scale
            within = (w >= wanted * (1 - SHAPE_TOLERANCE)) & (w <= wanted * (1 + SHAPE_TOLERANCE))
            expected = np.flatnonzero(within) if within.any() else [np.abs(w - wanted).argmin()]
            part = slice(first[n, layer], last[n, layer])
            assert np.arange(len(w))[part].tolist() == list(expected)
            assert (lows[:, n, layer] == a[part].min(axis=0)).all()
            assert (highs[:, n, layer] == a[part].max(axis=0)).all()


@given(seed=SEEDS)
def test_sums_are_added_up_layer_by_layer(seed: int) -> None:
    """To the last bit, because fits compare latencies that are computed in different places."""
    rng = np.random.default_rng(seed)
    base_ms, options = _drawn(rng)
    picks = np.column_stack([rng.integers(len(w), size=5) for w in options.widths])
    for row, found in zip(picks, options.sums_ms(base_ms, picks), strict=True):
        expected = base_ms.copy()
        for addends, pick in zip(options.addends_ms, row, strict=True):
            expected += addends[pick]
        assert (found == expected).all()
        assert options.at(row).tolist() == [w[i] for w, i in zip(options.widths, row, strict=True)]


@given(seed=SEEDS)
def test_the_extremes_of_layers_equal_enumeration(seed: int) -> None:
    """At fixed depth and at elastic depth, with one sum and with several."""
    rng = np.random.default_rng(seed)
    pieces = int(rng.integers(1, 4))
    addends = [rng.normal(size=(int(rng.integers(1, 5)), pieces)) for _ in range(4)]
    base = rng.normal(size=pieces)
    for depths in ([[2], [2]], [[1, 2], [1, 2]]):
        network = Layers([range(2), range(2, 4)], depths, addends, base)
        sums = [base]
        for layers, kept in zip(network.stages, depths, strict=True):
            ends, partial = [], sums
            for depth, layer in enumerate(layers, start=1):
                partial = [total + row for total in partial for row in addends[layer]]
                ends += partial if depth in kept else []
            sums = ends
        costs = [total.max() for total in sums]
        assert np.isclose(network.cost(cheapest(network)), min(costs))
        assert np.isclose(network.cost(costliest(network)), max(costs))
