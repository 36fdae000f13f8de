"""Layers as rows of data, and the inverted residuals that most of them choose from.

Operations are called as OSNASLib's: ``k5_e6`` is an inverted residual with a kernel of 5 and six
times as many expanded channels, ``k3_e1_g2`` one without expansion convolution whose 1x1
convolution has 2 groups, ``skip`` what passes a map on at least cost.
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
from nas.spaces.space import FixedLayer, Layer

Row = tuple[int, int]
"""Output channels and stride of a layer."""

MakeLayer = Callable[[int, int, int, int], Layer]
"""A layer of these input channels, output channels, stride and input size in pixels."""

SKIP = "skip"
_INVERTED = re.compile(r"k(\d+)_e(\d+)(?:_g(\d+))?")


def laid_out(
    stem: Network, rows: Sequence[Row], make_layer: MakeLayer
) -> tuple[tuple[tuple[Layer, ...], ...], int, int]:
    """Layers after a stem, each reading what the one before it writes.

    Returns:
        Stages, which are consecutive layers of equal output channels; output channels of the
        last layer; its output size in pixels.
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
    """Layers that choose from inverted residuals, and from a skip where it is among ``ops``."""

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
    """What passes a map on: nothing, where the shape stays; means, where only its size changes;
    else a 1x1 convolution with norm.
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
    """The block that an operation's name says, at a layer."""
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
