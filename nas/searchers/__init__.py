"""Search algorithms. A new one is one file here and one line in ``SEARCHERS``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latbench.lazy import public
from latbench.registry import Registry

if TYPE_CHECKING:
    from nas.searchers.base import Searcher, SearchSettings
    from nas.searchers.results import SearchResult

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

_PLACES = {
    "SearchResult": "nas.searchers.results",
    **dict.fromkeys(("SearchSettings", "Searcher"), "nas.searchers.base"),
}

if not TYPE_CHECKING:  # the command line lists names without torch, which takes seconds to import
    __getattr__, __dir__ = public(__name__, _PLACES)
