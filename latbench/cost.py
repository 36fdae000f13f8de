"""Costs of a block: multiply-accumulates, parameters and activation bytes, from its graph.

The costs of a network are their sums, and the peak memory of its activations.

MACs are counted for convolutions and linear layers only, not for biases, pooling, norms or
activations. Parameters are the trained ones: weights, biases, PReLU slopes, and the scale and shift
of norms, but not running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from latbench.blocks import BlockSpec, Graph, Segment
from latbench.blocks.graph import Conv, Linear, Norm, PReLU
from latbench.peak_memory import network_peak_bytes

BYTES_PER_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts for one image; costs add up over blocks.

    Attributes:
        conv_macs: Multiply-accumulates of convolutions.
        linear_macs: Multiply-accumulates of linear layers.
        params: Trained parameters.
        activation_bytes: Summed size of all layers' fp32 outputs (memory traffic, not peak memory).
        peak_bytes: Peak memory of a whole network's activations (``latbench.peak_memory``).
    """

    conv_macs: int = 0
    linear_macs: int = 0
    params: int = 0
    activation_bytes: int = 0
    peak_bytes: int = 0

    @property
    def macs(self) -> int:
        return self.conv_macs + self.linear_macs

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters in fp32."""
        return self.params * BYTES_PER_FLOAT

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.conv_macs + other.conv_macs,
            self.linear_macs + other.linear_macs,
            self.params + other.params,
            self.activation_bytes + other.activation_bytes,
            max(self.peak_bytes, other.peak_bytes),
        )

    def in_millions(self) -> dict[str, float]:
        """The counts, and the peak memory in 10^6 bytes, as ``latbench cost`` prints them."""
        return {
            "macs_m": self.macs / 1e6,
            "conv_macs_m": self.conv_macs / 1e6,
            "params_m": self.params / 1e6,
            "peak_memory_mb": self.peak_bytes / 1e6,
        }


@lru_cache(maxsize=65_536)  # TF-NAS at every width has 33 thousand distinct blocks
def block_cost(spec: BlockSpec) -> Cost:
    """Cost of one block for one image."""
    if isinstance(spec, Segment):
        return Cost(spec.conv_macs, spec.linear_macs, spec.params, spec.activation_bytes)
    return graph_cost(spec.graph())


def network_cost(network: Iterable[BlockSpec]) -> Cost:
    """Cost of a whole network for one image."""
    blocks = tuple(network)
    total = sum((block_cost(spec) for spec in blocks), Cost())
    return replace(total, peak_bytes=network_peak_bytes(blocks))


def graph_cost(graph: Graph) -> Cost:
    """Cost of a graph for one image."""
    conv_macs = linear_macs = params = activations = 0
    for node in graph.nodes:
        layer = node.layer
        activations += prod(node.shape)
        if isinstance(layer, Conv):
            weights = layer.out_channels * layer.kernel**2 * layer.in_channels // layer.groups
            conv_macs += weights * node.shape[1] * node.shape[2]
            params += weights + (layer.out_channels if layer.bias else 0)
        elif isinstance(layer, Linear):
            weights = layer.in_features * layer.out_features
            linear_macs += weights
            params += weights + layer.out_features
        elif isinstance(layer, Norm):
            params += 2 * layer.channels
        elif isinstance(layer, PReLU):
            params += layer.channels
    return Cost(conv_macs, linear_macs, params, BYTES_PER_FLOAT * activations)
