"""Search spaces as rows of data. A new space is one file here and one line in ``SPACES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from latbench.errors import UnknownNameError
from latbench.registry import Registry
from nas.spaces.architecture import PLAIN, Architecture, Choice, Variant, read_architecture
from nas.spaces.layer import FixedLayer, Layer, WidthsOf, aligned_widths, every_width
from nas.spaces.sampling import distinct_random, spread_networks
from nas.spaces.space import SearchSpace

SPACES: Registry[Callable[[int | None, int | None, Variant], SearchSpace]] = Registry(
    "search space",
    {
        "tfnas": "nas.spaces.tfnas:tfnas",
        "sgnas": "nas.spaces.sgnas:sgnas",
        "sgnas-proxyless": "nas.spaces.sgnas:sgnas_proxyless",
        "proxylessnas": "nas.spaces.proxylessnas:proxylessnas",
        "fbnet-s": "nas.spaces.fbnet:fbnet_s",
        "fbnet-l": "nas.spaces.fbnet:fbnet_l",
        "spos": "nas.spaces.spos:spos",
        "mobilefacenet": "nas.spaces.mobilefacenet:mobilefacenet",
        "nasbench-macro": "nas.spaces.nasbench_macro:nasbench_macro",
    },
    group="latbench.spaces",
)


def make_space(
    name: str,
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
) -> SearchSpace:
    """The search space called ``name``.

    Args:
        name: Name of the space, such as ``"tfnas"``.
        input_size: Side of the input image in pixels; None takes the published one.
        classes: Number of classes, or size of the embedding; None takes the published one.
        variant: Squeeze-excite and activation of all blocks, in spaces that leave them open.

    Raises:
        UnknownNameError: There is no such space.
        InvalidValueError: The input size or the number of classes is out of range, or the
            space has no such variant.
    """
    return SPACES[name](input_size, classes, variant)


def plain_space(space: SearchSpace) -> SearchSpace:
    """The space without squeeze-excite and with ReLU6: the variant of unified supernets."""
    if space.variant == PLAIN:
        return space
    return make_space(space.name, space.input_size, space.classes)


def space_of(architecture: Architecture) -> SearchSpace:
    """The space of an architecture, after checking that the architecture fits it.

    Raises:
        LatbenchError: The space is unknown or the architecture does not fit it.
    """
    space = _space(architecture)
    space.check(architecture)
    return space


def load_architecture(path: str | Path) -> Architecture:
    """Read an architecture file, and check that the architecture fits its space.

    Raises:
        LatbenchError: The file holds no architecture, or the architecture does not fit its space.
    """
    architecture = read_architecture(Path(path))
    space = _space(architecture)
    architecture = space.staged(architecture)
    space.check(architecture)
    return architecture


def _space(architecture: Architecture) -> SearchSpace:
    if architecture.space not in SPACES:
        raise UnknownNameError("search space", architecture.space, SPACES, path="$.space")
    return make_space(
        architecture.space, architecture.input_size, architecture.classes, architecture.variant
    )


__all__ = [
    "PLAIN",
    "SPACES",
    "Architecture",
    "Choice",
    "FixedLayer",
    "Layer",
    "SearchSpace",
    "Variant",
    "WidthsOf",
    "aligned_widths",
    "distinct_random",
    "every_width",
    "load_architecture",
    "make_space",
    "plain_space",
    "read_architecture",
    "space_of",
    "spread_networks",
]
