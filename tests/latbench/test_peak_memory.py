"""Peak memory of activations, against the liveness of tensors in the written ONNX model."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx import shape_inference

from latbench.blocks import ConvBlock, InvertedResidual, network_graph
from latbench.cost import network_cost
from latbench.peak_memory import block_peak_bytes, network_peak_bytes
from latbench.render.onnx import render_onnx
from nas.spaces import SPACES, Variant, every_width, make_space


def _peak_of_model(model: onnx.ModelProto) -> int:
    """Largest sum of live tensors: for every node, all that is written before and read after it."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    constant = {tensor.name for tensor in graph.initializer}
    size = {
        each.name: 4 * prod(d.dim_value for d in each.type.tensor_type.shape.dim)
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    begins = {each.name: 0 for each in graph.input}
    ends = {each.name: len(graph.node) - 1 for each in graph.output}
    for at, node in enumerate(graph.node):
        begins |= dict.fromkeys(node.output, at)
        for name in node.input:
            ends[name] = max(at, ends.get(name, 0))
    return max(
        sum(
            size[name]
            for name, begin in begins.items()
            if name not in constant and begin <= at <= ends[name]
        )
        for at in range(len(graph.node))
    )


@pytest.mark.parametrize("name", list(SPACES))
def test_the_peak_is_that_of_the_written_model(name: str) -> None:
    """Random networks of every space; of SGNAS's spaces also with squeeze-excite and hswish."""
    variants = [Variant()]
    if name.startswith("sgnas"):
        variants.append(Variant(se=True, activation="hswish"))
    rng = np.random.default_rng(3)
    for variant in variants:
        size = 112 if name == "mobilefacenet" else 32
        space = make_space(name, size, None, variant)
        for _ in range(4):
            network = space.lower(space.random(rng))
            model = render_onnx(network_graph(network))
            assert network_peak_bytes(network) == _peak_of_model(model)
            assert network_cost(network).peak_bytes == network_peak_bytes(network)


def test_the_peak_of_a_block_by_hand() -> None:
    """A convolution holds input and output; a swish its input, the sigmoid and its output."""
    conv = ConvBlock(3, 8, 3, 1, None, 16)
    assert block_peak_bytes(conv) == 4 * (3 + 8) * 16 * 16
    swish = ConvBlock(3, 8, 3, 1, "swish", 16)
    assert block_peak_bytes(swish) == 4 * 3 * 8 * 16 * 16
    kept = InvertedResidual(8, 8, 32, 3, 1, "relu", 16)
    assert block_peak_bytes(kept) == 4 * (8 + 32 + 32) * 16 * 16  # the input waits for the sum


def test_a_wider_block_needs_at_least_as_much() -> None:
    """The widths that fit a limit are then all up to one of them."""
    space = make_space("tfnas", 32, 10)
    for layer in dict.fromkeys(space.layers):
        for op in layer.ops:
            blocks = (layer.block(choice) for choice in layer.choices(op, every_width))
            peaks = [block_peak_bytes(block) for block in blocks if block is not None]
            assert peaks == sorted(peaks)
