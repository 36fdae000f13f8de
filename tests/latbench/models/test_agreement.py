"""Whether two models agree: on every kind of input, and where outputs are not finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from latbench.models import read_model
from latbench.models.agreement import can_run, in_single_precision, largest_difference
from tests.latbench.models.channels.random_graphs import Network
from tests.latbench.models.small import conv_model, model_of, save


def _weight(factor: float = 1.0) -> np.ndarray:
    weight = np.random.default_rng(0).standard_normal((64, 3, 3, 3)).astype(np.float32)
    weight[5] *= np.float32(factor)
    return weight


def _logarithm(*, offset: float) -> ModelProto:
    """The logarithm of the input, which is not a number below zero and infinite at zero."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 4))]
    nodes = [helper.make_node("Log", ["x"], ["l"]), helper.make_node("Add", ["l", "w"], ["y"])]
    weight = np.full(4, offset, np.float32)
    return model_of(nodes, inputs=inputs, weights=[numpy_helper.from_array(weight, "w")], rank=2)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_difference_is_relative_to_the_largest_output(tmp_path: Path, factor: float) -> None:
    models = [
        read_model(save(conv_model(weight=_weight(each)), tmp_path / f"{each}.onnx"))
        for each in (1.0, factor)
    ]
    found = largest_difference(*models)
    assert found == 0 if factor == 1 else 1e-5 < found < 1e-3


def test_outputs_that_are_not_finite_must_be_the_same(tmp_path: Path) -> None:
    first = read_model(save(_logarithm(offset=0), tmp_path / "a.onnx"))
    assert largest_difference(first, first) == 0
    infinite = read_model(save(_logarithm(offset=np.inf), tmp_path / "b.onnx"))
    assert largest_difference(first, infinite) == np.inf


def test_a_model_runs_or_not_at_some_shape(tmp_path: Path) -> None:
    """A convolution of three channels, and an input whose channels the file leaves open."""
    path = save(conv_model(shape=(1, "c", 8, 8)), tmp_path / "m.onnx")
    assert can_run(read_model(path, shapes={"x": (1, 3, 8, 8)}))
    assert not can_run(read_model(path, shapes={"x": (1, 5, 8, 8)}))


def test_halves_are_compared_in_single_precision(tmp_path: Path) -> None:
    """The models differ by less than half precision rounds."""
    found = []
    for factor in (1.0, 1.002):
        net = Network(dtype=np.float16)
        x = net.add("Cast", net.add("Relu", net.conv("x", 32)), to=TensorProto.FLOAT16)
        built = net.build(net.conv(x, 64, kernel=3), rank=4)
        for tensor in (built.graph.initializer[0], built.graph.initializer[2]):
            value = numpy_helper.to_array(tensor) * np.float16(factor)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        model = read_model(save(built, tmp_path / f"{factor}.onnx"))
        wide = in_single_precision(model)
        assert wide is not None
        assert {each.dtype for each in (*wide.inputs, *wide.weights.values())} == {
            np.dtype("float32")
        }
        assert in_single_precision(wide) is None
        found.append((model, wide))
    (model, wide), (other, other_wide) = found
    assert largest_difference(model, other) < 1e-2
    assert largest_difference(wide, other_wide) > 1e-5
    assert largest_difference(wide, wide) == 0
