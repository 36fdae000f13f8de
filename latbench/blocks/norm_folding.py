"""Folding of batch norms into the convolutions before them, as runtimes do for inference."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from latbench.blocks.graph import Concat, Conv, Graph, Node, Norm


def foldable_norms(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """Convolutions that every batch norm may be folded into, by the name of the norm.

    A norm is folded into the convolution it reads. After a concatenation, it is folded into all
    concatenated convolutions, in the order of their channels. A convolution that has another reader
    is not folded.
    """
    nodes = {node.name: node for node in graph.nodes}
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    found: dict[str, tuple[Node, ...]] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0]) if isinstance(node.layer, Norm) else None
        if before is None:
            continue
        joined = before.inputs if isinstance(before.layer, Concat) else (before.name,)
        if (
            all(
                readers[name] == 1 and name in nodes and isinstance(nodes[name].layer, Conv)
                for name in joined
            )
            and readers[before.name] == 1
        ):
            found[node.name] = tuple(nodes[name] for name in joined)
    return found


def fold_norms(graph: Graph) -> Graph:
    """Fold the batch norms of a graph into the convolutions before them.

    A folded convolution gets a bias. Nodes that read the norm then read the norm's input.
    """
    folded = foldable_norms(graph)
    biased = {source.name for sources in folded.values() for source in sources}
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if node.name in folded:
            renamed[node.name] = inputs[0]
            continue
        layer = node.layer
        if node.name in biased:
            assert isinstance(layer, Conv)
            layer = replace(layer, bias=True)
        nodes.append(replace(node, layer=layer, inputs=inputs))
    return Graph(graph.input_shape, tuple(nodes))
