"""``latbench generator``: the group of commands on architecture generators."""

from __future__ import annotations

from latbench.commands.group import LazyGroup

generator = LazyGroup(
    "generator",
    {
        "Commands": {
            "show": "nas.commands.generator_show:generator_show",
            "adapt": "nas.commands.generator_adapt:generator_adapt",
            "import": "nas.commands.generator_import:generator_import",
        }
    },
    help="Show, adapt and import architecture generators.",
)
