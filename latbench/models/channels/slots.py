"""Where the channels of a tensor are: an id for every position along the dimensions that hold them.

A **slot** is one output channel of a convolution or a matrix product. Tensors behind it refer to
slots: a concatenation joins their ids, a channel shuffle permutes them, a flattening repeats each
for all pixels. The **trail** of a position is a hash of the nodes that it passed since then. Two
positions of a tensor with the same slot, offset and trail have the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio; all as in splitmix64
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class UnpaddableError(Exception):
    """Widths that do not fit the network; they are not padded so."""


@dataclass(frozen=True, eq=False)
class Slots:
    """Channels of a tensor.

    Attributes:
        ids: Ids of slots; each dimension is the tensor's, or 1 where it holds no channels.
        offsets: Number of the element within its channel, of the same shape; zero unless pixels
            and channels were flattened into one dimension.
        trails: Hash of the nodes that the position passed, of the same shape.
    """

    ids: Ints
    offsets: Ints
    trails: Hashes

    @staticmethod
    def of(ids: Ints) -> Slots:
        """Slots whose channels have one element each and passed no node."""
        return Slots(ids, np.zeros_like(ids), np.zeros(ids.shape, np.uint64))

    @property
    def axes(self) -> tuple[int, ...]:
        """Dimensions that hold channels."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    @property
    def is_plain(self) -> bool:
        """Whether every element has the offset zero."""
        return not self.offsets.any()

    def along(self, axis: int) -> bool:
        """Whether this dimension, and no other, holds channels."""
        return self.axes == (axis % self.ids.ndim,)

    def flat(self) -> Slots:
        """The same positions in one dimension."""
        return self.changed(np.ravel)

    def changed(self, change: Any) -> Slots:
        """The same change of ids, offsets and trails, such as a transposition."""
        return Slots(change(self.ids), change(self.offsets), change(self.trails))

    def passed(self, *what: object) -> Slots:
        """The same positions behind a node.

        Args:
            what: What distinguishes the path, such as the number of the node and its output.
        """
        return replace(self, trails=mixed(named_hash(*what), self.trails))

    def positions(self) -> list[tuple[int, int, int]]:
        """Id, offset and trail of every position."""
        flat = self.flat()
        columns = (flat.ids.tolist(), flat.offsets.tolist(), flat.trails.tolist())
        return list(zip(*columns, strict=True))


def mixed(*parts: Ints | Hashes | np.uint64 | int) -> Hashes:
    """Hash of several arrays, element by element, as in splitmix64; numbers are broadcast."""
    found: Hashes = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            found = found * _ODD + np.asarray(part, np.uint64) + _ODD
            found = (found ^ (found >> np.uint64(30))) * _FIRST
            found = (found ^ (found >> np.uint64(27))) * _SECOND
            found = found ^ (found >> np.uint64(31))
    return found


def named_hash(*what: object) -> np.uint64:
    """Hash of names and numbers, the same in every run."""
    found: np.uint64 = np.frombuffer(sha256(repr(what).encode()).digest()[:8], np.uint64)[0]
    return found


def along_axis(ids: Ints, axis: int, rank: int) -> Ints:
    """A vector along one of several dimensions."""
    shape = [1] * rank
    shape[axis] = -1
    return ids.reshape(shape)


def ranked(slots: Slots, rank: int) -> Slots:
    """The slots with leading dimensions of size 1, as broadcasting adds them."""
    return slots.changed(lambda ids: ids.reshape((1,) * (rank - ids.ndim) + ids.shape))


def reshaped(slots: Slots, old: Sequence[int], new: Sequence[int]) -> tuple[Slots, list[int]]:
    """Slots after a reshaping, and the sizes of the reshaped tensor.

    Dimensions are merged, split or kept. Where a dimension is split, its largest part grows with
    the number of channels and the other parts keep their size.

    Args:
        slots: Slots of the tensor, as wide as it is now.
        old: Sizes of the tensor before it was padded.
        new: Sizes of the reshaped tensor before it was padded.

    Raises:
        UnpaddableError: The number of channels is not divisible as it must be.
        ValueError: Pixels and channels are mixed in a way that is not known here.
    """
    found, sizes = slots, list(new)
    now = [size if size > 1 else old[axis] for axis, size in enumerate(slots.ids.shape)]
    targets: list[tuple[int, int]] = []
    for inner, outer in _blocks(old, new):
        full = [axis for axis in inner if found.ids.shape[axis] > 1]
        if not full:
            targets += [(axis, 1) for axis in outer]
        elif len(outer) == 1:
            if len(inner) > 1 and len(full) < len(inner):
                if not found.is_plain or len(full) > 1:
                    raise ValueError("pixels are flattened twice")
                found = _pixels(found, inner, now)
            sizes[outer[0]] = int(np.prod([now[axis] for axis in inner]))
            targets.append((outer[0], sizes[outer[0]]))
        elif len(inner) == 1:
            grows = max(outer, key=lambda axis: new[axis])
            others = int(np.prod([new[axis] for axis in outer if axis != grows]))
            if now[inner[0]] % others:
                raise UnpaddableError("a reshape cannot divide the channels")
            sizes[grows] = now[inner[0]] // others
            targets += [(axis, sizes[axis]) for axis in outer]
        else:
            raise ValueError("a reshape mixes channels with other dimensions")
    shape_now = [1] * len(new)
    for axis, size in targets:
        shape_now[axis] = size
    return found.changed(lambda each: each.reshape(shape_now)), sizes


def _pixels(slots: Slots, inner: Sequence[int], now: Sequence[int]) -> Slots:
    """Slots repeated along the dimensions without channels, with the numbers of these elements."""
    shape = list(slots.ids.shape)
    count = [now[axis] if slots.ids.shape[axis] == 1 else 1 for axis in inner]
    for axis in inner:
        shape[axis] = now[axis]
    number_shape = [1] * slots.ids.ndim
    for axis, size in zip(inner, count, strict=True):
        number_shape[axis] = size
    numbers = np.arange(int(np.prod(count)), dtype=np.int64).reshape(number_shape)
    numbered = replace(slots, offsets=slots.offsets + numbers)
    return numbered.changed(lambda each: np.broadcast_to(each, shape))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest groups of neighbouring dimensions above 1 that hold equally many elements."""
    inner = [axis for axis, size in enumerate(old) if size != 1]
    outer = [axis for axis, size in enumerate(new) if size != 1]
    blocks = []
    while inner and outer:
        left, right = [inner.pop(0)], [outer.pop(0)]
        a, b = old[left[0]], new[right[0]]
        while a != b:
            if a < b and inner:
                left.append(inner.pop(0))
                a *= old[left[-1]]
            elif b < a and outer:
                right.append(outer.pop(0))
                b *= new[right[-1]]
            else:
                raise ValueError("a reshape changes the number of elements")
        blocks.append((left, right))
    if inner or outer:
        raise ValueError("a reshape changes the number of elements")
    return blocks
