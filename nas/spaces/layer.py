"""Layers of search spaces: candidate operations, their widths, and the block of each choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from latbench.blocks import BlockSpec
from latbench.cost import block_cost
from latbench.errors import InvalidFileError, UnknownNameError
from nas.spaces.architecture import Choice

WIDTH_STEP = 8
"""Random networks have widths divisible by this number of channels, unless a device's widths are
known. Vector units compute groups of this size."""


class Layer(ABC):
    """One searchable layer. Layers with equal candidates compare equal."""

    @property
    @abstractmethod
    def ops(self) -> tuple[str, ...]:
        """Names of the candidate operations."""

    @abstractmethod
    def block(self, choice: Choice) -> BlockSpec | None:
        """The block of a choice, or None if the choice leaves the layer out."""

    def widths(self, op: str) -> range:
        """All widths of an operation at this layer, in channels; empty if it is not elastic."""
        return range(0)

    def start_width(self, op: str) -> int | None:
        """Width at which a search begins, or None if the operation is not elastic."""
        return None

    def choices(self, op: str, widths: WidthsOf) -> list[Choice]:
        """All choices of an operation, one for each distinct block."""
        if not self.widths(op):
            return [Choice(op)]
        return [Choice(op, int(width)) for width in widths(self, op)]

    def draw(self, op: str, rng: np.random.Generator, widths: WidthsOf) -> Choice:
        """A choice of an operation, drawn uniformly."""
        if not self.widths(op):
            return Choice(op)
        allowed = widths(self, op)
        return Choice(op, int(allowed[int(rng.integers(len(allowed)))]))

    def check(self, choice: Choice, *, path: str) -> None:
        """Refuse a choice that this layer does not have.

        Raises:
            UnknownNameError: The layer does not have the operation.
            InvalidFileError: Anything else is wrong. Both carry the path of the offending value.
        """
        if choice.op not in self.ops:
            raise UnknownNameError("op", choice.op, self.ops, path=f"{path}.op")
        if choice.kernels is not None:
            refuse(f"{path}.kernels", f"{choice.op} is no mix of kernels")
        allowed = self.widths(choice.op)
        if not allowed and choice.width is not None:
            refuse(f"{path}.width", f"{choice.op} has no width to choose")
        if allowed and (choice.width is None or choice.width not in allowed):
            refuse(
                f"{path}.width",
                f"{choice.op} is {allowed[0]} to {allowed[-1]} channels wide here, "
                f"not {choice.width}",
            )


@dataclass(frozen=True)
class FixedLayer(Layer):
    """A layer whose operations have one block each.

    Attributes:
        blocks: Pairs of operation name and block; the block None leaves the layer out.
    """

    blocks: tuple[tuple[str, BlockSpec | None], ...]

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.blocks)

    def block(self, choice: Choice) -> BlockSpec | None:
        return dict(self.blocks)[choice.op]


@dataclass(frozen=True)
class FewerOps(Layer):
    """A layer with only some of the operations of another layer."""

    whole: Layer
    kept: tuple[str, ...]

    @property
    def ops(self) -> tuple[str, ...]:
        return self.kept

    def block(self, choice: Choice) -> BlockSpec | None:
        return self.whole.block(choice)

    def widths(self, op: str) -> range:
        return self.whole.widths(op)

    def start_width(self, op: str) -> int | None:
        return self.whole.start_width(op)

    def choices(self, op: str, widths: WidthsOf) -> list[Choice]:
        return self.whole.choices(op, widths)

    def draw(self, op: str, rng: np.random.Generator, widths: WidthsOf) -> Choice:
        return self.whole.draw(op, rng, widths)

    def check(self, choice: Choice, *, path: str) -> None:
        if choice.op not in self.kept:
            raise UnknownNameError("op", choice.op, self.kept, path=f"{path}.op")
        self.whole.check(choice, path=path)


WidthsOf = Callable[[Layer, str], Sequence[int]]
"""Gives the widths of an elastic operation at a layer that may be drawn; never empty."""


def aligned_widths(layer: Layer, op: str) -> list[int]:
    """The widths of an operation that are divisible by ``WIDTH_STEP``; the widest if none is."""
    widths = layer.widths(op)
    return [width for width in widths if width % WIDTH_STEP == 0] or [*widths[-1:]]


def every_width(layer: Layer, op: str) -> range:
    """Every width of an operation."""
    return layer.widths(op)


def extreme_widths(layer: Layer, op: str) -> Sequence[int]:
    """The narrowest and the widest width of an operation."""
    widths = layer.widths(op)
    return (widths[0], widths[-1])


def candidates(layer: Layer, widths: WidthsOf) -> Iterator[Choice]:
    """Every choice of a layer at the given widths."""
    for op in layer.ops:
        yield from layer.choices(op, widths)


def macs_at(layer: Layer, choice: Choice) -> int:
    """Multiply-accumulates of a choice at a layer; 0 if it leaves the layer out."""
    block = layer.block(choice)
    return 0 if block is None else block_cost(block).macs


def refuse(path: str, why: str) -> NoReturn:
    """Refuse an architecture for its value at a path.

    Raises:
        InvalidFileError: Always.
    """
    raise InvalidFileError(f"the architecture does not fit at {path}: {why}", path=path)
