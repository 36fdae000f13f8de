"""The MobileFaceNet search space of OSNASLib: 7^15 networks that compute embeddings of faces.

It follows MobileFaceNet (Chen et al. 2018): all activations are PReLU, and a depthwise convolution
precedes the embedding. That convolution has a 7x7 kernel and a padding of 3 at every input size,
and a global average follows the embedding, as OSNASLib published it. In the paper the convolution
covers the whole map and has no padding. ``classes`` is the size of the embedding. A layer that only
halves its map has average pooling as its skip.
"""

from __future__ import annotations

from latbench.blocks import ConvBlock, GlobalAverage, output_shape
from nas.spaces.architecture import PLAIN, Variant
from nas.spaces.arguments import check_plain, chosen_shape
from nas.spaces.rows import SKIP, Row, inverted_residuals, laid_out
from nas.spaces.space import SearchSpace

OPS = ("k3_e1", "k3_e2", "k3_e4", "k5_e1", "k5_e2", "k5_e4", SKIP)

# output channels, stride
ROWS: tuple[Row, ...] = (
    *((64, 2), (64, 1), (64, 1), (64, 1), (64, 1)),
    *((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    *((128, 2), (128, 1), (128, 1)),
)
STEM_CHANNELS, LAST_CHANNELS, LAST_KERNEL = 64, 512, 7


def mobilefacenet(
    input_size: int | None = None, classes: int | None = None, variant: Variant = PLAIN
) -> SearchSpace:
    """The space at an input size in pixels (default 112) and an embedding's size (256).

    Raises:
        InvalidValueError: The input size or the size of the embedding is out of range.
    """
    input_size, embedding = chosen_shape(input_size, classes, default=(112, 256))
    check_plain("mobilefacenet", variant)
    first = ConvBlock(3, STEM_CHANNELS, 3, 2, "prelu", input_size)
    size = output_shape(first)[1]
    second = ConvBlock(STEM_CHANNELS, STEM_CHANNELS, 3, 1, "prelu", size, groups=STEM_CHANNELS)
    stages, channels, size = laid_out((first, second), ROWS, inverted_residuals(OPS, "prelu"))
    head = (
        ConvBlock(channels, LAST_CHANNELS, 1, 1, "prelu", size),
        ConvBlock(LAST_CHANNELS, LAST_CHANNELS, LAST_KERNEL, 1, None, size, groups=LAST_CHANNELS),
        ConvBlock(LAST_CHANNELS, embedding, 1, 1, None, size),
        GlobalAverage(embedding, size),
    )
    return SearchSpace(
        "mobilefacenet",
        input_size,
        embedding,
        (first, second),
        stages,
        head,
        elastic_depth=False,
    )
