"""``latbench spaces``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from latbench.commands.options import FILE, SEED, json_option, named
from latbench.commands.output import emit, write_text
from latbench.errors import InvalidValueError
from nas.commands.options import space_options


@click.command()
@click.argument("name", required=False)
@click.option("--draw", type=named("draw", "smallest", "largest", "random"))
@click.option("--seed", type=SEED, default=0, show_default=True)
@space_options
@click.option("-o", "--output", type=FILE, help="Where the drawn architecture goes.")
@json_option
def spaces(
    name: str | None,
    draw: str | None,
    seed: int,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    output: Path | None,
    as_json: bool,
) -> None:
    """Search spaces: size, operations a layer, searchable blocks; or draw an architecture."""
    import numpy as np

    from latbench.report.terminal import print_lines, print_table
    from nas.spaces import SPACES, Variant, make_space

    variant = Variant(se, activation)
    if draw is not None:
        if name is None:
            raise InvalidValueError("--draw needs a space: latbench spaces NAME --draw ...")
        space = make_space(name, input_size, classes, variant)
        if draw == "random":
            drawn = space.random(np.random.default_rng(seed))
        else:
            drawn = space.smallest() if draw == "smallest" else space.largest()
        if output is not None:
            write_text(output, drawn.to_json())
        emit(
            {"architecture": drawn.as_dict()},
            as_json=as_json,
            render=lambda: print_lines([f"wrote {output}"] if output else [drawn.to_json()]),
        )
        return
    if output is not None:
        raise InvalidValueError("-o needs --draw: there is nothing else to write")
    rows: list[dict[str, Any]] = []
    for known in [name] if name is not None else list(SPACES):
        space = make_space(known, input_size, classes, variant)
        rows.append(
            {
                "name": space.name,
                "input_size": space.input_size,
                "classes": space.classes,
                "size": str(space.size()),
                "layers": len(space.layers),
                "depths": [len(stage) for stage in space.stages],
                "ops": list(space.layers[0].ops),
                "blocks": space.searchable_blocks(),
            }
        )

    def render() -> None:
        print_table(
            ("space", "input", "classes", "architectures", "layers", "ops", "searchable blocks"),
            [
                (
                    row["name"],
                    f"{row['input_size']} px",
                    str(row["classes"]),
                    f"{float(row['size']):.1e}",
                    str(row["layers"]),
                    str(len(row["ops"])),
                    str(row["blocks"]),
                )
                for row in rows
            ],
        )
        if name is not None:
            print_lines([f"ops: {' '.join(rows[0]['ops'])}"])

    emit({"spaces": rows}, as_json=as_json, render=render)
