"""Convolution with batch norm and activation: for stems, last convolutions, changes of shape."""

from __future__ import annotations

import msgspec

from latbench.blocks.graph import INPUT, Activation, Graph, GraphBuilder, words


class ConvBlock(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="conv",
):
    """A ``kernel`` x ``kernel`` convolution with batch norm and an optional activation.

    A global depthwise convolution (MobileFaceNet, Chen et al. 2018) has one group per channel, a
    kernel of the map's size and no padding.

    Attributes:
        groups: Number of channel groups that are convolved separately.
        padding: Width of the zero padding on every side; ``kernel // 2`` if None.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: Activation | None
    input_size: int
    groups: int = 1
    padding: int | None = None

    def __str__(self) -> str:
        return words(
            "Conv",
            f"k{self.kernel}",
            f"s{self.stride}",
            f"{self.in_channels}-{self.out_channels}",
            f"g{self.groups}" if self.groups > 1 else None,
            None if self.padding is None else f"p{self.padding}",
            self.activation,
            input_size=self.input_size,
        )

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        g.conv_norm_act(
            "conv",
            INPUT,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            groups=self.groups,
            padding=self.padding,
            activation=self.activation,
        )
        return g.build()
