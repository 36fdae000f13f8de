"""The space of NAS-Bench-Macro (Su et al., CVPR 2021): 3^8 networks, all of them trained.

A network has a stem, eight layers in three stages, and a last convolution, all with ReLU. Each
stage doubles the channels, and its first layer has stride 2. A layer is one of two inverted
residuals or the identity. In the first layer of a stage the shape changes, so a 1x1 convolution
with batch norm replaces the identity.

The benchmark's file counts as ``latbench.cost`` does. Its ``flops`` are the multiply-accumulates of
all convolutions, including stem and last convolution, and of the linear layer, at 32 px and 10
classes. They do not include biases, norms, activations and pooling. Its ``params`` are the weights
of the convolutions, scale and shift of every batch norm, and weights and biases of the linear
layer. Convolutions have no biases.
"""

from __future__ import annotations

from latbench.blocks import Classifier, ConvBlock
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.layer import FixedLayer
from nas.spaces.rows import Row, inverted_residual, laid_out, skip
from nas.spaces.space import SearchSpace

IDENTITY = "identity"
OPS = ("k3_e3", "k5_e6")

# output channels, stride
ROWS: tuple[Row, ...] = (
    *((64, 2), (64, 1)),
    *((128, 2), (128, 1), (128, 1)),
    *((256, 2), (256, 1), (256, 1)),
)
STEM_CHANNELS, LAST_CHANNELS = 32, 1280


def nasbench_macro(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 32) and a number of classes (10).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(32, 10), smallest_input=8)
    check_plain("nasbench-macro", variant)
    stem = (ConvBlock(3, STEM_CHANNELS, 3, 1, "relu", input_size),)
    stages, channels, size = laid_out(stem, ROWS, _layer)
    return SearchSpace(
        "nasbench-macro",
        input_size,
        classes,
        stem=stem,
        stages=stages,
        head=(
            ConvBlock(channels, LAST_CHANNELS, 1, 1, "relu", size),
            Classifier(LAST_CHANNELS, classes, size),
        ),
        elastic_depth=False,
    )


def _layer(in_channels: int, out_channels: int, stride: int, input_size: int) -> FixedLayer:
    shape = (in_channels, out_channels, stride, input_size)
    inverted = ((op, inverted_residual(op, "relu", *shape)) for op in OPS)
    return FixedLayer(((IDENTITY, skip(*shape)), *inverted))
