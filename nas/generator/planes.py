"""Decision planes: the decisions of a generator in a space, and the blocks that follow from them.

A generator's network computes logits on a plane of layers x decisions x choices. The meaning of a
decision depends on the space:

* **sub-blocks**: in a space of unified blocks each of a layer's six sub-blocks chooses a kernel or
  is skipped. The block depends only on how many sub-blocks have each kernel.
* **operations**: in a space of separate operations a layer makes one decision, its operation.

Every plane provides the distinct blocks of a layer (*outcomes*), their probabilities, the choices
that lead to an outcome with the fewest changes, and random networks. The costs of outcomes are in
``nas.generator.expected_costs``.

Depth and widths are not decisions of a plane: the published spaces of both kinds have fixed depth.
A skip operation leaves a layer out.

Glossary:

    L, G, C   number of layers, decisions a layer, choices a decision
    O         number of outcomes of a layer, in the order of ``DecisionPlane.outcomes``
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
from nas.generator.kernel_multisets import MultisetProbabilities, multisets_of, nearest_choices
from nas.spaces import Architecture, Choice, Layer, SearchSpace, every_width
from nas.spaces.sgnas import (
    CHOICES,
    KERNEL_MULTISETS,
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

_NO_CHANCE = -1e4  # logit of a choice that is not allowed: its probability is 0 in float32


class DecisionPlane(ABC):
    """The decisions of all networks of a space.

    Args:
        space: The space.

    Attributes:
        name: Name of the kind of plane in files of generators.
        decisions: Number of decisions of a layer, G.
        choices: Number of choices of a decision, C; a layer may allow fewer.
        outcomes: Outcomes of each layer, ``(L, O)``. A layer with fewer outcomes than others
            repeats its first one at the end.
        allowed: Mask of the choices that each decision has, bool ``(L, G, C)``, on the CPU.
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
        """Probabilities of outcomes for independent decisions; differentiable.

        Args:
            probabilities: Probabilities of choices, ``(..., L, G, C)``; 0 if not allowed.

        Returns:
            Probabilities of outcomes, ``(..., L, O)``.
        """

    @abstractmethod
    def nearest(self, layer: int, scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
        """Choices that lead to each outcome of a layer with the fewest changes.

        If several choices need equally few changes, those of the greatest score are taken.

        Args:
            layer: Index of the layer.
            scores: Scores of choices, ``(G, C)``.
            chosen: Present choices, ``(G,)``.

        Returns:
            For each outcome the number of changed decisions ``(O,)``, the score ``(O,)`` and the
            choices ``(O, G)``.
        """

    @abstractmethod
    def random(self, rng: np.random.Generator) -> Ints:
        """Choices of a random network, ``(L, G)``.

        Each network is drawn with a random preference for cheap or costly blocks. Without it nearly
        all networks would have about the same cost.
        """

    @abstractmethod
    def features(self, outcomes: Ints) -> Floats:
        """Features of networks for a linear model: outcomes ``(N, L)`` to ``(N, features)``."""

    def masked(self, logits: Tensor) -> Tensor:
        """Logits ``(..., L, G, C)`` that give choices that are not allowed probability 0."""
        return logits.masked_fill(self._refused.at(logits.device), _NO_CHANCE)

    @cached_property
    def _refused(self) -> Constant:
        return Constant(~self.allowed)

    def decode(self, logits: Tensor) -> Tensor:
        """The most probable choices: ``(..., L, G, C)`` to int64 ``(..., L, G)``."""
        return self.masked(logits).argmax(-1)

    def one_hot(self, choices: Tensor) -> Tensor:
        """Choices as input of the network: ``(..., L, G)`` to float ``(..., L, G * C)``."""
        return F.one_hot(choices, self.choices).flatten(-2).float()

    def architecture(self, outcomes: Ints) -> Architecture:
        """The architecture with these outcomes, ``(L,)``."""
        return self._staged(row[o] for row, o in zip(self.outcomes, outcomes.tolist(), strict=True))

    def chosen(self, choices: Ints) -> Architecture:
        """The architecture with these choices, ``(L, G)``."""
        return self.architecture(self.outcomes_of(choices))

    def _staged(self, choices: Iterator[Choice]) -> Architecture:
        return self.space.architecture([[next(choices) for _ in s] for s in self.space.stages])


class SubBlocks(DecisionPlane):
    """Unified blocks: kernel 3, 5, 7 or skip for each of six sub-blocks, but never six skips."""

    name = "sub-blocks"
    decisions = SUB_BLOCKS

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        layers = len(space.layers)
        self.choices = CHOICES
        row = tuple(Choice(OP, kernels=kernels) for kernels in KERNEL_MULTISETS)
        self.outcomes = (row,) * layers
        self.allowed = torch.ones(layers, SUB_BLOCKS, CHOICES, dtype=torch.bool)
        self.allowed[:, 0, SKIP] = False  # a layer keeps its first sub-block, as published
        self._multiset_probabilities = MultisetProbabilities()

    @staticmethod
    def outcomes_of(choices: Ints) -> Ints:
        return multisets_of(choices)

    def probabilities(self, probabilities: Tensor) -> Tensor:
        return self._multiset_probabilities(probabilities)

    def nearest(self, layer: int, scores: Floats, chosen: Ints) -> tuple[Ints, Floats, Ints]:
        return nearest_choices(scores, chosen)

    def random(self, rng: np.random.Generator) -> Ints:
        return np.array(path_of(random_network(self.space, rng)))

    def features(self, outcomes: Ints) -> Floats:
        """Number of sub-blocks of each kernel and of all, its square, its logarithm, and whether it
        is 1: such a block has no expansion.
        """
        return _count_features()[outcomes].reshape(len(outcomes), -1)

    def chosen(self, choices: Ints) -> Architecture:
        """The architecture with these choices, with kernels in the order of the sub-blocks."""
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
        """The operation of each layer, one-hot."""
        made: Floats = np.eye(self.choices)[outcomes].reshape(len(outcomes), -1)
        return made


PLANES: dict[PlaneName, type[DecisionPlane]] = {
    plane.name: plane for plane in (SubBlocks, Operations)
}


def plane_of(space: SearchSpace) -> DecisionPlane:
    """The decision plane of a space.

    Raises:
        MismatchError: The space has other choices than unified blocks or separate operations.
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
    """Operations of a layer, by ascending MACs."""
    blocks = [layer.block(Choice(op)) for op in layer.ops]
    macs = [0 if block is None else block_cost(block).macs for block in blocks]
    return [int(op) for op in np.argsort(macs, kind="stable")]


@cache
def _count_features() -> Floats:
    rows = []
    for multiset in KERNEL_MULTISETS:
        e = len(multiset)
        of_kernels = [multiset.count(kernel) for kernel in KERNELS]
        rows.append([*of_kernels, e, e**2, np.log(e), e == 1])
    return np.array(rows, dtype=np.float64)
