"""Peak memory of a network's activations: the largest sum of tensors that are live at once.

The steps are those of the deployed ONNX model (``latbench.render.onnx``), with batch norms folded,
for one image in fp32. A tensor is live from the step that writes it to the last step that reads it.
Every step writes into memory of its own. A runtime that fuses an activation into the convolution
before it needs less. Weights are not counted.

Only one tensor is live between two blocks. The peak of a network is therefore the largest peak of
its blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from math import prod

from latbench.blocks import BlockSpec, Graph, Segment
from latbench.blocks.graph import INPUT, Act, Linear, Node, Shuffle, sliced_map
from latbench.blocks.norm_folding import fold_norms

_BYTES_PER_FLOAT = 4

Step = tuple[tuple[str, ...], Mapping[str, int]]
"""Tensors that a step reads, and the sizes in numbers of those that it writes."""


def network_peak_bytes(network: Iterable[BlockSpec]) -> int:
    """Peak memory of a network in bytes; 0 for segments of an ONNX model."""
    return max((block_peak_bytes(spec) for spec in network), default=0)


@lru_cache(maxsize=65_536)
def block_peak_bytes(spec: BlockSpec) -> int:
    """Peak memory of one block in bytes, its input and its output included."""
    return 0 if isinstance(spec, Segment) else graph_peak_bytes(spec.graph())


def graph_peak_bytes(graph: Graph) -> int:
    """Peak memory of a graph in bytes."""
    folded = fold_norms(graph)
    steps = list(_steps(folded))
    last_read = {name: at for at, (read, _) in enumerate(steps) for name in read}
    live = {INPUT: prod(folded.input_shape)}
    peak = live[INPUT]
    for at, (_, written) in enumerate(steps):
        live |= written
        peak = max(peak, sum(live.values()))
        live = {
            name: size
            for name, size in live.items()
            if last_read.get(name, -1) > at or name == folded.output
        }
    return _BYTES_PER_FLOAT * peak


def _steps(graph: Graph) -> Iterator[Step]:
    """Steps of the ONNX model of a graph."""
    for sliced, group in groupby(graph.nodes, key=sliced_map):
        if sliced:
            yield (sliced,), {node.name: prod(node.shape) for node in group}
        else:
            for node in group:
                yield from _steps_of(node)


def _steps_of(node: Node) -> Iterator[Step]:
    """Steps of a node; some layers are several operators in ONNX."""
    size, layer = prod(node.shape), node.layer
    if isinstance(layer, Act) and layer.kind == "swish":
        yield node.inputs, {f"{node.name}.sigmoid": size}
        yield (*node.inputs, f"{node.name}.sigmoid"), {node.name: size}
    elif isinstance(layer, Shuffle):
        yield node.inputs, {f"{node.name}.grouped": size}
        yield (f"{node.name}.grouped",), {f"{node.name}.turned": size}
        yield (f"{node.name}.turned",), {node.name: size}
    elif isinstance(layer, Linear):
        yield node.inputs, {f"{node.name}.flat": layer.in_features}
        yield (f"{node.name}.flat",), {node.name: size}
    else:
        yield node.inputs, {node.name: size}
