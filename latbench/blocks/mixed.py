"""The mixed block of SGNAS (Huang & Chu, CVPR 2021): an inverted residual of several kernels.

The expanded channels are divided into groups of ``in_channels`` channels, the *sub-blocks*. Each
sub-block has its own depthwise kernel (MixConv, Tan & Le 2019). The 1x1 convolutions before and
after mix all channels, so the order of the sub-blocks changes neither what the block can compute
nor its latency. Only the number of sub-blocks with each kernel matters. Kernels are therefore
stored in ascending order, and sub-blocks with equal kernels form one depthwise convolution.
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

    One batch norm and one activation cover all groups. The projection has a norm and no activation.
    The input is added to the output if their shapes are equal. A block with a single kernel has no
    expansion convolution.

    Attributes:
        kernels: Kernel of every group of ``in_channels`` channels, in ascending order. The number
            of kernels is the expansion ratio.
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
    """Index of the sub-block that each channel group of a block holds.

    Group j of the block holds sub-block ``sub_block_order(kernels)[j]``. Sub-blocks are sorted by
    kernel; sub-blocks with equal kernels keep their order. A supernet keeps its weights in the
    order of the sub-blocks; this index converts between that order and the order of a block.
    """
    return tuple(sorted(range(len(kernels)), key=lambda i: kernels[i]))
