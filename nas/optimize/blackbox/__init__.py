"""Black-box searchers: they propose encodings and get scores, and know nothing else.

This package does not import torch. A new searcher is one file and one line in ``BLACK_BOXES``.
``nas.searchers.one_shot`` makes complete searches of them: it trains a supernet that gives the
scores.
"""

from __future__ import annotations

from latbench.registry import Registry
from nas.optimize.blackbox.base import BlackBox, one_by_one, run

BLACK_BOXES: Registry[type[BlackBox]] = Registry(
    "black-box searcher",
    {
        "random": "nas.optimize.blackbox.random:RandomSearch",
        "evolution": "nas.optimize.blackbox.evolution:Evolution",
        "surrogate": "nas.optimize.blackbox.surrogate:SurrogateEvolution",
        "nsga2": "nas.optimize.blackbox.nsga2:NSGA2Search",
        "exact": "nas.optimize.blackbox.exact:ExactSearch",
    },
    group="latbench.black_boxes",
)

__all__ = ["BLACK_BOXES", "BlackBox", "one_by_one", "run"]
