"""The space of a search: named, described by tables, or given."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.errors import InvalidValueError, MismatchError
from latbench.tables import LatencyTable
from latbench.workflows.table_checks import open_table
from nas.latency.priced_space import labelled_space
from nas.spaces import PLAIN, SearchSpace, Variant, make_space
from nas.workflows.inputs import AnySpace, AnyTable, as_list


def choose_space(
    name: str,
    tables: AnyTable | Sequence[AnyTable] = (),
    *,
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
) -> SearchSpace:
    """The space of a search: that of the tables, or the requested one if there are no tables.

    Args:
        name: Name of the space.
        tables: Latency tables of the space, or their paths. They define input size, classes and
            variant.
        input_size: Side of the input image in pixels; must match the tables if there are any.
        classes: Number of classes; must match the tables if there are any.
        variant: Settings of all blocks, for spaces that leave them open; must match the tables.

    Raises:
        UnknownNameError: There is no such space.
        MismatchError: A table is for another space, input size or number of classes.
    """
    asked = make_space(name, input_size, classes, variant)
    opened = [open_table(table) for table in as_list(tables)]
    for table in opened:
        label = table.space
        if label.name != asked.name:
            raise MismatchError(f"{table.path} prices {label}, not {asked.name}")
        for option, wanted, has in (
            ("--input-size", input_size, label.input_size),
            ("--classes", classes, label.classes),
            ("--se", variant.se or None, label.se),
            ("--activation", _asked_activation(variant), label.activation),
        ):
            if wanted not in (None, has):
                given = option if wanted is True else f"{option} {wanted}"
                raise MismatchError(
                    f"{table.path} prices {label}, not {given}: leave the option out, or profile "
                    "that"
                )
    return labelled_space(opened[0].space) if opened else asked


def _asked_activation(variant: Variant) -> str | None:
    """The activation if it is not the default; None otherwise: it may not have been requested."""
    return variant.activation if variant.activation != PLAIN.activation else None


def complete_space(
    space: AnySpace,
    tables: Sequence[LatencyTable],
    input_size: int | None,
    classes: int | None,
    variant: Variant,
) -> SearchSpace:
    """The space of a search; a name is completed by the tables or by the other arguments."""
    if isinstance(space, str):
        return choose_space(space, tables, input_size=input_size, classes=classes, variant=variant)
    if (input_size, classes, variant) != (None, None, PLAIN):
        raise InvalidValueError(
            f"{space.name} is a complete space: leave out input_size, classes and variant, or "
            "give only its name"
        )
    return space
