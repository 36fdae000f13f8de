"""Global average pooling and a linear layer: the last block of a classification network."""

from __future__ import annotations

import msgspec

from latbench.blocks.graph import INPUT, Graph, GraphBuilder, words


class Classifier(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="classifier",
):
    """Pools ``(in_channels, input_size, input_size)`` and maps it to ``classes`` logits."""

    in_channels: int
    classes: int
    input_size: int

    def __str__(self) -> str:
        return words("Classifier", f"{self.in_channels}-{self.classes}", input_size=self.input_size)

    def graph(self) -> Graph:
        g = GraphBuilder(self.in_channels, self.input_size)
        g.linear("linear", g.pool("pool", INPUT), self.classes)
        return g.build()
