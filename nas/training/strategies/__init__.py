"""Strategies: what a step trains in a supernet. A new one is one file and one line here.

Both kinds of supernets have strategies of the same names: supernets of separate operations, and
unified ones. A strategy that relaxes choices works on unified blocks without changes, row by row. A
strategy that draws paths has a second form for them (``UNIFIED``, in
``nas.training.strategies.kernel_paths``).
"""

from __future__ import annotations

from collections.abc import Callable

from latbench.errors import InvalidValueError
from latbench.registry import Registry
from nas.spaces import SearchSpace
from nas.spaces.sgnas import is_unified
from nas.training.strategies.base import DifferentiableStrategy, Relaxation, Strategy
from nas.training.strategies.kernel_paths import UNIFIED, RelaxedKernels

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


def make_strategy(name: str, space: SearchSpace) -> Strategy:
    """The strategy with this name, for the supernet of a space.

    Raises:
        UnknownNameError: There is no strategy of this name.
        InvalidValueError: The strategy draws paths of separate operations, and the space has
            unified blocks.
    """
    if not is_unified(space):
        return STRATEGIES[name](space)
    if name in UNIFIED:
        return UNIFIED[name](space)
    made = STRATEGIES[name](space)
    if isinstance(made, DifferentiableStrategy):
        return RelaxedKernels(space, made)
    raise InvalidValueError(
        f"strategy {name} draws one operation a layer, and layers of {space.name} are mixes of "
        f"kernels: choose {', '.join(UNIFIED)}, softmax or gumbel"
    )


__all__ = [
    "STRATEGIES",
    "DifferentiableStrategy",
    "Relaxation",
    "Strategy",
    "make_strategy",
]
