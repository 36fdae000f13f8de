"""Alignment classes of widths, and how they are found.

The latency of a block is not a smooth function of its elastic width. ONNX Runtime on a CPU takes
three times as long for a width that is not a multiple of 4. For multiples of 4, its latency rises
in steps of 16. Other runtimes have other steps. Widths therefore form **classes**: a class holds
the widths that are divisible by its divisor but not by any larger divisor of the alignment. Inside
a class, latency depends only on the width rounded up to a multiple of the step of the class. This
function is smooth enough to interpolate, which ``latbench.tables.width_curves`` does.

The divisors and steps of a runtime are found by a scan: all widths in a range are measured for a
few blocks, and the alignment is chosen that predicts each width best from the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations

import msgspec

MODULI = (1, 2, 4, 8, 16, 32)
_SIMPLER = 1.15  # a simpler alignment is as good if its error is within this factor of the least
_ALIKE = 0.001  # it is also as good if its error differs from the least one by no more than this


class WidthClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Widths divisible by ``divisor``, with one latency per multiple of ``step``."""

    divisor: int
    step: int

    def abscissa(self, width: int) -> int:
        """The width rounded up to a multiple of the step."""
        return -(-width // self.step) * self.step


class Alignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Width classes of a runtime, by descending divisor; the last divisor is 1.

    Attributes:
        error: Mean absolute relative error of the scanned widths, each predicted from the others.
            None if nothing was scanned.
    """

    classes: tuple[WidthClass, ...] = (WidthClass(1, 1),)
    error: float | None = None

    def class_of(self, width: int) -> WidthClass:
        """The class that a width belongs to."""
        return next(c for c in self.classes if width % c.divisor == 0)

    def __str__(self) -> str:
        named = [
            f"{'multiples of ' + str(c.divisor) if c.divisor > 1 else 'any width'}"
            f"{' in steps of ' + str(c.step) if c.step > c.divisor else ''}"
            for c in self.classes
        ]
        return ", then ".join(named)


def discover_alignment(scans: Sequence[Mapping[int, float]]) -> Alignment:
    """Find the alignment under which scanned widths predict each other best.

    Args:
        scans: One mapping per scanned block: latency by width, over consecutive widths.

    Returns:
        The simplest alignment whose error is close to the best one's.
    """
    frozen = tuple(tuple(sorted(scan.items())) for scan in scans if scan)
    if not frozen:
        return Alignment()

    @cache
    def best_step(divisor: int, larger: tuple[int, ...]) -> tuple[float, int, int]:
        """Summed error of a class at its best step, this step, and the size of the class."""
        members = [
            [(w, y) for w, y in scan if w % divisor == 0 and all(w % d for d in larger)]
            for scan in frozen
        ]
        size = sum(map(len, members))
        errors = {
            step: sum(_left_out_errors(points, WidthClass(divisor, step)) for points in members)
            for step in MODULI
            if step >= divisor
        }
        # among steps that predict equally well, take the largest: latency is constant over such a
        # step, so measuring more widths inside it would be a waste
        step = max(s for s in errors if _close(errors[s], min(errors.values()), size))
        return errors[step], step, size

    candidates = []
    for extra in range(len(MODULI)):
        for chosen in combinations(MODULI[1:], extra):
            divisors = sorted((1, *chosen), reverse=True)
            parts = [best_step(d, tuple(divisors[:i])) for i, d in enumerate(divisors)]
            if any(size == 0 for _, _, size in parts):
                continue
            error = sum(part[0] for part in parts) / sum(part[2] for part in parts)
            classes = tuple(WidthClass(d, s) for d, (_, s, _) in zip(divisors, parts, strict=True))
            candidates.append(Alignment(classes, error))
    least = min(c.error or 0.0 for c in candidates)
    close = [c for c in candidates if _close(c.error or 0.0, least, 1)]
    return min(close, key=lambda c: (len(c.classes), c.error))


def _close(error: float, least: float, size: int) -> bool:
    """Whether a summed error equals the least one within the noise."""
    return error <= max(_SIMPLER * least, least + _ALIKE * size)


def _left_out_errors(points: Sequence[tuple[int, float]], group: WidthClass) -> float:
    """Sum of absolute relative errors of points, each predicted from the others."""
    by_abscissa: dict[int, list[float]] = defaultdict(list)
    for width, value in points:
        by_abscissa[group.abscissa(width)].append(value)
    xs = sorted(by_abscissa)
    means = {x: sum(by_abscissa[x]) / len(by_abscissa[x]) for x in xs}
    total = 0.0
    for index, x in enumerate(xs):
        alike = by_abscissa[x]
        for value in alike:
            if len(alike) > 1:
                predicted = (sum(alike) - value) / (len(alike) - 1)
            elif 0 < index < len(xs) - 1:
                low, high = xs[index - 1], xs[index + 1]
                share = (x - low) / (high - low)
                predicted = (1 - share) * means[low] + share * means[high]
            elif len(xs) > 1:  # at an end of the range there is only one neighbour
                predicted = means[xs[1] if index == 0 else xs[-2]]
            else:
                predicted = value
            total += abs(predicted / value - 1)
    return total
