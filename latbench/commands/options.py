"""Options that commands share, said once, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from latbench.errors import UnknownNameError
from latbench.units import parse_count, parse_duration_s, parse_latency_ms, parse_millions


class Amount(click.ParamType[Any]):
    """A number with its unit."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name, self.parse = name, parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return value if isinstance(value, float) else self.parse(value)


class Named(click.ParamType[Any]):
    """One of some names; a wrong one is answered with the nearest."""

    def __init__(self, what: str, choices: Callable[[], list[str]]) -> None:
        self.name, self.choices = what, choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = self.choices()
        if value not in known:
            raise UnknownNameError(self.name, value, known)
        return str(value)


LATENCY = Amount("latency", parse_latency_ms)
DURATION = Amount("duration", parse_duration_s)
MANY = Amount("count", parse_count)
MILLIONS = Amount("count", parse_millions)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**31 - 1)
BATCH = click.IntRange(min=2)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


table_option = click.option(
    "--table", "table_path", type=FILE, required=True, help="Latency table, made by `profile`."
)


def named(what: str, *choices: str) -> Named:
    """One of these names."""
    return Named(what, lambda: list(choices))
