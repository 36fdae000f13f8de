"""Search algorithms. A new one is one file here and one line in ``SEARCHERS``."""

from __future__ import annotations

from latbench.registry import Registry
from nas.searchers.base import Searcher, SearchResult, SearchSettings

SEARCHERS: Registry[type[Searcher]] = Registry(
    "searcher",
    {
        "tfnas": "nas.searchers.tfnas:TFNASSearcher",
    },
    group="latbench.searchers",
)

__all__ = ["SEARCHERS", "SearchResult", "SearchSettings", "Searcher"]
