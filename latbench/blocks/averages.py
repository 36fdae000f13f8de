"""Average pooling blocks: one to downsample a skip, one to end a network without classifier."""

from __future__ import annotations

import msgspec

from latbench.blocks.graph import INPUT, Graph, GraphBuilder, words


class AverageBlock(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="average",
):
    """Average pooling over ``stride`` x ``stride`` windows, to ``ceil(input_size / stride)``."""

    channels: int
    stride: int
    input_size: int

    def __str__(self) -> str:
        return words("Average", f"s{self.stride}", f"{self.channels}", input_size=self.input_size)

    def graph(self) -> Graph:
        g = GraphBuilder(self.channels, self.input_size)
        g.average_pool("average", INPUT, self.stride)
        return g.build()


class GlobalAverage(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="global-average",
):
    """Mean of every channel, as a vector: ends a network that computes an embedding."""

    channels: int
    input_size: int

    def __str__(self) -> str:
        return words("GlobalAverage", f"{self.channels}", input_size=self.input_size)

    def graph(self) -> Graph:
        g = GraphBuilder(self.channels, self.input_size)
        g.flatten("flatten", g.pool("pool", INPUT))
        return g.build()
