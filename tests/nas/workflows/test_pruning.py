"""Pruning from end to end on a small module, on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

import nas
from latbench.blocks import Network
from latbench.cost import block_cost
from latbench.errors import BudgetError, InvalidValueError, MismatchError, UnknownNameError
from latbench.measure import visiting
from latbench.measure.samples import Interval
from latbench.models import OnnxModel
from latbench.models.torch_modules import read_module
from latbench.profilers import Profiler, Session, open_session
from latbench.tables import LatencyTable, TableStore
from latbench.workflows import profiling
from latbench.workflows.pass_plan import PassPlan
from latbench.workflows.profiled_table import TableContents
from nas.data.identity import labels_digest
from nas.data.images import ImageData, Split
from nas.pruning import priced_module
from nas.pruning.rounds import Round
from nas.pruning.torchvision_networks import load_network
from nas.training import module_training
from nas.training.module_training import Distillation, TrainingState
from nas.training.recipe import FineTuningRecipe
from nas.training.run_config import LABELS
from nas.workflows import pruning
from nas.workflows.pruning import PrunedNetwork
from tests.conftest import make_quick_profile
from tests.nas.pruning.small import SIZE, Tiny, make_tiny
from tests.nas.pruning.test_measured_choice import row


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return nas.load_data("digits", input_size=SIZE, classes=10, images=128)


Prune = Callable[..., PrunedNetwork]


class _CountedSession(Session):
    """A session on this machine whose calls count as long as their operations say."""

    def __init__(self, real: Session, network: Network) -> None:
        self.real = real
        self.call_ns = sum(1000 + block_cost(spec).macs for spec in network)

    def call(self) -> None:
        self.real.call()

    def timed_call(self) -> int:
        self.real.call()
        return self.call_ns

    def output(self) -> NDArray[np.float32]:
        return self.real.output()

    def close(self) -> None:
        self.real.close()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> tuple[Path, float]:
    """A table of the module's widths, which a refused pruning leaves, and the least latency.

    Its prices are known, so that a busy machine does not turn their order.
    """

    def counted(profiler: Profiler, network: Network) -> Session:
        return _CountedSession(open_session(profiler, network), network)

    path = tmp_path_factory.mktemp("prune") / "widths.sqlite"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(BudgetError) as refused:
        patched.setattr(visiting, "open_session", counted)
        nas.prune(
            make_tiny(),
            digits,
            target=1e-6,
            table=path,
            output=path.parent / "never",
            device=make_quick_profile(),
            input_size=SIZE,
            time_limit=0.1,
        )
    assert not (path.parent / "never").exists()
    assert refused.value.nearest_ms is not None
    return path, refused.value.nearest_ms


@pytest.fixture(scope="module")
def exported() -> Callable[..., OnnxModel]:
    """Exports modules of the same shapes once: latencies do not depend on weights."""
    kept: dict[object, OnnxModel] = {}

    def export(module: nn.Module, example: Tensor) -> OnnxModel:
        shapes = tuple((name, value.shape) for name, value in module.state_dict().items())
        if shapes not in kept:
            kept[shapes] = read_module(module, example)
        return kept[shapes]

    return export


@pytest.fixture
def prune(
    table: tuple[Path, float],
    digits: ImageData,
    exported: Callable[..., OnnxModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Prune:
    """Prune the small module to a share of its range of latencies; their latency is that of
    their size."""
    for module in (pruning, priced_module):
        monkeypatch.setattr(module, "read_module", exported)
    path, least_ms = table
    opened = LatencyTable.open(path)
    whole_ms = opened.predict(next(iter(opened.networks))).latency_ms

    def bench(models: Sequence[OnnxModel], *_: Any) -> Any:
        sizes = [len(m.graph) + sum(v.nbytes for v in m.weights.values()) for m in models]
        ratios = [size / sizes[0] for size in sizes]
        return SimpleNamespace(rows=[row(whole_ms * ratio, ratio) for ratio in ratios])

    monkeypatch.setattr(pruning, "bench_apart", bench)

    def run(share: float = 0.5, **options: Any) -> PrunedNetwork:
        asked = {
            "target": least_ms + share * (whole_ms - least_ms),
            "table": path,
            "output": tmp_path / "run",
            "device": make_quick_profile(),
            "input_size": SIZE,
            "time_limit": 1e-3,  # has passed, so that the table stays as it is
            "epochs": 2,
            "batch_size": 32,
        }
        return nas.prune(make_tiny(), digits, **{**asked, **options})

    return run


def accuracy(path: Path, data: ImageData) -> float:
    """Accuracy of an ONNX model on the test images."""
    session = ort.InferenceSession(path)
    (read,) = session.get_inputs()
    assert isinstance(data.test, Split)
    images = data.to_input(data.test.images).contiguous().numpy()
    found = [session.run(None, {read.name: image[None]})[0].argmax() for image in images]
    return float(np.mean(np.array(found) == data.test.labels.numpy()))


def _require_reported(found: PrunedNetwork) -> None:
    """A report reads what the pruning wrote."""
    pytest.importorskip("altair")
    from nas.report.page.pruning_sections import pruning_sections
    from nas.report.page.run_contents import RunContents

    (values,) = pruning_sections(RunContents.of(found.output))[0].answers
    verdicts = [value.text for value in values if value.label == "verdict"]
    assert verdicts == [found.status]


def test_a_network_is_pruned_tuned_and_exported(
    prune: Prune, digits: ImageData, tmp_path: Path
) -> None:
    seen: list[float] = []
    found = prune(progress=lambda fraction, words: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert found.widths["first.expand.0"][0] == 32
    assert any(after < before for before, after in found.widths.values())
    assert found.status == found.measured.status(found.target_ms)
    assert accuracy(found.path, digits) == pytest.approx(found.metrics["top1"], abs=0.003)
    again = prune()
    assert again.as_dict() == found.as_dict()
    assert json.dumps(found.as_dict())
    with pytest.raises(MismatchError, match="target_ms"):
        prune(0.7)
    _require_reported(found)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["input_size"] == SIZE and config["segments"].startswith("model-")
    assert config[LABELS] == labels_digest(digits)


def test_a_pruned_network_learns_from_the_original(
    prune: Prune, digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[Distillation | None] = []
    train = module_training.train

    def watched(state: TrainingState, *rest: Any, **named: Any) -> dict[str, float]:
        learnt.append(state.distillation)
        return train(state, *rest, **named)

    monkeypatch.setattr(module_training, "train", watched)
    monkeypatch.setattr(pruning, "export_module", lambda *_: None)  # it takes a second
    prune(epochs=1)
    prune(epochs=1, output=tmp_path / "without", settings=["distillation=0"])
    teacher, none = learnt
    assert teacher is not None and none is None
    recipe = FineTuningRecipe()
    assert (teacher.share, teacher.temperature) == (recipe.distillation, recipe.temperature)
    assert isinstance(digits.test, Split)
    images = digits.to_input(digits.test.images[:8])
    assert torch.equal(teacher.teacher(images), make_tiny()(images))


def test_an_interrupted_pruning_ends_like_a_whole_one(
    prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "export_module", lambda *_: None)  # it takes a second
    whole = prune()

    def stop(fraction: float, words: str, /) -> None:
        if "epoch 2" in words:
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "rounds.json").write_bytes((tmp_path / "run" / "rounds.json").read_bytes())
    (cut / "config.json").write_bytes((tmp_path / "run" / "config.json").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        prune(output=cut, progress=stop)
    assert prune(output=cut).metrics == whole.metrics
    files = [folder / "weights.safetensors" for folder in (tmp_path / "run", cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_target_above_the_network_is_refused(prune: Prune) -> None:
    with pytest.raises(BudgetError, match="nothing to remove"):
        prune(3.0)


def _prune_new(module: nn.Module, data: ImageData, folder: Path) -> None:
    """Prune a module with a table and a run folder of its own."""
    nas.prune(module, data, target="1ms", table=folder / "t", output=folder / "r", input_size=SIZE)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    larger = nas.load_data("digits", input_size=2 * SIZE, classes=10, images=48)
    with pytest.raises(MismatchError, match=f"{2 * SIZE} px.*take {SIZE} px"):
        _prune_new(make_tiny(), larger, tmp_path)


def test_a_module_without_logits_is_refused(
    prune: Prune, digits: ImageData, tmp_path: Path
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1))
    with pytest.raises(InvalidValueError, match="does not give logits"):
        _prune_new(module, digits, tmp_path)


def test_data_with_another_number_of_classes_are_refused(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"7 classes, but the networks have 10.*that a trained"):
        _prune_new(make_tiny(), replace(digits, classes=7), tmp_path)


def test_a_folder_of_another_run_is_refused_before_anything_is_measured(
    digits: ImageData, tmp_path: Path
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text('{"command": "train"}')
    with pytest.raises(MismatchError, match="holds another run"):
        _prune_new(make_tiny(), digits, tmp_path)
    assert not (tmp_path / "t").exists()


def test_a_table_of_another_device_is_refused(prune: Prune) -> None:
    device = msgspec.structs.replace(make_quick_profile(), threads=2)
    with pytest.raises(MismatchError, match="is a table of"):
        prune(device=device)


@pytest.mark.parametrize(
    "module", [nn.Conv2d(1, 8, 3), make_tiny().double(), nn.Linear(7, 3)], ids=str
)
def test_a_module_that_does_not_take_the_images_is_refused(
    module: nn.Module, digits: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match="does not take images"):
        _prune_new(module, digits, tmp_path)


def test_a_module_with_further_outputs_in_training_is_refused(
    digits: ImageData, tmp_path: Path
) -> None:
    class Auxiliary(Tiny):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            return (found, found) if self.training else found

    with pytest.raises(InvalidValueError, match="gives tuple in training mode"):
        _prune_new(Auxiliary(), digits, tmp_path)
    assert not (tmp_path / "t").exists()


def test_weights_with_a_number_instead_of_a_vector_are_refused(tmp_path: Path) -> None:
    from torchvision import models

    state = models.get_model("squeezenet1_1", weights=None).state_dict()
    torch.save({**state, "classifier.1.bias": torch.tensor(1.0)}, tmp_path / "w.pt")
    with pytest.raises(MismatchError, match="another network"):
        load_network("squeezenet1_1", tmp_path / "w.pt")


def test_weights_of_files_make_networks_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    from torchvision import models

    network = models.get_model("squeezenet1_1", weights=None, num_classes=7)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found = load_network("squeezenet1_1", tmp_path / name).state_dict()
        assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_an_interrupted_profiling_goes_on(
    prune: Prune, table: tuple[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def profiled(
        _: Any, path: Path, contents: TableContents, *, time_limit_s: float, progress: Any
    ) -> Any:
        limits.append(time_limit_s)
        typical = {segment for network in contents.typical for segment in network}
        assert typical == set(contents.blocks)
        return SimpleNamespace(interrupted=False)

    converged = False
    monkeypatch.setattr(profiling, "profile", profiled)
    monkeypatch.setattr(PassPlan, "is_converged", lambda self, samples: converged)
    with TableStore.open(table[0]) as store:
        sweep = store.profiling()
        assert sweep is not None
        spent_s = store.timing(sweep)["seconds"]
    prune(time_limit=4 * spent_s, epochs=1)
    assert limits == [pytest.approx(3 * spent_s)]
    prune(time_limit=1.1 * spent_s, epochs=1)
    converged = True
    prune(time_limit=4 * spent_s, epochs=1)
    assert len(limits) == 1


@pytest.mark.parametrize("weights", ["IMAGENET", "w" * 300])
def test_weights_that_are_neither_a_file_nor_published_are_named(weights: str) -> None:
    with pytest.raises(UnknownNameError, match="squeezenet1_1"):
        load_network("squeezenet1_1", weights)


@pytest.mark.parametrize(("high_ms", "status"), [(2.0, "met"), (2.001, "missed")])
def test_a_round_meets_its_target_with_the_whole_interval(high_ms: float, status: str) -> None:
    whole = Interval(4.0, 3.9, 4.1)
    made = Round({}, 1.9, Interval(1.9, 1.8, high_ms), whole, (0.5, 0.4, 0.6))
    assert made.status(2.0) == status


@pytest.mark.parametrize(("status", "code"), [("met", 0), ("missed", 1)])
def test_the_command_prunes_a_network_of_torchvision(
    status: str, code: int, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def prune(module: torch.nn.Module, data: str, **options: Any) -> Any:
        asked.update(options, module=module, data=data)
        return SimpleNamespace(status=status, as_dict=lambda: {"status": status})

    monkeypatch.setattr("nas.prune", prune)
    monkeypatch.setattr(
        "nas.pruning.torchvision_networks.load_network", lambda *named: " ".join(named)
    )
    words = ["prune", "mobilenet_v2", "--target", "6ms", "--table", "t.sqlite"]
    found = run(*words, "--data", "digits", "--epochs", "3", "-o", tmp_path / "run", "--json")
    assert (found[0], json.loads(found[1])) == (code, {"status": status})
    assert (asked["module"], asked["data"], asked["target"]) == (
        "mobilenet_v2 DEFAULT",
        "digits",
        6.0,
    )
    assert (asked["epochs"], asked["table"], asked["output"]) == (
        3,
        Path("t.sqlite"),
        tmp_path / "run",
    )
