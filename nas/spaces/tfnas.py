"""The TF-NAS search space (Hu et al., ECCV 2020, Table 1).

A network has a stem, a second block, six stages of inverted residuals and a last convolution. A
layer chooses one of eight operations and its width; a stage chooses its depth. The squeeze-excite
of e3 operations has as many squeezed channels as the layer has inputs, that of e6 operations twice
as many. The activation is ReLU up to the first stage and Swish after it. Below 64 px the stem has
stride 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from latbench.blocks import BlockSpec, Classifier, ConvBlock, InvertedResidual, output_shape
from latbench.blocks.graph import Activation
from nas.spaces.architecture import PLAIN, Choice, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.layer import Layer
from nas.spaces.space import SearchSpace

# Table 1 of the paper: up to `depth` layers with `channels` outputs, the first with `stride`
#        depth channels stride activation
STAGES: tuple[tuple[int, int, int, Activation], ...] = (
    (2, 24, 2, "relu"),
    (3, 40, 2, "swish"),
    (4, 80, 2, "swish"),
    (4, 112, 1, "swish"),
    (4, 192, 2, "swish"),
    (1, 320, 1, "swish"),
)
STEM_CHANNELS, SECOND_CHANNELS, LAST_CHANNELS = 32, 16, 1280
SECOND_SE_CHANNELS = 8
SMALL_INPUT = 64  # px; below this size the stem keeps the resolution


@dataclass(frozen=True)
class Operation:
    """A candidate operation.

    Widths are ``low`` to ``high`` times the input channels (Section 3.3: half to all of the
    maximum). A search starts at ``start`` times the input channels.
    """

    kernel: int
    low: int
    high: int
    start: int
    squeeze_excite: bool

    def se_channels(self, in_channels: int) -> int:
        return in_channels * self.low // 2 if self.squeeze_excite else 0


OPERATIONS: dict[str, Operation] = {
    f"k{kernel}_e{expansion}{'_se' if se else ''}": Operation(
        kernel, low=2 * expansion // 3, high=4 * expansion // 3, start=expansion, squeeze_excite=se
    )
    for se, kernel, expansion in product((False, True), (3, 5), (3, 6))
}


@dataclass(frozen=True)
class TFNASLayer(Layer):
    """One searchable layer: eight operations of elastic width between fixed bounds."""

    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    input_size: int

    @property
    def ops(self) -> tuple[str, ...]:
        return tuple(OPERATIONS)

    def widths(self, op: str) -> range:
        operation = OPERATIONS[op]
        return range(operation.low * self.in_channels, operation.high * self.in_channels + 1)

    def start_width(self, op: str) -> int | None:
        """Width at which a search begins: 3 or 6 times the input channels."""
        return OPERATIONS[op].start * self.in_channels

    def block(self, choice: Choice) -> BlockSpec:
        operation = OPERATIONS[choice.op]
        assert choice.width is not None
        return InvertedResidual(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            width=choice.width,
            kernel=operation.kernel,
            stride=self.stride,
            activation=self.activation,
            input_size=self.input_size,
            se_channels=operation.se_channels(self.in_channels),
        )


def tfnas(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 224) and a number of classes (1000).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(224, 1000))
    check_plain("tfnas", variant)
    return tfnas_strided(input_size, classes, stem_stride=1 if input_size < SMALL_INPUT else 2)


def tfnas_strided(input_size: int, classes: int, *, stem_stride: int) -> SearchSpace:
    """The space with a stem of a given stride, at any input size."""
    stem = ConvBlock(3, STEM_CHANNELS, 3, stem_stride, "relu", input_size)
    second = InvertedResidual(
        in_channels=STEM_CHANNELS,
        out_channels=SECOND_CHANNELS,
        width=STEM_CHANNELS,
        kernel=3,
        stride=1,
        activation="relu",
        input_size=output_shape(stem)[1],
        se_channels=SECOND_SE_CHANNELS,
        expand=False,
    )
    channels, size, _ = output_shape(second)
    stages = []
    for depth, out_channels, stride, activation in STAGES:
        layers = [TFNASLayer(channels, out_channels, stride, activation, size)]
        size = (size + stride - 1) // stride
        later = TFNASLayer(out_channels, out_channels, 1, activation, size)
        layers += [later] * (depth - 1)
        stages.append(tuple(layers))
        channels = out_channels
    last = ConvBlock(channels, LAST_CHANNELS, 1, 1, "swish", size)
    classifier = Classifier(LAST_CHANNELS, classes, size)
    return SearchSpace(
        "tfnas", input_size, classes, (stem, second), tuple(stages), (last, classifier)
    )
