"""Random search: uniform draws, repaired to keep the budget."""

from __future__ import annotations

from nas.optimize.blackbox.base import BlackBox
from nas.optimize.encoding import Code
from nas.optimize.random_codes import random_code


class RandomSearch(BlackBox):
    """Learns nothing: the baseline of all other searchers."""

    def _propose(self) -> Code:
        return random_code(self.encoded, self.rng)
