"""Devices by their names, what is set while they train, and their errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.device_files import load_device
from latbench.errors import InvalidValueError, LatbenchError, TorchDeviceError
from nas.criteria.cross_entropy import CrossEntropy
from nas.criteria.label_smoothing import LabelSmoothing
from nas.latency.priced_space import PricedSpace
from nas.recipes import load_recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.training import from_scratch as scratch
from nas.training.epochs import Resumable, Values, run_epochs
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.steps import Report
from nas.training.torch_device import CPU, TorchDevice, find_torch_device
from tests.conftest import make_mix_space, make_small_space, write_table
from tests.nas.runs import Stop, stopping_after, tiny_data
from tests.nas.training.test_from_scratch import NETWORK, make_data

CUDA = TorchDevice(torch.device("cuda", 1))


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch and torchrun say on a machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_names_are_devices(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_torch_device("cpu").device == torch.device("cpu")
    assert (
        find_torch_device("auto").device
        == find_torch_device("cuda").device
        == torch.device("cuda", 0)
    )
    assert find_torch_device("cuda:1").device == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert find_torch_device("auto").device == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_torch_device("auto").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "processes", "words"),
    [
        ("gpu", 1, "no torch device 'gpu'.*auto, cpu, cuda:0, cuda:1"),
        ("meta", 1, "no training runs on torch device 'meta'"),
        ("cuda:2", 1, "no GPU 2: PyTorch finds 2"),
        ("cuda", 3, "torchrun started 3 processes for 2 GPUs"),
        ("cuda:1", 2, "2 processes cannot share cuda:1: name it without a number"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    name: str, processes: int, words: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    with pytest.raises(InvalidValueError, match=words) as refused:
        find_torch_device(name)
    assert refused.value.choices == ["auto", "cpu", "cuda:0", "cuda:1"]


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidValueError, match="finds no CUDA GPU here: choose one of auto, cpu"):
        find_torch_device("cuda")
    with pytest.raises(InvalidValueError, match="tf32 is for CUDA GPUs"):
        CPU.at("tf32")
    assert CUDA.at("tf32").precision == "tf32"


class _Failing(Resumable):
    """A training whose second epoch ends in an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(module=nn.Linear(1, 1))

    def train_epoch(self, report: Report) -> Values:
        if self.epoch:
            raise self.error
        return {}


MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore words")
LOST = torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MEMORY, "not enough memory for the training \\(x\\) with batches of 96 images"),
        (torch.AcceleratorError("CUDA error: out of memory\nx"), "80 GiB\\) has not enough memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "has not enough memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated"), "has not enough memory"),
        (LOST, "failed in the training \\(x\\) \\(CUDA error: unspecified launch failure\\)"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED\nx"), "CUBLAS_STATUS"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "CUDNN_STATUS"),
        (torch.distributed.DistBackendError("NCCL error in: x\ny"), "lost another of its proc"),
        (RuntimeError("[gloo/pair.cc:1] Connection closed by peer [::1]:1"), "lost another of"),
    ],
)
def test_an_error_of_the_device_is_one_line_and_nothing_is_lost(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchDevice, "training", lambda self, **settings: torch.no_grad())
    monkeypatch.setattr(TorchDevice, "_described", lambda self: "cuda:1 (a GPU, 80 GiB)")
    state, folder = _Failing(error), RunFolder(tmp_path, {})
    with pytest.raises(TorchDeviceError, match=words) as failed:
        run_epochs(state, 3, state.train_epoch, folder, phase="x", torch_device=CUDA, batch_size=96)
    assert "the checkpoint of epoch 1 is as it was" in failed.value.message
    assert "\n" not in failed.value.message
    saved = folder.checkpoint("x")
    assert saved is not None and saved["epoch"] == 1


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), CUDA.guarded(work="x", kept="y"):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="CUDA error"), CPU.guarded(work="x", kept="y"):
        raise RuntimeError("CUDA error: words of another device")
    fail = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"
    with (
        pytest.raises(TorchDeviceError, match="cpu has not enough memory for x; y"),
        CPU.guarded(work="x", kept="y"),
    ):
        raise RuntimeError(fail)
    with pytest.raises(LatbenchError, match="known"), CUDA.guarded(work="x", kept="y"):
        raise InvalidValueError("known")


@pytest.mark.parametrize("fails", [False, True])
def test_settings_of_a_training_are_restored(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul

    def settings() -> tuple[bool, bool, bool]:
        return cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32

    before = settings()
    try:
        with CUDA.at("tf32").training(fixed_shapes=True):
            assert settings() == (True, True, True)
            if fails:
                raise Stop
    except Stop:
        assert fails
    assert settings() == before
    with CUDA.training():
        assert settings()[1:] == before[1:]


def test_a_seeded_part_leaves_torchs_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    drawn = []
    for _ in range(2):
        with CPU.seeded(7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(3), expected)


def test_autocast_is_another_word_for_bf16() -> None:
    assert TFNASRecipe().computed_in == "fp32"
    assert load_recipe(TFNASRecipe, None, ["autocast=true"]).computed_in == "bf16"
    assert load_recipe(TFNASRecipe, None, ["precision=fp16"]).computed_in == "fp16"
    with pytest.raises(InvalidValueError, match="autocast means bf16, and precision is fp16"):
        load_recipe(TFNASRecipe, None, ["precision=fp16", "autocast=true"])


@pytest.mark.parametrize(
    ("name", "precision"),
    [("tfnas", "bf16"), ("tfnas", "fp16"), ("evolution", "fp16"), ("gumbel", "fp16")],
)
def test_searches_of_half_precision_go_on_bit_exactly(
    name: str, precision: str, tmp_path: Path
) -> None:
    """The scale of the loss is in checkpoints; without scaling there is none."""
    space = make_small_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    kind = SEARCHERS[name].recipe_kind
    assert kind is not None
    changes = {"evaluations": 3} if name == "evolution" else {}
    recipe = kind(precision=precision, **changes)  # type: ignore[call-arg]
    low, high = priced.feasible_ms()

    def run(folder: str, stop_after: int | None = None) -> None:
        searcher = SEARCHERS[name](priced, SearchSettings(2, 8, 1, recipe))
        searcher.search(
            tiny_data(40),
            [(low + high) / 2],
            RunFolder(tmp_path / folder, {}),
            progress=stopping_after(stop_after),
        )

    run("whole")
    with pytest.raises(Stop):
        run("cut", 6)
    run("cut")
    for file in sorted((tmp_path / "whole" / "checkpoint").iterdir()):
        whole, cut = (
            torch.load(tmp_path / folder / "checkpoint" / file.name, weights_only=True)
            for folder in ("whole", "cut")
        )
        weights = whole["supernet"]
        assert all(torch.equal(value, cut["supernet"][key]) for key, value in weights.items())
        assert whole.get("scaler") == cut.get("scaler")
        assert ("scaler" in whole) == (precision == "fp16")
        if precision == "fp16":
            scaler = whole["scaler"]
            assert scaler["_growth_tracker"] > 0 or scaler["scale"] < 2**16  # it has begun


@pytest.mark.parametrize("name", ["train", "tfnas", "evolution", "gumbel", "sgnas"])
def test_every_training_computes_its_loss_without_autocast(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for criterion in (CrossEntropy, LabelSmoothing):

        def recorded(self: nn.Module, outputs: Tensor, labels: Tensor) -> Tensor:
            seen.add((outputs.dtype, torch.is_autocast_enabled("cpu")))
            return F.cross_entropy(outputs, labels)

        monkeypatch.setattr(criterion, "forward", recorded)
    folder = RunFolder(tmp_path / "run", {})
    if name == "train":
        recipe = TrainingRecipe(epochs=1, batch_size=8, precision="bf16")
        scratch.train(NETWORK, make_data(), recipe, folder)
    else:
        space = make_mix_space() if name == "sgnas" else make_small_space()
        table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
        priced, kind = PricedSpace(space, table), SEARCHERS[name].recipe_kind
        assert kind is not None
        small = {
            "evolution": {"evaluations": 2},
            "sgnas": {"generator_epochs": 1, "priors": 1, "prior_candidates": 1},
        }
        chosen = kind(precision="bf16", **small.get(name, {}))  # type: ignore[call-arg]
        target_ms = sum(priced.feasible_ms()) / 2
        searcher = SEARCHERS[name](priced, SearchSettings(2, 8, 1, chosen))
        searcher.search(tiny_data(), [target_ms], folder)
    assert seen == {(torch.float32, False)}


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_falls() -> None:
    recipe = TrainingRecipe(epochs=1, batch_size=8, precision="fp16", ema=0.0)
    state = scratch.begin(NETWORK, make_data(), recipe)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.1
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    x = torch.randn(8, 3, 8, 8)
    state.step(x, torch.arange(8) % 4, recipe, scratch.ALONE)
    after = list(state.model.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert state.scaler.get_scale() == 2.0**39


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidValueError, match="tf32 is for CUDA"):
        scratch.check(NETWORK, make_data(), TrainingRecipe(precision="tf32"), scratch.ALONE)
    space = make_small_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    searcher = TFNASSearcher(priced, SearchSettings(recipe=TFNASRecipe(precision="tf32")))
    with pytest.raises(InvalidValueError, match="tf32 is for CUDA"):
        searcher.check(tiny_data(), [sum(priced.feasible_ms()) / 2])
