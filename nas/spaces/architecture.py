"""An architecture: a search space with every choice made, and its JSON file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from latbench.errors import InvalidFileError, offence

FORMAT: Literal[1] = 1
_MAX_FILE_BYTES = 1 << 20  # an architecture takes a few kilobytes; anything larger is foreign


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What stands at one layer.

    Attributes:
        op: Name of the operation, one of the space's.
        width: Mid (expanded) channels, where the operation is elastic.
    """

    op: str
    width: int | None = None


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choices by stage; a stage's length is its depth.

    Attributes:
        input_size: Side of the square input image in pixels.
        classes: Outputs of the classifier.
    """

    format: Literal[1]
    space: str
    input_size: int
    classes: int
    stages: tuple[tuple[Choice, ...], ...]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All layers' choices in the order of execution."""
        return tuple(choice for stage in self.stages for choice in stage)

    def as_dict(self) -> dict[str, object]:
        """The architecture as plain JSON values."""
        plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    def to_json(self) -> str:
        """The file's text: a line a stage, readable by a person."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2).decode()
        return re.sub(r"\{\s+([^{}]*?)\s+\}", _one_line, text) + "\n"


def _one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\s*\n\s*", " ", match.group(1)) + "}"


def parse_architecture(text: bytes | str, *, source: str) -> Architecture:
    """Read an architecture's JSON; the space checks what it means (``SearchSpace.check``).

    Args:
        text: The JSON.
        source: What to call it in errors, such as the file's name.

    Raises:
        InvalidFileError: Not an architecture; carries the path of the offending value.
    """
    try:
        return msgspec.json.decode(text, type=Architecture)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFileError(
            f"{source} is no architecture: {error}", path=offence(str(error))
        ) from error


def read_architecture(path: Path) -> Architecture:
    """Read an architecture file.

    Raises:
        InvalidFileError: The file is missing, unreadable or no architecture.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidFileError(f"{path} is no architecture: it is larger than 1 MiB")
        text = path.read_bytes()
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror}") from error
    return parse_architecture(text, source=str(path))
