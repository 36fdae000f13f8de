"""``latbench generator adapt``."""

from __future__ import annotations

from pathlib import Path

import click

from latbench.commands.options import COUNT, FILE, FOLDER, json_option
from nas.commands.generator_show import emit_generator
from nas.commands.options import data_dir_option, needs_torch
from nas.commands.shared import load_images, open_table, priced_space, run_folder


@click.command("adapt")
@click.argument("run", type=FOLDER)
@click.option("--table", "table_path", type=FILE, required=True, help="Of the new device.")
@data_dir_option
@click.option("--epochs", type=COUNT, default=5, show_default=True)
@click.option("-o", "--output", type=FILE, required=True)
@json_option
def generator_adapt(
    run: Path,
    table_path: Path,
    data_dir: Path | None,
    epochs: int,
    output: Path,
    as_json: bool,
) -> None:
    """Let the generator that a search made in RUN learn one more device; the rest stays as it is.

    Only the device's vector is trained, against RUN's supernet.
    """
    import msgspec

    from latbench.report.terminal import progress_bar

    with needs_torch():
        from nas.generator import save_generator
        from nas.searchers.sgnas.search import adapt, read_run

    config, recipe = read_run(run)
    priced = priced_space(open_table(table_path), "any")
    space = priced.space
    loaded = load_images(
        config["data"], data_dir, space.input_size, space.classes, config["images"]
    )
    with progress_bar("adapting") as progress:
        made = adapt(
            run_folder(run, config),
            priced,
            loaded,
            msgspec.structs.replace(recipe, generator_epochs=epochs),
            seed=config["seed"],
            progress=progress,
        )
    save_generator(made, output)
    emit_generator(made, output, as_json=as_json)
