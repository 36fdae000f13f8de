"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any

import click

from latbench.commands.output import QUIET
from latbench.errors import InvalidValueError, UnknownNameError
from latbench.files import require_writable, utf8
from latbench.units import (
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_latency_ms,
    parse_millions,
    parse_percent,
)

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
"""A function that adds an option to a command."""


class Amount(click.ParamType[Any]):
    """A number with its unit."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self.parse = name, parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return value if isinstance(value, float) else self.parse(value)


class FiniteRange(click.FloatRange):
    """A range of numbers, to which NaN and infinity do not belong."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = super().convert(value, param, ctx)
        if not isfinite(found):
            self.fail(f"{found} is not a finite number.", param, ctx)
        return float(found)


class Named(click.ParamType[Any]):
    """One of several names; the error for an unknown name suggests the nearest one.

    Args:
        what: Description of the name in errors.
        choices: Function that returns the names; it is called when a value is checked.
        metavar: Placeholder of the value in the help; if empty, the help lists the names.
    """

    def __init__(self, what: str, choices: Callable[[], Iterable[str]], metavar: str = "") -> None:
        self.name, self.choices, self.metavar = what, choices, metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = list(self.choices())
        if value not in known:
            raise UnknownNameError(self.name, value, known)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.metavar or f"[{'|'.join(self.choices())}]"


class Device(click.ParamType[Any]):
    """A device profile, given by its name or by the path of its file."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from latbench.device_files import load_device

        return load_device(value) if value else None


class Shape(click.ParamType[Any]):
    """The shape of a named input, such as ``input=1x3x224x224``."""

    name = "shape"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        name, sign, sizes = value.rpartition("=")
        match = re.fullmatch(r"[0-9]+(?:x[0-9]+)*", sizes)
        shape = tuple(map(int, sizes.split("x"))) if match else ()
        if not sign or not shape or not all(shape) or max(shape) >= 1 << 31:
            raise InvalidValueError(
                f"{utf8(value)!r} is not a shape: type the input's name and its sizes, such as "
                "input=1x3x224x224"
            )
        return name, shape


LATENCY = Amount("latency", parse_latency_ms)
DURATION = Amount("duration", parse_duration_s)
MANY = Amount("count", parse_count)
MILLIONS = Amount("count", parse_millions)
MEMORY = Amount("memory", parse_bytes)
PERCENT = Amount("percentage", parse_percent)
DEVICE = Device()
SHAPE = Shape()
FILE = click.Path(path_type=Path, dir_okay=False)
FILE_OR_FOLDER = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**31 - 1)
BATCH = click.IntRange(min=2)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
)


def _keep_quiet(context: click.Context, option: click.Parameter, value: bool) -> None:
    context.meta[QUIET] = value


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_keep_quiet,
    help="Print no progress, only the result and errors.",
)


table_option = click.option(
    "--table",
    "table",
    type=FILE,
    required=True,
    metavar="TABLE",
    help="Latency table, a file that `latbench profile` writes.",
)


seed_option = click.option(
    "--seed",
    type=SEED,
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of all random choices.",
)


def tolerance_option(of: str) -> Decorator:
    """The option ``--tolerance``; ``of`` describes it in the help."""
    return click.option(
        "--tolerance",
        type=FiniteRange(min=0),
        metavar="FRACTION",
        default=0.05,
        show_default=True,
        help=f"{of}, a fraction.",
    )


def output_file(of: str, *, required: bool = True, kind: click.Path = FILE) -> Decorator:
    """The option ``--output``; ``of`` describes the content of the file in the help."""
    return written_file("-o", "--output", help=f"File for {of}.", required=required, kind=kind)


def written_file(
    *names: str,
    help: str,  # noqa: A002 - as click names it
    required: bool = False,
    kind: click.Path = FILE,
) -> Decorator:
    """Option for a file that a command writes, which is none of its other files.

    Args:
        names: Short and long name of the option; the long one is last.
        help: Help text.
        required: Whether the option must be given.
        kind: What it may be: a file, or a file or a folder.
    """
    option = click.option(*names, type=kind, required=required, metavar="FILE", help=help)
    long = names[-1]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def checked(**values: Any) -> None:
            written = values[long.removeprefix("--")]
            if written is not None:
                _require_other_files(written, long, values)
                require_writable(written)  # before minutes of work
            command(**values)

        return option(checked)

    return decorate


def _require_other_files(written: Path, option: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name == option.removeprefix("--"):
            continue
        for other in value if isinstance(value, tuple) else (value,):
            if isinstance(other, Path) and other.resolve() == written.resolve():
                raise InvalidValueError(
                    f"{option} {written} would overwrite a file that the command also uses: choose "
                    "another file"
                )


def named(what: str, *choices: str) -> Named:
    """Option type that accepts one of these names."""
    return Named(what, lambda: choices)


def example(*commands: str) -> str:
    """Examples for the end of a command's help, one command a line."""
    return "\n".join(["\b", "Example:" if len(commands) == 1 else "Examples:", *_lines(commands)])


def _lines(commands: Iterable[str]) -> list[str]:
    return [f"  {command}" for command in commands]
