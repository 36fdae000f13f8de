"""The SPOS search space (Guo et al., ECCV 2020) as OSNASLib has it: 4^20 networks.

A layer is a ShuffleNetV2 unit with a kernel of 3, 5 or 7, or its Xception form. The activation is
ReLU6; in the paper it is ReLU.
"""

from __future__ import annotations

from latbench.blocks import Classifier, ConvBlock, ShuffleUnit, ShuffleXception
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.layer import FixedLayer
from nas.spaces.rows import Row, laid_out
from nas.spaces.space import SearchSpace

KERNELS = {"shuffle_k3": 3, "shuffle_k5": 5, "shuffle_k7": 7}
XCEPTION = "xception"

# output channels, stride
ROWS: tuple[Row, ...] = (
    *((64, 1), (64, 1), (64, 1), (64, 1)),
    *((160, 2), (160, 1), (160, 1), (160, 1)),
    *((320, 2), (320, 1), (320, 1), (320, 1), (320, 1), (320, 1), (320, 1), (320, 1)),
    *((640, 2), (640, 1), (640, 1), (640, 1)),
)
STEM_CHANNELS, LAST_CHANNELS = 16, 1024


def spos(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 32) and a number of classes (100).

    Raises:
        InvalidValueError: The input size or the number of classes is out of range.
    """
    input_size, classes = chosen_shape(input_size, classes, default=(32, 100))
    check_plain("spos", variant)
    stem = (ConvBlock(3, STEM_CHANNELS, 3, 2, "relu6", input_size),)
    stages, channels, size = laid_out(stem, ROWS, _layer)
    last = ConvBlock(channels, LAST_CHANNELS, 1, 1, "relu6", size)
    head = (last, Classifier(LAST_CHANNELS, classes, size))
    return SearchSpace("spos", input_size, classes, stem, stages, head, elastic_depth=False)


def _layer(in_channels: int, out_channels: int, stride: int, size: int) -> FixedLayer:
    return FixedLayer(
        (
            *(
                (op, ShuffleUnit(in_channels, out_channels, kernel, stride, "relu6", size))
                for op, kernel in KERNELS.items()
            ),
            (XCEPTION, ShuffleXception(in_channels, out_channels, stride, "relu6", size)),
        )
    )
