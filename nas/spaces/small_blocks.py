"""Spaces whose blocks keep a limit of peak memory.

The peak memory of a network is that of its largest block (``latbench.peak_memory``). So a network
keeps a limit if and only if each of its blocks does. Layers lose the choices that do not. A wider
block never needs less, so an elastic operation keeps all widths up to the widest one that fits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from latbench.blocks import BlockSpec
from latbench.errors import BudgetError
from latbench.peak_memory import block_peak_bytes, network_peak_bytes
from nas.spaces.architecture import Choice
from nas.spaces.layer import WIDTH_STEP, Layer, WidthsOf, candidates, extreme_widths, refuse
from nas.spaces.space import SearchSpace


@dataclass(frozen=True)
class SmallBlocks(Layer):
    """A layer with only the choices of another layer whose blocks keep a limit.

    Attributes:
        whole: The other layer.
        most_bytes: Largest peak memory of a block.
    """

    whole: Layer
    most_bytes: float

    @cached_property
    def ops(self) -> tuple[str, ...]:
        return tuple(op for op in self.whole.ops if self._keeps(op))

    def block(self, choice: Choice) -> BlockSpec | None:
        return self.whole.block(choice)

    def widths(self, op: str) -> range:
        return self._widths[op]

    def start_width(self, op: str) -> int | None:
        start, widths = self.whole.start_width(op), self._widths[op]
        if start is None or start <= widths[-1]:
            return start
        return max(widths[-1] // WIDTH_STEP * WIDTH_STEP, widths[0])  # most tables price this one

    def choices(self, op: str, widths: WidthsOf) -> list[Choice]:
        found = self.whole.choices(op, lambda _, name: widths(self, name))
        return [choice for choice in found if fits(self.whole, choice, self.most_bytes)]

    def draw(self, op: str, rng: np.random.Generator, widths: WidthsOf) -> Choice:
        choices = self.choices(op, widths)
        return choices[int(rng.integers(len(choices)))]

    def check(self, choice: Choice, *, path: str) -> None:
        self.whole.check(choice, path=path)
        if not fits(self.whole, choice, self.most_bytes):
            refuse(path, f"its block needs more than {self.most_bytes / 1e6:.6g} MB")

    def _keeps(self, op: str) -> bool:
        if self.whole.widths(op):
            return bool(self._widths[op])
        return any(
            fits(self.whole, choice, self.most_bytes)
            for choice in self.whole.choices(op, extreme_widths)
        )

    @cached_property
    def _widths(self) -> dict[str, range]:
        return {op: self._fitting(op) for op in self.whole.ops}

    def _fitting(self, op: str) -> range:
        """The widths of an operation that keep the limit."""
        widths = self.whole.widths(op)
        return widths[
            : bisect_right(widths, self.most_bytes, key=lambda w: _peak(self.whole, Choice(op, w)))
        ]


def fits(layer: Layer, choice: Choice, most_bytes: float) -> bool:
    """Whether the block of a choice keeps a limit of peak memory in bytes."""
    return _peak(layer, choice) <= most_bytes


def within_memory(space: SearchSpace, most_bytes: float) -> SearchSpace:
    """The part of a space whose networks keep a limit of peak memory in bytes.

    Raises:
        BudgetError: No network of the space keeps the limit; says the least possible one.
    """
    require_memory(space, most_bytes)
    stages = []
    for number, stage in enumerate(space.stages):
        layers = [SmallBlocks(layer, most_bytes) for layer in stage]
        empty = [n for n, layer in enumerate(layers) if not layer.ops]
        stages.append(tuple(layers[: empty[0]] if empty else layers))
        assert len(stages[-1]) in space.depths(number)
    return replace(space, stages=tuple(stages))


def require_memory(space: SearchSpace, most_bytes: float) -> None:
    """Refuse a limit of peak memory in bytes that no network of a space keeps.

    Raises:
        BudgetError: The limit is too low; says the least possible one.
    """
    least_bytes = max(_needed(space))
    if most_bytes < least_bytes:
        raise BudgetError(
            f"a peak memory of {most_bytes / 1e6:.6g} MB is out of reach: every network of "
            f"{space.name} needs {least_bytes / 1e6:.6g} MB; ask for that or more"
        )


def _needed(space: SearchSpace) -> Iterator[int]:
    """Memory that each part of a network needs at least."""
    yield network_peak_bytes((*space.stem, *space.head))
    for number, stage in enumerate(space.stages):
        for layer in stage[: space.depths(number)[0]]:
            yield min(_peak(layer, choice) for choice in candidates(layer, extreme_widths))


def _peak(layer: Layer, choice: Choice) -> int:
    block = layer.block(choice)
    return 0 if block is None else block_peak_bytes(block)
