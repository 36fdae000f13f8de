"""Choice of the widths of a curve that are measured, first and then where they disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.width_curves import WidthCurve


def first_widths(widths: Sequence[int], alignment: Alignment, *, count: int) -> list[int]:
    """Widths to measure first: both ends of every class and evenly spaced widths between them.

    Both ends of the whole range are always included, whatever the step of their class is: the step
    comes from a scan and may be wrong.

    Args:
        widths: All widths of the curve, ascending.
        alignment: The runtime's classes.
        count: Measured widths per class; a class with fewer widths has all of them measured.
    """
    found = {widths[0], widths[-1]}
    for members in _by_abscissa(widths, alignment).values():
        positions = np.unique(np.linspace(0, len(members) - 1, count).round().astype(int))
        abscissae = sorted(members)
        found.update(members[abscissae[i]] for i in positions)
    return sorted(found)


def refined_widths(
    widths: Sequence[int], curve: WidthCurve, alignment: Alignment, *, tolerance: float
) -> list[tuple[float, int]]:
    """Widths to measure next, on both sides of a measured width that the others predict badly.

    A measured width whose interval overlaps that of the prediction is not predicted badly: more
    visits to it tell more than other widths do.

    Returns:
        Pairs of an error and a width. The error is the absolute relative error at the badly
        predicted neighbour. The width has not been measured yet.
    """
    found: dict[int, float] = {}
    for group, members in _by_abscissa(widths, alignment).items():
        abscissae = sorted(members)
        known = sorted({group.abscissa(w) for w in curve.known if alignment.class_of(w) == group})
        for before, inner, after in zip(known, known[1:], known[2:], strict=False):
            here = [w for w in curve.known if alignment.class_of(w) == group]
            width = next(w for w in here if group.abscissa(w) == inner)
            error = abs(curve.left_out_error(width) or 0.0)
            if error <= tolerance or curve.may_be_noise(width):
                continue
            for low, high in ((before, inner), (inner, after)):
                between = [x for x in abscissae if low < x < high]
                if between:
                    middle = members[between[len(between) // 2]]
                    found[middle] = max(error, found.get(middle, 0.0))
    return sorted(((error, width) for width, error in found.items()), reverse=True)


def _by_abscissa(widths: Iterable[int], alignment: Alignment) -> dict[WidthClass, dict[int, int]]:
    """Widest width of every multiple of the step, by class."""
    found: dict[WidthClass, dict[int, int]] = defaultdict(dict)
    for width in widths:
        group = alignment.class_of(width)
        found[group][group.abscissa(width)] = width
    return found
