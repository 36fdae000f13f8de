"""Latency over width: interpolation within a class, and estimates at all widths of a table.

Every width between two measured widths of a block has an estimate. It is normally interpolated
between measured widths of the same class. If the class was not measured on both sides of the width,
the nearest measured widths of any class give a rough estimate. Its interval covers the intervals of
both, and it is marked noisy. A class that was not measured on any block has no estimates: such a
table deliberately holds chosen widths only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from math import isnan

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, block_width, with_width
from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.records import Estimate

Floats = NDArray[np.float64]


class WidthCurve:
    """Values over width: known at some widths, interpolated between them.

    Args:
        alignment: The runtime's classes.
        known: Measured values by width, each ``(values,)``.
    """

    def __init__(self, alignment: Alignment, known: Mapping[int, Floats]) -> None:
        self.known = known
        self._alignment = alignment
        grouped: dict[WidthClass, dict[int, list[Floats]]] = defaultdict(lambda: defaultdict(list))
        for width, values in known.items():
            group = alignment.class_of(width)
            grouped[group][group.abscissa(width)].append(values)
        self._knots = {
            group: (
                np.array(sorted(by_abscissa), dtype=np.float64),
                np.array([np.mean(by_abscissa[x], axis=0) for x in sorted(by_abscissa)]),
            )
            for group, by_abscissa in grouped.items()
        }  # (known,) and (known, values)

    def at(self, width: int) -> Floats | None:
        """Measured or interpolated values at a width; None outside the class's measured range."""
        if width in self.known:
            return self.known[width]
        group = self._alignment.class_of(width)
        if group not in self._knots:
            return None
        xs, ys = self._knots[group]
        x = group.abscissa(width)
        if not xs[0] <= x <= xs[-1]:
            return None
        upper = int(np.searchsorted(xs, x))
        if xs[upper] == x:
            result: Floats = ys[upper]
            return result
        share = (x - xs[upper - 1]) / (xs[upper] - xs[upper - 1])
        between: Floats = (1 - share) * ys[upper - 1] + share * ys[upper]
        return between

    def around(self, width: int) -> tuple[Floats, Floats, Floats] | None:
        """Rough values at a width from all classes together; None outside the measured range.

        Returns:
            Values interpolated between the nearest measured widths below and above, then the
            values at each of these two. Classes may differ by a factor, so the true values may lie
            anywhere between the two.
        """
        below = max((w for w in self.known if w <= width), default=None)
        above = min((w for w in self.known if w >= width), default=None)
        if below is None or above is None:
            return None
        low, high = self.known[below], self.known[above]
        share = (width - below) / (above - below) if above > below else 0.0
        return (1 - share) * low + share * high, low, high

    def step(self, width: int) -> tuple[WidthClass, int]:
        """Class and multiple of its step; widths that share both have the same latency."""
        group = self._alignment.class_of(width)
        return group, group.abscissa(width)

    def left_out_error(self, width: int) -> float | None:
        """Relative error at a measured width when it is left out; None at an end of the curve."""
        predicted = self._left_out(width)
        if predicted is None:
            return None
        return float(predicted[0] / self.known[width][0] - 1)

    def may_be_noise(self, width: int) -> bool:
        """Whether the interval at a measured width overlaps that of its neighbours' prediction.

        The values of the curve are those of estimates: a latency, then the ends of its interval.
        """
        predicted, own = self._left_out(width), self.known[width]
        return predicted is None or bool(predicted[1] <= own[2] and own[1] <= predicted[2])

    def _left_out(self, width: int) -> Floats | None:
        """Values at a measured width as its neighbours predict them."""
        rest = {w: v for w, v in self.known.items() if w != width}
        return WidthCurve(self._alignment, rest).at(width)


class Knots(ABC):
    """Measured estimates by shape and width, which curves go through."""

    @abstractmethod
    def get(self, spec: BlockSpec) -> Estimate | None:
        """Measured estimate of a block; None if there is none."""

    @abstractmethod
    def of_shape(self, shape: BlockSpec) -> Mapping[int, Estimate]:
        """Estimates of a shape, a block of width 0, by ascending width."""

    @abstractmethod
    def shapes(self) -> Iterable[BlockSpec]:
        """All shapes that have estimates."""

    @abstractmethod
    def widths(self) -> Iterable[int]:
        """All widths that any shape was measured at."""


class KnotsInMemory(Knots):
    """Knots of estimates that are in memory."""

    def __init__(self, known: Mapping[BlockSpec, Estimate]) -> None:
        self._known = known
        self._grouped: dict[BlockSpec, dict[int, Estimate]] = defaultdict(dict)
        for spec, estimate in known.items():
            width = block_width(spec)
            if width is not None:
                self._grouped[with_width(spec, 0)][width] = estimate

    def get(self, spec: BlockSpec) -> Estimate | None:
        return self._known.get(spec)

    def of_shape(self, shape: BlockSpec) -> dict[int, Estimate]:
        return dict(sorted(self._grouped.get(shape, {}).items()))

    def shapes(self) -> Iterable[BlockSpec]:
        return list(self._grouped)

    def widths(self) -> set[int]:
        return {width for found in self._grouped.values() for width in found}


class Curves:
    """Estimates by block, measured or interpolated between measured widths.

    Args:
        alignment: Width classes of the runtime; None if no width is elastic.
        known: Measured estimates that the interpolation may use.
    """

    def __init__(
        self, alignment: Alignment | None, known: Mapping[BlockSpec, Estimate] | Knots
    ) -> None:
        self.alignment = alignment
        self._knots = known if isinstance(known, Knots) else KnotsInMemory(known)
        self._curves: dict[BlockSpec, WidthCurve | None] = {}

    @cached_property
    def measured(self) -> dict[BlockSpec, Mapping[int, Estimate]]:
        """Measured estimates of all shapes, by ascending width."""
        if self.alignment is None:
            return {}
        return {shape: self._knots.of_shape(shape) for shape in self._knots.shapes()}

    @cached_property
    def _seen(self) -> set[WidthClass]:
        """Classes that were measured on any block."""
        if self.alignment is None:
            return set()
        return {self.alignment.class_of(width) for width in self._knots.widths()}

    def __str__(self) -> str:
        return "no elastic widths" if self.alignment is None else str(self.alignment)

    def estimate(self, spec: BlockSpec) -> Estimate | None:
        """Measured or interpolated estimate of a block; None if there is none."""
        return self._knots.get(spec) or self.between(spec)

    def between(self, spec: BlockSpec) -> Estimate | None:
        """Estimate interpolated from the widths around a block's own; None outside their range."""
        width, curve = block_width(spec), self.curve(spec)
        if width is None or curve is None:
            return None
        values = curve.at(width)
        if values is not None:
            return _estimate(values)
        around = curve.around(width) if curve.step(width)[0] in self._seen else None
        return None if around is None else _rough_estimate(*around)

    def curve(self, spec: BlockSpec) -> WidthCurve | None:
        """Curve over width of a block's shape; None for a block without elastic width."""
        if self.alignment is None or block_width(spec) is None:
            return None
        shape = with_width(spec, 0)
        if shape not in self._curves:
            known = {w: _values(e) for w, e in self._knots.of_shape(shape).items()}
            self._curves[shape] = WidthCurve(self.alignment, known) if known else None
        return self._curves[shape]

    def between_specs(self) -> Iterator[BlockSpec]:
        """All blocks whose width was not measured but lies between measured widths."""
        for shape, known in self.measured.items():
            for width in range(min(known), max(known) + 1):
                spec = with_width(shape, width)
                if width not in known and self.between(spec) is not None:
                    yield spec


_FIELDS = [field.name for field in fields(Estimate) if field.name.endswith("_ms")]


def _values(estimate: Estimate) -> Floats:
    """Latencies of an estimate, ``(6,)``; NaN for missing ones."""
    found = (getattr(estimate, name) for name in _FIELDS)
    return np.array([np.nan if value is None else value for value in found])


def _estimate(values: Floats) -> Estimate:
    latencies = [None if isnan(value) else value for value in values.tolist()]
    return Estimate(*latencies, 0, False)  # type: ignore[arg-type, call-arg]


def _rough_estimate(middle: Floats, *nearest: Floats) -> Estimate:
    """Estimate between the nearest widths of any class; its interval covers both of theirs."""
    rough, both = _estimate(middle), [_estimate(values) for values in nearest]
    cold_low_ms, cold_high_ms = rough.cold_low_ms, rough.cold_high_ms
    if rough.cold_ms is not None:
        cold_low_ms = min(e.cold_low_ms for e in both if e.cold_low_ms is not None)
        cold_high_ms = max(e.cold_high_ms for e in both if e.cold_high_ms is not None)
    return replace(
        rough,
        hot_low_ms=min(e.hot_low_ms for e in both),
        hot_high_ms=max(e.hot_high_ms for e in both),
        cold_low_ms=cold_low_ms,
        cold_high_ms=cold_high_ms,
        noisy=True,
    )
