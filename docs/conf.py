"""Configuration of the site: `make docs` builds it from these pages and from the code."""

from __future__ import annotations

import latbench

project = "latbench"
author = "the latbench authors"
project_copyright = author
release = version = latbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
myst_heading_anchors = 3  # links to headings work as on a forge
exclude_patterns = ["modules.md"]  # for contributors: it belongs to ARCHITECTURE.md

autodoc_member_order = "alphabetical"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"latbench {version}"
html_copy_source = False
html_show_sphinx = False
