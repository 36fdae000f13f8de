"""Where the channels of a tensor are: an id for every position along the dimensions that hold them.

A **slot** is one output channel of a convolution or a matrix product. Tensors behind it refer to
slots: a concatenation joins their ids, a channel shuffle permutes them, a flattening repeats each
for all pixels. An addition makes two slots one channel. The **role** of a slot names a use of it,
such as being read by a convolution; the sum of the hashes of its roles is its **signature**. Two
channels with equal signatures are treated alike by the whole network, so one may take the place of
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, as in splitmix64


class UnpaddableError(Exception):
    """Widths that do not fit the network; they are not padded so."""


@dataclass(frozen=True, eq=False)
class Slots:
    """Channels of a tensor.

    Attributes:
        ids: Ids of slots; each dimension is the tensor's, or 1 where it holds no channels.
        offsets: Number of the element within its channel, of the same shape; zero unless pixels
            and channels were flattened into one dimension.
    """

    ids: Ints
    offsets: Ints

    @staticmethod
    def of(ids: Ints) -> Slots:
        """Slots whose channels have one element each."""
        return Slots(ids, np.zeros_like(ids))

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
        return Slots(self.ids.ravel(), self.offsets.ravel())

    def changed(self, change: Any) -> Slots:
        """The same change of ids and offsets, such as a transposition."""
        return Slots(change(self.ids), change(self.offsets))


class Ledger:
    """All slots of a network, which of them are one channel, and their roles."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._hashes: list[tuple[Ints, Hashes]] = []
        self.producers: list[int] = []

    def new(self, count: int, producer: int) -> Ints:
        """Ids of new slots.

        Args:
            count: Number of slots.
            producer: Number of the node that makes them, -1 for a tensor that cannot be padded.
        """
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        self.producers.extend([producer] * count)
        return np.arange(first, first + count, dtype=np.int64)

    def role(self, ids: Ints, *what: object, number: Ints | int = 0) -> None:
        """Give slots a role.

        Args:
            ids: Ids of slots.
            what: Name of the role.
            number: Number that distinguishes the roles of elements, such as an offset or a group.
        """
        key = np.frombuffer(sha256(repr(what).encode()).digest()[:8], np.uint64)[0]
        with np.errstate(over="ignore"):
            mixed = np.broadcast_to(np.asarray(number, np.uint64), ids.shape) * _ODD + key
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        self._hashes.append((ids.ravel(), (mixed ^ (mixed >> np.uint64(31))).ravel()))

    def unite(self, first: Ints, second: Ints) -> None:
        """Make slots one channel, element by element."""
        for a, b in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            root, other = self._find(a), self._find(b)
            if root != other:
                self._parent[max(root, other)] = min(root, other)

    def _find(self, slot: int) -> int:
        parent = self._parent
        while parent[slot] != slot:
            parent[slot] = parent[parent[slot]]
            slot = parent[slot]
        return slot

    def channels(self) -> Ints:
        """Channel of every slot: the smallest id of its slots."""
        return np.array([self._find(slot) for slot in range(len(self._parent))], dtype=np.int64)

    def signatures(self, channels: Ints) -> Hashes:
        """Sum over the hashes of all roles, by channel."""
        sums = np.zeros(len(channels), np.uint64)
        with np.errstate(over="ignore"):
            for ids, hashes in self._hashes:
                np.add.at(sums, channels[ids], hashes)
        return sums


def embed(before: Ledger, after: Ledger) -> dict[int, int]:
    """Place of every channel in a wider network: a channel with the same signature, in order.

    Raises:
        UnpaddableError: The wider network has too few channels of a signature.
    """
    old, new = before.channels(), after.channels()
    old_signatures, new_signatures = before.signatures(old), after.signatures(new)
    free: dict[int, list[int]] = {}
    for channel in reversed(np.unique(new).tolist()):
        free.setdefault(int(new_signatures[channel]), []).append(channel)
    places = {}
    for channel in np.unique(old).tolist():
        alike = free.get(int(old_signatures[channel]))
        if not alike:
            raise UnpaddableError("a channel has no place in the wider network")
        places[channel] = alike.pop()
    return places


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
    ids, offsets, sizes = slots.ids, slots.offsets, list(new)
    now = [size if size > 1 else old[axis] for axis, size in enumerate(ids.shape)]
    targets: list[tuple[int, int]] = []
    for inner, outer in _blocks(old, new):
        full = [axis for axis in inner if ids.shape[axis] > 1]
        if not full:
            targets += [(axis, 1) for axis in outer]
        elif len(outer) == 1:
            if len(inner) > 1 and len(full) < len(inner):
                if offsets.any() or len(full) > 1:
                    raise ValueError("pixels are flattened twice")
                ids, offsets = _pixels(ids, offsets, inner, now)
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
    return Slots(ids.reshape(shape_now), offsets.reshape(shape_now)), sizes


def _pixels(
    ids: Ints, offsets: Ints, inner: Sequence[int], now: Sequence[int]
) -> tuple[Ints, Ints]:
    """Ids repeated along the dimensions without channels, and the numbers of these elements."""
    shape = list(ids.shape)
    count = [now[axis] if ids.shape[axis] == 1 else 1 for axis in inner]
    for axis in inner:
        shape[axis] = now[axis]
    number_shape = [1] * ids.ndim
    for axis, size in zip(inner, count, strict=True):
        number_shape[axis] = size
    numbers = np.arange(int(np.prod(count)), dtype=np.int64).reshape(number_shape)
    return np.broadcast_to(ids, shape), np.broadcast_to(offsets + numbers, shape)


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
