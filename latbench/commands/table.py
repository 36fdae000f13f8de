"""``latbench table``: the group of commands on latency tables."""

from __future__ import annotations

from latbench.commands.group import LazyGroup

table = LazyGroup(
    "table",
    {
        "Commands": {
            "show": "latbench.commands.table_show:table_show",
            "check": "latbench.commands.table_check:table_check",
            "diff": "latbench.commands.table_diff:table_diff",
            "export": "latbench.commands.table_export:table_export",
            "import": "nas.commands.table_import:table_import",
        }
    },
    help="Show, check, compare and convert latency tables.",
)
