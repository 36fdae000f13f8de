"""The ProxylessNAS search space (Cai et al., ICLR 2019) as OSNASLib has it: 7^21 networks.

Rows, operations and skips follow OSNASLib. Layers that change the shape have a skip operation too,
which is a 1x1 convolution; in the paper they have none.
"""

from __future__ import annotations

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, output_shape
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.rows import SKIP, Row, inverted_residuals, laid_out
from nas.spaces.space import SearchSpace

OPS = ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k7_e3", "k7_e6", SKIP)

# output channels, stride
ROWS: tuple[Row, ...] = (
    *((24, 1), (24, 1), (24, 1), (24, 1)),
    *((40, 2), (40, 1), (40, 1), (40, 1)),
    *((80, 2), (80, 1), (80, 1), (80, 1)),
    *((96, 1), (96, 1), (96, 1), (96, 1)),
    *((192, 2), (192, 1), (192, 1), (192, 1)),
    (320, 1),
)
STEM_CHANNELS, FIRST_CHANNELS, LAST_CHANNELS = 32, 16, 1280


def proxylessnas(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 32) and a number of classes (100).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(32, 100))
    check_plain("proxylessnas", variant)
    stem = ConvBlock(3, STEM_CHANNELS, 3, 2, "relu6", input_size)
    first = InvertedResidual(
        STEM_CHANNELS,
        FIRST_CHANNELS,
        STEM_CHANNELS,
        3,
        1,
        "relu6",
        output_shape(stem)[1],
        expand=False,
    )
    stages, channels, size = laid_out((stem, first), ROWS, inverted_residuals(OPS, "relu6"))
    last = ConvBlock(channels, LAST_CHANNELS, 1, 1, "relu6", size)
    classifier = Classifier(LAST_CHANNELS, classes, size)
    return SearchSpace(
        "proxylessnas",
        input_size,
        classes,
        (stem, first),
        stages,
        (last, classifier),
        elastic_depth=False,
    )
