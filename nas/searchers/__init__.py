"""Search algorithms. A new one is one file here and one line in ``SEARCHERS``."""

from __future__ import annotations

from latbench.registry import Registry
from nas.searchers.base import Searcher, SearchResult, SearchSettings

SEARCHERS: Registry[type[Searcher]] = Registry(
    "searcher",
    {
        "random": "nas.searchers.one_shot:RandomSearcher",
        "evolution": "nas.searchers.one_shot:EvolutionSearcher",
        "nsga2": "nas.searchers.one_shot:NSGA2Searcher",
        "exact": "nas.searchers.one_shot:ExactSearcher",
        "softmax": "nas.searchers.differentiable:SoftmaxSearcher",
        "gumbel": "nas.searchers.differentiable:GumbelSearcher",
        "sgnas": "nas.searchers.sgnas.searcher:SGNASSearcher",
        "tfnas": "nas.searchers.tfnas.searcher:TFNASSearcher",
    },
    group="latbench.searchers",
)

__all__ = ["SEARCHERS", "SearchResult", "SearchSettings", "Searcher"]
