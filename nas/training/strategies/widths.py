"""Random widths for what another strategy draws, in supernets of elastic operations.

As slimmable networks are trained (Yu et al., ICLR 2019): a width is so many of the first channels,
which are those that a network is cut out with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from nas.latency.relaxation import Relaxed
from nas.spaces import Layer
from nas.training.strategies.base import Strategy


class RandomWidths(Strategy):
    """Gives each operation of a path a width, uniform over those allowed.

    An operation that was drawn at a width, as those of the smallest and the largest network are,
    keeps the nearest allowed one.

    Args:
        inner: Draws the paths.
        widths: Which widths of an operation at a layer are allowed, in ascending order.
    """

    def __init__(self, inner: Strategy, widths: Callable[[Layer, str], Sequence[int]]) -> None:
        super().__init__(inner.space)
        self.inner = inner
        self._widths = widths

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
