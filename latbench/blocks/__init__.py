"""Block specs. A new kind is one file here and one line in ``BLOCKS``."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, cast

import msgspec

from latbench.blocks.classifier import Classifier
from latbench.blocks.conv import ConvBlock
from latbench.blocks.graph import Graph, chain, fold_norms
from latbench.blocks.inverted_residual import InvertedResidual
from latbench.blocks.mixed import MixedInvertedResidual, sub_block_order
from latbench.blocks.spec import (
    BlockSpec,
    Network,
    block_key,
    block_width,
    output_shape,
    with_width,
)
from latbench.errors import InvalidFileError

BLOCKS: dict[str, type[Any]] = {
    "conv": ConvBlock,
    "inverted-residual": InvertedResidual,
    "mixed-inverted-residual": MixedInvertedResidual,
    "classifier": Classifier,
}

_block_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reduce(or_, BLOCKS.values()))


def parse_block(key: str) -> BlockSpec:
    """The block spec that ``block_key`` wrote.

    Raises:
        InvalidFileError: The text is no block spec of a known kind.
    """
    try:
        return cast(BlockSpec, _block_decoder.decode(key))
    except msgspec.DecodeError as error:
        raise InvalidFileError(f"not a block spec: {error}") from error


def network_graph(network: Network) -> Graph:
    """The layers of a whole network; node ``x`` of block ``i`` is called ``i.x``."""
    return chain([spec.graph() for spec in network])


__all__ = [
    "BLOCKS",
    "BlockSpec",
    "Classifier",
    "ConvBlock",
    "Graph",
    "InvertedResidual",
    "MixedInvertedResidual",
    "Network",
    "block_key",
    "block_width",
    "fold_norms",
    "network_graph",
    "output_shape",
    "parse_block",
    "sub_block_order",
    "with_width",
]
