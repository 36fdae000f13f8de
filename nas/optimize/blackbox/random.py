"""Random search: architectures drawn uniformly and brought under the budget."""

from __future__ import annotations

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.encoding import Code


class RandomSearch(BlackBox):
    """Learns nothing; what every other searcher has to beat."""

    def _propose(self) -> Code:
        return self.encoded.random(self.rng)
