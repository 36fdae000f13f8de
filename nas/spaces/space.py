"""Search spaces: a stem, stages of layers with their candidates, a head.

``SearchSpace`` has what follows from this description alone: which architectures exist, whether a
given one is among them, its network, uniform draws, and the architectures of fewest and most MACs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import msgspec
import numpy as np

from latbench.blocks import BlockSpec, Network
from latbench.errors import InvalidValueError, UnknownNameError
from nas.spaces.architecture import FORMAT, PLAIN, Architecture, Choice, FlatLayers, Variant
from nas.spaces.layer import (
    FewerOps,
    Layer,
    WidthsOf,
    aligned_widths,
    candidates,
    every_width,
    extreme_widths,
    macs_at,
    refuse,
)


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

    @cached_property
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
            LatbenchError: A choice does not fit, or depths are elastic. Carries the path in the
                flat list.
        """
        flat, layers = architecture.stages[0] if architecture.stages else (), self.layers
        if not isinstance(flat, FlatLayers) or architecture.space != self.name:
            return architecture
        if self.elastic_depth:
            refuse("$.layers", f"stages of {self.name} have several depths: give `stages`")
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

    def chosen_layers(self, architecture: Architecture) -> list[tuple[Layer, Choice]]:
        """The layers that an architecture keeps, in order, each with its choice."""
        return [
            (layer, choice)
            for stage, layers in zip(architecture.stages, self.stages, strict=True)
            for choice, layer in zip(stage, layers, strict=False)
        ]

    def lower(self, architecture: Architecture) -> Network:
        """The blocks of an architecture in the order of execution, after a check."""
        self.check(architecture)
        chosen = (layer.block(choice) for layer, choice in self.chosen_layers(architecture))
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
        return self._extreme(min, [self.depths(stage)[0] for stage in range(len(self.stages))])

    def largest(self) -> Architecture:
        """The architecture of most MACs."""
        return self._extreme(max, [len(layers) for layers in self.stages])

    def _extreme(self, pick: Callable[..., Choice], depths: Sequence[int]) -> Architecture:
        """The architecture of so many layers a stage, each of fewest or of most MACs."""
        return self.architecture(
            [
                [
                    pick(candidates(layer, extreme_widths), key=partial(macs_at, layer))
                    for layer in layers[:depth]
                ]
                for layers, depth in zip(self.stages, depths, strict=True)
            ]
        )
