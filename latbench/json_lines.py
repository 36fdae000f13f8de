"""Reading of files with one JSON value a line, which long runs add to."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from latbench.errors import InvalidFileError

T = TypeVar("T")


def read_json_lines(
    path: Path, kind: type[T], *, cuts: bool = False, remedy: str = "delete that line"
) -> list[T]:
    """Values of a file with one JSON value a line; none if there is no such file.

    A killed process may leave half a line at the end, which is left out.

    Args:
        path: File to read.
        kind: Type of the values.
        cuts: Whether half a line is also removed from the file, so that lines can be added.
        remedy: What to do about a damaged line, for the message.

    Raises:
        InvalidFileError: Another line is damaged.
    """
    raw = path.read_bytes() if path.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    values = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            values.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidFileError(
                f"{path} is damaged in line {number}: {error}; {remedy}", path=f"$[{number - 1}]"
            ) from error
    if cuts and len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return values
