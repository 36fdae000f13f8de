"""Constraints of a search: quantities that add up over a network's layers, and their budgets.

A **quantity** is latency on a device, multiply-accumulates, parameters, or the number of blocks
that need too much memory (``nas.optimize.memory``). It is the largest of a
few sums over the layers (``PriceModel.pieces``; counts have one sum), so each choice adds one
number to every piece. A **limit** is a quantity with its budget. A **constraint** is several limits
that all hold; latencies on several devices are several limits. Searchers use only pieces and their
budgets (``nas.optimize.encoding.EncodedSpace``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec
from latbench.cost import block_cost
from latbench.units import format_ms
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Relaxed, Weight, Widths, expected_amount
from nas.spaces import Choice, Layer, SearchSpace, aligned_widths

Floats = NDArray[np.float64]
Counted = Literal["macs", "conv_macs", "params"]
COUNTED: tuple[Counted, ...] = ("macs", "params")  # counts that a search can limit


class Quantity(Protocol):
    """A property of a network that is the largest of a few sums over its layers."""

    @property
    def kind(self) -> Literal["latency", "memory"] | Counted: ...

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> SearchSpace: ...

    @property
    def base(self) -> Floats:
        """Amount that does not depend on the choices, ``(pieces,)``."""
        ...

    def addend(self, layer: Layer, choice: Choice) -> Floats:
        """Amount that a choice adds, ``(pieces,)``."""
        ...

    def allows(self, layer: Layer, choice: Choice) -> bool:
        """Whether the quantity is known for this choice."""
        ...

    def choices(self, layer: Layer, op: str) -> Sequence[Choice] | None:
        """The allowed choices of an operation, or None if all are allowed."""
        ...

    def format(self, amount: float) -> str:
        """An amount as text with its unit."""
        ...


@dataclass(frozen=True)
class Latency:
    """Latency in ms that a table predicts."""

    priced: PricedSpace

    @property
    def kind(self) -> Literal["latency"]:
        return "latency"

    @property
    def name(self) -> str:
        return f"latency on {self.priced.table.device.name}"

    @property
    def space(self) -> SearchSpace:
        return self.priced.space

    @property
    def base(self) -> Floats:
        return self.priced.base_ms

    def addend(self, layer: Layer, choice: Choice) -> Floats:
        return self.priced.addend_ms(layer, choice)

    def allows(self, layer: Layer, choice: Choice) -> bool:
        return self.priced.is_priced(layer, choice)

    def choices(self, layer: Layer, op: str) -> Sequence[Choice]:
        return self.priced.addends_ms(layer, op)[0]

    def format(self, amount: float) -> str:
        return format_ms(amount)


@dataclass(frozen=True)
class Count:
    """Multiply-accumulates or parameters, as ``latbench.cost`` counts them."""

    space: SearchSpace
    kind: Counted

    @property
    def name(self) -> str:
        return {"macs": "MACs", "conv_macs": "conv MACs", "params": "parameters"}[self.kind]

    @property
    def base(self) -> Floats:
        return np.array([sum(self._of(spec) for spec in (*self.space.stem, *self.space.head))])

    def addend(self, layer: Layer, choice: Choice) -> Floats:
        block = layer.block(choice)
        return np.array([0.0 if block is None else self._of(block)])

    def allows(self, layer: Layer, choice: Choice) -> bool:
        return True

    def choices(self, layer: Layer, op: str) -> None:
        return None

    def format(self, amount: float) -> str:
        return f"{amount / 1e6:.6g} M"

    def _of(self, spec: BlockSpec) -> float:
        cost = block_cost(spec)
        counts = {"macs": cost.macs, "conv_macs": cost.conv_macs, "params": cost.params}
        return float(counts[self.kind])


@dataclass(frozen=True)
class Limit:
    """A quantity and its budget."""

    quantity: Quantity
    budget: float


@dataclass(frozen=True)
class Constraint:
    """Limits of one space that all hold.

    Attributes:
        limits: The limits, at least one.
    """

    limits: tuple[Limit, ...]

    def __post_init__(self) -> None:
        if any(limit.quantity.space != self.space for limit in self.limits):
            raise ValueError("the limits of a constraint are of one space")

    @property
    def space(self) -> SearchSpace:
        return self.limits[0].quantity.space

    def choices(self, layer: Layer) -> tuple[Choice, ...]:
        """Choices of a layer that at least one quantity offers and all quantities allow."""
        quantities = [limit.quantity for limit in self.limits]
        found: list[Choice] = []
        for op in layer.ops:
            offered = [choices for q in quantities if (choices := q.choices(layer, op)) is not None]
            wanted = chain(*offered) if offered else iter(layer.choices(op, aligned_widths))
            known = [
                c for c in dict.fromkeys(wanted) if all(q.allows(layer, c) for q in quantities)
            ]
            found += sorted(known, key=lambda choice: choice.width or 0)
        return tuple(found)

    def base(self) -> Floats:
        """Amount that every network has, ``(pieces,)`` over all limits."""
        return np.concatenate([limit.quantity.base for limit in self.limits])

    def budgets(self) -> Floats:
        """The budget of each piece, ``(pieces,)``."""
        pieces = [len(limit.quantity.base) for limit in self.limits]
        return np.repeat([limit.budget for limit in self.limits], pieces)

    def addends(self, layer: Layer, choices: Iterable[Choice]) -> Floats:
        """Amounts that choices add, ``(choices, pieces)``."""
        rows = [
            np.concatenate([limit.quantity.addend(layer, choice) for limit in self.limits])
            for choice in choices
        ]
        return np.array(rows).reshape(len(rows), len(self.budgets()))


def expected_load(constraint: Constraint, relaxed: Relaxed, widths: Widths) -> Weight:
    """The largest ratio of an expected quantity to its budget, of the type of the weights."""
    loads = []
    for limit in constraint.limits:
        quantity = limit.quantity
        amount = expected_amount(quantity.space, quantity.base, quantity.addend, relaxed, widths)
        loads.append(amount / limit.budget)
    return max(loads)


def latency_limits(priced: Iterable[PricedSpace], budget_ms: float) -> Constraint:
    """One latency limit per device, all with the same budget."""
    return Constraint(tuple(Limit(Latency(each), budget_ms) for each in priced))
