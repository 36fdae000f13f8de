"""Conversion of the budgets of a command into requests to a generator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from latbench.errors import InvalidFileError, InvalidValueError, MismatchError
from latbench.tables import LatencyTable
from nas.generator.expected_costs import Kind, PlaneCosts, count_costs, latency_costs
from nas.generator.generator import KINDS, Generator, Request, device_of
from nas.generator.planes import plane_of
from nas.generator.repair import PlaneLimit
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.spaces import SearchSpace, Variant, make_space


def answering_space(
    generator: Generator,
    table: LatencyTable | None,
    *,
    se: bool = False,
    activation: Literal["relu6", "hswish"] | None = None,
) -> SearchSpace:
    """The space of the answers: the space of the generator, in the variant asked for.

    Args:
        generator: The generator. Its decisions do not depend on the variant.
        table: Latency table of one variant, which is the default variant of the answers.
        se: Whether every block has squeeze-excite.
        activation: Activation of every block; None takes the default.

    Raises:
        MismatchError: The table belongs to another space or variant.
        InvalidFileError: The generator does not fit the space that its file names.
    """
    own = generator.label.space
    if table is not None:
        require_table(generator, table)
        theirs = table.space
        if (se and not theirs.se) or activation not in (None, theirs.activation):
            raise MismatchError(
                f"{table.path} prices {theirs}: leave out --se and --activation, or profile a "
                "table with them"
            )
        space = labelled_space(theirs)
    else:
        variant = Variant(se or own.se, activation or own.activation)
        space = make_space(own.name, own.input_size, own.classes, variant)
    plane = plane_of(space)
    ours = (generator.label.plane, generator.priors.shape[1], generator.choices)
    shape = (plane.name, len(space.layers), plane.choices)
    if ours != shape:
        raise InvalidFileError(
            f"the generator is damaged: it decides {_shape(*ours)}, and {own} has {_shape(*shape)}"
        )
    return space


def _shape(plane: str, layers: int, choices: int) -> str:
    return f"{layers} layers of {plane} with {choices} choices"


def require_table(generator: Generator, table: LatencyTable) -> None:
    """Refuse a table of another space. Its variant may differ.

    Raises:
        MismatchError: The name, input size or number of classes differs.
    """
    own, theirs = generator.label.space, table.space
    ours = (own.name, own.input_size, own.classes)
    if ours != (theirs.name, theirs.input_size, theirs.classes):
        raise MismatchError(f"{table.path} prices {theirs}; this generator answers for {own}")


def requests_for(
    generator: Generator,
    space: SearchSpace,
    table: LatencyTable | None,
    budgets: Mapping[Kind, Sequence[float]],
) -> list[Request]:
    """A request for every budget, in the given order; budgets of two kinds form pairs.

    Args:
        generator: The generator; it refuses kinds of budget that it was not trained on.
        space: Space of the answers.
        table: Latency table of the device; needed for latency budgets.
        budgets: Amounts of each kind, in ms or in millions.

    Raises:
        MismatchError: The generator was not trained on a kind of budget, or there is a latency
            budget but no table.
        InvalidValueError: There are no budgets, the two kinds have different numbers of budgets, or
            an amount is not a positive number.
    """
    given = {kind: budgets[kind] for kind in KINDS if budgets.get(kind)}
    if not given:
        raise InvalidValueError("name a budget: --target 15ms or --target-macs 320")
    if len({len(amounts) for amounts in given.values()}) > 1:
        counted = " and ".join(f"{len(amounts)} of {kind}" for kind, amounts in given.items())
        raise InvalidValueError(
            f"there are budgets {counted}: budgets of two kinds are asked together, so name as "
            "many of one as of the other"
        )
    for kind in given:
        generator.require(kind)
    amounts = [amount for row in given.values() for amount in row]
    if not all(math.isfinite(amount) and amount > 0 for amount in amounts):
        raise InvalidValueError("a budget is a positive number")
    costs = [_costs(kind, space, table) for kind in given]
    device = device_of(table) if "latency" in given and table is not None else None
    return [
        Request(tuple(PlaneLimit(*pair) for pair in zip(costs, row, strict=True)), device)
        for row in zip(*given.values(), strict=True)
    ]


def _costs(kind: Kind, space: SearchSpace, table: LatencyTable | None) -> PlaneCosts:
    if kind != "latency":
        return count_costs(space, kind)
    if table is None:
        raise MismatchError("a latency is a device's: say whose, with --table TABLE")
    return latency_costs(PricedSpace(space, table))
