"""Random widths for what another strategy draws, in supernets of elastic operations.

As slimmable networks are trained (Yu et al., ICLR 2019): a width is so many of the first channels,
which are those that a network is cut out with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nas.relaxation import Relaxed
from nas.spaces import Layer
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.supernet import Supernet
from nas.training.strategies.base import Strategy


class RandomWidths(Strategy):
    """Gives each operation that is drawn a width, uniform over those allowed.

    Args:
        inner: Draws the paths.
        supernet: Whose widths are set, when paths are drawn.
        widths: Which widths of an operation at a layer are allowed.
    """

    def __init__(
        self,
        inner: Strategy,
        supernet: Supernet,
        widths: Callable[[Layer, str], Sequence[int]],
    ) -> None:
        super().__init__(inner.space)
        self.inner = inner
        self._supernet = (supernet,)  # its weights are no part of the strategy's state
        self._widths = widths

    def draw(self, rng: torch.Generator, progress: float) -> Sequence[Relaxed]:
        drawn = self.inner.draw(rng, progress)
        used = {
            (s, i, op)
            for relaxed in drawn
            for s, rows in enumerate(relaxed.ops)
            for i, row in enumerate(rows)
            for op in row
        }
        for s, i, op in sorted(used):
            block = self._supernet[0].block(s, i, op)
            if isinstance(block, ElasticInvertedResidual):
                layer = self.space.stages[s][i]
                allowed = self._widths(layer, layer.ops[op])
                index = int(torch.randint(len(allowed), (1,), generator=rng))
                block.use_first(int(allowed[index]))
        return drawn
