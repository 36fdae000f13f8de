"""The choices of a TF-NAS search as parameters: draws, relaxations and results.

Three ways to search depth (TF-NAS, Section 3.2; Table 4 compares them):

    sink-connecting   a stage's output is the sum of its layers' outputs, each weighted by the
                      probability that the stage ends there (the paper's own)
    skip-among        passing the input on is one more candidate operation
    skip-beside       every layer is kept or left out, independently of its operation

The first layer of a stage changes the shape, so it is never left out. In the last two ways any
later layer may be left out. Later layers of a stage are equal, so the architecture is the remaining
layers.

Choices are on the CPU, wherever the supernet computes. So drawing paths and computing expected
latencies does not wait for a GPU. An architecture step sends all weights to the GPU in one copy and
gets their gradients back in one copy
(``nas.training.strategies.base.on_device``).

Glossary:

    alpha     log probabilities of the operations of a layer, ``(operations,)``; with skip-among
              ``(operations + 1,)`` for layers that can be left out, the last for leaving out
    beta      log probabilities of the depths of a stage, ``(depths,)``; with skip-beside those
              of keeping a layer and of leaving it out, ``(2,)``
    tau       temperature of Gumbel softmax
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.latency.relaxation import Relaxed
from nas.searchers.scored_choices import LogProbabilities
from nas.spaces import SearchSpace
from nas.training.strategies.base import ByStage
from nas.training.strategies.gumbel import gumbel_logits

DepthSearch = Literal["sink-connecting", "skip-among", "skip-beside"]
SecondPath = Literal["none", "gumbel", "min-alpha", "max-alpha", "random"]

KEEP, LEAVE = 0, 1  # entries of beta with skip-beside


class Choices(nn.Module):
    """Alphas and betas of a space.

    Args:
        space: Search space.
        depth: Way to search depth.

    Raises:
        InvalidValueError: Layers of the space cannot be left out as ``depth`` asks.
    """

    def __init__(self, space: SearchSpace, depth: DepthSearch) -> None:
        super().__init__()
        if depth != "sink-connecting" and not _can_leave_out(space):
            raise InvalidValueError(
                f"layers of {space.name} cannot be left out: choose depth=sink-connecting"
            )
        self.space = space
        self.depth = depth
        self.alphas = nn.ParameterList(
            _uniform(len(layer.ops) + (depth == "skip-among" and i > 0))
            for layers in space.stages
            for i, layer in enumerate(layers)
        )
        if depth == "sink-connecting":
            lengths = [len(space.depths(s)) for s in range(len(space.stages))]
        else:
            lengths = [2 for ls in space.stages for _ in ls[1:] if depth == "skip-beside"]
        self.betas = nn.ParameterList(_uniform(length) for length in lengths)

    def draw_first(self, noise: torch.Generator, tau: float) -> list[int]:
        """A path by Gumbel argmax: the index of the choice of each layer."""
        return [int(gumbel_logits(alpha.detach(), noise, tau).argmax()) for alpha in self.alphas]

    def draw_second(
        self, first: list[int], second: SecondPath, noise: torch.Generator, tau: float
    ) -> list[int]:
        """A second path. It differs from the first in every layer that has other choices."""
        draw = _SECOND[second]
        path = []
        for alpha, taken in zip(self.alphas, first, strict=True):
            others = [index for index in range(len(alpha)) if index != taken]
            path.append(others[draw(alpha.detach()[others], noise, tau)] if others else taken)
        return path

    @torch.no_grad()
    def path(self, chosen: list[int]) -> Relaxed:
        """A path as a relaxation: one operation a layer; depths keep their probabilities."""
        return self.relaxed([{index: 1.0} for index in chosen], float)

    def soft(self, noise: torch.Generator, tau: float) -> Relaxed:
        """All operations, weighted by Gumbel softmax; differentiable."""
        rows = [
            dict(enumerate(gumbel_logits(alpha, noise, tau).softmax(0))) for alpha in self.alphas
        ]
        return self.relaxed(rows, lambda weight: weight)

    def relaxed(self, rows: list[dict[int, Any]], number: Callable[[Tensor], Any]) -> Relaxed:
        """Combine weights of operations with those of depths.

        Args:
            rows: Operations and their weights, for every layer.
            number: Converts a weight of a depth to the type of ``rows``: a tensor or a float.
        """
        ops: list[tuple[Mapping[int, Any], ...]] = []
        depths: list[Mapping[int, Any]] = []
        skips: dict[tuple[int, int], Any] = {}
        left, betas = iter(rows), iter(self.betas)
        for s, layers in enumerate(self.space.stages):
            stage: list[Mapping[int, Any]] = []
            for i, layer in enumerate(layers):
                row = next(left)
                if self.depth == "skip-among" and len(layer.ops) in row:
                    skips[s, i] = row.pop(len(layer.ops))
                elif self.depth == "skip-beside" and i > 0:
                    weights = next(betas).softmax(0)
                    skips[s, i] = number(weights[LEAVE])
                    row = {op: number(weights[KEEP]) * weight for op, weight in row.items()}
                stage.append(row)
            ops.append(tuple(stage))
            if self.depth == "sink-connecting":
                weights = next(betas).softmax(0)
                depths.append({d: number(weights[n]) for n, d in enumerate(self.space.depths(s))})
            else:
                depths.append({len(layers): 1.0})
        return Relaxed(tuple(ops), tuple(depths), skips)

    @torch.no_grad()
    def project(self) -> None:
        """Normalise the parameters to log probabilities."""
        for parameter in self.parameters():
            parameter.copy_(parameter.log_softmax(0))

    def log_probabilities(self) -> LogProbabilities:
        """Log probabilities of all choices, as ``derive`` needs them.

        With ``skip-beside`` a layer is kept or left out whatever its operation is, so the best
        operation has the whole probability that the layer is kept.
        """
        joint = self.joint_log_probabilities()
        if self.depth != "skip-beside":
            return joint
        ops = [
            [[value - max(row) + float(np.logaddexp.reduce(row)) for value in row] for row in rows]
            for rows in joint.ops
        ]
        return replace(joint, ops=ops)

    @torch.no_grad()
    def joint_log_probabilities(self) -> LogProbabilities:
        """Log probabilities of all choices; those of operations that the layer is kept as well."""
        ops: list[list[list[float]]] = []
        depths: list[list[float]] = []
        skips: list[list[float]] = []
        alphas, betas = iter(self.alphas), iter(self.betas)
        for s, layers in enumerate(self.space.stages):
            stage, leave = [], []
            for i, layer in enumerate(layers):
                row = next(alphas).log_softmax(0)
                left_out = -math.inf
                if len(row) > len(layer.ops):
                    left_out = float(row[-1])
                    row = row[:-1]
                elif self.depth == "skip-beside" and i > 0:
                    kept, left_out = next(betas).log_softmax(0).tolist()
                    row = row + kept
                stage.append(row.tolist())
                leave.append(left_out)
            ops.append(stage)
            skips.append(leave)
            ends = [-math.inf] * len(layers)
            if self.depth == "sink-connecting":
                for d, value in zip(self.space.depths(s), next(betas).log_softmax(0), strict=True):
                    ends[d - 1] = float(value)
            else:
                ends[-1] = 0.0
            depths.append(ends)
        return LogProbabilities(ops, depths, skips)

    def by_stage(self) -> ByStage:
        """Probabilities by stage: of operations and of leaving out a layer, and of depths."""
        log = self.joint_log_probabilities()
        ops = [
            [
                [*map(math.exp, row), *([math.exp(skip)] if skip > -math.inf else [])]
                for row, skip in zip(rows, skips, strict=True)
            ]
            for rows, skips in zip(log.ops, log.skips, strict=True)
        ]
        depths = [
            [math.exp(row[depth - 1]) for depth in self.space.depths(stage)]
            for stage, row in enumerate(log.depths)
        ]
        return ops, depths

    def entropies(self) -> tuple[float, float]:
        """Mean entropies of alphas and of betas in nats: 0 if everything is decided."""
        return _mean_entropy(self.alphas), _mean_entropy(self.betas)

    def expected_depth(self) -> float:
        """Expected number of layers that are kept."""
        log = self.joint_log_probabilities()
        if self.depth == "sink-connecting":
            return sum(d * math.exp(p) for row in log.depths for d, p in enumerate(row, start=1))
        return sum(1 - math.exp(value) for stage in log.skips for value in stage)


_SECOND: dict[str, Callable[[Tensor, torch.Generator, float], int]] = {
    "gumbel": lambda alpha, noise, tau: int(gumbel_logits(alpha, noise, tau).argmax()),
    "min-alpha": lambda alpha, noise, tau: int(alpha.argmin()),
    "max-alpha": lambda alpha, noise, tau: int(alpha.argmax()),
    "random": lambda alpha, noise, tau: int(torch.randint(len(alpha), (1,), generator=noise)),
}


def _uniform(count: int) -> nn.Parameter:
    return nn.Parameter(torch.full((count,), -math.log(count)))


def _mean_entropy(parameters: nn.ParameterList) -> float:
    if not len(parameters):
        return 0.0
    rows = [parameter.detach().softmax(0) for parameter in parameters]
    return float(torch.stack([torch.special.entr(row).sum() for row in rows]).mean())


def _can_leave_out(space: SearchSpace) -> bool:
    """Whether every layer but the first of a stage can be left out, with later ones moved up."""
    return space.elastic_depth and all(
        layer == layers[1] for layers in space.stages for layer in layers[1:]
    )
