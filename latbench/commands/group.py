"""Groups of commands; a command is imported only when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from latbench.errors import UnknownNameError

Sections = Mapping[str, Mapping[str, str]]
"""Commands by heading of the help: each maps a name to ``module:attribute``."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called.

    Args:
        name: Name of the group.
        sections: The commands, in the order of the help.
        settings: Further arguments of ``click.Group``.
    """

    def __init__(self, name: str, sections: Sections, **settings: Any) -> None:
        super().__init__(name, **settings)
        self._sections = sections
        self._places = {n: place for part in sections.values() for n, place in part.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self._places:
            raise UnknownNameError("command", args[0], sorted(self._places))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self._places))
        for heading, commands in self._sections.items():
            rows = []
            for name in commands:
                command = self.get_command(ctx, name)
                assert command is not None
                limit = formatter.width - 6 - width
                rows.append((name.ljust(width), command.get_short_help_str(limit)))
            with formatter.section(heading):
                formatter.write_dl(rows)
