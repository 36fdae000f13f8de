"""Padding of slow widths: what the device rewards is written, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from latbench.blocks import Network as BlockNetwork
from latbench.device import DeviceProfile
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError
from latbench.models import OnnxModel, read_model
from latbench.models.agreement import largest_difference
from latbench.profilers import CacheFlusher, Profiler, Session
from latbench.report.comparisons import show_alignment
from latbench.workflows import alignment as workflow
from latbench.workflows.alignment import Alignment, align
from tests.latbench.models.channels.random_graphs import Network
from tests.latbench.models.small import conv_model, save

KEYS = {
    *("before_ms", "after_ms", "ratio", "ratio_low", "ratio_high"),
    *("max_abs_difference", "padded", "path"),
}


class _Kernels(Profiler):
    """A device on which the widths of convolutions decide the time.

    Args:
        rate: Time for each multiply-accumulate of a pixel, given the widths of a convolution.
    """

    def __init__(self, profile: DeviceProfile, rate: Callable[[int, int], float]) -> None:
        super().__init__(profile)
        self.rate = rate
        self.rng = np.random.default_rng(0)

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def cache_flusher(self) -> CacheFlusher:
        return CacheFlusher(4)

    def open(self, network: BlockNetwork) -> Session:
        raise AssertionError("only models are measured here")

    def open_model(self, model: OnnxModel) -> Session:
        shapes = [
            tuple(tensor.dims)
            for tensor in onnx.load_model_from_string(model.graph).graph.initializer
        ]
        kernels = [shape for shape in shapes if len(shape) == 4]
        taken = sum(prod(shape) * self.rate(shape[0], shape[1]) for shape in kernels)
        return _Call(1e-3 * (10 + taken) * (1 + 0.002 * self.rng.exponential()))

    def versions(self) -> dict[str, str]:
        return {}


class _Call(Session):
    def __init__(self, taken_ms: float) -> None:
        self.taken_ms = taken_ms

    def call(self) -> None:
        return

    def timed_call(self) -> int:
        return round(self.taken_ms * 1e6)

    def output(self) -> NDArray[np.float32]:
        raise AssertionError("nothing is computed here")

    def close(self) -> None:
        return


def _by_eight(rows: int, columns: int) -> float:
    """Kernels for eight rows at once; other numbers take four times as long."""
    return 1.0 if rows % 8 == 0 else 4.0


def _alike(rows: int, columns: int) -> float:
    return 1.0


@pytest.fixture
def on_device(
    monkeypatch: pytest.MonkeyPatch, quick_profile: DeviceProfile
) -> Callable[..., Alignment]:
    """Align a file on a device with some kernels."""

    def run(path: Path, output: Path, rate: Callable[[int, int], float], **more: Any) -> Alignment:
        monkeypatch.setattr(workflow, "make_profiler", lambda device: _Kernels(device, rate))
        return align(path, quick_profile, output=output, time_limit="1ms", **more)

    return run


def _mixed(*, batch: int | str = 1) -> onnx.ModelProto:
    """Widths of 30 and 31, which are slow by eight, and of 16 and 40, which are not."""
    net = Network()
    x = net.add("Relu", net.conv("x", 16, kernel=3))
    x = net.add("Relu", net.conv(x, 30, kernel=3))
    x = net.add("HardSwish", net.conv(x, 40, kernel=3))
    x = net.add("Relu", net.conv(x, 31, kernel=3))
    return net.build(net.conv(x, 8), rank=4, batch=batch)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return save(_mixed(), tmp_path / "mixed.onnx")


def test_slow_widths_are_padded_and_the_others_are_not(
    on_device: Callable[..., Alignment], mixed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "faster.onnx"
    found = on_device(mixed, output, _by_eight)
    assert [(each.before, each.after) for each in found.padded] == [(30, 32), (31, 32)]
    assert found.path == output
    assert found.ratio_low <= found.ratio <= found.ratio_high < 1
    assert found.after_ms == pytest.approx(found.ratio * found.before_ms, rel=0.01)
    assert found.max_abs_difference < 1e-5
    written = read_model(output)
    assert largest_difference(read_model(mixed), written) == found.max_abs_difference
    assert list(output.parent.iterdir()) == [output]


def test_nothing_is_written_where_no_padding_pays(
    on_device: Callable[..., Alignment], mixed: Path, tmp_path: Path
) -> None:
    found = on_device(mixed, tmp_path / "faster.onnx", _alike)
    assert (found.path, found.padded) == (None, ())
    assert found.ratio >= 1
    assert list(tmp_path.iterdir()) == [mixed]


def test_a_model_of_even_widths_is_measured_and_left_alone(
    on_device: Callable[..., Alignment], tmp_path: Path
) -> None:
    path = save(conv_model(), tmp_path / "m.onnx")
    found = on_device(path, tmp_path / "faster.onnx", _by_eight)
    assert found.before_ms == found.after_ms > 0
    assert (found.ratio, found.padded, found.path) == (1.0, (), None)


def test_the_width_that_is_fastest_is_found_for_each_group(
    on_device: Callable[..., Alignment], tmp_path: Path
) -> None:
    """Multiples of 16 for wide convolutions, multiples of 4 for narrow ones."""

    def rate(rows: int, columns: int) -> float:
        even = rows % 16 == 0 if rows > 64 else rows % 4 == 0
        return 1.0 if even else 2.0

    net = Network()
    x = "x"
    for width in (8, 50, 16, 103, 16, 49):
        x = net.add("Relu", net.conv(x, width, kernel=3))
    path = save(net.build(net.conv(x, 8), rank=4), tmp_path / "m.onnx")
    found = on_device(path, tmp_path / "faster.onnx", rate)
    widths = {each.before: each.after for each in found.padded}
    assert widths == {50: 52, 103: 112, 49: 52}


def test_the_result_is_the_documented_object(
    on_device: Callable[..., Alignment], mixed: Path, tmp_path: Path
) -> None:
    plain = json.loads(json.dumps(on_device(mixed, tmp_path / "f.onnx", _by_eight).as_dict()))
    assert set(plain) == KEYS
    assert plain["padded"][0] == {"tensor": "conv2_0", "from": 30, "to": 32}
    assert plain["path"] == str(tmp_path / "f.onnx")


def test_what_was_padded_is_shown(
    on_device: Callable[..., Alignment],
    mixed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_alignment(on_device(mixed, tmp_path / "f.onnx", _by_eight))
    out = capsys.readouterr().out
    assert re.search(r"conv2_0 +30 +32", out)
    assert re.search(r"the ratio is 0\.\d+ \(0\.\d+ to 0\.\d+\)", out)
    assert "wrote" in out
    show_alignment(on_device(mixed, tmp_path / "g.onnx", _alike))
    assert "no padding pays" in capsys.readouterr().out


def test_an_open_batch_is_compared_at_two_sizes_and_stays_open(
    on_device: Callable[..., Alignment], tmp_path: Path
) -> None:
    path = save(_mixed(batch="n"), tmp_path / "m.onnx")
    output = tmp_path / "f.onnx"
    on_device(path, output, _by_eight, batch_size=1)
    assert onnx.load(output).graph.input[0] == onnx.load(path).graph.input[0]
    read_model(output, batch_size=3)


def test_a_batch_that_the_model_cannot_take_is_not_compared(
    on_device: Callable[..., Alignment], tmp_path: Path
) -> None:
    """The file leaves the batch open, but a reshape inside has it as a number."""
    net = Network()
    x = net.conv(net.add("Relu", net.conv("x", 30, kernel=3)), 8)
    x = net.add("Reshape", x, net.integers(1, 8, 16))
    path = save(net.build(x, rank=3, batch="n"), tmp_path / "m.onnx")
    found = on_device(path, tmp_path / "f.onnx", _by_eight, batch_size=1)
    assert [(each.before, each.after) for each in found.padded] == [(30, 32)]


def test_outputs_that_differ_are_an_error_and_nothing_is_written(
    on_device: Callable[..., Alignment],
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = workflow.padded_file

    def wrong(*arguments: Any) -> onnx.ModelProto:
        proto = whole(*arguments)
        (tensor,) = (each for each in proto.graph.initializer if each.dims[:2] == [40, 32])
        value = numpy_helper.to_array(tensor).copy()
        value[:, 31] = 1e-3  # what reads the new channels must be zero
        value[3, 5] += 1e-2
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return proto

    monkeypatch.setattr(workflow, "padded_file", wrong)
    with pytest.raises(LatbenchError, match=r"deviates from .* nothing is written"):
        on_device(mixed, tmp_path / "f.onnx", _by_eight)
    assert list(tmp_path.iterdir()) == [mixed]


def test_a_file_is_never_overwritten_and_wrong_input_is_refused(
    on_device: Callable[..., Alignment], mixed: Path, tmp_path: Path
) -> None:
    before = mixed.read_bytes()
    with pytest.raises(InvalidFileError, match="exists: choose another output"):
        on_device(mixed, mixed, _by_eight)
    assert mixed.read_bytes() == before
    with pytest.raises(InvalidValueError, match="no model has an input 'z'"):
        on_device(mixed, tmp_path / "f.onnx", _by_eight, shapes={"z": (1,)})
    with pytest.raises(InvalidFileError, match="cannot read"):
        on_device(tmp_path / "none.onnx", tmp_path / "f.onnx", _by_eight)


def test_a_place_that_cannot_be_written_is_refused_before_measuring(
    on_device: Callable[..., Alignment], mixed: Path
) -> None:
    def measured(rows: int, columns: int) -> float:
        raise AssertionError("the place comes first")

    with pytest.raises(InvalidFileError, match=r"cannot write .*; choose another output"):
        on_device(mixed, mixed / "new" / "f.onnx", measured)


def test_a_module_is_exported_first(tmp_path: Path, quick_profile: DeviceProfile) -> None:
    module: Any = object()
    with pytest.raises(InvalidValueError, match=r"reads ONNX files, and object .* export it"):
        align(module, quick_profile, output=tmp_path / "f.onnx")


def test_a_fault_in_half_precision_does_not_hide_behind_the_rounding(
    on_device: Callable[..., Alignment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network(dtype=np.float16)
    x = net.conv(net.add("Relu", net.conv("x", 30, kernel=3)), 8)
    path = save(net.build(x, rank=4), tmp_path / "m.onnx")
    whole = workflow.padded_file

    def wrong(*arguments: Any) -> onnx.ModelProto:
        proto = whole(*arguments)
        tensor = proto.graph.initializer[0]
        value = numpy_helper.to_array(tensor).copy()
        value[0] *= np.float16(1.002)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return proto

    assert on_device(path, tmp_path / "right.onnx", _by_eight).path is not None
    monkeypatch.setattr(workflow, "padded_file", wrong)
    with pytest.raises(LatbenchError, match=r"deviates from .* and 1e-05 is allowed"):
        on_device(path, tmp_path / "wrong.onnx", _by_eight)
    assert not (tmp_path / "wrong.onnx").exists()


def test_a_file_that_onnx_refuses_is_not_written(
    on_device: Callable[..., Alignment],
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shapes that contradict the weights: runtimes warn, and other tools refuse the file."""
    whole = workflow.padded_file

    def contradicting(*arguments: Any) -> onnx.ModelProto:
        proto = whole(*arguments)
        old = onnx.helper.make_tensor_value_info("conv2_0", onnx.TensorProto.FLOAT, [1, 30, 4, 4])
        proto.graph.value_info.append(old)
        return proto

    monkeypatch.setattr(workflow, "padded_file", contradicting)
    with pytest.raises(LatbenchError, match=r"is not valid .*nothing is written"):
        on_device(mixed, tmp_path / "f.onnx", _by_eight)
    assert list(tmp_path.iterdir()) == [mixed]


def test_a_real_runtime_is_asked(mixed: Path, tmp_path: Path, quick_profile: DeviceProfile) -> None:
    found = align(mixed, quick_profile, output=tmp_path / "f.onnx", time_limit="1ms")
    assert found.before_ms > 0
    assert (found.path is not None) == (tmp_path / "f.onnx").exists()
