"""The command line: parses, joins the two packages, renders.

Heavy imports stand inside the commands that need them, so that ``latbench --help`` is quick and
measuring needs no torch. Exit codes: 0 done; 1 a check or verdict failed, its result is printed
all the same; 2 wrong use or bad input, in one line that says what to do next; 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from latbench.errors import (
    InvalidFileError,
    InvalidValueError,
    LatbenchError,
    MismatchError,
    MissingExtraError,
    OutputError,
    UnknownNameError,
)
from latbench.files import utf8
from latbench.report.streams import (
    ReaderLeft,
    drop_output,
    prepare_streams,
    require_output,
    say,
)
from latbench.units import (
    format_ms,
    parse_count,
    parse_duration_s,
    parse_latency_ms,
    parse_millions,
)

if TYPE_CHECKING:
    import numpy as np

    from latbench.blocks import Network
    from latbench.device import DeviceProfile
    from latbench.measure.noise import NoiseCheck
    from latbench.registry import Registry
    from latbench.tables import LatencyTable, TableCheck
    from nas.data.images import ImageData
    from nas.generator import Generator, Kind
    from nas.latency.correction import Landing
    from nas.latency.priced_space import PricedSpace
    from nas.latency.width_scaling import Fit, Method
    from nas.recipes import Recipe
    from nas.searchers import Searcher, SearchResult
    from nas.spaces import Architecture, SearchSpace
    from nas.training.distributed import Workers
    from nas.training.run_folder import RunFolder

EXIT_FAILED_CHECK = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what shells report of a program ended by Ctrl-C
CALIBRATION_STREAM = (
    2  # keeps its networks apart from those that `verify` draws under the same seed
)


class _Group(click.Group):
    """Commands, of which an unknown one is answered with the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UnknownNameError("command", args[0], sorted(self.commands))
        return super().resolve_command(ctx, args)


class _Amount(click.ParamType[Any]):
    """A number with its unit."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self.parse = name, parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return value if isinstance(value, float) else self.parse(value)


class _Named(click.ParamType[Any]):
    """One of some names; a wrong one is answered with the nearest."""

    def __init__(self, what: str, choices: Callable[[], list[str]]) -> None:
        self.name, self.choices = what, choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = self.choices()
        if value not in known:
            raise UnknownNameError(self.name, value, known)
        return str(value)


LATENCY = _Amount("latency", parse_latency_ms)
DURATION = _Amount("duration", parse_duration_s)
MANY = _Amount("count", parse_count)
MILLIONS = _Amount("count", parse_millions)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**31 - 1)
BATCH = click.IntRange(min=2)

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
table_option = click.option(
    "--table", "table_path", type=FILE, required=True, help="Latency table, made by `profile`."
)


def _named(what: str, *choices: str) -> _Named:
    return _Named(what, lambda: list(choices))


def _widths_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--widths",
        type=_named("widths", "any", "efficient"),
        default=default,
        show_default=True,
        help="Every priced width, or only those that no wider one matches in latency.",
    )


def _space_options(command: Callable[..., None]) -> Callable[..., None]:
    """What makes a search space of a name."""
    for option in (
        click.option("--activation", type=_named("activation", "relu6", "hswish"), default="relu6"),
        click.option("--se", is_flag=True, help="Squeeze-excite, in spaces that leave it open."),
        click.option("--classes", type=int),
        click.option("--input-size", type=int, help="Side of the input image in pixels."),
    ):
        command = option(command)
    return command


recipe_option = click.option(
    "--recipe", metavar="NAME|FILE", help="Shipped recipe or TOML file, instead of the defaults."
)
set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe."
)
torch_device_option = click.option(
    "--torch-device",
    "torch_device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Where networks are trained and judged: auto (the CUDA GPU where there is one, else the "
    "CPU), cpu, cuda, cuda:1 or mps.",
)
data_option = click.option(
    "--data", type=_Named("data set", lambda: list(_datasets())), required=True
)
data_dir_option = click.option("--data-dir", type=FOLDER, help="Where the data set's files are.")
run_option = click.option(
    "-o", "--output", type=FOLDER, required=True, help="Folder of the run, new or to go on with."
)


def _emit(result: dict[str, Any], *, as_json: bool, render: Callable[[], None]) -> None:
    """Print a result as one JSON object, or for a person."""
    if as_json:
        click.echo(_json(result))
    else:
        render()


def _json(value: object) -> str:
    """One line of ASCII, in which no character is half of one."""
    text = json.dumps(value, allow_nan=False)
    if "\\ud" in text:  # perhaps a file's name that the locale could not decode
        whole = utf8(json.dumps(value, allow_nan=False, ensure_ascii=False))
        text = json.dumps(json.loads(whole), allow_nan=False)
    return text


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latbench")
def latbench() -> None:
    """Profile a device, search a network under a latency budget, verify the latency."""


# Devices and spaces


@latbench.command()
@click.option(
    "--check",
    is_flag=False,
    flag_value="",
    metavar="[DEVICE]",
    help="Measure noise and drift of one device; without a name, list what can run.",
)
@click.option("--duration", type=DURATION, default="60s", show_default=True, help="Of the check.")
@as_json
def devices(check: str | None, duration: float, as_json: bool) -> None:
    """Device profiles, and which of them can run here."""
    from dataclasses import asdict

    from latbench.device import load_profile, shipped_profiles
    from latbench.profilers import PROFILERS
    from latbench.report.results import show_devices, show_noise

    if check:
        checked = load_profile(check)
        noise = _check_noise(checked, duration)
        about = {"name": checked.name, "runtime": checked.runtime}
        rows = [{**about, "available": True, "reason": None, **asdict(noise)}]
        _emit({"devices": rows}, as_json=as_json, render=lambda: show_noise(check, noise))
        return
    rows = []
    for name in shipped_profiles():
        profile = load_profile(name)
        try:
            reason = PROFILERS[profile.runtime].unavailable(profile)
        except LatbenchError as error:
            reason = error.message
        rows.append(
            {
                "name": name,
                "runtime": profile.runtime,
                "device": profile.device,
                "batch_size": profile.batch_size,
                "precision": profile.precision,
                "threads": profile.threads,
                "available": reason is None,
                "reason": reason,
            }
        )

    _emit({"devices": rows}, as_json=as_json, render=lambda: show_devices(rows))


def _check_noise(device: DeviceProfile, seconds: float) -> NoiseCheck:
    from latbench.measure.lock import device_lock
    from latbench.measure.noise import check_noise
    from latbench.profilers import make_profiler
    from latbench.report.terminal import progress_bar

    profiler = make_profiler(device)
    environment = profiler.environment()
    with device_lock(profiler.profile.device), progress_bar("checking") as progress:
        return check_noise(profiler, environment, seconds=seconds, progress=progress)


@latbench.command()
@click.argument("name", required=False)
@click.option("--draw", type=_named("draw", "smallest", "largest", "random"))
@click.option("--seed", type=SEED, default=0, show_default=True)
@_space_options
@click.option("-o", "--output", type=FILE, help="Where the drawn architecture goes.")
@as_json
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
            _write(output, drawn.to_json())
        _emit(
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

    _emit({"spaces": rows}, as_json=as_json, render=render)


# Tables


@latbench.command()
@click.argument("device")
@click.argument("space")
@click.option("-o", "--output", type=FILE, help="Latency table to fill or resume.")
@_space_options
@click.option("--time-limit", type=DURATION, default="20min", show_default=True)
@click.option(
    "--from", "source", type=FILE, help="Tell most of it from another device's table of SPACE."
)
@click.option("--plan", is_flag=True, help="Say blocks, minutes and memory, and measure nothing.")
@as_json
def profile(
    device: str,
    space: str,
    output: Path | None,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    time_limit: float,
    source: Path | None,
    plan: bool,
    as_json: bool,
) -> None:
    """Measure the blocks of SPACE on DEVICE into a latency table, or go on with one."""
    from dataclasses import asdict

    from latbench.device import load_profile
    from latbench.profilers import make_profiler
    from latbench.report.results import show_forecast, show_profile, show_transfer
    from latbench.report.terminal import progress_bar
    from nas.latency.priced_space import forecast_space, profile_space, transfer_space
    from nas.spaces import Variant, make_space

    profiler = make_profiler(load_profile(device))
    made = make_space(space, input_size, classes, Variant(se, activation))
    if plan and source is not None:
        raise InvalidValueError("--plan is for a profiling without --from: leave out one of them")
    if plan:
        expected = forecast_space(profiler, made, time_limit_s=time_limit)
        _emit(asdict(expected), as_json=as_json, render=lambda: show_forecast(expected))
        return
    if output is None:
        raise InvalidValueError("profile needs -o TABLE, the latency table to fill or resume")
    if source is not None:
        with progress_bar("transferring") as progress:
            told = transfer_space(
                profiler,
                output,
                made,
                _open_table(source),
                time_limit_s=time_limit,
                progress=progress,
            )
        reached = {
            "blocks": told.blocks,
            "measured": told.measured,
            "passes": told.passes,
            "complete": told.complete,
            "left_out_error": told.left_out_error,
            "half_width": told.half_width,
            "loo_error": told.fit.price.loo_error,
        }
        _emit(reached, as_json=as_json, render=lambda: show_transfer(told, output))
        return
    with progress_bar("profiling") as progress:
        result = profile_space(profiler, output, made, time_limit_s=time_limit, progress=progress)
    _emit(asdict(result), as_json=as_json, render=lambda: show_profile(result, output))
    if result.stopped == "interrupted":
        sys.exit(EXIT_INTERRUPTED)


@latbench.group(cls=_Group)
def table() -> None:
    """Look at latency tables, check and convert them."""


@table.command("show")
@click.argument("path", type=FILE)
@click.option("--worst", type=COUNT, default=10, show_default=True, help="Entries to list.")
@click.option("--curves", type=COUNT, default=3, show_default=True, help="Width curves to draw.")
@click.option("--picture", type=FILE, help="Draw width curves into this file (png, svg, pdf).")
@as_json
def table_show(path: Path, worst: int, curves: int, picture: Path | None, as_json: bool) -> None:
    """What a table is of, its entries of widest interval, and latency over width."""
    from latbench.report.pictures import draw_curves, show_curves
    from latbench.report.results import show_table
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable
    from latbench.tables.export import describe, entries

    opened = LatencyTable.open(path)
    drawn = draw_curves(opened, picture) if picture is not None else 0

    def render() -> None:
        show_table(opened, worst=worst)
        show_curves(opened, count=curves)
        if picture is not None:
            print_lines(["", f"wrote {drawn} curves to {picture}"])

    _emit(describe(opened) | {"entries": entries(opened)}, as_json=as_json, render=render)


@table.command("check")
@click.argument("path", type=FILE)
@as_json
def table_check(path: Path, as_json: bool) -> None:
    """Find non-positive, noisy and stale entries; exit code 1 if there are any."""
    from latbench.profilers import PROFILERS, make_profiler
    from latbench.report.results import show_check
    from latbench.tables import LatencyTable

    opened = LatencyTable.open(path)
    now = None
    if (
        opened.origin is None
        and PROFILERS[opened.device.runtime].unavailable(opened.device) is None
    ):
        now = make_profiler(opened.device).environment()
    found = opened.check(now)
    _emit(
        _check_result(found),
        as_json=as_json,
        render=lambda: show_check(found, imported=opened.origin is not None),
    )
    if not found.passed:
        sys.exit(EXIT_FAILED_CHECK)


def _check_result(found: TableCheck) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "negative": len(found.negative),
        "noisy": len(found.noisy),
        "unmapped": found.unmapped,
        "not_finite": found.not_finite,
        "duplicates": found.duplicates,
        "unpriced": found.unpriced,
        "stale": list(found.stale),
        "passed": found.passed,
    }


@table.command("import")
@click.argument("file", type=FILE)
@click.option("--format", "kind", required=True, help="tfnas, ofa, osnaslib or hardcore.")
@click.option("--unit", type=_named("unit", "ms", "s"), help="Of the file; else its format's own.")
@click.option("--device", required=True, help="What to call the device, freely.")
@click.option("-o", "--output", type=FILE, required=True)
@as_json
def table_import(
    file: Path, kind: str, unit: Literal["ms", "s"] | None, device: str, output: Path, as_json: bool
) -> None:
    """Make a latency table of another program's; its defects are counted, not hidden."""
    from latbench.report.results import show_check
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable, Origin
    from latbench.tables.foreign import import_table
    from latbench.tables.importers import read_foreign_table
    from nas.latency.priced_space import labelled_space

    foreign = read_foreign_table(file, kind, unit=unit)
    included: tuple[Any, ...] = ()
    if foreign.space is not None:
        space = labelled_space(foreign.space)
        included = (*space.stem, *space.tail)
    origin = Origin(
        kind,
        utf8(file.name),
        foreign.duplicates,
        foreign.unmapped,
        foreign.not_finite,
        foreign.defects,
    )
    import_table(foreign, output, origin=origin, device=utf8(device), included=included)
    found = LatencyTable.open(output).check(None)

    def render() -> None:
        show_check(found, imported=True)
        print_lines([*(f"defect: {d}" for d in origin.defects), f"wrote {output}"])

    _emit(_check_result(found), as_json=as_json, render=render)


@table.command("diff")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.05,
    show_default=True,
    help="Change of a latency that does not matter, a fraction.",
)
@as_json
def table_diff(before: Path, after: Path, tolerance: float, as_json: bool) -> None:
    """Say of every block whether AFTER is slower than BEFORE; exit code 1 if one is."""
    from latbench.blocks import block_key
    from latbench.report.results import show_difference
    from latbench.tables import TableStore
    from latbench.tables.comparison import compare

    with TableStore.open(before) as old, TableStore.open(after) as new:
        found = compare(old, new, tolerance=tolerance)
    slower = found.count("SLOWER")
    result = {
        "blocks": [
            {
                "block": block_key(change.spec),
                "ratio": change.ratio,
                "low": change.low,
                "high": change.high,
                "p_value": change.p_value,
                "verdict": change.verdict,
            }
            for change in found.changes
        ],
        "same": found.count("SAME"),
        "faster": found.count("FASTER"),
        "slower": slower,
        "unsure": found.count("UNSURE"),
        "ratio": found.ratio,
        "only_before": found.only_before,
        "only_after": found.only_after,
        "environment": list(found.environment),
        "passed": slower == 0,
    }
    _emit(result, as_json=as_json, render=lambda: show_difference(found, tolerance=tolerance))
    if slower:
        sys.exit(EXIT_FAILED_CHECK)


@table.command("export")
@click.argument("path", type=FILE)
@click.option("--format", "kind", type=_named("format", "json", "csv", "parquet"), default="json")
@click.option("-o", "--output", type=FILE, required=True)
@as_json
def table_export(path: Path, kind: str, output: Path, as_json: bool) -> None:
    """Write a table as JSON, CSV or Parquet."""
    from latbench.files import write_atomically
    from latbench.report.terminal import print_lines
    from latbench.tables import LatencyTable
    from latbench.tables.export import FORMATS

    opened = LatencyTable.open(path)
    write_atomically(output, FORMATS[kind](opened))
    _emit(
        {"path": str(output)},
        as_json=as_json,
        render=lambda: print_lines([f"wrote {opened.space} to {output}"]),
    )


# Architectures


@latbench.command()
@click.argument("architecture", type=FILE)
@as_json
def cost(architecture: Path, as_json: bool) -> None:
    """Multiply-accumulates and parameters of ARCHITECTURE, in millions."""
    from latbench.cost import network_cost
    from latbench.report.terminal import print_lines
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    result = network_cost(space.lower(arch)).in_millions()
    _emit(
        result,
        as_json=as_json,
        render=lambda: print_lines(
            [
                f"{result['macs_m']:.3f} M MACs ({result['conv_macs_m']:.3f} M in convolutions), "
                f"{result['params_m']:.3f} M parameters"
            ]
        ),
    )


@latbench.command()
@click.argument("architecture", type=FILE)
@table_option
@as_json
def predict(architecture: Path, table_path: Path, as_json: bool) -> None:
    """Latency of ARCHITECTURE according to a table."""
    from dataclasses import asdict

    from latbench.report.terminal import print_lines
    from nas.latency.priced_space import space_label
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    opened = _open_table(table_path)
    opened.require_space(space_label(space))
    result = opened.predict(space.lower(arch))
    _emit(
        asdict(result),
        as_json=as_json,
        render=lambda: print_lines(
            [
                f"{format_ms(result.latency_ms)} for {_images(opened.device.batch_size)} on "
                f"{opened.device.name}"
                + (
                    f"; 90 % interval {format_ms(result.low_ms)} to {format_ms(result.high_ms)}"
                    if result.low_ms is not None and result.high_ms is not None
                    else "; `latbench calibrate` adds an interval"
                )
            ]
        ),
    )


@latbench.command()
@click.argument("architectures", nargs=-1, type=FILE)
@click.option("--random", "random_count", type=COUNT, help="Verify this many random networks.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@_widths_option("efficient")
@click.option("--tolerance", type=click.FloatRange(min=0), default=0.05, show_default=True)
@table_option
@as_json
def verify(
    architectures: tuple[Path, ...],
    random_count: int | None,
    seed: int,
    widths: str,
    tolerance: float,
    table_path: Path,
    as_json: bool,
) -> None:
    """Measure whole networks against a table; exit code 1 if the mean error is too large."""
    import numpy as np

    from latbench.profilers import make_profiler
    from latbench.report.results import show_verification
    from latbench.report.terminal import progress_bar
    from latbench.workflows.verification import verify as run_verify
    from nas.latency.priced_space import PricedSpace
    from nas.spaces import load_architecture

    if not architectures and random_count is None:
        raise InvalidValueError("nothing to verify: name architectures, or give --random N")
    opened = _open_table(table_path)
    priced = _priced_space(opened, widths)
    named = []
    for path in architectures:
        arch, space = load_architecture(path)
        PricedSpace(space, opened)
        named.append((path.name, arch))
    if random_count is not None:
        known = {*opened.networks, *(priced.space.lower(arch) for _, arch in named)}
        rng = np.random.default_rng(seed)
        drawn = _draw(priced, random_count, rng, without=known, allow_none=bool(named))
        named += [(f"random {index + 1}", arch) for index, arch in enumerate(drawn)]
    profiler = make_profiler(opened.device)
    with progress_bar("verifying") as progress:
        result = run_verify(
            profiler,
            opened,
            [priced.space.lower(arch) for _, arch in named],
            progress=progress,
        )
    passed = result.mape <= tolerance
    rows = [
        {
            "architecture": arch.as_dict(),
            "predicted_ms": row.predicted.latency_ms,
            "low_ms": row.predicted.low_ms,
            "high_ms": row.predicted.high_ms,
            "measured_ms": row.measured.estimate_ms,
            "measured_low_ms": row.measured.low_ms,
            "measured_high_ms": row.measured.high_ms,
            "error": row.error,
            "error_drift_corrected": row.error_drift_corrected,
        }
        for (_, arch), row in zip(named, result.networks, strict=True)
    ]
    summary = {
        "mape": result.mape,
        "bias": result.bias,
        "max_error": result.max_error,
        "kendall_tau": result.kendall_tau,
        "drift": result.drift,
        "mape_drift_corrected": result.mape_drift_corrected,
        "max_error_drift_corrected": result.max_error_drift_corrected,
        "coverage": result.coverage,
        "interval_width": result.interval_width,
        "spread": result.spread,
        "floor": result.floor,
        "passed": passed,
    }

    _emit(
        {"rows": rows, **summary},
        as_json=as_json,
        render=lambda: show_verification([name for name, _ in named], result, tolerance=tolerance),
    )
    if not passed:
        sys.exit(EXIT_FAILED_CHECK)


@latbench.command()
@click.argument("table_path", metavar="TABLE", type=FILE)
@click.option("--networks", type=COUNT, default=24, show_default=True, help="Networks to add.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@_widths_option("efficient")
@as_json
def calibrate(table_path: Path, networks: int, seed: int, widths: str, as_json: bool) -> None:
    """Measure more whole networks and fit the prices of TABLE on them too."""
    import numpy as np

    from latbench.profilers import make_profiler
    from latbench.report.results import show_calibration
    from latbench.report.terminal import progress_bar
    from latbench.workflows.verification import calibrate as run_calibrate

    opened = _open_table(table_path)
    profiler = make_profiler(opened.device)
    priced = _priced_space(opened, widths)
    rng = np.random.default_rng([seed, CALIBRATION_STREAM])
    drawn = [priced.space.lower(arch) for arch in _draw(priced, networks, rng)]
    with progress_bar("calibrating") as progress:
        stored = run_calibrate(profiler, opened, drawn, progress=progress)
    result = {
        "networks": stored.price.networks,
        "loo_error": stored.price.loo_error,
        "max_loo_error": max(map(abs, stored.price.left_out_errors)),
        "loo_error_before": opened.price_model.loo_error,
        "interval_half_width": stored.price.half_width(),
        "floor": stored.floor,
    }
    _emit(
        result,
        as_json=as_json,
        render=lambda: show_calibration(stored, before=opened.price_model, path=table_path),
    )


@latbench.command()
@click.argument("architecture", type=FILE)
@table_option
@click.option("--target", type=LATENCY, required=True, help="Such as 15ms.")
@click.option("--method", type=_named("method", "exact", "greedy"), default="exact")
@_widths_option("any")
@click.option("--measured", is_flag=True, help="Correct the widths until the device agrees.")
@click.option("-o", "--output", type=FILE, help="Where the fitted architecture goes.")
@as_json
def fit(
    architecture: Path,
    table_path: Path,
    target: float,
    method: str,
    widths: str,
    measured: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Scale the widths of ARCHITECTURE to a latency, as predicted or as measured."""
    from latbench.report.terminal import print_lines
    from nas.latency.priced_space import PricedSpace
    from nas.latency.width_scaling import METHODS
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    priced = PricedSpace(space, _open_table(table_path), efficient=widths == "efficient")
    scale = METHODS[method]
    landing = _land(priced, arch, target, scale=scale) if measured else None
    result = landing.fit if landing else scale(priced, arch, target)
    if output is not None:
        _write(output, result.architecture.to_json())

    def render() -> None:
        print_lines(
            [
                f"{format_ms(result.latency_ms)}, {1 - result.latency_ms / target:.2%} below the "
                f"target; this architecture reaches {format_ms(result.min_ms)} to "
                f"{format_ms(result.max_ms)}",
                *([f"{format_ms(landing.measured_ms)} measured"] if landing else []),
                f"wrote {output}" if output else result.architecture.to_json(),
            ]
        )

    _emit(
        {
            "target_ms": target,
            "latency_ms": result.latency_ms,
            "min_ms": result.min_ms,
            "max_ms": result.max_ms,
            "architecture": result.architecture.as_dict(),
        }
        | ({"measured_ms": landing.measured_ms, "rounds": landing.rounds} if landing else {}),
        as_json=as_json,
        render=render,
    )


def _land(
    priced: PricedSpace, arch: Architecture, target_ms: float, *, scale: Method
) -> Landing[Fit]:
    from latbench.report.terminal import progress_bar
    from nas.latency.correction import land, measurer, widths_of

    measure = measurer(priced.table)
    with progress_bar("measuring") as progress:

        def measure_ms(candidate: Architecture) -> float:
            return measure(priced.space.lower(candidate), progress)

        propose = widths_of(priced, arch, scale=scale)
        return land(priced, propose, target_ms, measure_ms, scale=scale)


# Search


@latbench.command()
@click.argument("space")
@click.option("--searcher", default="tfnas", show_default=True)
@click.option(
    "--table",
    "table_paths",
    type=FILE,
    multiple=True,
    help="Latency table, made by `profile`; once a device that the target holds on. A search "
    "under --max-macs or --max-params alone needs none.",
)
@_space_options
@click.option(
    "--target",
    "targets",
    type=LATENCY,
    multiple=True,
    help="Once a budget; may be left out under the limits below or for a generator.",
)
@click.option(
    "--max-macs",
    type=MANY,
    help="Multiply-accumulates at every target, such as 30M. A bare number below 100000 is in "
    "millions: 30 is 30M.",
)
@click.option(
    "--max-params",
    type=MANY,
    help="Parameters at every target, such as 3M. Bare numbers as with --max-macs.",
)
@_widths_option("efficient")
@data_option
@data_dir_option
@click.option("--images", type=COUNT, help="Search on this many training images.")
@click.option("--epochs", type=COUNT, help="Scales the published schedule.")
@click.option("--batch-size", type=BATCH)
@recipe_option
@set_option
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--measured", is_flag=True, help="End with what is measured at the targets; also later."
)
@torch_device_option
@run_option
@as_json
def search(
    space: str,
    searcher: str,
    table_paths: tuple[Path, ...],
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: Literal["relu6", "hswish"],
    targets: tuple[float, ...],
    max_macs: float | None,
    max_params: float | None,
    widths: str,
    data: str,
    data_dir: Path | None,
    images: int | None,
    epochs: int | None,
    batch_size: int | None,
    recipe: str | None,
    changes: tuple[str, ...],
    seed: int,
    measured: bool,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Find architectures of SPACE under budgets; the same -o goes on where it stopped.

    The tables say input size, classes and variant of SPACE; without a table the options do.
    """
    import msgspec

    from latbench.cost import network_cost
    from latbench.report.terminal import print_lines, print_table, progress_bar
    from nas.latency.priced_space import space_label
    from nas.optimize.constraints import COUNTED, Count, Limit
    from nas.spaces import Variant, make_space

    family = _searchers()[searcher]
    from nas.latency.correction import measurer
    from nas.searchers.base import SearchSettings, architecture_file, generator_file
    from nas.tasks import TASKS
    from nas.training.distributed import workers
    from nas.training.torch_device import find_torch_device

    trains_on = find_torch_device(torch_device)
    asked = make_space(space, input_size, classes, Variant(se, activation))
    tables = [_open_table(path) for path in table_paths]
    _check_tables(
        tables, asked, input_size=input_size, classes=classes, se=se, activation=activation
    )
    priced = [_priced_space(table, widths) for table in tables]
    searched = priced[0].space if priced else asked
    chosen = _search_recipe(family, searcher, recipe, changes)
    if measured and not tables:
        raise InvalidValueError("--measured needs --table, which says on which device to measure")
    measure = measurer(tables[0]) if measured else None
    loaded = _load_data(data, data_dir, searched.input_size, searched.classes, images)
    config = {
        "command": "search",
        "space": space,
        "searcher": searcher,
        "tables": [{"device": t.device.name, "space": str(t.space)} for t in tables]
        or [{"space": str(space_label(searched))}],
        "prices": [msgspec.to_builtins(t.price_model) for t in tables],
        "targets_ms": list(targets),
        "max_macs": max_macs,
        "max_params": max_params,
        "widths": widths,
        "data": data,
        "images": images,
        "epochs": epochs,
        "batch_size": batch_size,
        "recipe": msgspec.to_builtins(chosen),
        "seed": seed,
    }
    with workers(trains_on) as group:
        limits = tuple(
            Limit(Count(searched, kind), amount)
            for kind, amount in zip(COUNTED, (max_macs, max_params), strict=True)
            if amount is not None
        )
        settings = SearchSettings(
            epochs,
            batch_size,
            seed,
            chosen,
            group,
            tuple(priced[1:]),
            measure,
            limits,
            trains_on,
        )
        made = family(priced[0] if priced else searched, settings)
        made.check(loaded, targets)
        folder = _run_folder(output, config, group)
        with progress_bar("searching") if group.leads else _silent() as progress:
            results = made.search(loaded, targets, folder, progress=progress)
    if not group.leads:
        return

    files = [architecture_file(output, result.target_ms) for result in results]
    costs = [network_cost(searched.lower(result.architecture)) for result in results]
    task = TASKS[loaded.task]
    has_argmax = any(result.argmax for result in results)

    def render() -> None:
        if results:
            print_found()
        if generator_file(output).exists():
            print_lines([f"any budget: latbench generate {generator_file(output)} ..."])

    def print_found() -> None:
        print_table(
            (
                *(["target", "predicted"] if tables else []),
                *(["measured", "rounds"] if measured else []),
                *(["below target"] if tables else []),
                *(["MACs, M", "params, M"] if limits else []),
                f"supernet's {task.fitness_name}",
                *(["argmax"] if has_argmax else []),
            ),
            [
                (
                    *([_ms(result.target_ms), _ms(result.latency_ms)] if tables else []),
                    *(
                        [format_ms(result.landing.measured_ms), str(result.landing.rounds)]
                        if result.landing
                        else []
                    ),
                    *([_below(result)] if tables else []),
                    *([f"{c.macs / 1e6:.4g}", f"{c.params / 1e6:.4g}"] if limits else []),
                    task.shown(result.score),
                    *(
                        [_ms(result.argmax.latency_ms if result.argmax else None)]
                        if has_argmax
                        else []
                    ),
                )
                for result, c in zip(results, costs, strict=True)
            ],
        )
        print_lines([f"next: latbench train {file} --data {data} -o RUN" for file in files])

    found = [r.as_dict() | c.in_millions() for r, c in zip(results, costs, strict=True)]
    _emit({"results": found}, as_json=as_json, render=render)


# Generators


@latbench.group(cls=_Group)
def generator() -> None:
    """Architecture generators: a budget in, an architecture out."""


@generator.command("import")
@click.option("--weights", type=FILE, required=True, help="Published weights, .npz or .pth.")
@click.option("--prior", type=FILE, required=True, help="Published prior pool, JSON.")
@click.option("-o", "--output", type=FILE, required=True)
@as_json
def generator_import(weights: Path, prior: Path, output: Path, as_json: bool) -> None:
    """Make the published weights of an SGNAS generator usable."""
    with _needs_torch():
        from nas.generator import import_generator, save_generator

    made = import_generator(weights, prior)
    save_generator(made, output)
    _emit_generator(made, output, as_json=as_json)


@generator.command("show")
@click.argument("path", metavar="GENERATOR", type=FILE)
@as_json
def generator_show(path: Path, as_json: bool) -> None:
    """What a generator may be asked: space, kinds of budget, devices, trained range."""
    with _needs_torch():
        from nas.generator import load_generator

    _emit_generator(load_generator(path), path, as_json=as_json)


@generator.command("adapt")
@click.argument("run", type=FOLDER)
@click.option("--table", "table_path", type=FILE, required=True, help="Of the new device.")
@data_dir_option
@click.option("--epochs", type=COUNT, default=5, show_default=True)
@torch_device_option
@click.option("-o", "--output", type=FILE, required=True)
@as_json
def generator_adapt(
    run: Path,
    table_path: Path,
    data_dir: Path | None,
    epochs: int,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Let the generator that a search made in RUN learn one more device; the rest stays as it is.

    Only the device's vector is trained, against RUN's supernet.
    """
    import msgspec

    from latbench.report.terminal import progress_bar

    with _needs_torch():
        from nas.generator import save_generator
        from nas.searchers.sgnas.search import adapt, read_run
        from nas.training.torch_device import find_torch_device

    trains_on = find_torch_device(torch_device)
    config, recipe = read_run(run)
    priced = _priced_space(_open_table(table_path), "any")
    space = priced.space
    loaded = _load_data(config["data"], data_dir, space.input_size, space.classes, config["images"])
    with progress_bar("adapting") as progress:
        made = adapt(
            _run_folder(run, config),
            priced,
            loaded,
            msgspec.structs.replace(recipe, generator_epochs=epochs),
            seed=config["seed"],
            torch_device=trains_on,
            progress=progress,
        )
    save_generator(made, output)
    _emit_generator(made, output, as_json=as_json)


def _emit_generator(made: Generator, path: Path, *, as_json: bool) -> None:
    import msgspec

    from latbench.report.terminal import print_lines

    label = made.label
    unit = " M conv MACs" if label.form == "published" else " of the reach"
    lines = [
        f"{path}: a {label.form} generator of {label.space}; it chooses {label.plane}",
        f"budgets: {', '.join(label.kinds)}; trained on {label.low:g} to {label.high:g}{unit}",
        *(f"device: {device}" for device in label.devices),
    ]
    _emit(msgspec.to_builtins(label), as_json=as_json, render=lambda: print_lines(lines))


@latbench.command()
@click.argument("path", metavar="GENERATOR", type=FILE)
@click.option("--table", "table_path", type=FILE, help="Latency table of the device.")
@click.option("--target", "latencies", type=LATENCY, multiple=True, help="Such as 15ms.")
@click.option(
    "--target-macs",
    "macs",
    type=MILLIONS,
    multiple=True,
    help="Multiply-accumulates of convolutions in millions, such as 320. A number from 100000 on "
    "is in ones: 320000000 is the same.",
)
@click.option(
    "--target-params",
    "params",
    type=MILLIONS,
    multiple=True,
    help="Parameters in millions, such as 3.2. Numbers from 100000 on as with --target-macs.",
)
@click.option(
    "--raw", is_flag=True, help="Raw generator output, without the repair that enforces the budget."
)
@click.option("--se", is_flag=True, help="Squeeze-excite in every block.")
@click.option("--activation", type=_named("activation", "relu6", "hswish"))
@click.option("-o", "--output", type=FOLDER, help="Where a file of each architecture goes.")
@as_json
def generate(
    path: Path,
    table_path: Path | None,
    latencies: tuple[float, ...],
    macs: tuple[float, ...],
    params: tuple[float, ...],
    raw: bool,
    se: bool,
    activation: Literal["relu6", "hswish"] | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """An architecture for every budget, all from one forward pass of GENERATOR.

    Budgets of two kinds are asked together: the first of one with the first of the other.
    """
    from latbench.cost import network_cost
    from latbench.report.results import show_generated

    with _needs_torch():
        from nas.generator import (
            answering_space,
            answers,
            load_generator,
            raw_answers,
            requests_for,
        )

    loaded = load_generator(path)
    table = _open_table(table_path) if table_path is not None else None
    space = answering_space(loaded, table, se=se, activation=activation)
    budgets: dict[Kind, tuple[float, ...]]
    budgets = {"latency": latencies, "macs": macs, "params": params}
    requests = requests_for(loaded, space, table, budgets)
    found = (raw_answers if raw else answers)(loaded, space, requests)
    rows: list[dict[str, Any]] = []
    for request, answer in zip(requests, found, strict=True):
        network = space.lower(answer.architecture)
        cost = network_cost(network).in_millions()
        rows.append(
            {
                "target": request.limits[0].budget,
                "targets": {limit.costs.kind: limit.budget for limit in request.limits},
                "conv_macs_m": cost["conv_macs_m"],
                "params_m": cost["params_m"],
                "latency_ms": table.predict(network).latency_ms if table is not None else None,
                "changes": answer.changes,
                "architecture": answer.architecture.as_dict(),
            }
        )
        if output is not None:
            _write(output / f"{request}.json", answer.architecture.to_json())
    _emit({"architectures": rows}, as_json=as_json, render=lambda: show_generated(rows, output))


# Training


@latbench.command()
@click.argument("architecture", type=FILE)
@data_option
@data_dir_option
@click.option("--images", type=COUNT, help="Train on this many images.")
@recipe_option
@set_option
@click.option("--epochs", type=COUNT, help="Instead of the recipe's.  [default: 30]")
@click.option("--batch-size", type=BATCH, help="Instead of the recipe's.  [default: 64]")
@click.option("--seed", type=SEED, help="Instead of the recipe's.  [default: 0]")
@torch_device_option
@run_option
@as_json
def train(
    architecture: Path,
    data: str,
    data_dir: Path | None,
    images: int | None,
    recipe: str | None,
    changes: tuple[str, ...],
    epochs: int | None,
    batch_size: int | None,
    seed: int | None,
    torch_device: str,
    output: Path,
    as_json: bool,
) -> None:
    """Train ARCHITECTURE from scratch; the same -o goes on where it stopped.

    Started by `torchrun --no-python`, all its processes train together.
    """
    import msgspec

    from latbench.report.terminal import print_lines, progress_bar
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    with _needs_torch():
        from nas.training import from_scratch as scratch
        from nas.training.distributed import workers
        from nas.training.torch_device import find_torch_device
    from nas.recipes import load_recipe
    from nas.training.recipe import TrainingRecipe

    asked = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    given = [f"{key}={value}" for key, value in asked.items() if value is not None]
    chosen = load_recipe(TrainingRecipe, recipe, [*changes, *given])
    trains_on = find_torch_device(torch_device)
    config = {
        "command": "train",
        "architecture": arch.as_dict(),
        "data": data,
        "images": images,
        "recipe": msgspec.to_builtins(chosen),
    }
    loaded = _load_data(data, data_dir, arch.input_size, arch.classes, images)
    with workers(trains_on) as group:
        scratch.check(space.lower(arch), loaded, chosen, group, torch_device=trains_on)
        folder = _run_folder(output, config, group)
        with progress_bar("training") if group.leads else _silent() as progress:
            score = scratch.train(
                space.lower(arch),
                loaded,
                chosen,
                folder,
                group=group,
                torch_device=trains_on,
                progress=progress,
            )
        if group.leads:
            words = f"{_metrics(score)}; weights in {output}"
            _emit(score, as_json=as_json, render=lambda: print_lines([words]))


@latbench.command()
@click.argument("run", type=FOLDER)
@data_option
@data_dir_option
@torch_device_option
@as_json
def evaluate(run: Path, data: str, data_dir: Path | None, torch_device: str, as_json: bool) -> None:
    """Test the network that was trained in RUN."""
    from latbench.report.terminal import print_lines

    arch, space = _trained_architecture(run)
    loaded = _load_data(data, data_dir, arch.input_size, arch.classes, None)
    from nas.training import from_scratch as scratch
    from nas.training.torch_device import find_torch_device

    judges_on = find_torch_device(torch_device)
    model = judges_on.place(scratch.load_model(space.lower(arch), run / scratch.WEIGHTS))
    with judges_on.guarded(work="the test", kept="the run is as it was"):
        score = scratch.test(model, loaded)
    _emit(score, as_json=as_json, render=lambda: print_lines([_metrics(score)]))


@latbench.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "-o", "--output", type=FOLDER, required=True, help="Where train.lmdb and val.lmdb go."
)
@as_json
def pack(folder: Path, output: Path, as_json: bool) -> None:
    """Pack the images of FOLDER, in a layout of ImageNet, into two LMDB files."""
    from latbench.report.terminal import print_lines, progress_bar

    with _needs_torch():
        from nas.data.imagenet import pack_imagenet
    with progress_bar("packing") as progress:
        counts = pack_imagenet(folder, output, progress=progress)
    words = f"packed {counts['train']} and {counts['val']} images into {output}"
    _emit(counts, as_json=as_json, render=lambda: print_lines([words]))


@latbench.command()
@click.argument("architecture", type=FILE)
@click.option("--weights", type=FILE, help="Of a trained run; fresh ones without.")
@click.option("-o", "--output", type=FILE, required=True)
@as_json
def export(architecture: Path, weights: Path | None, output: Path, as_json: bool) -> None:
    """Write ARCHITECTURE as a deployable ONNX model, checked against torch."""
    from latbench.report.terminal import print_lines
    from nas.spaces import load_architecture

    arch, space = load_architecture(architecture)
    with _needs_torch():
        from nas.export import export_onnx
    deviation = export_onnx(space.lower(arch), weights, output)
    _emit(
        {"path": str(output), "deviation": deviation},
        as_json=as_json,
        render=lambda: print_lines(
            [f"wrote {output}; it deviates from torch by {deviation:.1e} of the largest logit"]
        ),
    )


@latbench.command()
@click.argument("kind", type=_Named("kind", lambda: list(_component_kinds())))
@click.argument("name")
@click.option("--root", type=FOLDER, help="A checkout; without, the one around this folder.")
@as_json
def new(kind: str, name: str, root: Path | None, as_json: bool) -> None:
    """Write a working component with its contract test, to be changed.

    KIND is space, block, searcher, strategy, criterion, dataset, task or runtime. In a checkout
    the component is registered beside the others; elsewhere it becomes a package of its own,
    latbench-NAME.
    """
    from latbench.report.terminal import print_lines
    from nas.scaffold import find_checkout, new_component, new_package

    here = Path.cwd()
    checkout = root if root is not None else find_checkout(here)
    if checkout is not None:
        made = new_component(kind, name, root=checkout.resolve())
    else:
        made = new_package(kind, name, parent=here)
    _emit(
        {
            "kind": kind,
            "name": name,
            "root": str(made.root),
            "files": list(made.files),
            "next": made.next_step,
        },
        as_json=as_json,
        render=lambda: print_lines(
            [*(f"wrote {made.root / file}" for file in made.files), f"next: {made.next_step}"]
        ),
    )


@latbench.command()
@click.option("-o", "--output", type=FOLDER, default="runs/demo", show_default=True)
@as_json
def demo(output: Path, as_json: bool) -> None:
    """Profile this machine, search, train and verify a network, in minutes."""
    from latbench.report.terminal import print_lines, print_table, progress_bar

    with _needs_torch():
        from nas.demo import run_demo
    result = run_demo(output, progress_bar)
    payload = {
        "target_ms": result.target_ms,
        "predicted_ms": result.predicted_ms,
        "measured_ms": result.measured_ms,
        "top1": result.top1,
        "error": result.error,
        "architecture": result.architecture.as_dict(),
    }

    away = result.measured_ms / result.target_ms - 1

    def render() -> None:
        print_table(
            ("", ""),
            [
                ("target", format_ms(result.target_ms)),
                ("predicted", format_ms(result.predicted_ms)),
                ("measured", f"{format_ms(result.measured_ms)} ({away:+.1%} of the target)"),
                ("top-1 on digits", f"{result.top1:.1%}"),
            ],
        )
        print_lines([f"everything is in {output}"])

    _emit(payload, as_json=as_json, render=render)


# Helpers


def _search_recipe(
    family: type[Searcher], searcher: str, name: str | None, changes: Sequence[str]
) -> Recipe | None:
    """The recipe of a searcher; None for one that has nothing to set."""
    from nas.recipes import load_recipe

    if family.recipe_kind is not None:
        return load_recipe(family.recipe_kind, name, changes)
    if name is None and not changes:
        return None
    raise InvalidValueError(f"{searcher} has no recipe: leave out --recipe and --set")


def _check_tables(
    tables: Iterable[LatencyTable],
    asked: SearchSpace,
    *,
    input_size: int | None,
    classes: int | None,
    se: bool,
    activation: str,
) -> None:
    """Refuse tables of another space than the one that was asked for."""
    for table in tables:
        label = table.space
        if label.name != asked.name:
            raise MismatchError(f"{table.path} prices {label}, not {asked.name}")
        for option, wanted, has in (
            ("--input-size", input_size, label.input_size),
            ("--classes", classes, label.classes),
            ("--se", se or None, label.se),
            ("--activation", activation if activation != "relu6" else None, label.activation),
        ):
            if wanted not in (None, has):
                given = option if wanted is True else f"{option} {wanted}"
                raise MismatchError(
                    f"{table.path} prices {label}, not {given}: leave the option out, or profile "
                    "that"
                )


def _ms(latency_ms: float | None) -> str:
    return "" if latency_ms is None else format_ms(latency_ms)


def _below(result: SearchResult) -> str:
    """How far a result is below its target, a percentage."""
    if result.target_ms is None or result.reached_ms is None:
        return ""
    return f"{1 - result.reached_ms / result.target_ms:.2%}"


def _open_table(path: Path) -> LatencyTable:
    from latbench.tables import LatencyTable

    return LatencyTable.open(path)


def _priced_space(opened: LatencyTable, widths: str) -> PricedSpace:
    """The space that a table was filled for, with its prices."""
    from nas.latency.priced_space import PricedSpace, labelled_space

    return PricedSpace(labelled_space(opened.space), opened, efficient=widths == "efficient")


def _draw(
    priced: PricedSpace,
    count: int,
    rng: np.random.Generator,
    *,
    without: Collection[Network] = (),
    allow_none: bool = False,
) -> list[Architecture]:
    """Random architectures of different networks; of a small space all that there are."""
    from nas.spaces import distinct_random

    drawn = distinct_random(priced.space, count, rng, priced.widths, without=without)
    if not drawn and not allow_none:
        raise InvalidValueError(
            f"every network of {priced.space.name} that may be drawn is one "
            "that the prices were fitted on, and cannot verify them: profile a larger space, or "
            "choose --widths any"
        )
    if len(drawn) < count:
        say(
            f"{count} networks were asked for, and {priced.space.name} has {len(drawn)} that are "
            "different and new: these are measured"
        )
    return drawn


@contextmanager
def _needs_torch() -> Iterator[None]:
    """Imports that fail for want of torch say which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "nas") from error


def _component_kinds() -> Iterable[str]:
    from nas.scaffold import KINDS

    return KINDS


def _datasets() -> Iterable[str]:
    with _needs_torch():
        from nas.data import DATASETS
    return DATASETS


def _searchers() -> Registry[type[Searcher]]:
    with _needs_torch():
        from nas.searchers import SEARCHERS
    return SEARCHERS


def _load_data(
    name: str, folder: Path | None, input_size: int, classes: int, images: int | None
) -> ImageData:
    from nas.data import load_data

    loaded = load_data(name, input_size=input_size, classes=classes, data_dir=folder)
    return loaded if images is None else loaded.subset(images, seed=0)


def _run_folder(path: Path, config: dict[str, Any], group: Workers | None = None) -> RunFolder:
    """The folder of a run; of processes that train together the first makes it."""
    from nas.training.run_folder import RunFolder

    if group is not None and not group.leads:
        group.wait()
    folder = RunFolder(path, config)
    if group is not None and group.leads:
        group.wait()
    return folder


@contextmanager
def _silent() -> Iterator[Callable[[float, str], None]]:
    """Progress that nobody sees."""
    yield lambda fraction, words: None


def _trained_architecture(run: Path) -> tuple[Architecture, SearchSpace]:
    with _needs_torch():
        from nas.training.run_folder import read_config
    from nas.spaces import space_of
    from nas.spaces.architecture import parse_architecture

    config = read_config(run)
    if "architecture" not in config:
        raise InvalidFileError(f"{run} holds a {config.get('command')} run, not a training")
    text = json.dumps(config["architecture"], allow_nan=False)
    arch = parse_architecture(text, source=f"{run}/config.json")
    return arch, space_of(arch)


def _metrics(score: Mapping[str, float]) -> str:
    """The final metrics of a network in words; all but thresholds are fractions."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in score.items()
    )


def _write(path: Path, text: str) -> None:
    from latbench.files import write_atomically

    write_atomically(path, text)


def _images(batch_size: int) -> str:
    return "one image" if batch_size == 1 else f"a batch of {batch_size}"


def _fail(error: LatbenchError, *, as_json: bool) -> NoReturn:
    """End with an error in one line, or as JSON where standard output can take it."""
    if as_json and not isinstance(error, OutputError):
        try:
            click.echo(_json({"error": error.as_dict()}))
        except OutputError:
            drop_output()
        except ReaderLeft:
            drop_output()
            sys.exit(EXIT_BAD_INPUT)
        else:
            sys.exit(EXIT_BAD_INPUT)
    if isinstance(error, OutputError):
        drop_output()
    say(f"latbench: {' '.join(error.message.split())}")
    sys.exit(EXIT_BAD_INPUT)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _run() -> int:
    """Run the command line; return its exit code."""
    require_output()
    try:
        code = latbench.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    return code if isinstance(code, int) else 0


def main() -> None:
    """Run the command line; every error a user can cause is one line and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    prepare_streams()
    as_json = "--json" in sys.argv
    try:
        sys.exit(_run())
    except LatbenchError as error:
        _fail(error, as_json=as_json)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "latbench"
        message = " ".join(error.format_message().split())
        _fail(InvalidValueError(f"{message} See `{where} --help`."), as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        say(
            "interrupted: the passes and epochs that were finished are saved, the same command "
            "goes on from there"
        )
        sys.exit(EXIT_INTERRUPTED)
    except ReaderLeft:
        drop_output()
        sys.exit(0)
    except (OSError, sqlite3.Error) as error:  # a full disk, a file without permission, ...
        unusable = InvalidFileError(f"a file could not be read or written: {error}")
        _fail(unusable, as_json=as_json)
    except UnicodeEncodeError as error:  # a library that cannot open such a file, as TensorBoard
        name = utf8(error.object)
        _fail(
            InvalidFileError(
                f"{name!r} cannot be used in the locale of this terminal: set LC_ALL=C.UTF-8, or "
                "choose a name of ASCII letters"
            ),
            as_json=as_json,
        )


if __name__ == "__main__":
    main()
