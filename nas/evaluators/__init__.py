"""Evaluators give an architecture a score. A new one is one file and one line in ``EVALUATORS``."""

from __future__ import annotations

from latbench.registry import Registry
from nas.evaluators.base import Evaluator
from nas.evaluators.journal import Journaled

EVALUATORS: Registry[type[Evaluator]] = Registry(
    "evaluator",
    {
        "tabular": "nas.evaluators.tabular:TabularEvaluator",
        "supernet": "nas.evaluators.shared_weights:SupernetEvaluator",
        "scratch": "nas.evaluators.by_training:ScratchEvaluator",
    },
    group="latbench.evaluators",
)

__all__ = ["EVALUATORS", "Evaluator", "Journaled"]
