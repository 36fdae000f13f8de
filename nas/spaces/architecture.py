"""An architecture: a search space with every choice made, and its JSON file."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Literal

import msgspec

from latbench.errors import InvalidFileError, described, offence
from latbench.files import read_text, write_atomically

FORMAT: Literal[1] = 1
_WHAT = "an architecture, JSON such as `latbench spaces NAME --draw random -o ARCH` writes"


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The choice of one layer.

    Attributes:
        op: Name of the operation.
        width: Number of expanded channels, if the operation is elastic.
        kernels: Kernel sizes of the active sub-blocks in their order, if the operation is a mix of
            kernels.
    """

    op: str
    width: int | None = None
    kernels: tuple[int, ...] | None = None


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options that all blocks of a network share, in spaces that leave them open.

    Attributes:
        se: Whether every block has squeeze-excite.
        activation: Activation of every block, including stem and last convolution.
    """

    se: bool = False
    activation: Literal["relu6", "hswish"] = "relu6"

    def __post_init__(self) -> None:
        # a default is left out of the file only if it is the same object
        msgspec.structs.force_setattr(self, "activation", sys.intern(self.activation))

    def __str__(self) -> str:
        return f"{'with' if self.se else 'without'} squeeze-excite, {self.activation}"


PLAIN = Variant()


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network with every choice made.

    Attributes:
        space: Name of the search space.
        input_size: Side of the square input image in pixels.
        classes: Number of outputs of the classifier, or size of the embedding.
        stages: Choices of the layers, by stage. The length of a stage is its depth.
        se: Whether every block has squeeze-excite.
        activation: Activation of every block.
    """

    format: Literal[1]
    space: str
    input_size: int
    classes: int
    stages: tuple[tuple[Choice, ...], ...]
    se: bool = PLAIN.se
    activation: Literal["relu6", "hswish"] = PLAIN.activation

    def __post_init__(self) -> None:
        # a default is left out of the file only if it is the same object
        msgspec.structs.force_setattr(self, "activation", sys.intern(self.activation))

    @property
    def variant(self) -> Variant:
        return Variant(self.se, self.activation)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Choices of all layers in the order of execution."""
        return tuple(choice for stage in self.stages for choice in stage)

    def __repr__(self) -> str:
        depths = "-".join(str(len(stage)) for stage in self.stages)
        return (
            f"Architecture({self.space}, {self.input_size} px, {self.classes} classes, "
            f"{len(self.choices)} layers in stages of {depths})"
        )

    def _repr_html_(self) -> str:
        """The text of the file, which a notebook shows."""
        return f"<pre>{escape(self.to_json())}</pre>"

    def save(self, path: str | Path) -> None:
        """Write the architecture's file.

        Raises:
            InvalidFileError: The file cannot be written.
        """
        write_atomically(Path(path), self.to_json())

    def as_dict(self) -> dict[str, object]:
        """The architecture as plain JSON values."""
        plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    def to_json(self) -> str:
        """The text of the file, with one line for each stage."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2).decode()
        return re.sub(r"\{\s+([^{}]*?)\s+\}", _one_line, text) + "\n"


def _one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\s*\n\s*", " ", match.group(1)) + "}"


class FlatLayers(tuple[Choice, ...]):
    """Layers of a file that does not divide them into stages."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The two allowed forms of a file: layers by stage, or a flat list where depth is fixed."""

    format: Literal[1]
    space: str
    input_size: int
    classes: int
    stages: tuple[tuple[Choice, ...], ...] | None = None
    layers: tuple[Choice, ...] | None = None
    se: bool = PLAIN.se
    activation: Literal["relu6", "hswish"] = PLAIN.activation


def parse_architecture(text: bytes | str, *, source: str) -> Architecture:
    """Read the JSON of an architecture. ``SearchSpace.check`` checks whether it fits its space.

    A flat list of layers becomes one stage, a ``FlatLayers``, which ``SearchSpace.staged`` splits
    into stages.

    Args:
        text: The JSON.
        source: Name of the text in errors, such as the path of the file.

    Raises:
        InvalidFileError: The text is no architecture. Carries the path of the offending value.
    """
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, UnicodeError) as error:  # UnicodeError: half of a surrogate pair
        raise InvalidFileError(
            f"{source} is no architecture: {described(error, _File)}", path=offence(str(error))
        ) from error
    if file.stages is not None and file.layers is not None:
        raise InvalidFileError(
            f"{source} has both stages and layers: keep one of them", path="$.layers"
        )
    stages = file.stages if file.layers is None else (FlatLayers(file.layers),)
    if stages is None:
        raise InvalidFileError(
            f"{source} is no architecture: Object missing required field `stages`", path="$.stages"
        )
    return Architecture(
        file.format,
        file.space,
        file.input_size,
        file.classes,
        stages,
        se=file.se,
        activation=file.activation,
    )


def read_architecture(path: Path) -> Architecture:
    """Read an architecture file.

    Raises:
        InvalidFileError: The file is missing or unreadable, or holds no architecture.
    """
    return parse_architecture(read_text(path, what=_WHAT), source=str(path))
