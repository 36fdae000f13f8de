"""Networks that a searched one is compared with, as block specs with a width multiplier.

At inputs below 64 px the stem keeps the resolution, as in the TF-NAS space. Channels are rounded to
multiples of 4, finer than the published 8, so that a latency can be met within a percent.

* MobileNetV2: Sandler et al. 2018, Table 2.
* MobileNetV3-small: Howard et al. 2019, Table 2. Squeeze-excite has the block's activation inside
  and a sigmoid as its gate, where the paper has ReLU and a hard sigmoid; the hidden layer of 1,024
  behind the pooling is left out.
* EfficientNet-B0: Tan & Le 2019, Table 1.
"""

from __future__ import annotations

from collections.abc import Callable

from latbench.blocks import (
    BlockSpec,
    Classifier,
    ConvBlock,
    InvertedResidual,
    Network,
    output_shape,
)
from latbench.blocks.graph import Activation
from nas.spaces.tfnas import SMALL_INPUT

DIVISOR = 4

# expansion, channels, repeats, stride
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# kernel, expanded channels, channels, squeeze-excite, activation, stride
_MOBILENET_V3_SMALL: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hswish", 2),
    (5, 240, 40, True, "hswish", 1),
    (5, 240, 40, True, "hswish", 1),
    (5, 120, 48, True, "hswish", 1),
    (5, 144, 48, True, "hswish", 1),
    (5, 288, 96, True, "hswish", 2),
    (5, 576, 96, True, "hswish", 1),
    (5, 576, 96, True, "hswish", 1),
)
# expansion, kernel, channels, repeats, stride
_EFFICIENTNET_B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def mobilenet_v2(multiplier: float, input_size: int, classes: int) -> Network:
    """MobileNetV2 at a width multiplier."""
    made = _Builder(scaled(32, multiplier), "relu6", input_size)
    for expansion, channels, repeats, stride in _MOBILENET_V2:
        for index in range(repeats):
            made.block(
                scaled(channels, multiplier),
                width=expansion * made.channels,
                stride=stride if index == 0 else 1,
            )
    return made.end(max(1280, scaled(1280, multiplier)), classes)


def mobilenet_v3_small(multiplier: float, input_size: int, classes: int) -> Network:
    """MobileNetV3-small at a width multiplier."""
    made = _Builder(scaled(16, multiplier), "hswish", input_size)
    for kernel, expanded, channels, squeeze, activation, stride in _MOBILENET_V3_SMALL:
        width = max(made.channels, scaled(expanded, multiplier))
        made.block(
            scaled(channels, multiplier),
            width=width,
            kernel=kernel,
            stride=stride,
            activation=activation,
            se_channels=scaled(width / 4, 1) if squeeze else 0,
        )
    return made.end(scaled(576, multiplier), classes)


def efficientnet_b0(multiplier: float, input_size: int, classes: int) -> Network:
    """EfficientNet-B0 at a width multiplier; its depth stays."""
    made = _Builder(scaled(32, multiplier), "swish", input_size)
    for expansion, kernel, channels, repeats, stride in _EFFICIENTNET_B0:
        for index in range(repeats):
            made.block(
                scaled(channels, multiplier),
                width=expansion * made.channels,
                kernel=kernel,
                stride=stride if index == 0 else 1,
                se_channels=max(1, made.channels // 4),
            )
    return made.end(max(1280, scaled(1280, multiplier)), classes)


BASELINES: dict[str, Callable[[float, int, int], Network]] = {
    "MobileNetV2": mobilenet_v2,
    "MobileNetV3-small": mobilenet_v3_small,
    "EfficientNet-B0": efficientnet_b0,
}


def scaled(channels: float, multiplier: float) -> int:
    """Channels at a width multiplier, a multiple of ``DIVISOR``."""
    return max(DIVISOR, round(channels * multiplier / DIVISOR) * DIVISOR)


class _Builder:
    """Appends blocks and keeps track of their shapes."""

    def __init__(self, stem_channels: int, activation: Activation, input_size: int) -> None:
        stride = 1 if input_size < SMALL_INPUT else 2
        self.activation = activation
        self.blocks: list[BlockSpec] = []
        self._add(ConvBlock(3, stem_channels, 3, stride, activation, input_size))

    def block(
        self,
        out_channels: int,
        *,
        width: int,
        stride: int,
        kernel: int = 3,
        activation: Activation | None = None,
        se_channels: int = 0,
    ) -> None:
        self._add(
            InvertedResidual(
                in_channels=self.channels,
                out_channels=out_channels,
                width=width,
                kernel=kernel,
                stride=stride,
                activation=activation or self.activation,
                input_size=self.size,
                se_channels=se_channels,
                expand=width != self.channels,
            )
        )

    def end(self, last_channels: int, classes: int) -> Network:
        self._add(ConvBlock(self.channels, last_channels, 1, 1, self.activation, self.size))
        self.blocks.append(Classifier(last_channels, classes, self.size))
        return tuple(self.blocks)

    def _add(self, spec: BlockSpec) -> None:
        self.blocks.append(spec)
        self.channels, self.size, _ = output_shape(spec)
