"""Latencies of segments as node data of Model Explorer, which draws the graph of an ONNX file.

The format is that of ``node_data_builder.py`` in https://github.com/google-ai-edge/model-explorer.
Its ONNX adapter (https://github.com/justinchuby/model-explorer-onnx) identifies a node by its name.
Every node shows the latency of its whole segment, so latencies of nodes do not add up, and the sums
that Model Explorer would show are hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto

from latbench.files import write_atomically
from latbench.workflows.explanation import Explanation, SegmentLatency

_GRADIENT = (  # from the fastest segment to the slowest
    {"stop": 0, "bgColor": "#ffffff"},
    {"stop": 0.5, "bgColor": "#fdd49e"},
    {"stop": 1, "bgColor": "#d7301f"},
)
_DIGITS = 4  # significant ones, which a node has room to show


def write_overlay(path: Path, model: Path, found: Explanation) -> tuple[int, int]:
    """Write the latencies of a model's segments for its nodes.

    Args:
        path: File of the node data, JSON.
        model: ONNX file that was explained.
        found: Its explanation.

    Returns:
        Number of nodes that have a latency, and number of nodes of the model.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    nodes = onnx.load_model(model, load_external_data=False).graph.node
    marked = segments_of_nodes(nodes, [part.nodes for part in found.segments])
    data: dict[str, Any] = {
        "name": "latency of the segment in ms",
        "results": {name: _shown(found.segments[place]) for name, place in marked.items()},
        "gradient": _GRADIENT,
        "hideAggregatedStats": ["sum"],
        "hideInChildrenStatsTable": True,
    }
    write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return len(marked), len(nodes)


def _shown(segment: SegmentLatency) -> dict[str, object]:
    """What a node shows; Model Explorer ignores the name, which is for other readers."""
    return {"value": float(f"{segment.latency_ms:.{_DIGITS}g}"), "segment": segment.name}


def segments_of_nodes(
    nodes: Sequence[NodeProto], segments: Sequence[Sequence[str]]
) -> Mapping[str, int]:
    """Number of the segment of each named node of a file.

    Segments consist of nodes of the graph that ONNX Runtime optimised. There a node keeps its name,
    or is fused into ``NAME/SomeFusion``, or has vanished. In the last case it gets the latest
    segment that it reads from, because operators join their predecessor when a model is cut. Nodes
    that compute weights have no segment.

    Args:
        nodes: Nodes of the file in the order of the graph, which is topological.
        segments: Names of the optimised nodes of each segment, in the order of execution.
    """
    known: dict[str, int] = {}
    for place, names in enumerate(segments):
        for name in names:
            original, _, step = name.rpartition("/")
            known[original if step.endswith("Fusion") else name] = place
    of_tensor: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in nodes:
        read = [of_tensor[name] for name in node.input if name in of_tensor]
        if node.name not in known and not read:
            continue
        place = known[node.name] if node.name in known else max(read)
        of_tensor.update(dict.fromkeys(node.output, place))
        if node.name:
            found.setdefault(node.name, place)
    return found
