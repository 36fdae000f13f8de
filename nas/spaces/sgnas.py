"""The SGNAS search space (Huang & Chu, CVPR 2021): unified blocks of up to six sub-blocks.

A layer expands its input channels e times, e = 1..6, and gives each of the e groups a depthwise
kernel of 3, 5 or 7. Each group is a sub-block of the supernet that is not skipped. ``sgnas`` has
the 19 layers of the paper; below 64 px (the CIFAR form) the stem and the first layer have stride 1.
``sgnas-proxyless`` has the 21 layers of ProxylessNAS in OSNASLib, with the same strides at every
size.

The variant of a network is its squeeze-excite (mid // 4 channels, in every block including the
first) and its activation (of the stem and the last convolution too). Published networks have both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement

import numpy as np

from latbench.blocks import Classifier, ConvBlock, MixedInvertedResidual, output_shape
from nas.spaces import proxylessnas
from nas.spaces.architecture import PLAIN, Architecture, Choice, Variant
from nas.spaces.arguments import chosen_shape
from nas.spaces.layer import Layer, WidthsOf, refuse
from nas.spaces.rows import Row, laid_out
from nas.spaces.space import SearchSpace

KERNELS = (3, 5, 7)
SUB_BLOCKS = 6
SKIP = len(KERNELS)
"""Choice that leaves a sub-block out; the choices 0, 1 and 2 are the kernels."""

CHOICES = SKIP + 1
SE_REDUCTION = 4
OP = "mix"

# output channels, stride
ROWS: tuple[Row, ...] = (
    *((32, 2), (32, 1)),
    *((40, 2), (40, 1), (40, 1), (40, 1)),
    *((80, 2), (80, 1), (80, 1), (80, 1)),
    *((96, 1), (96, 1), (96, 1), (96, 1)),
    *((192, 2), (192, 1), (192, 1), (192, 1)),
    (320, 1),
)
STEM_CHANNELS, FIRST_CHANNELS, LAST_CHANNELS = 32, 16, 1280
SMALL_INPUT = 64  # px; below this size stem and first layer keep the resolution

KERNEL_MULTISETS: tuple[tuple[int, ...], ...] = tuple(
    kernels
    for active in range(1, SUB_BLOCKS + 1)
    for kernels in combinations_with_replacement(KERNELS, active)
)
"""The 83 multisets of kernels of a layer, each in ascending order, sorted by expansion."""


@dataclass(frozen=True)
class MixLayer(Layer):
    """One unified block: its only operation is a mix of one to six kernels."""

    in_channels: int
    out_channels: int
    stride: int
    input_size: int
    variant: Variant = PLAIN

    @property
    def ops(self) -> tuple[str, ...]:
        return (OP,)

    def choices(self, op: str, widths: WidthsOf) -> list[Choice]:
        """The distinct blocks, each with its kernels in ascending order."""
        return [Choice(op, kernels=kernels) for kernels in KERNEL_MULTISETS]

    def draw(self, op: str, rng: np.random.Generator, widths: WidthsOf) -> Choice:
        return Choice(op, kernels=KERNEL_MULTISETS[int(rng.integers(len(KERNEL_MULTISETS)))])

    def block(self, choice: Choice) -> MixedInvertedResidual:
        """The block of a choice. The order of the sub-blocks does not matter."""
        assert choice.kernels is not None
        return _mixed(
            self.in_channels,
            self.out_channels,
            tuple(sorted(choice.kernels)),
            self.stride,
            self.input_size,
            self.variant,
        )

    def check(self, choice: Choice, *, path: str) -> None:
        super().check(Choice(choice.op, choice.width), path=path)
        kernels = choice.kernels or ()
        if not 1 <= len(kernels) <= SUB_BLOCKS or not set(kernels) <= set(KERNELS):
            refuse(
                f"{path}.kernels",
                f"a mix has 1 to {SUB_BLOCKS} kernels of {', '.join(map(str, KERNELS))}, "
                f"not {list(kernels)}",
            )


def sgnas(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 224) and a number of classes (1000).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(224, 1000))
    small = input_size < SMALL_INPUT
    rows = ((ROWS[0][0], 1), *ROWS[1:]) if small else ROWS
    return _space("sgnas", input_size, classes, variant, stem_stride=1 if small else 2, rows=rows)


def sgnas_proxyless(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """Unified blocks in the rows of ProxylessNAS, by default at 32 px and for 100 classes.

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(32, 100))
    rows = proxylessnas.ROWS
    return _space("sgnas-proxyless", input_size, classes, variant, stem_stride=2, rows=rows)


def is_unified(space: SearchSpace) -> bool:
    """Whether the layers of a space are unified blocks, so that it has a unified supernet."""
    return all(isinstance(layer, MixLayer) for layer in space.layers)


def kernels_of(choices: Sequence[int]) -> tuple[int, ...]:
    """Kernels of the sub-blocks that are not skipped, in the order of the sub-blocks."""
    return tuple(KERNELS[choice] for choice in choices if choice != SKIP)


def architecture_of(space: SearchSpace, choices: Iterable[Sequence[int]]) -> Architecture:
    """The architecture of the choices of all sub-blocks; skipped sub-blocks are dropped."""
    return of_kernels(space, map(kernels_of, choices))


def of_kernels(space: SearchSpace, kernels: Iterable[tuple[int, ...]]) -> Architecture:
    """The architecture that has these kernels in each layer."""
    left = iter(kernels)
    return space.architecture(
        [[Choice(OP, kernels=next(left)) for _ in stage] for stage in space.stages]
    )


def path_of(architecture: Architecture) -> list[list[int]]:
    """The path of an architecture: its kernels fill the first sub-blocks, the others are skipped.

    An architecture does not state which sub-blocks it skips; training treats all alike.
    """
    rows = []
    for choice in architecture.choices:
        kernels = choice.kernels or ()
        active = [KERNELS.index(kernel) for kernel in kernels]
        rows.append(active + [SKIP] * (SUB_BLOCKS - len(active)))
    return rows


def random_network(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """A random network, with a random preference for narrow or wide layers and for large kernels.

    Without these preferences nearly all networks would have about the same cost.
    """
    wide, large = rng.uniform(size=2)
    kernels = []
    for _ in space.layers:
        expansion = 1 + int(rng.binomial(SUB_BLOCKS - 1, wide))
        chosen = rng.binomial(len(KERNELS) - 1, large, size=expansion)
        kernels.append(tuple(sorted(KERNELS[k] for k in chosen)))
    return of_kernels(space, kernels)


def _space(
    name: str,
    input_size: int,
    classes: int,
    variant: Variant,
    *,
    stem_stride: int,
    rows: Sequence[Row],
) -> SearchSpace:
    activation = variant.activation
    stem = ConvBlock(3, STEM_CHANNELS, 3, stem_stride, activation, input_size)
    first = _mixed(
        STEM_CHANNELS, FIRST_CHANNELS, (3,), 1, output_shape(stem)[1], variant
    )  # no expansion
    stages, channels, size = laid_out((stem, first), rows, partial(MixLayer, variant=variant))
    last = ConvBlock(channels, LAST_CHANNELS, 1, 1, activation, size)
    return SearchSpace(
        name,
        input_size,
        classes,
        (stem, first),
        stages,
        (last, Classifier(LAST_CHANNELS, classes, size)),
        elastic_depth=False,
        variant=variant,
    )


def _mixed(
    in_channels: int,
    out_channels: int,
    kernels: tuple[int, ...],
    stride: int,
    input_size: int,
    variant: Variant,
) -> MixedInvertedResidual:
    return MixedInvertedResidual(
        in_channels,
        out_channels,
        kernels,
        stride,
        variant.activation,
        input_size,
        se_channels=len(kernels) * in_channels // SE_REDUCTION if variant.se else 0,
    )
