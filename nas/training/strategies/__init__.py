"""How a step trains a supernet. A new strategy is one file here and one line in ``STRATEGIES``.

``unified`` is none of them: its paths are made for unified supernets (``nas.training.unified``).
"""

from __future__ import annotations

from collections.abc import Callable

from latbench.registry import Registry
from nas.spaces import SearchSpace
from nas.training.strategies.base import DifferentiableStrategy, Strategy

STRATEGIES: Registry[Callable[[SearchSpace], Strategy]] = Registry(
    "strategy",
    {
        "uniform": "nas.training.strategies.uniform:UniformPath",
        "fair": "nas.training.strategies.fair:StrictFairness",
        "sandwich": "nas.training.strategies.sandwich:SandwichRule",
        "softmax": "nas.training.strategies.softmax:Softmax",
        "gumbel": "nas.training.strategies.gumbel:GumbelSoftmax",
    },
    group="latbench.strategies",
)

__all__ = ["STRATEGIES", "DifferentiableStrategy", "Strategy"]
