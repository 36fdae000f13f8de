"""Widths of prunable groups, and the segments that a table must price to compare all of them.

A segment's latency depends on the widths of the few groups that it reads and writes. It is measured
at all combinations of a few levels of each. In between it is interpolated, linearly in each width:
multiply-accumulates and bytes are products of widths, so they are interpolated exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, Network
from latbench.errors import InvalidValueError
from latbench.models import OnnxModel
from latbench.models.channels.groups import Channels, find_channels
from latbench.models.channels.padding import padded
from latbench.models.channels.slots import UnpaddableError
from latbench.models.segments import Piece, cut
from latbench.workflows.fused_segments import joined_like
from nas.pruning.groups import PrunableGroup, layers_of

Floats = NDArray[np.float64]
Widths = Mapping[PrunableGroup, int]

LEAST_SHARE = 0.25
"""Smallest part of a group's channels that stays."""

_WIDE = 96  # channels from which widths are multiples of 16, else of 8
_LEVELS, _CANDIDATES = 4, 12  # of one group
_COMBINATIONS, _MOST_CHOICES = 64, 1024  # of one segment: measured and compared
_MOST_GROUPS = 6  # of one segment; the groups of larger ones keep their widths
_TRIES = 500  # networks, by which all combinations must have occurred


@dataclass(frozen=True)
class Grid:
    """Widths that a group may have.

    Attributes:
        candidates: Widths to choose from, ascending; the last one is the whole.
        levels: Those of them that are measured.
    """

    candidates: tuple[int, ...]
    levels: tuple[int, ...]

    @cached_property
    def interpolation(self) -> Floats:
        """Weights of the levels for each candidate, ``(candidates, levels)``."""
        rows = [np.interp(self.candidates, self.levels, row) for row in np.eye(len(self.levels))]
        return np.stack(rows, axis=1)

    @classmethod
    def of(cls, width: int, *, segments: Iterable[int]) -> Grid:
        """The grid of a group.

        Args:
            width: Number of channels.
            segments: Number of groups of every segment that the group touches.
        """
        together = max(segments, default=1)
        levels = _most(_COMBINATIONS, together, _LEVELS)
        candidates = _most(_MOST_CHOICES, together, _CANDIDATES)
        aligned = aligned_widths(width)
        whole = () if aligned and aligned[-1] == width else (width,)
        aligned = _spread(aligned, max(1, candidates - len(whole)))
        chosen = _spread(aligned, max(1, levels - len(whole)))
        return cls((*aligned, *whole), (*chosen, *whole))


def aligned_widths(width: int) -> tuple[int, ...]:
    """Multiples of 16, or of 8 for narrow groups, from a quarter of the width to the width."""
    step = 16 if width >= _WIDE else 8
    least = ceil(LEAST_SHARE * width / step) * step
    return tuple(range(least, width + 1, step))


def _most(combinations: int, groups: int, most: int) -> int:
    """Number of widths of each of some groups, so that their product stays below a limit."""
    return max(2, min(most, int(combinations ** (1 / groups) + 1e-9)))


def _spread(widths: Sequence[int], count: int) -> tuple[int, ...]:
    """At most so many of some widths, the ends among them; one is the least."""
    places = np.linspace(0, len(widths) - 1, min(count, len(widths))).round().astype(int)
    return tuple(widths[place] for place in places)


@dataclass(frozen=True)
class Place:
    """A segment of the network at its place, at all levels of its groups.

    Attributes:
        groups: Groups whose widths change it.
        segments: Segment for every combination of their levels.
    """

    groups: tuple[PrunableGroup, ...]
    segments: Mapping[tuple[int, ...], BlockSpec]


@dataclass(frozen=True)
class WidthGrid:
    """A network at all measured widths.

    Attributes:
        grids: Widths of every group.
        places: Segments of the network, in the order of execution.
        networks: Whole networks with random levels of all groups, for the fit of the prices.
    """

    grids: Mapping[PrunableGroup, Grid]
    places: tuple[Place, ...]
    networks: tuple[Network, ...]

    @property
    def segments(self) -> list[BlockSpec]:
        """All different segments."""
        return list(
            dict.fromkeys(each for place in self.places for each in place.segments.values())
        )


class Variants:
    """The network of a module at any widths, as segments; made from its narrowest form.

    Args:
        narrowest: ONNX model of the module with the least widths of all groups.
        groups: The groups with these least widths.

    Raises:
        InvalidValueError: The narrowest model has other groups.
    """

    def __init__(self, narrowest: OnnxModel, groups: Widths) -> None:
        self._model = narrowest
        self._channels: Channels = find_channels(narrowest)
        by_layers = {
            frozenset(layers_of(group, self._channels)): group for group in self._channels.groups
        }
        self._groups = {group: by_layers.get(frozenset(group.layers)) for group in groups}
        for group, own in self._groups.items():
            if own is None or own.width != groups[group]:
                raise InvalidValueError(
                    f"the exported module has other channels at {group.name} than the module: it "
                    "cannot be pruned"
                )

    def pieces(self, widths: Widths) -> tuple[Piece, ...]:
        """Segments of the network with some widths; the other groups are narrowest."""
        plan = {self._groups[group]: width for group, width in widths.items()}
        wider = {own: width for own, width in plan.items() if own and width > own.width}
        return cut(padded(self._model, self._channels.widen(wider)) if wider else self._model)


def touched_places(
    variants: Variants, groups: Sequence[PrunableGroup], joined: Sequence[int]
) -> list[tuple[PrunableGroup, ...]]:
    """Groups whose widths change each segment, in the order of execution.

    Args:
        variants: The network at all widths.
        groups: Its groups.
        joined: Places of segments that are one with the next; see ``joined_like``.
    """
    before = joined_like(variants.pieces({}), joined)
    touched: list[list[PrunableGroup]] = [[] for _ in before]
    for group in groups:
        try:
            after = joined_like(variants.pieces({group: group.width}), joined)
        except UnpaddableError:
            after = ()
        if len(after) != len(before):
            raise InvalidValueError(f"the channels of {group.name} cannot be counted")
        for own, old, new in zip(touched, before, after, strict=True):
            if old.segment != new.segment:
                own.append(group)
    return [tuple(own) for own in touched]


def make_grid(
    variants: Variants,
    grids: Mapping[PrunableGroup, Grid],
    touched: Sequence[tuple[PrunableGroup, ...]],
    joined: Sequence[int],
) -> WidthGrid:
    """All segments at all combinations of levels, from few whole networks.

    Every network gives one combination at each place. The next network has as many combinations as
    possible that did not occur yet.
    """
    found: list[dict[tuple[int, ...], BlockSpec]] = [{} for _ in touched]
    networks: list[Network] = []
    rng = np.random.default_rng(0)
    for widths in _plans(grids, touched, found, rng):
        pieces = joined_like(variants.pieces(widths), joined)
        for own, groups, piece in zip(found, touched, pieces, strict=True):
            own.setdefault(tuple(widths[group] for group in groups), piece.segment)
        networks.append(tuple(piece.segment for piece in pieces))
    places = tuple(Place(groups, own) for groups, own in zip(touched, found, strict=True))
    return WidthGrid(grids, places, tuple(dict.fromkeys(networks)))


def _plans(
    grids: Mapping[PrunableGroup, Grid],
    touched: Sequence[tuple[PrunableGroup, ...]],
    found: Sequence[Mapping[tuple[int, ...], BlockSpec]],
    rng: np.random.Generator,
) -> Iterator[dict[PrunableGroup, int]]:
    """Widths of all groups, until every combination of every place was found."""
    yield {group: group.width for group in grids}
    for _ in range(_TRIES):
        missing = [
            (groups, [each for each in _combinations(grids, groups) if each not in own])
            for groups, own in zip(touched, found, strict=True)
        ]
        missing = [(groups, left) for groups, left in missing if left]
        if not missing:
            return
        widths: dict[PrunableGroup, int] = {}
        for number in np.argsort([-len(left) for _, left in missing], kind="stable"):
            groups, left = missing[number]
            fitting = [
                each
                for each in left
                if all(widths.get(g, w) == w for g, w in zip(groups, each, strict=True))
            ]
            if fitting:
                widths.update(zip(groups, fitting[rng.integers(len(fitting))], strict=True))
        for group, grid in grids.items():
            widths.setdefault(group, int(rng.choice(grid.levels)))
        yield widths
    raise AssertionError("some combinations of widths never occurred")


def _combinations(
    grids: Mapping[PrunableGroup, Grid], groups: Sequence[PrunableGroup]
) -> list[tuple[int, ...]]:
    return list(product(*(grids[group].levels for group in groups)))


def crowded(touched: Sequence[tuple[PrunableGroup, ...]]) -> set[PrunableGroup]:
    """Groups that keep their widths, because a segment depends on too many of them."""
    return {group for groups in touched if len(groups) > _MOST_GROUPS for group in groups}
