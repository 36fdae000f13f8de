"""The mixed block of SGNAS (Huang & Chu, CVPR 2021): an inverted residual of several kernels.

The expanded channels are groups of ``in_channels``, the *sub-blocks*, each with a depthwise kernel
of its own (MixConv, Tan & Le 2019). The 1x1 convolutions around them mix all channels, so which
group stands first is of no consequence to what the block can compute or how fast: it depends only
on how many groups have each kernel. Blocks therefore have their kernels in ascending order, and
groups of equal kernel are one depthwise convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from latbench.blocks.graph import INPUT, Activation, Graph, GraphBuilder, words


class MixedInvertedResidual(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="mixed-inverted-residual",
):
    """1x1 expansion, depthwise kernels by group, squeeze-excite, 1x1 projection.

    One batch norm and activation over all groups; the projection has a norm and no activation;
    the input is added where shapes agree. With a single kernel there is no expansion.

    Attributes:
        kernels: Kernel of every group of ``in_channels`` channels, in ascending order; their
            number is the expansion.
        se_channels: Squeezed channels of squeeze-excite; 0 means none. Its inner activation is
            ReLU, its gate h-sigmoid, as in MobileNetV3 and SGNAS.
    """

    in_channels: int
    out_channels: int
    kernels: tuple[int, ...]
    stride: int
    activation: Activation
    input_size: int
    se_channels: int = 0

    def __post_init__(self) -> None:
        if not self.kernels or list(self.kernels) != sorted(self.kernels):
            raise ValueError(f"kernels are one or more in ascending order, not {self.kernels}")

    def __str__(self) -> str:
        return words(
            "MixConv",
            f"k{'+'.join(map(str, self.kernels))}",
            f"s{self.stride}",
            f"{self.in_channels}-{self.out_channels}",
            f"se{self.se_channels}" if self.se_channels else None,
            self.activation,
            input_size=self.input_size,
        )

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        x = INPUT
        mid = self.in_channels * len(self.kernels)
        if len(self.kernels) > 1:
            x = g.conv_norm_act("expand", x, out_channels=mid, activation=self.activation)
        groups = Counter(self.kernels)
        channels = [self.in_channels * count for count in groups.values()]
        pieces = [x]
        if len(groups) > 1:
            pieces = g.split([f"slice_k{kernel}" for kernel in groups], x, channels)
        pieces = [
            g.conv(
                f"depthwise_k{kernel}",
                piece,
                out_channels=count,
                kernel=kernel,
                stride=self.stride,
                groups=count,
            )
            for kernel, piece, count in zip(groups, pieces, channels, strict=True)
        ]
        x = g.concat("concat", pieces) if len(pieces) > 1 else pieces[0]
        x = g.act("depthwise_act", g.norm("depthwise_norm", x), self.activation)
        if self.se_channels:
            x = g.squeeze_excite(
                "se", x, channels=self.se_channels, activation="relu", gate="hsigmoid"
            )
        x = g.conv_norm_act("project", x, out_channels=self.out_channels)
        if self.stride == 1 and self.in_channels == self.out_channels:
            g.add("residual", x, INPUT)
        return g.build()


def sub_block_order(kernels: Sequence[int]) -> tuple[int, ...]:
    """Which sub-block each group of a block's channels is, where sub-blocks have an order.

    Group j of the block holds sub-block ``sub_block_order(kernels)[j]``: sub-blocks by kernel,
    equal ones in the order they stand in. Weights trained in sub-block order (supernets) are
    laid into a block, and read out of it, by this.
    """
    return tuple(sorted(range(len(kernels)), key=lambda i: kernels[i]))
