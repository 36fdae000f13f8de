"""The space of NAS-Bench-Macro (Su et al., CVPR 2021): 3^8 networks, all of them trained.

Eight layers in three stages between a stem and a last convolution, all with ReLU. A stage
doubles the channels and its first layer has stride 2. A layer is one of two inverted residuals or
the identity, which at a stage's first layer is a 1x1 convolution with batch norm, because shapes
differ there.

The benchmark's file counts as ``latbench.cost`` does: its ``flops`` are multiply-accumulates of
all convolutions, stem and last one included, and of the linear layer, at 32 px and 10 classes,
and nothing else (no biases, norms, activations or pooling); its ``params`` are the weights of
convolutions, which have no biases, scale and shift of every batch norm, and weights and biases of
the linear layer.
"""

from __future__ import annotations

from latbench.blocks import BlockSpec, Classifier, ConvBlock, InvertedResidual
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.space import FixedLayer, SearchSpace, check_plain, check_shape

IDENTITY = "identity"
#             kernel, expansion
OPERATIONS = {"k3_e3": (3, 3), "k5_e6": (5, 6)}
DEPTHS = (2, 3, 3)
STEM_CHANNELS, LAST_CHANNELS = 32, 1280


def nasbench_macro(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 32) and a number of classes (10).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size = 32 if input_size is None else input_size
    classes = 10 if classes is None else classes
    check_shape(input_size, classes, smallest_input=8)
    check_plain("nasbench-macro", variant)
    channels, size = STEM_CHANNELS, input_size
    stages = []
    for depth in DEPTHS:
        first = _layer(channels, 2 * channels, 2, size)
        channels, size = 2 * channels, (size + 1) // 2
        stages.append((first, *[_layer(channels, channels, 1, size)] * (depth - 1)))
    return SearchSpace(
        "nasbench-macro",
        input_size,
        classes,
        stem=(ConvBlock(3, STEM_CHANNELS, 3, 1, "relu", input_size),),
        stages=tuple(stages),
        tail=(
            ConvBlock(channels, LAST_CHANNELS, 1, 1, "relu", size),
            Classifier(LAST_CHANNELS, classes, size),
        ),
        elastic_depth=False,
    )


def _layer(in_channels: int, out_channels: int, stride: int, size: int) -> FixedLayer:
    blocks: list[tuple[str, BlockSpec | None]] = [
        (
            IDENTITY,
            None if stride == 1 else ConvBlock(in_channels, out_channels, 1, stride, None, size),
        )
    ]
    for name, (kernel, expansion) in OPERATIONS.items():
        width = expansion * in_channels
        blocks.append(
            (
                name,
                InvertedResidual(in_channels, out_channels, width, kernel, stride, "relu", size),
            )
        )
    return FixedLayer(tuple(blocks))
