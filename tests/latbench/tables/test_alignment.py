"""Width classes and curves: the shape that made the data is found, and nothing is made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.tables.alignment import Alignment, WidthClass, discover_alignment
from latbench.tables.measured_widths import first_widths, refined_widths
from latbench.tables.width_curves import WidthCurve

BLOCKED = Alignment((WidthClass(4, 16), WidthClass(1, 1)))


def _blocked(width: int) -> float:
    """As ONNX Runtime: steps of 16 on multiples of 4, three times as slow elsewhere."""
    return 0.01 * -(-width // 16) * 16 if width % 4 == 0 else 0.03 * width


def _smooth(width: int) -> float:
    return 0.2 + 0.01 * width


def _stepped(width: int) -> float:
    return 0.2 + 0.02 * -(-width // 16) * 16


def _scan(latency: Callable[[int], float], start: int, noise: float) -> dict[int, float]:
    rng = np.random.default_rng(start)
    widths = range(start, start + 64)
    return {w: latency(w) * (1 + noise * abs(float(rng.standard_normal()))) for w in widths}


@pytest.mark.parametrize(
    ("latency", "classes"),
    [
        (_blocked, BLOCKED.classes),
        (_smooth, (WidthClass(1, 1),)),
        (_stepped, (WidthClass(1, 16),)),
    ],
)
def test_the_classes_of_a_runtime_are_found(
    latency: Callable[[int], float], classes: tuple[WidthClass, ...]
) -> None:
    clean = discover_alignment([_scan(latency, start, 0.0) for start in (32, 48, 80)])
    noisy = discover_alignment([_scan(latency, start, 0.004) for start in (32, 48, 80, 160)])
    assert clean.classes == classes
    assert clean.error == pytest.approx(0, abs=0.01)  # the ends of a stretch lie alone
    grid = range(32, 128)  # what matters of a class is what it says of widths
    found = [noisy.class_of(w) for w in grid]
    for w in grid:
        assert found[w - 32].divisor == classes[0].divisor or w % classes[0].divisor
    assert noisy.error == pytest.approx(0, abs=0.01)


def _curve(alignment: Alignment, widths: list[int]) -> WidthCurve:
    return WidthCurve(alignment, {w: np.array([_blocked(w)]) for w in widths})


def test_a_curve_interpolates_inside_a_class_only() -> None:
    curve = _curve(BLOCKED, [32, 96, 33, 95])
    for width in (36, 48, 64, 92, 40):
        assert curve.at(width) == pytest.approx([_blocked(width)])
    for width in (34, 51, 70):
        assert curve.at(width) == pytest.approx([_blocked(width)])
    assert curve.at(16) is curve.at(100) is curve.at(31) is curve.at(97) is None
    assert _curve(BLOCKED, [32, 96]).at(33) is None


@given(st.integers(17, 60), st.integers(20, 200), st.integers(2, 7))
def test_first_widths_price_every_width(start: int, count: int, a_class: int) -> None:
    widths = list(range(start, start + count))
    chosen = first_widths(widths, BLOCKED, count=a_class)
    assert set(chosen) <= set(widths)
    curve = _curve(BLOCKED, chosen)
    assert all(curve.at(width) is not None for width in widths)


def test_widths_are_added_where_the_curve_bends() -> None:
    def bent(width: int) -> float:
        return 0.1 + (0.01 * (width - 64) if width > 64 else 0.0)

    smooth = Alignment()
    widths = list(range(16, 129))
    curve = WidthCurve(
        smooth, {w: np.full(3, bent(w)) for w in first_widths(widths, smooth, count=5)}
    )
    asked = refined_widths(widths, curve, smooth, tolerance=0.03)
    assert asked
    assert any(44 < width < 72 for _, width in asked)
    assert not refined_widths(
        widths,
        WidthCurve(smooth, {w: np.full(3, _smooth(w)) for w in (16, 50, 90, 128)}),
        smooth,
        tolerance=0.03,
    )
    unsure = {w: bent(w) * np.array([1.0, 0.7, 1.3]) for w in curve.known}
    assert not refined_widths(widths, WidthCurve(smooth, unsure), smooth, tolerance=0.03)
