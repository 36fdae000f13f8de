"""Base classes of strategies: a strategy chooses the relaxed architectures that a step trains.

A weight step sums the gradients of all its architectures and then makes one update. Strategies that
relax choices have parameters, which an architecture step updates.

Draws and parameters are on the CPU, even if the supernet is on a GPU. So drawing paths and
computing expected costs never waits for the GPU. A step copies all weights of choices to the GPU at
once (``on_device``), and their gradients come back in one copy.
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
"""Input of a supernet's forward pass: ``Relaxed`` for separate operations; a path or probabilities
``(layers, 6, 4)`` for a unified one (``nas.training.strategies.kernel_paths``)."""


ByStage = tuple[list[list[list[float]]], list[list[float]]]
"""Probabilities of operations by stage and layer, and of depths by stage. One operation more than a
layer has is leaving the layer out."""


def on_device(
    drawn: Drawn, device: torch.device, *scalars: Tensor
) -> tuple[Drawn, tuple[Tensor, ...]]:
    """Input of a supernet's forward pass and further scalars, moved to its device in one copy.

    Args:
        drawn: Input of the forward pass; its tensors are copied, its plain numbers are not.
        device: Device of the supernet.
        scalars: Further scalars to copy, such as an expected latency.

    Returns:
        Both, differentiable by the inputs. Tensors that are already on the device are not copied.
    """
    weights: list[Tensor] = []
    if isinstance(drawn, Tensor):
        weights.append(drawn)
    elif isinstance(drawn, Relaxed):
        drawn.map(lambda weight: weights.append(weight) if isinstance(weight, Tensor) else None)
    there = [*weights, *scalars]
    if all(value.device == device for value in there):
        return drawn, scalars
    dtype = there[0].dtype  # type of the weights; a cost may have another
    flat = torch.cat([value.flatten().to(dtype) for value in there]).to(device, non_blocking=True)
    parts = torch.split(flat, [value.numel() for value in there])
    left = iter(part.view_as(value) for part, value in zip(parts, there, strict=True))
    if isinstance(drawn, Tensor):
        drawn = next(left)
    elif isinstance(drawn, Relaxed):
        drawn = drawn.map(lambda weight: next(left) if isinstance(weight, Tensor) else weight)
    return drawn, tuple(left)


class Strategy(nn.Module, ABC):
    """Base class: draws the architectures that a weight step trains.

    Args:
        space: Space of the supernet.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    def begin_epoch(self, epoch: int) -> None:  # most strategies need no preparation
        """Prepare for an epoch, counted from 0."""

    @abstractmethod
    def draw(self, rng: torch.Generator, progress: float) -> Sequence[Drawn]:
        """The architectures that one weight step trains.

        Args:
            rng: Generator of all random draws.
            progress: Fraction of the training that is done, 0 to 1.
        """


class Relaxation(Strategy):
    """A mixture of choices; its weights are parameters, which architecture steps train."""

    @abstractmethod
    def relaxed(self, rng: torch.Generator, progress: float) -> Drawn:
        """The mixture of all architectures, differentiable by the parameters."""

    def by_stage(self) -> ByStage | None:  # kernels of unified blocks have no names of their own
        """Probabilities by stage, which a run logs after each epoch; None for other choices."""
        return None

    def project(self) -> None:  # logits need no projection
        """Restore what must hold for the parameters, after each of their updates."""


class DifferentiableStrategy(Relaxation):
    """Computes every operation and mixes them by trained weights.

    Attributes:
        alphas: Logits of the operations of each layer, ``(operations,)``; initially uniform.
        betas: Logits of the depths of each stage, ``(depths,)``.
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
        """Probabilities of operations by layer and of depths by stage, softmax of the logits."""
        return _softmax(self.alphas), _softmax(self.betas)

    def by_stage(self) -> ByStage:
        ops, depths = self.probabilities()
        left = iter(ops)
        return [[next(left) for _ in layers] for layers in self.space.stages], depths


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
    """A path drawn uniformly; every layer and every depth is drawn independently."""
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
