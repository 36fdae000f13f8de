"""What a strategy is: it says which relaxed architectures a step trains.

The gradients of all architectures that a weight step trains are added up before the one update.
Strategies that relax choices have parameters of their own, which an architecture step moves.

Draws and parameters lie on the CPU, wherever the supernet computes. Paths are then drawn and costs
expected without waiting for a GPU, and what goes to it in a step are weights in one piece
(``on_device``); their gradients come back in one piece as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.latency.relaxation import Relaxed, Weight
from nas.spaces import SearchSpace

Drawn = Any
"""What a supernet computes in one forward pass: ``Relaxed`` for one of separate operations; a path
or probabilities ``(layers, 6, 4)`` for a unified one (``nas.training.strategies.kernel_paths``)."""


def on_device(
    drawn: Drawn, device: torch.device, *scalars: Tensor
) -> tuple[Drawn, tuple[Tensor, ...]]:
    """What a supernet computes, and further scalars, brought to its device in one copy.

    Args:
        drawn: Numbers among its weights stay as they are, and tensors are copied.
        device: The supernet's.
        scalars: Brought along, such as an expected latency.

    Returns:
        Both, differentiable by what was given; what lies on the device already is not copied.
    """
    weights: list[Tensor] = []
    if isinstance(drawn, Tensor):
        weights.append(drawn)
    elif isinstance(drawn, Relaxed):
        drawn.map(lambda weight: weights.append(weight) if isinstance(weight, Tensor) else None)
    there = [*weights, *scalars]
    if all(value.device == device for value in there):
        return drawn, scalars
    dtype = there[0].dtype  # the weights'; a cost may be of another
    flat = torch.cat([value.flatten().to(dtype) for value in there]).to(device, non_blocking=True)
    parts = torch.split(flat, [value.numel() for value in there])
    left = iter(part.view_as(value) for part, value in zip(parts, there, strict=True))
    if isinstance(drawn, Tensor):
        drawn = next(left)
    elif isinstance(drawn, Relaxed):
        drawn = drawn.map(lambda weight: next(left) if isinstance(weight, Tensor) else weight)
    return drawn, tuple(left)


class Strategy(nn.Module, ABC):
    """Draws what is trained.

    Args:
        space: Of the supernet.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def draw(self, rng: torch.Generator, progress: float) -> Sequence[Drawn]:
        """What one weight step trains.

        Args:
            rng: The source of all chance.
            progress: The part of the training that is done, 0..1.
        """


class Relaxation(Strategy):
    """Choices mixed by weights that are parameters, which architecture steps train."""

    @abstractmethod
    def relaxed(self, rng: torch.Generator, progress: float) -> Drawn:
        """The mixture of all architectures, differentiable by the parameters."""


class DifferentiableStrategy(Relaxation):
    """Every operation computed and mixed by weights that are trained too.

    Attributes:
        alphas: By layer, logits of its operations, ``(operations,)``; they begin uniform.
        betas: By stage, logits of its depths, ``(depths,)``.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.alphas = nn.ParameterList(
            nn.Parameter(torch.zeros(len(layer.ops))) for layer in space.layers
        )
        self.betas = nn.ParameterList(
            nn.Parameter(torch.zeros(len(space.depths(stage))))
            for stage in range(len(space.stages))
        )

    @abstractmethod
    def weights(self, logits: Tensor, rng: torch.Generator, progress: float) -> Tensor:
        """Logits ``(n,)`` to weights ``(n,)`` that sum to 1."""

    def relaxed(self, rng: torch.Generator, progress: float) -> Relaxed:
        """The mixture of all architectures, differentiable by alphas and betas."""
        rows = [dict(enumerate(self.weights(a, rng, progress).unbind())) for a in self.alphas]
        return relaxed_of(
            self.space,
            rows,
            [
                dict(
                    zip(self.space.depths(s), self.weights(b, rng, progress).unbind(), strict=True)
                )
                for s, b in enumerate(self.betas)
            ],
        )

    @torch.no_grad()
    def draw(self, rng: torch.Generator, progress: float) -> list[Relaxed]:
        return [self.relaxed(rng, progress)]

    @torch.no_grad()
    def probabilities(self) -> tuple[list[list[float]], list[list[float]]]:
        """Of operations by layer and of depths by stage: the softmax of their logits."""
        return _softmax(self.alphas), _softmax(self.betas)


def relaxed_of(
    space: SearchSpace,
    rows: Sequence[dict[int, Weight]],
    depths: Sequence[dict[int, Weight]],
) -> Relaxed:
    """Weights by layer and by stage as a relaxed architecture."""
    left = iter(rows)
    return Relaxed(
        ops=tuple(tuple(next(left) for _ in layers) for layers in space.stages),
        depths=tuple(depths),
    )


def one_path(space: SearchSpace, ops: Sequence[int], depths: Sequence[int]) -> Relaxed:
    """A path: the index of an operation for every layer, and a depth for every stage."""
    return relaxed_of(space, [{op: 1.0} for op in ops], [{depth: 1.0} for depth in depths])


def random_path(space: SearchSpace, rng: torch.Generator) -> Relaxed:
    """A path drawn uniformly, every layer and every depth by itself."""
    ops = [_below(len(layer.ops), rng) for layer in space.layers]
    return one_path(space, ops, random_depths(space, rng))


def random_depths(space: SearchSpace, rng: torch.Generator) -> list[int]:
    """A depth for every stage, drawn uniformly."""
    ranges = [space.depths(stage) for stage in range(len(space.stages))]
    return [depths[_below(len(depths), rng)] for depths in ranges]


def _below(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=rng)) if count > 1 else 0


def _softmax(logits: Iterable[nn.Parameter]) -> list[list[float]]:
    return [parameter.softmax(0).tolist() for parameter in logits]
