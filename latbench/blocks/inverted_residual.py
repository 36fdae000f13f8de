"""The inverted residual block of MobileNetV2 (Sandler et al. 2018), with squeeze-excite."""

from __future__ import annotations

import msgspec

from latbench.blocks.graph import INPUT, Activation, Graph, GraphBuilder, words


class InvertedResidual(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="inverted-residual",
):
    """1x1 expansion to ``width``, depthwise convolution, squeeze-excite, 1x1 projection.

    Batch norm follows every convolution except those of squeeze-excite. The projection has no
    activation. The input is added to the output if their shapes are equal.

    Attributes:
        width: Channels between the two 1x1 convolutions (mid or expanded channels).
        se_channels: Squeezed channels of squeeze-excite; 0 means none. Its inner activation is
            the block's, its gate a sigmoid, as in TF-NAS.
        groups: Number of channel groups of the two 1x1 convolutions (FBNet, Wu et al. 2019;
            without the channel shuffle, as in OSNASLib).
        expand: Whether the block has an expansion convolution. If not, ``width`` must equal
            ``in_channels``.
    """

    in_channels: int
    out_channels: int
    width: int
    kernel: int
    stride: int
    activation: Activation
    input_size: int
    se_channels: int = 0
    expand: bool = True
    groups: int = 1

    def __post_init__(self) -> None:
        if not self.expand and self.width != self.in_channels:
            raise ValueError(
                f"without an expansion convolution width is in_channels = {self.in_channels}, "
                f"not {self.width}"
            )

    def __str__(self) -> str:
        return words(
            "MBConv",
            f"k{self.kernel}",
            f"s{self.stride}",
            f"{self.in_channels}-{self.out_channels}",
            f"w{self.width}" if self.width else None,  # 0 stands for all widths
            None if self.expand else "unexpanded",
            f"g{self.groups}" if self.groups > 1 else None,
            f"se{self.se_channels}" if self.se_channels else None,
            self.activation,
            input_size=self.input_size,
        )

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        x = INPUT
        if self.expand:
            x = g.conv_norm_act(
                "expand",
                x,
                out_channels=self.width,
                groups=self.groups,
                activation=self.activation,
            )
        x = g.conv_norm_act(
            "depthwise",
            x,
            out_channels=self.width,
            kernel=self.kernel,
            stride=self.stride,
            groups=self.width,
            activation=self.activation,
        )
        if self.se_channels:
            x = g.squeeze_excite(
                "se", x, channels=self.se_channels, activation=self.activation, gate="sigmoid"
            )
        x = g.conv_norm_act("project", x, out_channels=self.out_channels, groups=self.groups)
        if self.stride == 1 and self.in_channels == self.out_channels:
            g.add("residual", x, INPUT)
        return g.build()
