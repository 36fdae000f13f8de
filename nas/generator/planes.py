"""Decision planes: what a generator decides in a space, and what follows from its decisions.

A generator's network gives logits on a plane of layers x decisions x choices. What a decision is
depends on the space:

* **sub-blocks**: in a space of unified blocks each of a layer's six sub-blocks chooses a kernel or
  is skipped. A layer's block depends on how many sub-blocks have each kernel, and on nothing else.
* **operations**: in a space of separate operations a layer makes one decision, its operation.

What is needed of a plane is the same: the distinct blocks of a layer (*outcomes*), their
probabilities, the choices that lead to an outcome with the fewest changes, random networks.
Costs of outcomes are in ``nas.generator.expected_costs``.

Depth and widths are no decisions of a plane: the published spaces of both kinds have fixed depth,
and a layer is left out by an operation that passes its input on.

Glossary:

    L, G, C   layers, decisions a layer, choices a decision
    O         outcomes of a layer, in the order of ``DecisionPlane.outcomes``
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latbench.cost import block_cost
from latbench.errors import MismatchError
from nas.generator.constants import Constant
from nas.generator.kernel_counts import CountProbabilities, counts_of, nearest_choices
from nas.spaces import Architecture, Choice, Layer, SearchSpace, every_width
from nas.spaces.sgnas import (
    CHOICES,
    COUNT_VECTORS,
    KERNELS,
    OP,
    SKIP,
    SUB_BLOCKS,
    MixLayer,
    kernels_of,
    path_of,
    random_network,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PlaneName = Literal["sub-blocks", "operations"]

_NO_CHANCE = -1e4  # logit of what cannot be chosen: its probability is 0 in float32


class DecisionPlane(ABC):
    """The decisions of all networks of a space.

    Args:
        space: The space.

    Attributes:
        name: Name in files of generators.
        decisions: G.
        choices: C; a layer may allow fewer.
        outcomes: By layer, what it can become, ``(L, O)``. A layer of fewer outcomes than others
            repeats its first one at the end.
        allowed: Which choices each decision has, bool ``(L, G, C)``, on the CPU.
    """

    name: ClassVar[PlaneName]
    decisions: ClassVar[int]
    choices: int
    outcomes: tuple[tuple[Choice, ...], ...]
    allowed: Tensor

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @staticmethod
    @abstractmethod
    def outcomes_of(choices: Ints) -> Ints:
        """Outcomes of choices: ``(L, G)`` to ``(L,)``."""

    @abstractmethod
    def probabilities(self, probabilities: Tensor) -> Tensor:
        """Probabilities of outcomes where every decision is made independently, differentiable.

        Args:
            probabilities: Probabilities of choices, ``(..., L, G, C)``; 0 for what is not allowed.

        Returns:
            ``(..., L, O)``.
        """

    @abstractmethod
    def nearest(self, layer: int, scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
        """For every outcome of a layer the choices that lead to it and change least.

        Among those that change equally many decisions, the ones of greatest score.

        Args:
            layer: Number of the layer.
            scores: Scores of choices, ``(G, C)``.
            chosen: Present choices, ``(G,)``.

        Returns:
            By outcome: changed decisions ``(O,)``, score ``(O,)``, choices ``(O, G)``.
        """

    @abstractmethod
    def random(self, rng: np.random.Generator) -> Ints:
        """Choices of a random network ``(L, G)``, with a leaning of its own to cheap or costly
        blocks: without leanings nearly all networks would be of about the same cost.
        """

    @abstractmethod
    def features(self, outcomes: Ints) -> Floats:
        """What layers are made of, for a linear model: ``(N, L)`` to ``(N, features)``."""

    def masked(self, logits: Tensor) -> Tensor:
        """Logits ``(..., L, G, C)`` in which only what is allowed has a chance."""
        return logits.masked_fill(self._refused.at(logits.device), _NO_CHANCE)

    @cached_property
    def _refused(self) -> Constant:
        return Constant(~self.allowed)

    def decode(self, logits: Tensor) -> Tensor:
        """The most probable choices: ``(..., L, G, C)`` to int64 ``(..., L, G)``."""
        return self.masked(logits).argmax(-1)

    def one_hot(self, choices: Tensor) -> Tensor:
        """Choices as the network reads them: ``(..., L, G)`` to float ``(..., L, G * C)``."""
        return F.one_hot(choices, self.choices).flatten(-2).float()

    def architecture(self, outcomes: Ints) -> Architecture:
        """The architecture of these outcomes, ``(L,)``."""
        return self._staged(row[o] for row, o in zip(self.outcomes, outcomes.tolist(), strict=True))

    def chosen(self, choices: Ints) -> Architecture:
        """The architecture of these choices, ``(L, G)``."""
        return self.architecture(self.outcomes_of(choices))

    def _staged(self, choices: Iterator[Choice]) -> Architecture:
        return self.space.architecture([[next(choices) for _ in s] for s in self.space.stages])


class SubBlocks(DecisionPlane):
    """Unified blocks: kernels 3, 5, 7 or a skip for each of six sub-blocks, never six skips."""

    name = "sub-blocks"
    decisions = SUB_BLOCKS

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        layers = len(space.layers)
        self.choices = CHOICES
        row = tuple(Choice(OP, kernels=kernels) for kernels in COUNT_VECTORS)
        self.outcomes = (row,) * layers
        self.allowed = torch.ones(layers, SUB_BLOCKS, CHOICES, dtype=torch.bool)
        self.allowed[:, 0, SKIP] = False  # a layer keeps its first sub-block, as published
        self._count_probabilities = CountProbabilities()

    @staticmethod
    def outcomes_of(choices: Ints) -> Ints:
        return counts_of(choices)

    def probabilities(self, probabilities: Tensor) -> Tensor:
        return self._count_probabilities(probabilities)

    def nearest(self, layer: int, scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
        return nearest_choices(scores, chosen)

    def random(self, rng: np.random.Generator) -> Ints:
        return np.array(path_of(random_network(self.space, rng)))

    def features(self, outcomes: Ints) -> Floats:
        """Sub-blocks of every kernel, their number, its square and logarithm, and whether it is 1,
        where a block has no expansion.
        """
        return _count_features()[outcomes].reshape(len(outcomes), -1)

    def chosen(self, choices: Ints) -> Architecture:
        """The architecture of these choices, with kernels in the order of the sub-blocks."""
        return self._staged(Choice(OP, kernels=kernels_of(row)) for row in choices.tolist())


class Operations(DecisionPlane):
    """Separate operations: one decision a layer."""

    name = "operations"
    decisions = 1

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        counts = [len(layer.ops) for layer in space.layers]
        self.choices = max(counts)
        places = np.arange(self.choices)
        self._ops = np.array([np.where(places < count, places, 0) for count in counts])  # (L, O)
        self.outcomes = tuple(
            tuple(Choice(layer.ops[op]) for op in row)
            for layer, row in zip(space.layers, self._ops.tolist(), strict=True)
        )
        self.allowed = torch.from_numpy(places < np.array(counts)[:, None])[:, None]

    @staticmethod
    def outcomes_of(choices: Ints) -> Ints:
        found: Ints = choices[:, 0]
        return found

    def probabilities(self, probabilities: Tensor) -> Tensor:
        return probabilities.squeeze(-2)

    def nearest(self, layer: int, scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
        ops = self._ops[layer]
        return (ops != chosen[0]).astype(np.int64), scores[0, ops], ops[:, None]

    def random(self, rng: np.random.Generator) -> Ints:
        costly = rng.uniform()
        return np.array(
            [
                [order[int(rng.binomial(len(order) - 1, costly))]]
                for order in map(_by_macs, self.space.layers)
            ]
        )

    def features(self, outcomes: Ints) -> Floats:
        """Which operation a layer has."""
        made: Floats = np.eye(self.choices)[outcomes].reshape(len(outcomes), -1)
        return made


PLANES: dict[PlaneName, type[DecisionPlane]] = {
    plane.name: plane for plane in (SubBlocks, Operations)
}


def plane_of(space: SearchSpace) -> DecisionPlane:
    """What a generator decides in a space.

    Raises:
        MismatchError: Its networks differ in more than unified blocks or separate operations.
    """
    layers = space.layers
    if all(isinstance(layer, MixLayer) for layer in layers):
        return SubBlocks(space)
    reason = None
    if any(layer.widths(op) for layer in layers for op in layer.ops):
        reason = "its operations have widths to choose"
    elif space.elastic_depth:
        reason = "its stages have depths to choose"
    elif any(len(layer.choices(op, every_width)) > 1 for layer in layers for op in layer.ops):
        reason = "only some of its layers are unified blocks"
    if reason is not None:
        raise MismatchError(
            f"a generator chooses one of several blocks for every layer, and nothing else; in "
            f"{space.name} {reason}: choose another space, such as sgnas or proxylessnas, or "
            "another searcher, such as evolution or tfnas"
        )
    return Operations(space)


@cache
def _by_macs(layer: Layer) -> Sequence[int]:
    """Operations of a layer, from the cheapest to the costliest."""
    blocks = [layer.block(Choice(op)) for op in layer.ops]
    macs = [0 if block is None else block_cost(block).macs for block in blocks]
    return [int(op) for op in np.argsort(macs, kind="stable")]


@cache
def _count_features() -> Floats:
    rows = []
    for vector in COUNT_VECTORS:
        e = len(vector)
        of_kernels = [vector.count(kernel) for kernel in KERNELS]
        rows.append([*of_kernels, e, e**2, np.log(e), e == 1])
    return np.array(rows, dtype=np.float64)
