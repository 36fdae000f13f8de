"""Which channels of a wider network take the places of the channels of a network.

An addition makes two slots one channel. A **role** of a slot is one of its positions in a tensor
or along a constant: the name of that use, the offset and the trail. The sum of the hashes of all
its roles is the slot's **signature**. Slots of two networks with equal signatures are made by the
same node, take the same paths and are read by the same nodes, so the one may stand for the other.
A channel is matched with its slots, and the pairs that an addition joins must be pairs again.
"""

from __future__ import annotations

import numpy as np

from latbench.models.channels.slots import (
    Hashes,
    Ints,
    Slots,
    UnpaddableError,
    mixed,
    named_hash,
)


class Ledger:
    """All slots of a network, which of them are one channel, and their roles."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._hashes: list[tuple[Ints, Hashes]] = []
        self.joins: dict[tuple[int, int], tuple[Slots, Slots]] = {}
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

    def role(self, slots: Slots, *what: object, number: Ints | int = 0) -> None:
        """Give slots a role.

        Args:
            slots: Slots with their offsets and trails.
            what: Name of the role.
            number: Number that distinguishes the roles of elements, such as a group.
        """
        hashes = mixed(named_hash(*what), slots.offsets, slots.trails, number)
        self._hashes.append((slots.ids.ravel(), hashes.ravel()))

    def disown(self, producer: int) -> None:
        """Take slots for those of a tensor that cannot be padded."""
        self.producers = [-1 if number == producer else number for number in self.producers]

    def join(self, first: Slots, second: Slots, number: int, place: int) -> Slots:
        """Make slots one channel, element by element; the slots behind the node that joins them.

        Args:
            first: Slots that the result has.
            second: Slots of the same shape and with the same offsets.
            number: Number of the node.
            place: Input that has the second slots.
        """
        self.joins[number, place] = (first, second)
        for a, b in zip(first.ids.ravel().tolist(), second.ids.ravel().tolist(), strict=True):
            root, other = self._find(a), self._find(b)
            if root != other:
                self._parent[max(root, other)] = min(root, other)
        trails = mixed(named_hash(number, place), first.trails, second.trails)
        return Slots(first.ids, first.offsets, trails)

    def _find(self, slot: int) -> int:
        parent = self._parent
        while parent[slot] != slot:
            parent[slot] = parent[parent[slot]]
            slot = parent[slot]
        return slot

    def channels(self) -> Ints:
        """Channel of every slot: the smallest id of its slots."""
        return np.array([self._find(slot) for slot in range(len(self._parent))], dtype=np.int64)

    def signatures(self) -> Hashes:
        """Sum over the hashes of all roles, by slot."""
        sums = np.zeros(len(self._parent), np.uint64)
        with np.errstate(over="ignore"):
            for ids, hashes in self._hashes:
                np.add.at(sums, ids, hashes)
        return sums

    def alike(self) -> Ints:
        """Slots that have the signature of another slot of the same channel."""
        keys = mixed(self.channels(), self.signatures())
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return np.flatnonzero(counts[inverse] > 1)


def embed(before: Ledger, after: Ledger) -> Ints:
    """Slot of a wider network for every slot: alike channels and slots are taken in order.

    Raises:
        UnpaddableError: The wider network has too few channels of a kind, or joins them otherwise.
    """
    free: dict[int, list[list[int]]] = {}
    for signature, slots in reversed(_members(after)):
        free.setdefault(signature, []).append(slots)
    places = np.zeros(len(before.producers), np.int64)
    for signature, slots in _members(before):
        alike = free.get(signature)
        if not alike:
            raise UnpaddableError("a channel has no place in the wider network")
        places[slots] = alike.pop()
    for key, (first, second) in before.joins.items():
        wide_first, wide_second = after.joins[key]
        wanted = _pairs(places[first.ids], first, places[second.ids], second)
        given = _pairs(wide_first.ids, wide_first, wide_second.ids, wide_second)
        if not np.isin(wanted, given).all():
            raise UnpaddableError("other channels are joined in the wider network")
    return places


def _members(ledger: Ledger) -> list[tuple[int, list[int]]]:
    """Signature and slots of every channel, by its first slot; the slots by their signatures."""
    signatures, channels = ledger.signatures(), ledger.channels()
    sums = np.zeros(len(channels), np.uint64)
    with np.errstate(over="ignore"):
        np.add.at(sums, channels, mixed(signatures))
    found: dict[int, list[int]] = {channel: [] for channel in np.unique(channels).tolist()}
    for slot in np.argsort(signatures, kind="stable").tolist():
        found[int(channels[slot])].append(slot)
    return [(int(sums[channel]), slots) for channel, slots in found.items()]


def _pairs(first_ids: Ints, first: Slots, second_ids: Ints, second: Slots) -> Hashes:
    """A hash of each pair of positions that are joined."""
    return mixed(
        *(first_ids, first.offsets, first.trails),
        *(second_ids, second.offsets, second.trails),
    )
