"""The FBNet search spaces (Wu et al., CVPR 2019) as OSNASLib has them: 9^22 networks.

There are two differences from the paper. Grouped operations have no channel shuffle. Layers that
change the shape have a skip operation too, which is a 1x1 convolution. ``fbnet-s`` and ``fbnet-l``
differ in the channels of the last convolution.
"""

from __future__ import annotations

from latbench.blocks import Classifier, ConvBlock
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.rows import SKIP, Row, inverted_residuals, laid_out
from nas.spaces.space import SearchSpace

OPS = (
    *("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6"),
    *("k5_e1", "k5_e1_g2", "k5_e3", "k5_e6"),
    SKIP,
)

# output channels, stride
ROWS: tuple[Row, ...] = (
    (16, 1),
    *((24, 1), (24, 1), (24, 1), (24, 1)),
    *((32, 2), (32, 1), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1)),
    *((112, 1), (112, 1), (112, 1), (112, 1)),
    *((184, 2), (184, 1), (184, 1), (184, 1)),
    (352, 1),
)
STEM_CHANNELS = 16
LAST_CHANNELS_S, LAST_CHANNELS_L = 1504, 1984


def fbnet_s(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """FBNet-S at an input size in pixels (default 32) and a number of classes (100).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    return _space("fbnet-s", input_size, classes, variant, LAST_CHANNELS_S)


def fbnet_l(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """FBNet-L at an input size in pixels (default 32) and a number of classes (100).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    return _space("fbnet-l", input_size, classes, variant, LAST_CHANNELS_L)


def _space(
    name: str,
    input_size: int | None,
    classes: int | None,
    variant: Variant,
    last_channels: int,
) -> SearchSpace:
    input_size, classes = chosen_shape(input_size, classes, default=(32, 100))
    check_plain(name, variant)
    stem = (ConvBlock(3, STEM_CHANNELS, 3, 2, "relu6", input_size),)
    stages, channels, size = laid_out(stem, ROWS, inverted_residuals(OPS, "relu6"))
    last = ConvBlock(channels, last_channels, 1, 1, "relu6", size)
    head = (last, Classifier(last_channels, classes, size))
    return SearchSpace(name, input_size, classes, stem, stages, head, elastic_depth=False)
