"""Block specs. A new kind of block needs one file here and one line in ``BLOCKS``."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import msgspec

from latbench.blocks.averages import AverageBlock, GlobalAverage
from latbench.blocks.classifier import Classifier
from latbench.blocks.conv import ConvBlock
from latbench.blocks.graph import Graph, chain
from latbench.blocks.inverted_residual import InvertedResidual
from latbench.blocks.mixed import MixedInvertedResidual, sub_block_order
from latbench.blocks.norm_folding import fold_norms
from latbench.blocks.segment import Segment
from latbench.blocks.shuffle import ShuffleUnit, ShuffleXception
from latbench.blocks.spec import (
    BlockSpec,
    Network,
    block_key,
    block_width,
    output_shape,
    with_width,
)
from latbench.errors import InvalidFileError
from latbench.registry import Registry

BLOCKS: Registry[type[Any]] = Registry(
    "kind of block",
    {
        "average": "latbench.blocks.averages:AverageBlock",
        "classifier": "latbench.blocks.classifier:Classifier",
        "conv": "latbench.blocks.conv:ConvBlock",
        "global-average": "latbench.blocks.averages:GlobalAverage",
        "inverted-residual": "latbench.blocks.inverted_residual:InvertedResidual",
        "mixed-inverted-residual": "latbench.blocks.mixed:MixedInvertedResidual",
        "segment": "latbench.blocks.segment:Segment",
        "shuffle": "latbench.blocks.shuffle:ShuffleUnit",
        "shuffle-xception": "latbench.blocks.shuffle:ShuffleXception",
    },
    group="latbench.blocks",
)


class _Tagged(msgspec.Struct):
    """The field that all block keys share: the kind of block."""

    block: str


_kind_decoder = msgspec.json.Decoder(_Tagged)


def parse_block(key: str) -> BlockSpec:
    """Read a block spec from the text that ``block_key`` wrote.

    Raises:
        InvalidFileError: The text is not a block spec of a known kind.
        PluginError: The kind comes from an installed package that cannot be loaded.
    """
    try:
        return cast(BlockSpec, _decoder(_kind_decoder.decode(key).block).decode(key))
    except msgspec.DecodeError as error:
        raise InvalidFileError(f"not a block spec: {error}") from error


@cache
def _decoder(kind: str) -> msgspec.json.Decoder[Any]:
    if kind not in BLOCKS:
        raise InvalidFileError(
            f"not a block spec: {kind!r} is not a known kind of block, choose from "
            f"{', '.join(BLOCKS)}; if it belongs to another package, install that package first"
        )
    return msgspec.json.Decoder(BLOCKS[kind])


def network_graph(network: Network) -> Graph:
    """Graph of a whole network; node ``x`` of block ``i`` is called ``i.x``."""
    return chain([spec.graph() for spec in network])


__all__ = [
    "BLOCKS",
    "AverageBlock",
    "BlockSpec",
    "Classifier",
    "ConvBlock",
    "GlobalAverage",
    "Graph",
    "InvertedResidual",
    "MixedInvertedResidual",
    "Network",
    "Segment",
    "ShuffleUnit",
    "ShuffleXception",
    "block_key",
    "block_width",
    "fold_norms",
    "network_graph",
    "output_shape",
    "parse_block",
    "sub_block_order",
    "with_width",
]
