"""What an item finds: figures for programs and lines for people, written down as they come.

The file is rewritten after every finding, so that an item that is ended early leaves the rest.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class Record:
    """The findings of one item.

    Args:
        path: The JSON file that holds them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {"figures": {}, "lines": []}

    def add(self, line: str, **figures: Any) -> None:
        """One finding in words, and its figures by name."""
        self._found["lines"].append(line)
        self._found["figures"] |= figures
        write_json(self._path, self._found)

    def end(self, status: str) -> None:
        """How the item ended, if it was not ``done``."""
        self._found["status"] = status
        write_json(self._path, self._found)


def read_record(path: Path) -> dict[str, Any]:
    """What an item has found so far; nothing if it has not written anything."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {"figures": {}, "lines": []}
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one piece; numbers that are not finite become null."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(_finite(value), indent=1, default=str) + "\n")
    fresh.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
