"""The findings of all items as one short text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_LINES = 99
_WIDTH = 220


def text_of(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A heading for each item, its lines, and the end of its output if it failed.

    Args:
        found: Findings by the item's name, as ``run_item`` returns them.
    """
    lines = []
    for name, each in found.items():
        lines.append(f"{name}: {each['status']}, {each['seconds']:.0f} s")
        lines += [f"  {line}" for line in each["lines"]]
        lines += [f"  | {line}" for line in each.get("output", ())]
    shown = [line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in lines]
    if len(shown) > _MOST_LINES:
        shown = [*shown[: _MOST_LINES - 1], "... the rest is in check.json"]
    return "\n".join(shown)
