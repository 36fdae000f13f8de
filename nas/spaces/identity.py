"""Digests that tell spaces and networks of one name apart, as the configurations of runs hold them.

Whoever edits a space of their own may keep its name. Weights and scores of the space before do not
belong to the space after.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from latbench.blocks import BlockSpec, Network, block_key
from nas.spaces.layer import Layer, candidates, extreme_widths
from nas.spaces.space import SearchSpace


def space_digest(space: SearchSpace) -> str:
    """A digest of stem, stages and head: of all blocks, elastic ones at their extreme widths."""
    layers = {layer: _choices(layer) for layer in dict.fromkeys(space.layers)}
    stages = [[layers[layer] for layer in stage] for stage in space.stages]
    return digest_of([_keys(space.stem), stages, _keys(space.head), space.elastic_depth])


def network_digest(network: Network) -> str:
    """A digest of the blocks of a network in their order."""
    return digest_of(_keys(network))


def _choices(layer: Layer) -> list[object]:
    """Every choice with its block, and the number of widths of its operation."""
    return [
        [choice, len(layer.widths(choice.op)), _key(layer.block(choice))]
        for choice in candidates(layer, extreme_widths)
    ]


def _keys(network: Network) -> list[str | None]:
    return [_key(spec) for spec in network]


def _key(spec: BlockSpec | None) -> str | None:
    return None if spec is None else block_key(spec)


def digest_of(plain: object) -> str:
    """A digest of JSON values, 16 hexadecimal digits."""
    return sha256(msgspec.json.encode(plain)).hexdigest()[:16]
