"""Encodings as vectors, so that searchers can compare architectures.

The distance of two choices of a layer is 1 if their operations differ, plus the differences of
their widths and kernels. The distance of two architectures is a weighted sum over layers. Every
part is a squared Euclidean distance between vectors: operations are one-hot, and numbers are
encoded as cumulative steps whose squared distance is the absolute difference of the numbers. So the
distances of many pairs need one product of matrices, and ``exp(-distance)`` is a valid kernel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.optimize.constraints import Floats
from nas.optimize.encoding import EncodedSpace
from nas.spaces import Choice

_PER_KERNEL = (
    1 / 6
)  # distance of one sub-block more or less of one kernel size; a layer has up to six sub-blocks


class Features:
    """Vectors of encodings.

    Attributes:
        tables: Vectors of the choices of each layer, ``(choices + 1, dimensions)``; the last row is
            that of ``ABSENT``.
        layer_of: Layer of every dimension of an encoding's vector, ``(dimensions,)``.
    """

    def __init__(self, encoded: EncodedSpace) -> None:
        self.tables = [_table(choices) for choices in encoded.choices]
        sizes = [table.shape[1] for table in self.tables]
        self.layer_of = np.repeat(np.arange(len(sizes)), sizes)

    def of(self, codes: NDArray[np.int64]) -> Floats:
        """Vectors of encodings: ``(codes, layers)`` to ``(codes, dimensions)``."""
        return np.hstack([table[codes[:, i]] for i, table in enumerate(self.tables)])


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared distances of all pairs: ``(n, dimensions)`` and ``(m, dimensions)`` to ``(n, m)``."""
    found: Floats = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.maximum(found, 0.0)


def _table(choices: tuple[Choice, ...]) -> Floats:
    ops = list(dict.fromkeys(choice.op for choice in choices))
    one_hot = np.zeros((len(choices) + 1, len(ops) + 1))
    one_hot[np.arange(len(choices)), [ops.index(choice.op) for choice in choices]] = 0.5**0.5
    one_hot[-1, -1] = 0.5**0.5  # different operations are at a squared distance of 1
    parts = [one_hot]
    if any(choice.width for choice in choices):
        octaves = [np.log2(choice.width) if choice.width else 0.0 for choice in choices]
        parts.append(_cumulative_steps(octaves))
    sizes = sorted({kernel for choice in choices for kernel in choice.kernels or ()})
    for size in sizes:
        counts = [(choice.kernels or ()).count(size) * _PER_KERNEL for choice in choices]
        parts.append(_cumulative_steps(counts))
    return np.hstack(parts)


def _cumulative_steps(numbers: list[float]) -> Floats:
    """Rows whose squared distance is the difference of the numbers; the last is for ``ABSENT``."""
    levels = np.unique(np.array(numbers))  # ascending
    rows = np.array([*numbers, levels[0]])
    return np.where(rows[:, None] >= levels[None, 1:], np.sqrt(np.diff(levels))[None], 0.0)
