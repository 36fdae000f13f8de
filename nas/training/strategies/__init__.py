"""How a step trains a supernet. A new strategy is one file here and one line in ``STRATEGIES``.

Supernets of separate operations and unified ones know the same names. On unified blocks a strategy
that relaxes choices works as it is, row by row; one that draws paths needs a form of its own
(``UNIFIED``, in ``nas.training.strategies.kernel_paths``).
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
    """The strategy of a name for the supernet of a space.

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
