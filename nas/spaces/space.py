"""Search spaces: a stem, stages of layers with their candidates, a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

import msgspec
import numpy as np

from latbench.blocks import BlockSpec, Network
from latbench.cost import block_cost, network_cost
from latbench.errors import InvalidFileError, InvalidValueError, UnknownNameError
from nas.spaces.architecture import FORMAT, PLAIN, Architecture, Choice, Variant

WIDTH_STEP = 8
"""Random networks have widths divisible by this number of channels, unless a device's widths are
known. Vector units compute groups of this size."""

_UNALIGNED = (3, 6)  # indices of the networks of every eight that may have any width
_DRAWN_FOR_ONE = 8  # networks drawn for each that is kept: enough for very small and large ones
_REPEATS = 2_000  # known networks in a row after which drawing stops: there are probably no more
_SPREAD_STREAM = 1  # separates these draws from those of `random` under the same seed


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
    """The widths of an operation that are divisible by ``WIDTH_STEP``."""
    return [width for width in layer.widths(op) if width % WIDTH_STEP == 0]


def every_width(layer: Layer, op: str) -> range:
    """Every width of an operation."""
    return layer.widths(op)


def extreme_widths(layer: Layer, op: str) -> Sequence[int]:
    """The narrowest and the widest width of an operation."""
    widths = layer.widths(op)
    return (widths[0], widths[-1])


@dataclass(frozen=True, repr=False)
class SearchSpace:
    """Stem, stages of candidate layers, head.

    Attributes:
        name: Name of the space.
        input_size: Side of the square input image in pixels.
        classes: Number of classes, or size of the embedding.
        stem: Fixed blocks before the stages.
        stages: Layers by stage. An architecture keeps the first d layers of a stage, d >= 1.
        head: Fixed blocks after the stages.
        elastic_depth: Whether an architecture may keep fewer layers than a stage has.
        variant: Squeeze-excite and activation of all blocks, in spaces that leave them open.
    """

    name: str
    input_size: int
    classes: int
    stem: Network
    stages: tuple[tuple[Layer, ...], ...]
    head: Network
    elastic_depth: bool = True
    variant: Variant = PLAIN

    def __repr__(self) -> str:
        return (
            f"SearchSpace({self.name}, {self.input_size} px, {self.classes} classes, "
            f"{len(self.layers)} layers in {len(self.stages)} stages)"
        )

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for stage in self.stages for layer in stage)

    @property
    def ranges(self) -> tuple[range, ...]:
        """Range of the indices in ``layers`` of every stage."""
        ends = np.cumsum([len(stage) for stage in self.stages]).tolist()
        return tuple(
            range(end - len(stage), end) for end, stage in zip(ends, self.stages, strict=True)
        )

    def only(self, keep: Callable[[str], bool]) -> SearchSpace:
        """The same space with fewer operations: only those that ``keep`` accepts by name.

        Raises:
            InvalidValueError: A layer would have no operation left.
        """
        layers = {layer: FewerOps(layer, tuple(filter(keep, layer.ops))) for layer in self.layers}
        if not all(layer.ops for layer in layers.values()):
            raise InvalidValueError(f"a layer of {self.name} would be left without operations")
        stages = tuple(tuple(layers[layer] for layer in stage) for stage in self.stages)
        return replace(self, stages=stages)

    def depths(self, stage: int) -> range:
        """Possible depths of a stage."""
        most = len(self.stages[stage])
        return range(1 if self.elastic_depth else most, most + 1)

    @property
    def elastic_width(self) -> bool:
        """Whether every operation has elastic width."""
        return all(layer.widths(op) for layer in self.layers for op in layer.ops)

    def size(self) -> int:
        """Number of architectures, counting every integer width."""
        total = 1
        for index, stage in enumerate(self.stages):
            ends, paths = 0, 1
            for depth, layer in enumerate(stage, start=1):
                paths *= sum(len(layer.choices(op, every_width)) for op in layer.ops)
                ends += paths if depth in self.depths(index) else 0
            total *= ends
        return total

    def blocks(self, widths: WidthsOf = aligned_widths) -> list[BlockSpec]:
        """Every distinct block at the given widths, stem and head included."""
        found: dict[BlockSpec, None] = dict.fromkeys(self.stem)
        for layer in dict.fromkeys(self.layers):
            for choice in candidates(layer, widths):
                block = layer.block(choice)
                if block is not None:
                    found[block] = None
        found.update(dict.fromkeys(self.head))
        return list(found)

    def searchable_blocks(self, widths: WidthsOf = aligned_widths) -> int:
        """Number of distinct blocks that belong to a choice."""
        return len(self.blocks(widths)) - len({*self.stem, *self.head})

    def architecture(self, stages: Sequence[Sequence[Choice]]) -> Architecture:
        """The architecture of this space with these choices, after a check."""
        made = Architecture(
            format=FORMAT,
            space=self.name,
            input_size=self.input_size,
            classes=self.classes,
            stages=tuple(tuple(stage) for stage in stages),
            se=self.variant.se,
            activation=self.variant.activation,
        )
        self.check(made)
        return made

    def staged(self, architecture: Architecture) -> Architecture:
        """An architecture from a flat list of layers, split into the stages of this space.

        Any other architecture is returned unchanged, also one of another space. ``check`` refuses
        the latter.

        Raises:
            LatbenchError: A choice does not fit. Carries its path in the flat list.
        """
        is_flat = len(architecture.stages) == 1 and len(self.stages) > 1
        if self.elastic_depth or not is_flat or architecture.space != self.name:
            return architecture
        flat, layers = architecture.stages[0], self.layers
        if len(flat) != len(layers):
            refuse("$.layers", f"{self.name} has {len(layers)} layers, not {len(flat)}")
        for i, (choice, layer) in enumerate(zip(flat, layers, strict=True)):
            layer.check(choice, path=f"$.layers[{i}]")
        left = iter(flat)
        stages = tuple(tuple(next(left) for _ in stage) for stage in self.stages)
        return msgspec.structs.replace(architecture, stages=stages)

    def check(self, architecture: Architecture) -> None:
        """Refuse an architecture that does not fit.

        Raises:
            UnknownNameError: The space does not have an operation.
            InvalidFileError: Anything else is wrong. Both carry the path of the offending value.
        """
        if architecture.space != self.name:
            refuse("$.space", f"this space is {self.name}, not {architecture.space}")
        for field in ("input_size", "classes"):
            ours, theirs = getattr(self, field), getattr(architecture, field)
            if ours != theirs:
                refuse(f"$.{field}", f"this space has {ours}, not {theirs}")
        for field in ("se", "activation"):
            ours, theirs = getattr(self.variant, field), getattr(architecture, field)
            if ours != theirs:
                refuse(f"$.{field}", f"this space has {ours!s}, not {theirs!s}")
        stages = architecture.stages
        if len(stages) != len(self.stages):
            refuse("$.stages", f"{self.name} has {len(self.stages)} stages, not {len(stages)}")
        for s, (stage, layers) in enumerate(zip(stages, self.stages, strict=True)):
            depths = self.depths(s)
            if len(stage) not in depths:
                span = f"{depths[0]} to {depths[-1]}" if len(depths) > 1 else f"{depths[0]}"
                refuse(f"$.stages[{s}]", f"depth is {span} here, not {len(stage)}")
            for i, (choice, layer) in enumerate(zip(stage, layers, strict=False)):
                layer.check(choice, path=f"$.stages[{s}][{i}]")

    def lower(self, architecture: Architecture) -> Network:
        """The blocks of an architecture in the order of execution, after a check."""
        self.check(architecture)
        chosen = (
            layer.block(choice)
            for stage, layers in zip(architecture.stages, self.stages, strict=True)
            for choice, layer in zip(stage, layers, strict=False)
        )
        return (*self.stem, *(block for block in chosen if block is not None), *self.head)

    def random(
        self,
        rng: np.random.Generator | None = None,
        widths: WidthsOf = aligned_widths,
        *,
        seed: int = 0,
    ) -> Architecture:
        """Draw depths, operations and widths uniformly.

        Args:
            rng: Random generator; None makes one from ``seed``.
            widths: Gives the widths that may be drawn.
            seed: Seed of the draws if ``rng`` is None.
        """
        rng = np.random.default_rng(seed) if rng is None else rng
        stages = []
        for index, layers in enumerate(self.stages):
            depths = self.depths(index)
            depth = int(rng.integers(depths.start, depths.stop))
            stage = []
            for layer in layers[:depth]:
                op = layer.ops[int(rng.integers(len(layer.ops)))]
                stage.append(layer.draw(op, rng, widths))
            stages.append(stage)
        return self.architecture(stages)

    def draw(
        self, which: Literal["smallest", "largest", "random"], *, seed: int = 0
    ) -> Architecture:
        """The architecture of fewest MACs, that of most MACs, or a random one.

        Raises:
            UnknownNameError: ``which`` is none of these.
        """
        draws: dict[str, Callable[[], Architecture]] = {
            "smallest": self.smallest,
            "largest": self.largest,
            "random": lambda: self.random(seed=seed),
        }
        if which not in draws:
            raise UnknownNameError("draw", which, draws)
        return draws[which]()

    def smallest(self) -> Architecture:
        """The architecture of fewest MACs."""
        return self.architecture(
            [
                [min(candidates(layer, extreme_widths), key=_macs(layer)) for layer in ls]
                for ls in (
                    layers[: self.depths(index)[0]] for index, layers in enumerate(self.stages)
                )
            ]
        )

    def largest(self) -> Architecture:
        """The architecture of most MACs."""
        return self.architecture(
            [
                [max(candidates(layer, extreme_widths), key=_macs(layer)) for layer in ls]
                for ls in self.stages
            ]
        )


def distinct_random(
    space: SearchSpace,
    count: int,
    rng: np.random.Generator,
    widths: WidthsOf = aligned_widths,
    *,
    without: Collection[Network] = (),
) -> list[Architecture]:
    """Random architectures of distinct networks, which also differ from given networks.

    Drawing stops early if ``_REPEATS`` draws in a row find nothing new: a small space may have
    fewer networks than asked for.

    Args:
        space: Space to draw from.
        count: Number of architectures.
        rng: Draws depths, operations and widths uniformly.
        widths: Gives the widths that may be drawn.
        without: Networks to leave out.
    """
    known, repeats = set(without), 0
    found: list[Architecture] = []
    while len(found) < count and repeats < _REPEATS:
        drawn = space.random(rng, widths)
        network = space.lower(drawn)
        repeats = repeats + 1 if network in known else 0
        if network not in known:
            known.add(network)
            found.append(drawn)
    return found


def spread_networks(space: SearchSpace, count: int, *, seed: int) -> list[Network]:
    """Random networks spread evenly over the sizes that random networks have.

    Prices are fitted on these networks, so they should cover all networks that will be priced.
    Searches find networks with one block a stage as well as the deepest ones, and uniform draws are
    neither. So each network is drawn with a random preference for shallow or deep, and for narrow
    or wide (cheap or costly, if operations have no widths). The draws are sorted by parameters and
    split into ``count`` equal parts. The parts give in turn their shallowest and their deepest
    network. Two in eight networks have arbitrary widths, because runtimes compute misaligned
    widths with other kernels.
    """
    rng = np.random.default_rng([seed, _SPREAD_STREAM])
    drawn = [_leaning(space, rng) for _ in range(_DRAWN_FOR_ONE * count)]
    drawn.sort(key=lambda architecture: network_cost(space.lower(architecture)).params)
    parts = [drawn[i : i + _DRAWN_FOR_ONE] for i in range(0, len(drawn), _DRAWN_FOR_ONE)]
    found = []
    for i, part in enumerate(parts):
        kept = (min if i % 2 else max)(
            part, key=lambda architecture: len(space.lower(architecture))
        )
        found.append(space.lower(_unaligned(space, kept, rng) if i % 8 in _UNALIGNED else kept))
    return found


def _leaning(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """A random architecture, with random preferences for depth and width."""
    depth_leaning, width_leaning = rng.uniform(size=2)
    stages = []
    for index, layers in enumerate(space.stages):
        depths = space.depths(index)
        depth = depths[int(rng.binomial(len(depths) - 1, depth_leaning))]
        stage = []
        for layer in layers[:depth]:
            options = _by_cost(layer, rng)
            stage.append(options[int(rng.binomial(len(options) - 1, width_leaning))])
        stages.append(stage)
    return space.architecture(stages)


def _by_cost(layer: Layer, rng: np.random.Generator) -> list[Choice]:
    """Choices of a layer by ascending cost; only of one operation, if operations have widths."""
    if any(layer.widths(op) for op in layer.ops):
        return layer.choices(layer.ops[int(rng.integers(len(layer.ops)))], aligned_widths)
    return sorted(candidates(layer, aligned_widths), key=_macs(layer))


def _unaligned(
    space: SearchSpace, architecture: Architecture, rng: np.random.Generator
) -> Architecture:
    """The same architecture, with a random width within half a step of every width."""
    stages = []
    for stage, layers in zip(architecture.stages, space.stages, strict=True):
        moved = []
        for choice, layer in zip(stage, layers, strict=False):
            width = choice.width
            if width is not None:
                allowed = layer.widths(choice.op)
                width += int(rng.integers(-WIDTH_STEP // 2, WIDTH_STEP // 2))
                width = min(max(width, allowed[0]), allowed[-1])
            moved.append(msgspec.structs.replace(choice, width=width))
        stages.append(moved)
    return space.architecture(stages)


def candidates(layer: Layer, widths: WidthsOf) -> Iterator[Choice]:
    """Every choice of a layer at the given widths."""
    for op in layer.ops:
        yield from layer.choices(op, widths)


def _macs(layer: Layer) -> Callable[[Choice], int]:
    def macs(choice: Choice) -> int:
        block = layer.block(choice)
        return 0 if block is None else block_cost(block).macs

    return macs


def refuse(path: str, why: str) -> NoReturn:
    """Refuse an architecture for its value at a path.

    Raises:
        InvalidFileError: Always.
    """
    raise InvalidFileError(f"the architecture does not fit at {path}: {why}", path=path)


def chosen_shape(
    input_size: int | None,
    classes: int | None,
    *,
    default: tuple[int, int],
    smallest_input: int = 16,
) -> tuple[int, int]:
    """Input size in pixels and number of classes; the default of the space where None is given.

    Raises:
        InvalidValueError: A value is out of range.
    """
    input_size = default[0] if input_size is None else input_size
    classes = default[1] if classes is None else classes
    if not smallest_input <= input_size <= 2048:
        raise InvalidValueError(
            f"input size {input_size} is out of range: choose {smallest_input} to 2048 pixels",
            path="$.input_size",
        )
    if not 1 <= classes <= 1_000_000:
        raise InvalidValueError(
            f"{classes} classes are out of range: choose 1 to 1000000", path="$.classes"
        )
    return input_size, classes


def check_plain(name: str, variant: Variant) -> None:
    """Refuse every variant but the plain one, for a space that has no variants.

    Raises:
        InvalidValueError: The variant is not the plain one.
    """
    if variant != PLAIN:
        field = "se" if variant.se else "activation"
        raise InvalidValueError(
            f"{name} has no variants: leave out --se and --activation", path=f"$.{field}"
        )
