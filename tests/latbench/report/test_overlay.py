"""Node data of Model Explorer: every node of a file has the latency of its segment."""

from __future__ import annotations

import json
from pathlib import Path

from onnx import ModelProto, helper

from latbench.models import read_model
from latbench.models.segments import cut
from latbench.report.overlay import segments_of_nodes, write_overlay
from latbench.workflows.explanation import Explanation, SegmentLatency
from tests.latbench.models.small import save
from tests.latbench.models.test_segments import Builder, residual_network


def explained(model: ModelProto, path: Path) -> Explanation:
    """An explanation by which the segments take 1.23456, 2.23456, ... ms."""
    pieces = cut(read_model(save(model, path)))
    parts = (
        SegmentLatency(
            *(piece.name, piece.nodes, place + 0.23456),
            *(1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
            advice=None,
        )
        for place, piece in enumerate(pieces, start=1)
    )
    return Explanation(None, None, None, None, tuple(parts), None)


def test_nodes_show_their_segments_latency_and_name(tmp_path: Path) -> None:
    model = residual_network()
    found = explained(model, tmp_path / "m.onnx")
    counted = write_overlay(tmp_path / "o.json", tmp_path / "m.onnx", found)
    assert counted == (len(model.graph.node), len(model.graph.node))
    data = json.loads((tmp_path / "o.json").read_text())
    assert data["results"]["conv_0"] == {"value": 1.235, "segment": "conv_0"}
    assert data["results"]["relu_1"] == {"value": 1.235, "segment": "conv_0"}
    assert data["results"]["conv_16"] == {"value": 5.235, "segment": "conv_16"}
    assert [stop["stop"] for stop in data["gradient"]] == [0, 0.5, 1]
    assert data["hideAggregatedStats"] == ["sum"]


def test_a_folded_norm_has_its_convolutions_segment_and_a_computed_weight_none(
    tmp_path: Path,
) -> None:
    b = Builder()
    weight = b.add("Identity", b.weight((8, 8, 3, 3)), channels=8)
    x = b.add("Conv", "x", weight, pads=[1, 1, 1, 1])
    x = b.add("BatchNormalization", x, *(b.weight((8,)) for _ in range(4)))
    model = b.build(b.conv(x, 8))
    found = explained(model, tmp_path / "m.onnx")
    named = segments_of_nodes(model.graph.node, [part.nodes for part in found.segments])
    assert named == {"conv_1": 0, "batchnormalization_2": 0, "conv_3": 1}


def test_a_fused_product_has_the_segment_of_the_fusion(tmp_path: Path) -> None:
    """ONNX Runtime makes one product of a matrix product and the addition of its bias."""
    b = Builder()
    x = b.conv("x", 8)
    for _ in range(2):
        x = b.add("Add", b.add("MatMul", x, b.weight((8, 8))), b.weight((8,)))
    model = b.build(x)
    found = explained(model, tmp_path / "m.onnx")
    assert any("Fusion" in name for part in found.segments for name in part.nodes)
    named = segments_of_nodes(model.graph.node, [part.nodes for part in found.segments])
    assert named == {"conv_0": 0, "matmul_1": 1, "add_2": 1, "matmul_3": 2, "add_4": 2}


def test_nodes_without_a_name_cannot_be_marked() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"], name="last"),
    ]
    assert segments_of_nodes(nodes, [["conv", "Relu_1"]]) == {"conv": 0, "last": 0}
