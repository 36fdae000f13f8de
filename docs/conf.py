"""Configuration of the site: `make docs` builds it from these pages and from the code."""

from __future__ import annotations

from typing import Any

import latbench

project = "latbench"
author = "the latbench authors"
project_copyright = author
release = version = latbench.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
myst_heading_anchors = 3  # links to headings work as on a forge
exclude_patterns = ["modules.md"]  # for contributors: it belongs to ARCHITECTURE.md

_copied = ("bash", "console", "python", "toml")
copybutton_selector = ", ".join(f"div.highlight-{language} pre" for language in _copied)
copybutton_prompt_text = "$ "  # of a block with prompts, only the commands are copied
copybutton_line_continuation_character = "\\"

smartquotes = False  # `--` is an option, and not a dash

autodoc_member_order = "alphabetical"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"  # fields of files are attributes
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"latbench {version}"
html_copy_source = False
html_show_sphinx = False


def setup(app: Any) -> None:
    """Show the examples at the end of a command's help as code."""
    app.connect("sphinx-click-process-epilog", _examples_as_code)


def _examples_as_code(app: Any, context: Any, lines: list[str]) -> None:
    """Change lines in place: those behind a heading such as "Examples:" are commands."""
    commands = [line.strip(" |") for line in lines if "latbench " in line]
    if commands:
        indented = [f"   {command}" for command in commands]
        lines[:] = ["", ".. code-block:: bash", "", *indented, ""]
