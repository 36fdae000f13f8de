"""Torch modules as models: exported as they compute, left as they were."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, MissingExtraError
from latbench.models import OnnxModel
from latbench.models.torch_modules import Example, is_torch_module, read_module, require_example
from tests.latbench.models.small import conv_model, save

torch = pytest.importorskip("torch")
needs_exporter = pytest.mark.skipif(
    find_spec("onnxscript") is None, reason="onnxscript is not installed"
)

IMAGE = torch.rand(2, 3, 12, 12)


class Noisy(torch.nn.Module):
    """A convolution, a norm and a dropout; it prints when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 3)
        self.norm = torch.nn.BatchNorm2d(32)
        self.drop = torch.nn.Dropout(0.5)
        self.norm.running_mean.normal_()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        print("from forward")  # noqa: T201
        return self.drop(torch.relu(self.norm(self.conv(image))))


def _draw(*_: object) -> None:
    torch.rand(1)


class Tokens(torch.nn.Module):
    """A table of words, a mask, and a scale that can only be given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 32)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, *, scale: torch.Tensor | None = None
    ) -> torch.Tensor:
        rows = self.table(tokens) * mask
        return rows if scale is None else rows * scale


class Branching(Noisy):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.sum() > 0:
            return self.conv(image)
        return self.norm(self.conv(image))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, in which nothing is left; torch's cache is elsewhere."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    yield temporary
    assert list(temporary.iterdir()) == []


def _computed(model: OnnxModel, *values: torch.Tensor) -> np.ndarray[Any, Any]:
    whole = model.whole()
    assert whole is not None
    session = ort.InferenceSession(whole, providers=["CPUExecutionProvider"])
    names = [each.name for each in model.inputs]
    (found,) = session.run(None, dict(zip(names, (v.numpy() for v in values), strict=True)))
    return found


@needs_exporter
def test_a_module_is_exported_as_it_evaluates_and_is_left_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    module = Noisy()
    module.conv.eval()
    module.register_forward_hook(_draw)
    modes = [each.training for each in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    drawn = torch.get_rng_state()

    read = read_module(module, IMAGE)

    assert [each.training for each in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert len(module._forward_hooks) == 1
    assert torch.equal(torch.get_rng_state(), drawn)
    assert capfd.readouterr() == ("", "")
    assert read.name == "Noisy"
    assert [each.shape for each in read.inputs] == [(2, 3, 12, 12)]
    expected = module.eval()(IMAGE).detach().numpy()
    assert capfd.readouterr().out == "from forward\n"
    np.testing.assert_allclose(_computed(read, IMAGE), expected, rtol=1e-4, atol=1e-6)


@needs_exporter
@pytest.mark.parametrize("named", [False, True])
def test_a_module_takes_several_inputs_by_position_or_by_name(named: bool) -> None:
    module = Tokens()
    values = [torch.randint(50, (2, 7)), torch.rand(2, 7, 1)]
    example: Example = tuple(values)
    if named:
        values.append(torch.rand(32))
        example = dict(zip(("tokens", "mask", "scale"), values, strict=True))
    read = read_module(module, example)
    assert [each.name for each in read.inputs] == ["tokens", "mask", "scale"][: len(values)]
    assert read.inputs[0].dtype == np.int64
    with torch.no_grad():
        expected = module(*values[:2], **({"scale": values[2]} if named else {})).numpy()
    np.testing.assert_allclose(_computed(read, *values), expected, rtol=1e-4)


@needs_exporter
def test_a_module_that_cannot_be_exported_is_one_line_with_its_place() -> None:
    module = Branching()
    with pytest.raises(InvalidValueError) as refused:
        read_module(module, IMAGE)
    said = refused.value.message
    assert said.startswith("Branching cannot be exported to ONNX with this example (Guard")
    assert f" at {Path(__file__).name}:" in said
    assert "\n" not in said
    assert module.training


def test_what_is_wrong_in_an_exported_model_is_said_of_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export(module: object, arguments: object, path: Path, **_: object) -> None:
        save(conv_model(weight=np.full((64, 3, 3, 3), np.nan, np.float32)), path)

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(InvalidFileError, match=r"^Noisy has a weight .*NaN"):
        read_module(Noisy(), IMAGE)


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(MissingExtraError, match=r"onnxscript is not installed.*latbench\[nas\]"):
        read_module(Noisy(), IMAGE)


@pytest.mark.parametrize(
    ("models", "example", "said"),
    [
        (["a.onnx", Noisy()], None, "Noisy is a torch module.*give an example"),
        (["a.onnx"], IMAGE, "there is no module: leave it out"),
    ],
)
def test_modules_and_examples_need_each_other(
    models: Sequence[object], example: Example | None, said: str
) -> None:
    with pytest.raises(InvalidValueError, match=said):
        require_example(models, example)


@pytest.mark.parametrize("example", [(), {}, [1], (IMAGE, None), {"image": IMAGE.numpy()}])
def test_an_example_consists_of_tensors(example: Any) -> None:
    with pytest.raises(LatbenchError, match="give a tensor, a tuple of tensors, or a dict"):
        read_module(Noisy(), example)


def test_modules_are_recognised_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Noisy()
    assert is_torch_module(module)
    assert not is_torch_module(Noisy)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not is_torch_module("a.onnx")
