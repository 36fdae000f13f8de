"""Segments of ONNX models: where they are cut, what counts as equal, and what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from latbench.blocks import Segment, block_key, parse_block
from latbench.cost import network_cost
from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.errors import InvalidFileError, MismatchError
from latbench.models import OnnxModel, read_model
from latbench.models.joining import join, random_weight
from latbench.models.segments import Piece, cut, misaligned_channels
from latbench.models.sessions import add_weights
from latbench.profilers import make_profiler, open_session
from tests.latbench.models.small import model_of, save

FLOAT = np.dtype(np.float32)


class Builder:
    """A model built node by node; weights are those that joined segments have."""

    def __init__(self, channels: int = 8, size: int = 8) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.input = helper.make_tensor_value_info(
            "x", TensorProto.FLOAT, (1, channels, size, size)
        )
        self.channels = {"x": channels}

    def add(self, op: str, *inputs: str, channels: int | None = None, **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.channels[name] = channels or self.channels[inputs[0]]
        return name

    def weight(self, shape: tuple[int, ...]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(random_weight(shape, FLOAT), name))
        return name

    def conv(self, x: str, channels: int, kernel: int = 3, stride: int = 1) -> str:
        weight = self.weight((channels, self.channels[x], kernel, kernel))
        pads = [kernel // 2] * 4
        return self.add("Conv", x, weight, channels=channels, strides=[stride, stride], pads=pads)

    def build(self, output: str) -> ModelProto:
        self.nodes[-1].output[0] = "y"
        assert output == self.nodes[-1].name
        return model_of(self.nodes, inputs=[self.input], weights=self.weights, rank=4)


def residual_network(channels: int = 16) -> ModelProto:
    """A convolution, two equal residual blocks, a block with squeeze-excite, a last convolution."""
    b = Builder()
    x = b.add("Relu", b.conv("x", channels))
    for _ in range(2):
        inner = b.conv(b.add("Relu", b.conv(x, channels)), channels)
        x = b.add("Relu", b.add("Add", inner, x))
    gate = b.add("Sigmoid", b.conv(b.add("GlobalAveragePool", x), channels, kernel=1))
    x = b.add("Mul", x, gate)
    return b.build(b.conv(x, 12, stride=2))


def _read(model: ModelProto, folder: Path) -> OnnxModel:
    return read_model(save(model, folder / "m.onnx"))


def _output(model: OnnxModel | Sequence[Segment], device: str = "cpu-onnxruntime") -> np.ndarray:
    network = model if isinstance(model, OnnxModel) else tuple(model)
    session = open_session(make_profiler(load_device(device)), network)
    session.call()
    found = session.output().copy()
    session.close()
    return found


def _session(model: OnnxModel) -> ort.InferenceSession:
    return ort.InferenceSession(model.whole(), providers=["CPUExecutionProvider"])


def _outputs(model: OnnxModel) -> list[np.ndarray]:
    outputs: list[np.ndarray] = _session(model).run(None, model.random_inputs())
    return outputs


def _segments(pieces: Sequence[Piece]) -> tuple[Segment, ...]:
    return tuple(piece.segment for piece in pieces)


def test_blocks_with_branches_stay_whole_and_pointwise_operators_join(tmp_path: Path) -> None:
    pieces = cut(_read(residual_network(), tmp_path))
    assert [len(piece.nodes) for piece in pieces] == [2, 5, 5, 4, 1]
    assert [piece.name for piece in pieces] == [
        "conv_0",
        "conv_2",
        "conv_7",
        "globalaveragepool_12",
        "conv_16",
    ]


def test_every_node_is_in_one_segment(tmp_path: Path) -> None:
    model = residual_network()
    named = [name for piece in cut(_read(model, tmp_path)) for name in piece.nodes]
    assert sorted(named) == sorted(node.name for node in model.graph.node)


def test_segments_in_a_row_compute_what_the_model_computes(tmp_path: Path) -> None:
    model = _read(residual_network(), tmp_path)
    segments = _segments(cut(model))
    expected = _output(model)
    scale = np.abs(expected).max()
    for device in ("cpu-onnxruntime", "cpu-openvino"):
        np.testing.assert_allclose(_output(segments, device), expected, atol=2e-5 * scale)
    x = next(iter(model.random_inputs().values()))
    for segment in segments:
        joined = join([segment])
        whole = joined.whole()
        assert whole is not None
        session = ort.InferenceSession(whole, providers=["CPUExecutionProvider"])
        (x,) = session.run(None, {"input": x})
        assert x.shape == segment.output_shape
    np.testing.assert_allclose(x, expected, atol=2e-5 * scale)


def test_equal_segments_are_one_block_whatever_their_weights_are(tmp_path: Path) -> None:
    model = residual_network()
    for number, weight in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(weight) * (number + 1)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    _, first, second, *_ = _segments(cut(_read(model, tmp_path)))
    assert first == second
    assert len({first, second}) == 1
    assert parse_block(block_key(first)) == second


@pytest.mark.parametrize("changed", ["channels", "stride", "operator"])
def test_segments_that_compute_something_else_differ(changed: str, tmp_path: Path) -> None:
    def segment(channels: int = 16, stride: int = 1, operator: str = "Relu") -> Segment:
        b = Builder()
        model = b.build(b.add(operator, b.conv("x", channels, stride=stride)))
        return _segments(cut(_read(model, tmp_path)))[0]

    other = {"channels": 17, "stride": 2, "operator": "Sigmoid"}[changed]
    assert segment() != segment(**{changed: other})  # type: ignore[arg-type]
    assert segment() == segment()


def test_costs_are_counted_from_the_operators(tmp_path: Path) -> None:
    cost = network_cost(_segments(cut(_read(residual_network(), tmp_path))))
    weights = 16 * 8 * 9 + 4 * 16 * 16 * 9 + 16 * 16 + 12 * 16 * 9
    assert cost.params == weights
    assert cost.conv_macs == 64 * (16 * 8 * 9 + 4 * 16 * 16 * 9) + 16 * 16 + 16 * 12 * 16 * 9
    assert cost.linear_macs == 0


def test_norms_are_folded_and_constants_computed(tmp_path: Path) -> None:
    b = Builder()
    x = b.conv("x", 8)
    norm = [b.weight((8,)) for _ in range(4)]
    x = b.add("BatchNormalization", x, *norm)
    shape = b.add("Shape", x)
    model = b.build(b.add("Reshape", x, shape))
    (piece,) = cut(_read(model, tmp_path))
    assert "Shape" not in piece.segment.operators
    assert "BatchNormalization" not in piece.segment.operators


def quantised_network(channels: int = 264, blocks: int = 4) -> ModelProto:
    """1x1 convolutions of 8 bits with a scale for each channel, as quantisers write them."""
    rng, nodes, weights = np.random.default_rng(0), [], []

    def constant(value: object, dtype: type, name: str) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    scale, zero = constant(0.05, np.float32, "scale"), constant(3, np.int8, "zero")
    x = "x"
    for block in range(blocks):
        x = add("DequantizeLinear", add("QuantizeLinear", x, scale, zero), scale, zero)
        values = rng.integers(-127, 128, (channels, channels, 1, 1))
        scales = constant(rng.uniform(0.01, 0.02, channels), np.float32, f"s{block}")
        zeros = constant(np.zeros(channels), np.int8, f"z{block}")
        weight = constant(values, np.int8, f"w{block}")
        x = add("Conv", x, add("DequantizeLinear", weight, scales, zeros, axis=0))
    x = add("QuantizeLinear", x, scale, zero)
    nodes.append(helper.make_node("DequantizeLinear", [x, scale, zero], ["y"]))
    read = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, channels, 4, 4))
    return model_of(nodes, inputs=[read], weights=weights, rank=4)


def _operators(model: OnnxModel, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime runs for a model, after all its optimisations."""
    options, path = ort.SessionOptions(), folder / f"{model.digest}.onnx"
    add_weights(options, model.weights)
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_segments_of_a_quantised_model_are_fused_as_the_model_is(tmp_path: Path) -> None:
    model = read_model(save(quantised_network(), tmp_path / "quantised.onnx"))
    joined = join([piece.segment for piece in cut(model)])
    own = _operators(model, tmp_path)
    assert own["QLinearConv"] == 4
    assert _operators(joined, tmp_path) == own
    quantised = [each for each in joined.weights.values() if each.dtype == np.int8]
    assert len(quantised) == 4
    assert all(len(np.unique(each)) > 200 for each in quantised)  # not zeros, which may be quicker


def test_tables_of_indices_keep_their_values(tmp_path: Path) -> None:
    build = Builder(channels=300)
    order = np.random.default_rng(0).permutation(300)
    build.weights.append(numpy_helper.from_array(order, "order"))
    x = build.add("Gather", "x", "order", axis=1)
    x = build.add("Relu", build.conv(build.add("Relu", build.conv(x, 8, 1)), 8))
    model = read_model(save(build.build(build.conv(x, 8)), tmp_path / "shuffled.onnx"))
    joined = join([piece.segment for piece in cut(model)])
    assert any((each == order).all() for each in _integers(joined))


def test_a_resizing_keeps_its_factors(tmp_path: Path) -> None:
    build = Builder()
    build.weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors"))
    x = build.add("Resize", build.conv("x", 8), "", "factors", mode="nearest")
    model = read_model(save(build.build(build.conv(x, 8)), tmp_path / "m.onnx"))
    joined = join([piece.segment for piece in cut(model)])
    assert _output(joined).shape == _output(model).shape == (1, 8, 16, 16)


def test_a_weight_may_be_the_first_factor_of_a_product(tmp_path: Path) -> None:
    build = Builder()
    tokens = build.weight((1, 1, 8, 8))
    x = build.add("MatMul", tokens, build.conv("x", 8), channels=8)
    model = read_model(save(build.build(build.conv(x, 8)), tmp_path / "m.onnx"))
    network = tuple(piece.segment for piece in cut(model))
    assert network_cost(network).linear_macs == 8 * 8 * 8 * 8


def _integers(model: OnnxModel) -> list[np.ndarray]:
    graph = onnx.load_model_from_string(model.graph).graph
    return [
        numpy_helper.to_array(each)
        for each in graph.initializer
        if each.data_type == TensorProto.INT64
    ]


def test_an_operator_without_a_known_shape_is_refused(tmp_path: Path) -> None:
    """``QLinearMul`` is an operator of ONNX Runtime, which onnx does not know."""
    proto = quantised_network(8)
    last = proto.graph.node[-1]
    read = last.input[0]
    scales = ["scale", "zero"]
    mixed = helper.make_node(
        "QLinearMul", [read, *scales, read, *scales, *scales], ["m"], domain="com.microsoft"
    )
    last.input[0] = "m"
    proto.graph.node.insert(len(proto.graph.node) - 1, mixed)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model = read_model(save(proto, tmp_path / "own.onnx"))
    with pytest.raises(InvalidFileError, match="which onnx does not know"):
        cut(model)


def test_the_first_segment_has_all_inputs_and_the_last_all_outputs(tmp_path: Path) -> None:
    b = Builder()
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 8, 1, 1))
    x = b.conv(b.add("Add", "x", "z"), 8)
    for _ in range(2):
        x = b.add("Relu", b.conv(x, 8))
    pooled = b.add("GlobalAveragePool", x)
    proto = b.build(b.conv(x, 8))
    proto.graph.input.append(z)
    proto.graph.output.append(
        helper.make_tensor_value_info(pooled, TensorProto.FLOAT, (1, 8, 1, 1))
    )
    model = _read(proto, tmp_path)
    segments = _segments(cut(model))
    joined = [join([segment]) for segment in segments]
    ends = [(len(each.inputs), len(_session(each).get_outputs())) for each in joined]
    assert ends == [(2, 1), (1, 1), (1, 1), (1, 2)]
    whole = join(segments)
    assert [each.shape for each in whole.inputs] == [(1, 8, 8, 8), (1, 8, 1, 1)]
    found = {values.shape: values for values in _outputs(whole)}
    for expected in _outputs(model):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[expected.shape], expected, atol=2e-5 * scale)
    with pytest.raises(MismatchError, match="does not read what"):
        join([segments[-1], segments[-1]])


def test_a_mask_that_lives_through_the_model_is_named(tmp_path: Path) -> None:
    b = Builder()
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, 8, 8, 8))
    x = "x"
    for _ in range(4):
        x = b.add("Mul", b.conv(x, 8), "mask")
    model = b.build(x)
    model.graph.input.append(mask)
    said = "gives 1 of at least 3 segments: the input x is read until conv_0, the input mask is "
    with pytest.raises(InvalidFileError, match=f"{said}read until mul_7, the output y is made"):
        cut(_read(model, tmp_path))


def test_segments_that_do_not_fit_are_not_joined(tmp_path: Path) -> None:
    first, *_, last = _segments(cut(_read(residual_network(), tmp_path)))
    with pytest.raises(MismatchError, match="does not read what"):
        join([last, first])


def test_misaligned_channels_are_found(tmp_path: Path) -> None:
    b = Builder(channels=3)
    model = b.build(b.conv(b.conv("x", 37), 16))
    first, second = _segments(cut(_read(model, tmp_path)))
    assert misaligned_channels(first) == misaligned_channels(second) == [37]


def test_a_segment_names_itself(profile: DeviceProfile, tmp_path: Path) -> None:
    segment = _segments(cut(_read(residual_network(), tmp_path)))[1]
    assert str(segment).startswith("Conv Relu Add and 2 more 1x16x8x8 to 1x16x8x8 (")
    assert segment.input_size == 8
