"""Reading of ONNX files: what is accepted is what the runtime computes, the rest is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, RuntimeFailure
from latbench.models import OnnxModel, read_model
from latbench.profilers import make_profiler
from tests.latbench.models.small import conv_model, model_of, save, token_model

RUNTIMES = ("cpu-onnxruntime", "cpu-openvino")


def _outputs(model: OnnxModel, device: str) -> np.ndarray:
    session = make_profiler(load_device(device)).open_model(model)
    session.call()
    found = session.output().copy()
    session.close()
    return found


def _expected(model: OnnxModel) -> np.ndarray:
    """What ONNX Runtime computes from the file itself."""
    session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, model.random_inputs())[0]
    return found


@pytest.mark.parametrize("device", RUNTIMES)
@pytest.mark.parametrize("make", [conv_model, token_model], ids=lambda make: make.__name__)
def test_a_runtime_computes_what_the_file_says(
    make: Callable[[], ModelProto], device: str, tmp_path: Path
) -> None:
    path = save(make(), tmp_path / "model.onnx")
    shapes = {"tokens": (2, 7), "mask": (2, 7, 1)}
    model = read_model(path, shapes=shapes)
    np.testing.assert_allclose(_outputs(model, device), _expected(model), rtol=1e-4, atol=1e-5)


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = save(conv_model(), tmp_path / "n\udce9t.onnx")
    with pytest.raises(InvalidFileError, match="is not UTF-8") as caught:
        read_model(path)
    caught.value.message.encode()
    spaced = save(conv_model(), tmp_path / "a b ü.onnx")
    assert read_model(spaced).name == "a b ü.onnx"


@pytest.mark.parametrize("element", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT8", "INT4"])
def test_weights_of_types_that_numpy_lacks_are_read(element: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-7, 8, 64 * 64).astype(np.float32)
    weight = helper.make_tensor("w", getattr(TensorProto, element), (64, 64), values)
    decode = helper.make_node("DequantizeLinear", ["w", "scale"], ["decoded"])
    if element == "BFLOAT16":
        decode = helper.make_node("Cast", ["w"], ["decoded"], to=TensorProto.FLOAT)
    proto = model_of(
        [decode, helper.make_node("MatMul", ["x", "decoded"], ["y"])],
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 64))],
        weights=[weight, numpy_helper.from_array(np.float32(0.1), "scale")],
        rank=2,
    )
    proto.ir_version, proto.opset_import[0].version = 10, 21
    model = read_model(save(proto, tmp_path / "model.onnx"))
    found = _outputs(model, "cpu-onnxruntime")
    np.testing.assert_allclose(found, _expected(model), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(_outputs(read_model(model.path), "cpu-onnxruntime"), found)


@pytest.mark.parametrize("device", RUNTIMES)
def test_weights_in_files_beside_the_model_are_read(device: str, tmp_path: Path) -> None:
    inside = save(conv_model(), tmp_path / "inside.onnx")
    beside = tmp_path / "beside.onnx"
    onnx.save(conv_model(), beside, save_as_external_data=True, location="b.data", size_threshold=0)
    model = read_model(beside)
    assert model.weight_bytes == 64 * 27 * 4
    assert (tmp_path / "b.data").stat().st_size == model.weight_bytes
    np.testing.assert_array_equal(_outputs(model, device), _outputs(read_model(inside), device))


def test_large_weights_are_kept_apart_from_the_graph(tmp_path: Path) -> None:
    model = read_model(save(conv_model(channels=512), tmp_path / "m.onnx"))
    assert len(model.graph) < 2000 < model.weight_bytes
    whole = model.whole()
    assert whole is not None
    found = onnx.load_model_from_string(whole).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(found), model.weights["w"])


@pytest.mark.parametrize("ir_version", [3, 8])
def test_large_constants_are_weights_too(ir_version: int, tmp_path: Path) -> None:
    proto = conv_model()
    weight = proto.graph.initializer.pop()
    constant = helper.make_node("Constant", [], [weight.name], value=weight)
    proto.graph.node.insert(0, constant)
    proto.ir_version = ir_version
    model = read_model(save(proto, tmp_path / "constant.onnx"))
    assert (model.weight_bytes > 0) == (ir_version == 8)
    found = _outputs(model, "cpu-onnxruntime")
    np.testing.assert_allclose(found, _expected(model), rtol=1e-4, atol=1e-5)


def test_models_differ_by_a_weight_and_by_a_shape_and_not_by_name(tmp_path: Path) -> None:
    first = read_model(save(conv_model(), tmp_path / "a.onnx"))
    again = read_model(save(conv_model(), tmp_path / "b.onnx"))
    weight = np.array(first.weights["w"])
    weight[0, 0, 0, 0] += 1
    other = read_model(save(conv_model(weight=weight), tmp_path / "c.onnx"))
    larger = read_model(save(conv_model(shape=(1, 3, 9, 9)), tmp_path / "d.onnx"))
    assert first.digest == again.digest
    assert len({first.digest, other.digest, larger.digest}) == 3


def test_open_shapes_are_given_by_name_or_as_a_batch(tmp_path: Path) -> None:
    path = save(conv_model(shape=("n", 3, "h", "w")), tmp_path / "m.onnx")
    assert read_model(path, shapes={"x": (2, 3, 8, 6)}).inputs[0].shape == (2, 3, 8, 6)
    batch = save(conv_model(shape=("n", 3, 8, 8)), tmp_path / "b.onnx")
    assert read_model(batch, batch_size=4).inputs[0].shape == (4, 3, 8, 8)
    fixed = save(conv_model(), tmp_path / "f.onnx")
    assert read_model(fixed, shapes={"other": (1,)}).inputs[0].shape == (1, 3, 8, 8)


def test_one_input_has_the_batch_size_and_another_may_be_a_table(tmp_path: Path) -> None:
    model = token_model()
    for value, shape in zip(model.graph.input, ((2, 7), (7, 1)), strict=True):
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)
        )
    path = save(model, tmp_path / "m.onnx")
    assert [each.shape for each in read_model(path, batch_size=2).inputs] == [(2, 7), (7, 1)]
    with pytest.raises(InvalidValueError, match="fixed batch size 2"):
        read_model(path, batch_size=3)


@pytest.mark.parametrize(
    ("shape", "arguments", "said"),
    [
        (("n", 3, 8, 8), {}, "--shape x=1x3x8x8"),
        ((1, 3, "h", "w"), {"batch_size": 1}, "--shape x=1x3x224x224"),
        (
            (1, 3, 8, 8),
            {"shapes": {"x": (1, 3, 9, 8)}},
            "does not fit the input x, which is 1x3x",
        ),
        ((1, 3, 8, 8), {"shapes": {"x": (3, 8, 8)}}, "does not fit"),
        ((1, 3, 8, 8), {"batch_size": 2}, "fixed batch size 1 .*, not 2: give 1 .--batch-size 1,"),
    ],
)
def test_a_shape_that_is_missing_or_does_not_fit_is_refused(
    shape: tuple[int | str, ...], arguments: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = save(conv_model(shape=shape), tmp_path / "m.onnx")
    with pytest.raises(InvalidValueError, match=said):
        read_model(path, **arguments)  # type: ignore[arg-type]


def test_shapes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = save(token_model(), tmp_path / "m.onnx")
    with pytest.raises(InvalidValueError, match="do not fit its layers"):
        read_model(path, shapes={"tokens": (2, 7), "mask": (3, 7, 1)})


@pytest.mark.parametrize("device", RUNTIMES)
def test_a_shape_that_only_the_runtime_refuses_is_its_refusal(device: str, tmp_path: Path) -> None:
    path = save(conv_model(shape=(1, "c", 8, 8)), tmp_path / "m.onnx")
    read = read_model(path, shapes={"x": (1, 5, 8, 8)})
    with pytest.raises(RuntimeFailure, match="refused the network"):
        make_profiler(load_device(device)).open_model(read).call()


def _without_weights(path: Path) -> None:
    model = conv_model()
    shape = tuple(model.graph.initializer[0].dims)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, shape))
    del model.graph.initializer[:]
    save(model, path)


def _with_nan(path: Path) -> None:
    weight = np.zeros((64, 3, 3, 3), np.float32)
    weight[5, 1, 1, 1] = np.nan
    save(conv_model(weight=weight), path)


def _with_a_cycle(path: Path) -> None:
    model = conv_model()
    model.graph.node[0].input[0] = "y"
    save(model, path)


def _with_an_if(path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    model = conv_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    del model.graph.node[1]
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["y"], name="fork", then_branch=branch, else_branch=branch)
    )
    save(model, path)


def _with_text(path: Path) -> None:
    model = conv_model()
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, (1,)))
    save(model, path)


def _truncated(path: Path) -> None:
    raw = conv_model().SerializeToString()
    path.write_bytes(raw[: len(raw) // 2])


def _lying(path: Path) -> None:
    model = conv_model()
    model.graph.initializer[0].dims[0] = 1 << 40
    save(model, path)


def _lying_beside(path: Path) -> None:
    onnx.save(conv_model(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    with (path.parent / "w.data").open("r+b") as file:
        file.truncate(100)


def _weights_elsewhere(path: Path) -> None:
    (path.parent / "model").mkdir()
    onnx.save(conv_model(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    model = onnx.load_model(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../../etc/passwd"
    save(model, path)


def _weights_missing(path: Path) -> None:
    onnx.save(conv_model(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    (path.parent / "w.data").unlink()


def _huge_tensor(path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Expand", ["a", "size"], ["y"], name="grow"),
    ]
    save(
        model_of(
            nodes,
            inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
            weights=[
                numpy_helper.from_array(np.ones(4, np.float32), "w"),
                numpy_helper.from_array(np.array([1 << 40, 4], np.int64), "size"),
            ],
            rank=2,
        ),
        path,
    )


UNSOUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (_without_weights, "has no weights: export it with its parameters"),
    "NaN": (_with_nan, "weight w that is not a number"),
    "a cycle": (_with_a_cycle, "not a valid ONNX model"),
    "an If": (_with_an_if, r"control flow, node fork \(If\)"),
    "text": (_with_text, "text in words"),
    "zero bytes": (lambda path: path.write_bytes(b""), "it is empty"),
    "truncated": (_truncated, "truncated"),
    "a text file": (lambda path: path.write_text("weights: none\n"), "is not an ONNX model"),
    "a folder": (lambda path: path.mkdir(), "a directory"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"w": [1.0] * 9})), "not an ONNX"),
    "nothing": (lambda path: None, "cannot read"),
    "sizes that lie": (_lying, "is damaged|not a valid ONNX model"),
    "short data": (_lying_beside, "longer than its data in w.data"),
    "data elsewhere": (_weights_elsewhere, "outside of its folder"),
    "data missing": (_weights_missing, "w.data is missing"),
    "a tensor beyond memory": (_huge_tensor, "more than the memory"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_what_cannot_be_measured_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, said = UNSOUND[case]
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(InvalidFileError, match=said) as refused:
        read_model(path)
    assert "\n" not in refused.value.message
    assert str(path) in refused.value.message


@pytest.mark.parametrize("device", RUNTIMES)
def test_an_operator_that_the_runtime_lacks_is_its_refusal(device: str, tmp_path: Path) -> None:
    model = conv_model()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Rectify", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    read = read_model(save(model, tmp_path / "m.onnx"))
    with pytest.raises(RuntimeFailure, match="Rectify"):
        make_profiler(load_device(device)).open_model(read)


def test_a_runtime_without_onnx_says_which_to_use(profile: DeviceProfile, tmp_path: Path) -> None:
    read = read_model(save(conv_model(), tmp_path / "m.onnx"))
    with pytest.raises(LatbenchError, match=r"measure m\.onnx under onnxruntime or openvino"):
        make_profiler(load_device("cpu-pytorch")).open_model(read)


def test_functions_of_a_model_are_put_in_their_places(tmp_path: Path) -> None:
    model = conv_model()
    model.functions.append(
        helper.make_function(
            "local",
            "Twice",
            ["a"],
            ["b"],
            [helper.make_node("Add", ["a", "a"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
    )
    model.graph.node[1].op_type, model.graph.node[1].domain = "Twice", "local"
    model.opset_import.append(helper.make_opsetid("local", 1))
    read = read_model(save(model, tmp_path / "m.onnx"))
    assert not onnx.load_model_from_string(read.graph).functions
    for device in RUNTIMES:
        np.testing.assert_allclose(_outputs(read, device), _expected(read), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-4"), ("offset", "abc"), ("length", "-1"), ("location", "w\0data")],
)
def test_a_place_of_weights_that_is_none_is_refused(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    model = onnx.load_model(path, load_external_data=False)
    entry = model.graph.initializer[0].external_data.add()
    for known in model.graph.initializer[0].external_data:
        if known.key == key:
            entry = known
    entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidFileError, match="no valid file, offset and length"):
        read_model(path)


@pytest.mark.parametrize("sizes", [(1, 3, 2**70, 8), (1, 3, 8.5, 8), (1, 3, 0, 8), "1x3x8x8"])
def test_sizes_that_are_none_are_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    path = save(conv_model(shape=(1, 3, "h", "w")), tmp_path / "m.onnx")
    with pytest.raises(InvalidValueError, match="sizes are integers from 1 to"):
        read_model(path, shapes={"x": sizes})
    with pytest.raises(InvalidValueError, match="sizes are integers from 1 to"):
        read_model(path, batch_size=10**20)
