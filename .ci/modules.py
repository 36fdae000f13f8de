"""Writes docs/modules.md: every module with the first sentence of its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "modules.md"
PACKAGES = ("latbench", "nas")
HEAD = """# Modules

What each module is for, from the first lines of its docstring. `make format` writes this page.
[ARCHITECTURE.md](../ARCHITECTURE.md) says how they work together. A module in `commands` without a
line is the command of its name.
"""


def page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            lines = [f"- `{path.name}`: {text}" for path, text in _described(folder)]
            if lines:
                parts.append("\n".join([f"## `{folder.relative_to(ROOT)}`\n", *lines, ""]))
    return "\n".join(parts)


def _described(folder: Path) -> Iterator[tuple[Path, str]]:
    """Modules of a folder with their first lines, except commands and empty ones."""
    for path in sorted(folder.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = " ".join(docstring.split("\n\n")[0].split())
        if first and not first.startswith("``latbench "):
            yield path, first.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
