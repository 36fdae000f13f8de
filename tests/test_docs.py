"""The pages: their commands exist with their options, their links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from docs.examples import typed
from tests.test_help import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
LONGEST_README = 100  # lines, a screen and a half


def _commands(page: Path) -> Iterator[tuple[str, ...]]:
    """Commands of ``latbench`` that a page shows, also those behind ``torchrun``, run or not."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for words, _ in typed(block):
            if "latbench" in words:
                yield words[words.index("latbench") :]


@EVERY
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    for words in _commands(page):
        line = " ".join(words)
        name = next((n for n in (" ".join(words[:3]), " ".join(words[:2])) if n in COMMANDS), None)
        assert name is not None or words[1] == "..." or words[1].startswith("-"), line
        if name is None:
            continue
        options = [p for p in COMMANDS[name].params if isinstance(p, click.Option)]
        known = {option for each in options for option in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known | {"--help", "-h"}, line


@EVERY
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_commands_and_links_are_found() -> None:
    """Otherwise the tests above would look at nothing."""
    assert sum(len([*_commands(page)]) for page in PAGES) > 100
    links = sum(
        len(re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))) for page in PAGES
    )
    assert links > 100


def test_every_page_of_the_site_is_in_its_contents() -> None:
    docs = ROOT / "docs"
    listed = re.findall(r"^([\w/-]+)$", (docs / "index.md").read_text(), re.MULTILINE)
    pages = {page.relative_to(docs).with_suffix("").as_posix() for page in docs.rglob("*.md")}
    assert set(listed) == pages - {"index", "modules"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README
