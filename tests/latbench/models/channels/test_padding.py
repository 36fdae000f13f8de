"""Padded models compute what the model computes, whatever ties their widths together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from latbench.errors import InvalidFileError
from latbench.models import read_model
from latbench.models.channels.groups import find_channels
from latbench.models.channels.padding import padded_file
from tests.latbench.models.channels.comparing import (
    compare,
    fitting,
    inputs_of,
    outputs_of,
    pad_and_compare,
    saved,
)
from tests.latbench.models.channels.random_graphs import (
    SIDE,
    STEPS,
    Network,
    random_network,
    with_head,
)
from tests.latbench.models.small import save, token_model


class _Drawn:
    """Choices of hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def integer(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))


class _Seeded:
    """Choices of a generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_random_network_computes_the_same_when_it_is_padded(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = _Drawn(data)
    net = random_network(draw, steps=draw.integer(1, 5))
    path = save(with_head(net, draw), tmp_path_factory.mktemp("random") / "m.onnx")
    model = read_model(path)
    channels = find_channels(model)
    wanted = {group: group.width + draw.integer(0, 9) for group in channels.groups}
    compare(path, model, channels, fitting(channels, wanted), extremes=True)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__.strip("_"))
def test_every_step_can_be_padded_but_what_needs_all_channels_or_overflows(
    step: Callable[[Network, str, _Seeded], str], tmp_path: Path
) -> None:
    net, draw = Network(), _Seeded(3)
    x = step(net, net.conv("x", 6), draw)
    path = saved(net, net.conv(x, 5), tmp_path)
    channels = find_channels(read_model(path))
    found = sum(len(group.producers) for group in channels.groups)
    left_alone = ("_norm_of_channels", "_scaled_by_an_exponential")
    kept = 2 if step.__name__ in left_alone else 1  # the last convolution
    assert found == len(channels.trace.made) - kept
    doubled = {group: 2 * group.width for group in channels.groups}
    assert channels.fits(doubled)
    compare(path, read_model(path), channels, doubled, extremes=True)


def test_a_residual_is_one_group_and_squeeze_excite_is_another(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6)
    inner = net.squeeze_excite(net.depthwise(net.add("HardSwish", net.conv(x, 10))), 3)
    x = net.add("Add", x, net.conv(inner, 6))
    path = saved(net, net.conv(x, 4), tmp_path)
    channels = find_channels(read_model(path))
    members = sorted((group.width, len(group.producers)) for group in channels.groups)
    assert members == [(3, 1), (6, 2), (10, 2)]  # the gate has the width of what it scales
    assert len(pad_and_compare(path)) == 3


def test_the_channels_of_inputs_and_outputs_stay(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6)
    path = saved(net, net.add("Relu", net.conv(x, 5)), tmp_path)
    assert [group.tensor for group in find_channels(read_model(path)).groups] == [x]
    pad_and_compare(path)


def test_channels_that_are_shuffled_and_split_grow_together(tmp_path: Path) -> None:
    net = Network()
    x = net.shuffle(net.add("Concat", net.conv("x", 10), net.conv("x", 10), axis=1, channels=20))
    for _ in range(3):
        kept, changed = net.halves(x)
        joined = [kept, net.add("Relu", net.conv(changed, 10))]
        x = net.shuffle(net.add("Concat", *joined, axis=1, channels=20))
    path = saved(net, net.conv(x, 4), tmp_path)
    model = read_model(path)
    channels = find_channels(model)
    (group,) = channels.groups
    assert (group.width, len(group.producers)) == (10, 5)
    file = compare(path, model, channels, {group: 16})
    weights = {tuple(tensor.dims) for tensor in file.graph.initializer}
    assert {(16, 3, 1, 1), (16, 16, 1, 1), (4, 32, 1, 1)} <= weights
    assert not channels.fits({group: 11})  # the halves would exchange channels


@pytest.mark.parametrize("transposed", [True, False])
def test_a_channel_is_as_many_columns_as_it_has_pixels(tmp_path: Path, transposed: bool) -> None:
    net = Network()
    flat = net.add("Flatten", net.add("Sigmoid", net.conv("x", 6)))
    x = net.linear(flat, inputs=6 * SIDE * SIDE, outputs=3, transposed=transposed)
    path = saved(net, x, tmp_path, rank=2)
    assert pad_and_compare(path, more=2) == {"conv0_0": (6, 8)}


def test_groups_of_a_convolution_grow_alike_or_not_at_all(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6)
    path = saved(net, net.conv(net.conv(x, 9, groups=3, kernel=3), 4), tmp_path)
    channels = find_channels(read_model(path))
    first, second = channels.groups
    assert [channels.fits({first: width}) for width in (7, 8, 9)] == [False, False, True]
    assert [channels.fits({second: width}) for width in (10, 11, 12)] == [False, False, True]
    assert pad_and_compare(path, more=3) == {first.tensor: (6, 9), second.tensor: (9, 12)}


def test_what_computes_with_all_channels_keeps_their_number(tmp_path: Path) -> None:
    for op, more in (("Softmax", ()), ("LayerNormalization", (2,)), ("ReduceMean", ())):
        net = Network()
        x = net.conv("x", 6)
        rows = net.add("Transpose", x, perm=[0, 2, 3, 1])
        axes = {"axes": [-1]} if op == "ReduceMean" else {"axis": -1}
        done = net.add(op, rows, *(net.weight(6) for _ in more), **axes)
        path = saved(net, done, tmp_path)
        assert find_channels(read_model(path)).groups == ()


def test_infinities_never_meet_a_weight_of_zero(tmp_path: Path) -> None:
    for op in ("Reciprocal", "Log", "Sqrt", "Exp"):
        net = Network()
        x = net.add(op, net.add("Softplus", net.conv("x", 6)))
        path = saved(net, net.conv(x, 4), tmp_path)
        assert find_channels(read_model(path)).groups == ()
    net = Network()
    barrier = net.constant(np.array(-np.inf, np.float32))
    x = net.add("Relu", net.add("Add", net.conv("x", 6), barrier))
    assert find_channels(read_model(saved(net, net.conv(x, 4), tmp_path))).groups == ()


def test_a_number_of_channels_that_is_read_as_a_number_stays(tmp_path: Path) -> None:
    """The scale of attention is a root of the number of channels."""
    net = Network()
    x = net.conv("x", 6)
    count = net.add("Gather", net.add("Shape", x), net.constant(np.array(1)))
    scale = net.add("Cast", count, to=onnx.TensorProto.FLOAT)
    path = saved(net, net.conv(net.add("Mul", x, scale), 4), tmp_path)
    channels = find_channels(read_model(path))
    assert not any(channels.fits({group: 8}) for group in channels.groups)


def test_sizes_that_follow_from_shapes_follow(tmp_path: Path) -> None:
    """A flattening as exporters write it: the batch is read, the rest is inferred."""
    net = Network()
    x = net.conv("x", 6)
    batch = net.add("Gather", net.add("Shape", x), net.integers(0))
    target = net.add("Concat", batch, net.integers(-1), axis=0)
    flat = net.add("Reshape", x, target)
    path = saved(net, net.linear(flat, inputs=6 * SIDE * SIDE, outputs=3), tmp_path, rank=2)
    assert pad_and_compare(path, more=2) == {x: (6, 8)}


def test_a_constant_of_two_readers_is_copied_where_one_of_them_grows(tmp_path: Path) -> None:
    net = Network()
    x, shared = net.conv("x", 6), net.weight(6, 6, 1, 1)
    x = net.add("Conv", x, shared, channels=6)
    x = net.add("Relu", net.add("Conv", x, shared, channels=6))
    path = saved(net, x, tmp_path)
    model = read_model(path)
    channels = find_channels(model)
    first, second = channels.groups
    file = compare(path, model, channels, {first: 8, second: 9})
    shapes = sorted(tuple(t.dims) for t in file.graph.initializer if len(t.dims) == 4)
    assert shapes == [(6, 9, 1, 1), (8, 3, 1, 1), (9, 8, 1, 1)]


def test_a_quantised_model_is_refused(tmp_path: Path) -> None:
    net = Network()
    scale = net.constant(np.array(0.1, np.float32))
    zero = net.constant(np.array(0, np.uint8))
    x = net.add("QuantizeLinear", net.conv("x", 6), scale, zero)
    x = net.add("DequantizeLinear", x, scale, zero, channels=6)
    path = saved(net, net.conv(x, 4), tmp_path)
    with pytest.raises(InvalidFileError, match=r"is quantised, node .*: change its widths before"):
        find_channels(read_model(path))


def test_half_precision_is_padded_in_half_precision(tmp_path: Path) -> None:
    net = Network(dtype=np.float16)
    x = net.squeeze_excite(net.depthwise(net.add("HardSwish", net.conv("x", 6))), 3)
    path = saved(net, net.conv(x, 4), tmp_path)
    assert len(pad_and_compare(path, tolerance=1e-2)) == 2
    channels = find_channels(read_model(path))
    file = padded_file(path, channels.widen(dict.fromkeys(channels.groups, 8)))
    assert {t.data_type for t in file.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_an_open_batch_stays_open_and_everything_else_as_it_was(tmp_path: Path) -> None:
    net = Network()
    x = net.add("Flatten", net.add("Relu", net.conv("x", 6)))
    built = net.build(net.linear(x, inputs=6 * SIDE * SIDE, outputs=3), rank=2, batch="n")
    built.producer_name = "somebody"
    built.metadata_props.add(key="classes", value="cat dog mouse")
    for tensor in built.graph.initializer:  # as some exporters do
        described = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        built.graph.value_info.append(described)
    path = save(onnx.shape_inference.infer_shapes(built), tmp_path / "m.onnx")
    model = read_model(path, batch_size=1)
    channels = find_channels(model)
    file = compare(path, model, channels, dict.fromkeys(channels.groups, 8))
    original = onnx.load(path)
    assert list(file.graph.input) == list(original.graph.input)
    assert list(file.graph.output) == list(original.graph.output)
    assert file.metadata_props == original.metadata_props
    assert (file.opset_import, file.producer_name) == (original.opset_import, "somebody")
    many = inputs_of(model, batch=5)
    np.testing.assert_allclose(outputs_of(file, many)[0], outputs_of(original, many)[0], atol=1e-5)


def test_weights_of_constant_nodes_and_of_old_files_are_padded(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6, bias=False)
    built = net.build(net.add("Relu", net.conv(x, 4, bias=False)), rank=4)
    first, second = list(built.graph.initializer)
    del built.graph.initializer[:]
    node = helper.make_node("Constant", [], [first.name], value=first)
    built.graph.node.insert(0, node)
    built.graph.initializer.append(second)
    shape = [*numpy_helper.to_array(second).shape]
    listed = helper.make_tensor_value_info(second.name, onnx.TensorProto.FLOAT, shape)
    built.graph.input.append(listed)
    built.ir_version = 3
    built.opset_import[0].version = 8
    assert pad_and_compare(save(built, tmp_path / "m.onnx")) == {x: (6, 11)}


def test_a_large_constant_node_is_padded(tmp_path: Path) -> None:
    """Some exporters write weights as nodes; those of many elements are read as initializers."""
    net = Network()
    x = net.conv("x", 130, bias=False)
    x2 = net.conv(net.add("Relu", x), 4, kernel=3, bias=False)
    built = net.build(net.add("Relu", x2), rank=4)
    weights = list(built.graph.initializer)
    assert max(int(np.prod(each.dims)) for each in weights) >= 1024
    del built.graph.initializer[:]
    for each in weights:
        built.graph.node.insert(0, helper.make_node("Constant", [], [each.name], value=each))
    assert pad_and_compare(save(built, tmp_path / "m.onnx")) == {x: (130, 135)}


def test_a_weight_that_passes_other_nodes_is_padded(tmp_path: Path) -> None:
    """Exporters share equal weights by Identity, and some turn them at run time."""
    net = Network()
    shared = net.weight(6)
    x = net.add("Conv", "x", net.weight(6, 3, 1, 1), net.add("Identity", shared), channels=6)
    x = net.add("Conv", x, net.weight(6, 6, 1, 1), net.add("Identity", shared), channels=6)
    x = net.add("Conv", x, net.weight(6, 6, 1, 1), shared, channels=6)
    pixels = net.add("GlobalAveragePool", x)
    rows = net.add("Flatten", pixels)
    turned = net.add("Transpose", net.add("Identity", net.weight(4, 6)))
    path = saved(net, net.add("MatMul", rows, turned, channels=4), tmp_path, rank=2)
    model = read_model(path)
    channels = find_channels(model)
    assert [group.width for group in channels.groups] == [6, 6, 6]
    plan = dict(zip(channels.groups, (8, 9, 6), strict=True))
    file = compare(path, model, channels, plan)
    assert [node.op_type for node in file.graph.node].count("Identity") == 2  # one of them is last
    plan = dict.fromkeys(channels.groups, 8)
    file = compare(path, model, channels, plan)
    assert "Transpose" not in {node.op_type for node in file.graph.node}


def test_shapes_that_onnx_cannot_infer_are_measured(tmp_path: Path) -> None:
    """A shuffle as older exporters write it: the number of channels is divided at run time."""
    net = Network()
    x = net.conv("x", 12)
    count = net.add("Gather", net.add("Shape", x), net.integers(1))
    half = net.add("Cast", net.add("Div", count, net.integers(2)), to=onnx.TensorProto.INT64)
    sizes = net.integers(SIDE, SIDE)
    apart = net.add("Concat", net.integers(1, 2), half, sizes, axis=0)
    turned = net.add("Transpose", net.add("Reshape", x, apart), perm=[0, 2, 1, 3, 4])
    whole = net.add("Concat", net.integers(1), net.integers(-1), sizes, axis=0)
    joined = net.add("Reshape", turned, whole, channels=12)
    path = saved(net, net.conv(joined, 4), tmp_path)
    assert pad_and_compare(path, more=4) == {x: (12, 16)}


def test_a_model_without_convolutions_has_no_groups(tmp_path: Path) -> None:
    path = save(token_model(), tmp_path / "m.onnx")
    model = read_model(path, shapes={"tokens": (2, 7), "mask": (2, 7, 1)})
    channels = find_channels(model)
    assert channels.groups == ()
    assert channels.fits({})
