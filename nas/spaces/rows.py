"""Layers as rows of data, and the inverted residuals that most of them choose from.

Operations have the names of OSNASLib. ``k5_e6`` is an inverted residual with a kernel of 5 that
expands the channels six times. ``k3_e1_g2`` has no expansion convolution, and its 1x1 convolution
has 2 groups. ``skip`` is the cheapest operation that gives the shape of the output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from latbench.blocks import (
    AverageBlock,
    BlockSpec,
    ConvBlock,
    InvertedResidual,
    Network,
    output_shape,
)
from latbench.blocks.graph import Activation
from nas.spaces.layer import FixedLayer, Layer

Row = tuple[int, int]
"""Output channels and stride of a layer."""

MakeLayer = Callable[[int, int, int, int], Layer]
"""Makes a layer from input channels, output channels, stride and input size in pixels."""

SKIP = "skip"
_INVERTED = re.compile(r"k(\d+)_e(\d+)(?:_g(\d+))?")


def laid_out(
    stem: Network, rows: Sequence[Row], make_layer: MakeLayer
) -> tuple[tuple[tuple[Layer, ...], ...], int, int]:
    """Layers after a stem, in order; the output of each is the input of the next.

    Returns:
        Stages, where a stage is consecutive layers of equal output channels; output channels of
        the last layer; output size of the last layer in pixels.
    """
    channels, size, _ = output_shape(stem[-1])
    stages = []
    for _, group in groupby(rows, key=lambda row: row[0]):
        stage = []
        for out_channels, stride in group:
            stage.append(make_layer(channels, out_channels, stride, size))
            channels, size = out_channels, (size + stride - 1) // stride
        stages.append(tuple(stage))
    return tuple(stages), channels, size


def inverted_residuals(ops: Sequence[str], activation: Activation) -> MakeLayer:
    """Makes layers that choose from inverted residuals, and a skip if ``ops`` contains it."""

    def make_layer(in_channels: int, out_channels: int, stride: int, input_size: int) -> FixedLayer:
        shape = (in_channels, out_channels, stride, input_size)
        return FixedLayer(
            tuple(
                (op, skip(*shape) if op == SKIP else inverted_residual(op, activation, *shape))
                for op in ops
            )
        )

    return make_layer


def skip(in_channels: int, out_channels: int, stride: int, input_size: int) -> BlockSpec | None:
    """The block of the skip operation, or None for the identity.

    It is the identity if the shape stays, average pooling if only the size changes, and a 1x1
    convolution with norm otherwise.
    """
    if in_channels == out_channels:
        return None if stride == 1 else AverageBlock(in_channels, stride, input_size)
    return ConvBlock(in_channels, out_channels, 1, stride, None, input_size)


def inverted_residual(
    op: str,
    activation: Activation,
    in_channels: int,
    out_channels: int,
    stride: int,
    input_size: int,
) -> InvertedResidual:
    """The block of an operation's name at a layer."""
    match = _INVERTED.fullmatch(op)
    assert match is not None
    kernel, expansion, groups = (int(number or 1) for number in match.groups())
    return InvertedResidual(
        in_channels,
        out_channels,
        expansion * in_channels,
        kernel,
        stride,
        activation,
        input_size,
        expand=expansion > 1,
        groups=groups,
    )
