"""``latbench spaces``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from latbench.commands.options import example, json_option, named, output_file, seed_option
from latbench.commands.output import emit
from latbench.errors import InvalidValueError
from nas.commands.options import SPACE, space_options

if TYPE_CHECKING:
    from nas.spaces import Architecture
    from nas.workflows.networks import SpaceSummary


@click.command(
    epilog=example("latbench spaces", "latbench spaces tfnas --draw random --seed 3 -o arch.json")
)
@click.argument("name", type=SPACE, required=False)
@click.option(
    "--draw",
    type=named("draw", "smallest", "largest", "random"),
    help="Draw an architecture of the space: with the fewest or most MACs, or at random.",
)
@seed_option
@space_options
@output_file("the drawn architecture", required=False)
@json_option
def spaces(
    name: str | None,
    draw: Literal["smallest", "largest", "random"] | None,
    seed: int,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    output: Path | None,
    as_json: bool,
) -> None:
    """List search spaces, or draw an architecture.

    A search space is a family of networks: their layers, the operations to choose from, and the
    number of distinct blocks that a profile prices.
    """
    import nas

    variant = nas.Variant(se, activation)
    if draw is None:
        if output is not None:
            raise InvalidValueError("-o needs --draw: there is nothing else to write")
        listed = nas.list_spaces(
            [name] if name else [], input_size=input_size, classes=classes, variant=variant
        )
        _show_list(listed, as_json=as_json)
    else:
        if name is None:
            raise InvalidValueError("--draw needs a space: latbench spaces NAME --draw ...")
        drawn = nas.make_space(name, input_size, classes, variant).draw(draw, seed=seed)
        if output is not None:
            drawn.save(output)
        _show_drawn(drawn, output, as_json=as_json)


def _show_list(listed: list[SpaceSummary], *, as_json: bool) -> None:
    from nas.report.networks import show_spaces

    rows = [space.as_dict() for space in listed]
    emit({"spaces": rows}, as_json=as_json, render=lambda: show_spaces(listed))


def _show_drawn(drawn: Architecture, output: Path | None, *, as_json: bool) -> None:
    from nas.report.networks import show_architecture

    found = {"architecture": drawn.as_dict()}
    emit(found, as_json=as_json, render=lambda: show_architecture(drawn, output))
