"""Random widths for the paths or mixtures of another strategy, in supernets of elastic operations.

This follows slimmable networks (Yu et al., ICLR 2019): a width means the first channels, and a
network that is cut out keeps the same channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nas.latency.relaxation import Relaxed
from nas.spaces import Layer
from nas.training.strategies.base import Strategy


class RandomWidths(Strategy):
    """Gives each operation of a path or mixture a width, drawn uniformly from those allowed.

    If an operation already has a width, as in the smallest and the largest network, it gets the
    nearest allowed one.

    Args:
        inner: Strategy that draws the paths or mixtures.
        widths: Function that gives the allowed widths of an operation at a layer, ascending.
    """

    def __init__(self, inner: Strategy, widths: Callable[[Layer, str], Sequence[int]]) -> None:
        super().__init__(inner.space)
        self.inner = inner
        self._widths = widths

    def begin_epoch(self, epoch: int) -> None:
        self.inner.begin_epoch(epoch)

    def draw(self, rng: torch.Generator, progress: float) -> Sequence[Relaxed]:
        return [self._sized(path, rng) for path in self.inner.draw(rng, progress)]

    def _sized(self, path: Relaxed, rng: torch.Generator) -> Relaxed:
        """The path with a width for every elastic operation."""
        found: dict[tuple[int, int, int], int] = {}
        for s, rows in enumerate(path.ops):
            for i, row in enumerate(rows):
                layer = self.space.stages[s][i]
                for op in sorted(row):
                    name = layer.ops[op]
                    if not layer.widths(name):
                        continue
                    allowed = self._widths(layer, name)
                    wanted = path.widths.get((s, i, op))
                    if wanted is None:
                        index = int(torch.randint(len(allowed), (1,), generator=rng))
                        found[s, i, op] = int(allowed[index])
                    else:
                        found[s, i, op] = min(allowed, key=lambda w, to=wanted: abs(w - to))  # type: ignore[misc]
        return replace(path, widths=found)
