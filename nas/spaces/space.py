"""What a search space is: blocks around stages of layers, each layer a set of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from latbench.blocks import BlockSpec, Network
from latbench.cost import block_cost, network_cost
from latbench.errors import InvalidFileError, InvalidValueError, UnknownNameError
from nas.spaces.architecture import FORMAT, Architecture, Choice

WIDTH_STEP = 8
"""Networks are drawn at widths divisible by this many channels, the grain of vector units, as
long as nothing is known of a device."""

_DRAWN_FOR_ONE = 8  # networks drawn for each that is kept: enough to reach the tails
_SPREAD_STREAM = 1  # keeps these draws apart from those of `random` under the same seed


class Layer(Protocol):
    """One searchable layer: a row of the space's table."""

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the candidate operations."""
        ...

    def widths(self, op: str) -> range:
        """Every width the operation may have here, in channels."""
        ...

    def start_width(self, op: str) -> int:
        """The width at which a search begins."""
        ...

    def block(self, choice: Choice) -> BlockSpec:
        """The block that a choice stands for."""
        ...


WidthsOf = Callable[[Layer, str], Sequence[int]]
"""Which widths of an operation at a layer may be drawn; never empty."""


def aligned_widths(layer: Layer, op: str) -> list[int]:
    """The widths of an operation that are divisible by ``WIDTH_STEP``."""
    return [width for width in layer.widths(op) if width % WIDTH_STEP == 0]


def every_width(layer: Layer, op: str) -> range:
    """Every width of an operation."""
    return layer.widths(op)


@dataclass(frozen=True)
class SearchSpace:
    """Stem, stages of candidate layers, tail.

    Attributes:
        stem: Fixed blocks before the stages.
        stages: Layers by stage; an architecture keeps the first d of a stage, d >= 1.
        tail: Fixed blocks after the stages.
    """

    name: str
    input_size: int
    classes: int
    stem: Network
    stages: tuple[tuple[Layer, ...], ...]
    tail: Network

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for stage in self.stages for layer in stage)

    def size(self) -> int:
        """How many architectures there are, every integer width counted."""
        total = 1
        for stage in self.stages:
            depths, paths = 0, 1
            for layer in stage:
                paths *= sum(len(layer.widths(op)) for op in layer.ops)
                depths += paths
            total *= depths
        return total

    def blocks(self, widths: WidthsOf = aligned_widths) -> list[BlockSpec]:
        """Every distinct block at the given widths, stem and tail included."""
        found: dict[BlockSpec, None] = dict.fromkeys(self.stem)
        for layer in self.layers:
            for choice in candidates(layer, widths):
                found[layer.block(choice)] = None
        found.update(dict.fromkeys(self.tail))
        return list(found)

    def searchable_blocks(self, widths: WidthsOf = aligned_widths) -> int:
        """How many of the distinct blocks stand for a choice."""
        return len(self.blocks(widths)) - len({*self.stem, *self.tail})

    def architecture(self, stages: Sequence[Sequence[Choice]]) -> Architecture:
        """The architecture of this space with these choices, checked."""
        made = Architecture(
            format=FORMAT,
            space=self.name,
            input_size=self.input_size,
            classes=self.classes,
            stages=tuple(tuple(stage) for stage in stages),
        )
        self.check(made)
        return made

    def check(self, architecture: Architecture) -> None:
        """Refuse an architecture that does not fit.

        Raises:
            UnknownNameError: An operation that the space does not have.
            InvalidFileError: Anything else; both carry the path of the offending value.
        """
        for field in ("input_size", "classes"):
            ours, theirs = getattr(self, field), getattr(architecture, field)
            if ours != theirs:
                _refuse(f"$.{field}", f"this space has {ours}, not {theirs}")
        stages = architecture.stages
        if len(stages) != len(self.stages):
            _refuse("$.stages", f"{self.name} has {len(self.stages)} stages, not {len(stages)}")
        for s, (stage, layers) in enumerate(zip(stages, self.stages, strict=True)):
            if not 1 <= len(stage) <= len(layers):
                _refuse(
                    f"$.stages[{s}]",
                    f"depth is 1 to {len(layers)} here, not {len(stage)}",
                )
            for i, (choice, layer) in enumerate(zip(stage, layers, strict=False)):
                _check_choice(choice, layer, path=f"$.stages[{s}][{i}]")

    def lower(self, architecture: Architecture) -> Network:
        """The architecture's blocks in the order of execution; it is checked first."""
        self.check(architecture)
        chosen = tuple(
            layer.block(choice)
            for stage, layers in zip(architecture.stages, self.stages, strict=True)
            for choice, layer in zip(stage, layers, strict=False)
        )
        return (*self.stem, *chosen, *self.tail)

    def random(self, rng: np.random.Generator, widths: WidthsOf = aligned_widths) -> Architecture:
        """Draw depths, operations and widths uniformly."""
        stages = []
        for layers in self.stages:
            depth = int(rng.integers(1, len(layers) + 1))
            stage = []
            for layer in layers[:depth]:
                op = layer.ops[int(rng.integers(len(layer.ops)))]
                allowed = widths(layer, op)
                width = int(allowed[int(rng.integers(len(allowed)))]) if allowed else None
                stage.append(Choice(op, width))
            stages.append(stage)
        return self.architecture(stages)

    def smallest(self) -> Architecture:
        """The architecture of fewest MACs."""
        return self.architecture(
            [[min(_extremes(layers[0]), key=_macs(layers[0]))] for layers in self.stages]
        )

    def largest(self) -> Architecture:
        """The architecture of most MACs."""
        return self.architecture(
            [[max(_extremes(layer), key=_macs(layer)) for layer in ls] for ls in self.stages]
        )


def spread_networks(space: SearchSpace, count: int, *, seed: int) -> list[Network]:
    """Random networks spread evenly over the sizes that random networks have.

    Prices are fitted on these, so they should span what will be priced: searches find networks
    of one block a stage as well as the deepest ones, and a network drawn uniformly is neither. So
    each is drawn with a leaning of its own to be shallow or deep, narrow or wide; of the many,
    sorted by parameters and cut into ``count`` equal parts, each part gives its shallowest or its
    deepest network in turn.
    """
    rng = np.random.default_rng([seed, _SPREAD_STREAM])
    drawn = [space.lower(_leaning(space, rng)) for _ in range(_DRAWN_FOR_ONE * count)]
    drawn.sort(key=lambda network: network_cost(network).params)
    parts = [drawn[i : i + _DRAWN_FOR_ONE] for i in range(0, len(drawn), _DRAWN_FOR_ONE)]
    return [(min if i % 2 else max)(part, key=len) for i, part in enumerate(parts)]


def _leaning(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """A random architecture with leanings in depth and width that are drawn first."""
    depth_leaning, width_leaning = rng.uniform(size=2)
    stages = []
    for layers in space.stages:
        depth = 1 + int(rng.binomial(len(layers) - 1, depth_leaning))
        stage = []
        for layer in layers[:depth]:
            op = layer.ops[int(rng.integers(len(layer.ops)))]
            allowed = aligned_widths(layer, op)
            index = int(rng.binomial(max(0, len(allowed) - 1), width_leaning))
            stage.append(Choice(op, allowed[index] if allowed else None))
        stages.append(stage)
    return space.architecture(stages)


def candidates(layer: Layer, widths: WidthsOf) -> Iterator[Choice]:
    """Every choice of a layer at the given widths."""
    for op in layer.ops:
        for width in widths(layer, op):
            yield Choice(op, int(width))


def _extremes(layer: Layer) -> list[Choice]:
    """Narrowest and widest choice of every operation: MACs grow with width."""
    return [
        Choice(op, ws[end]) for op in layer.ops for ws in (layer.widths(op),) for end in (0, -1)
    ]


def _macs(layer: Layer) -> Callable[[Choice], int]:
    return lambda choice: block_cost(layer.block(choice)).macs


def _check_choice(choice: Choice, layer: Layer, *, path: str) -> None:
    if choice.op not in layer.ops:
        raise UnknownNameError("op", choice.op, layer.ops, path=f"{path}.op")
    allowed = layer.widths(choice.op)
    if choice.width is None or choice.width not in allowed:
        _refuse(
            f"{path}.width",
            f"{choice.op} is {allowed[0]} to {allowed[-1]} channels wide here, not {choice.width}",
        )


def _refuse(path: str, why: str) -> None:
    raise InvalidFileError(f"the architecture does not fit at {path}: {why}", path=path)


def check_shape(input_size: int, classes: int, *, smallest_input: int) -> None:
    """Refuse an input size or a number of classes that no network can have.

    Raises:
        InvalidValueError: Out of range.
    """
    if not smallest_input <= input_size <= 2048:
        raise InvalidValueError(
            f"input size {input_size} is out of range: choose {smallest_input} to 2048 pixels",
            path="$.input_size",
        )
    if not 1 <= classes <= 1_000_000:
        raise InvalidValueError(
            f"{classes} classes are out of range: choose 1 to 1000000", path="$.classes"
        )
