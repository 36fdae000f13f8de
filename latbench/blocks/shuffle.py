"""Units of ShuffleNetV2 (Ma et al. 2018) and their Xception form, as in SPOS (Guo et al. 2020).

A unit that keeps the shape of its map passes half of the channels on unchanged and convolves the
other half. A unit that changes the shape convolves all channels in both branches. The branches are
concatenated, and their channels are shuffled in two groups, so that the next unit mixes both.
"""

from __future__ import annotations

import msgspec

from latbench.blocks.graph import INPUT, Activation, Graph, GraphBuilder, words

_XCEPTION_KERNEL = 3
_XCEPTION_CONVOLUTIONS = 3


class ShuffleUnit(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="shuffle",
):
    """Unit with a 1x1, a depthwise and another 1x1 convolution in its main branch.

    Batch norm follows every convolution; the activation follows the 1x1 convolutions.
    """

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: Activation
    input_size: int

    def __post_init__(self) -> None:
        _check_halves(self.out_channels)

    def __str__(self) -> str:
        return _name("Shuffle", self, self.kernel)

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        kept, x = _branches(g, self, self.kernel)
        half = self.out_channels // 2
        x = g.conv_norm_act("reduce", x, out_channels=half, activation=self.activation)
        return _joined(g, kept, _separable(g, "main", x, self, self.kernel, self.stride))


class ShuffleXception(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="shuffle-xception",
):
    """Unit with three pairs of a depthwise 3x3 and a 1x1 convolution in its main branch.

    Norms and activations are as in ``ShuffleUnit``. The first depthwise convolution has the stride.
    """

    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    input_size: int

    def __post_init__(self) -> None:
        _check_halves(self.out_channels)

    def __str__(self) -> str:
        return _name("ShuffleXception", self, _XCEPTION_KERNEL)

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        kept, x = _branches(g, self, _XCEPTION_KERNEL)
        for i in range(_XCEPTION_CONVOLUTIONS):
            stride = self.stride if i == 0 else 1
            x = _separable(g, f"main{i}", x, self, _XCEPTION_KERNEL, stride)
        return _joined(g, kept, x)


_Unit = ShuffleUnit | ShuffleXception


def _name(kind: str, unit: _Unit, kernel: int) -> str:
    channels = f"{unit.in_channels}-{unit.out_channels}"
    return words(
        kind,
        f"k{kernel}",
        f"s{unit.stride}",
        channels,
        unit.activation,
        input_size=unit.input_size,
    )


def _check_halves(out_channels: int) -> None:
    if out_channels % 2:
        raise ValueError(f"a shuffle unit has an even number of channels, not {out_channels}")


def _branches(g: GraphBuilder, unit: _Unit, kernel: int) -> tuple[str, str]:
    """Names of the map that is concatenated unchanged and of the main branch's input."""
    half = unit.out_channels // 2
    if unit.stride == 1 and unit.in_channels == unit.out_channels:
        kept, x = g.split(["kept", "convolved"], INPUT, [half, half])
        return kept, x
    return _separable(g, "side", INPUT, unit, kernel, unit.stride), INPUT


def _separable(g: GraphBuilder, name: str, x: str, unit: _Unit, kernel: int, stride: int) -> str:
    """Add a depthwise convolution and a 1x1 convolution to half of the unit's channels."""
    channels = g.channels(x)
    x = g.conv_norm_act(
        f"{name}_depthwise",
        x,
        out_channels=channels,
        kernel=kernel,
        stride=stride,
        groups=channels,
    )
    half = unit.out_channels // 2
    return g.conv_norm_act(f"{name}_pointwise", x, out_channels=half, activation=unit.activation)


def _joined(g: GraphBuilder, kept: str, x: str) -> Graph:
    g.shuffle("shuffle", g.concat("concat", [kept, x]), groups=2)
    return g.build()
