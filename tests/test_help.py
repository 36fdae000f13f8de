"""The help of every command: whole sentences, an example that can be typed, nothing cut off."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Any

import click
import pytest

import cli
import latbench
import nas
from latbench.commands.group import LazyGroup
from latbench.tables.importers import IMPORTERS
from nas.data import DATASETS
from nas.scaffold import KINDS
from nas.searchers import SEARCHERS

COLUMNS = 80


def _commands(group: LazyGroup, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path[-1])
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyGroup):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(_commands(cli.latbench, ("latbench",)))
EVERY = pytest.mark.parametrize("name", COMMANDS)


@EVERY
def test_a_command_shows_how_it_is_typed(name: str) -> None:
    """Its examples name options that it has, and arguments for all that it needs."""
    command = COMMANDS[name]
    lines = (command.epilog or "").splitlines()
    assert lines[1] in ("Example:", "Examples:")
    assert lines[2:]
    for line in lines[2:]:
        words = shlex.split(line)
        assert line.strip().startswith(f"{name}")
        given = {word for word in words if word.startswith("-")}
        known = {option for param in command.params for option in param.opts}
        assert given <= known, line
        needed = [p for p in command.params if isinstance(p, click.Option) and p.required]
        assert all(given & set(option.opts) for option in needed), line


@EVERY
def test_options_are_explained_in_whole_sentences(name: str) -> None:
    for param in COMMANDS[name].params:
        if isinstance(param, click.Option):
            text = re.sub(r"  \[default: [^\]]*\]$", "", param.help or "")
            assert re.fullmatch(r"[A-Z].*\.", text, re.DOTALL), f"{name} {param.name}: {text!r}"


@EVERY
def test_a_command_with_progress_can_be_quiet(name: str) -> None:
    command = COMMANDS[name]
    assert command.callback is not None
    function = inspect.unwrap(command.callback)
    source = inspect.getsource(sys.modules[function.__module__])
    known = {option for param in command.params for option in param.opts}
    assert ("--quiet" in known) == ("with progress(" in source)


@EVERY
def test_the_first_sentence_of_a_command_fits_its_listing(name: str) -> None:
    command = COMMANDS[name]
    first = (command.help or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z][^.]*\.", first)
    assert command.get_short_help_str(COLUMNS) == first


@pytest.mark.parametrize("name", ["", "table", "generator"])
def test_listings_of_commands_are_not_cut(name: str) -> None:
    group = cli.latbench
    context = click.Context(group, info_name="latbench", terminal_width=COLUMNS)
    if name:
        found = group.get_command(context, name)
        assert isinstance(found, LazyGroup)
        group, context = found, click.Context(found, info_name=name, terminal_width=COLUMNS)
    text = group.get_help(context)
    assert "..." not in text.replace("COMMAND [ARGS]...", "")
    assert max(map(len, text.splitlines())) <= COLUMNS


@pytest.mark.parametrize(
    ("name", "option", "names"),
    [
        ("latbench search", "data", DATASETS.own),
        ("latbench search", "searcher", SEARCHERS.own),
        ("latbench table import", "kind", IMPORTERS.own),
    ],
)
def test_the_help_lists_all_names_that_an_option_takes(
    name: str, option: str, names: tuple[str, ...]
) -> None:
    """They stand there as text: listing them would import what is slow."""
    (found,) = [param for param in COMMANDS[name].params if param.name == option]
    assert isinstance(found, click.Option)
    assert set(names) <= set(re.findall(r"[\w-]+", found.help or ""))


def test_the_help_of_new_lists_all_kinds() -> None:
    assert set(KINDS) <= set(re.findall(r"\w+", COMMANDS["latbench new"].help or ""))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "latbench align": latbench.align,
    "latbench bench": nas.bench,
    "latbench calibrate": nas.calibrate,
    "latbench devices": latbench.check_device,
    "latbench evaluate": nas.evaluate,
    "latbench explain": nas.explain,
    "latbench fit": nas.fit,
    "latbench generate": nas.generate,
    "latbench generator adapt": nas.adapt_generator,
    "latbench profile": nas.profile,
    "latbench prune": nas.prune,
    "latbench report": nas.write_report,
    "latbench search": nas.search,
    "latbench table diff": latbench.compare_tables,
    "latbench train": nas.train,
    "latbench verify": nas.verify,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_option_and_the_functions_argument_have_one_default(name: str) -> None:
    """Help must not import the functions, so the defaults stand in both places."""
    arguments, compared = signature(FUNCTIONS[name]).parameters, 0
    for option in COMMANDS[name].params:
        argument = arguments.get(option.name or "")
        if argument is None or option.multiple:
            continue
        typed = option.get_default(click.Context(COMMANDS[name]))
        meant = argument.default
        if not isinstance(typed, str | int | float) or meant in (None, Parameter.empty):
            continue  # one of them has no default
        convert = option.type.convert
        assert convert(typed, option, None) == convert(meant, option, None), option.name
        compared += 1
    assert compared
