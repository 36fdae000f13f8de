"""Search spaces as rows of data. A new space is one file here and one line in ``SPACES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latbench.errors import UnknownNameError
from latbench.registry import Registry
from nas.spaces.architecture import Architecture, Choice, read_architecture
from nas.spaces.space import (
    Layer,
    SearchSpace,
    WidthsOf,
    aligned_widths,
    every_width,
    spread_networks,
)

SPACES: Registry[Callable[[int | None, int | None], SearchSpace]] = Registry(
    "search space",
    {
        "tfnas": "nas.spaces.tfnas:tfnas",
    },
)


def make_space(name: str, input_size: int | None = None, classes: int | None = None) -> SearchSpace:
    """The space called ``name``; its published input size and classes where None.

    Raises:
        UnknownNameError: No such space.
        InvalidValueError: The input size or the number of classes is out of range.
    """
    return SPACES[name](input_size, classes)


def space_of(architecture: Architecture) -> SearchSpace:
    """The space that an architecture belongs to; the architecture is checked.

    Raises:
        LatbenchError: The space is unknown or the architecture does not fit it.
    """
    if architecture.space not in SPACES:
        raise UnknownNameError("search space", architecture.space, SPACES, path="$.space")
    space = make_space(architecture.space, architecture.input_size, architecture.classes)
    space.check(architecture)
    return space


def load_architecture(path: Path) -> tuple[Architecture, SearchSpace]:
    """Read and check an architecture file; return it with its space.

    Raises:
        LatbenchError: The file is no architecture, or does not fit its space.
    """
    architecture = read_architecture(path)
    return architecture, space_of(architecture)


__all__ = [
    "SPACES",
    "Architecture",
    "Choice",
    "Layer",
    "SearchSpace",
    "WidthsOf",
    "aligned_widths",
    "every_width",
    "load_architecture",
    "make_space",
    "read_architecture",
    "space_of",
    "spread_networks",
]
