"""Searching and training on a GPU: what the CPU cannot answer. Skipped where there is none."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from latbench.device_files import load_device
from latbench.units import format_ms
from nas.data.images import ImageData, generator
from nas.latency.priced_space import PricedSpace
from nas.recipes import Precision, Recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies.kernel_paths import FairPaths
from nas.training.torch_device import CPU, TorchDevice, find_torch_device
from nas.training.unified_training import UnifiedRecipe, UnifiedTraining
from tests.conftest import make_mix_space, make_tiny_space, write_table
from tests.nas.runs import Stop, stopping_after, tiny_data

pytestmark = pytest.mark.gpu

ROUNDED = 2e-3  # relative: what sums in another order become in some steps
SGNAS = SGNASRecipe(budgets=5, priors=1, prior_candidates=2, selected_on=2, calibration_batches=1)
ONE_SHOT = OneShotRecipe(evaluations=4, initial_population=2)
RECIPES: dict[str, Recipe] = {
    "sgnas": SGNAS,
    **dict.fromkeys(("random", "evolution", "nsga2", "exact"), ONE_SHOT),
}
"""How a searcher is tested, where its own way takes long."""


@pytest.fixture(scope="module")
def gpu() -> TorchDevice:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA GPU here")
    return find_torch_device("cuda")


@contextmanager
def no_tf32() -> Iterator[None]:
    """Single precision with all its digits, as on the CPU."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32
    cudnn.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32 = before


@contextmanager
def no_waits() -> Iterator[None]:
    """Whatever would wait for the GPU raises an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this mode is a prototype
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def priced_space(name: str, folder: Path) -> PricedSpace:
    space = make_mix_space() if name == "sgnas" else make_tiny_space()
    return PricedSpace(
        space, write_table(folder / f"{name}.sqlite", space, load_device("cpu-onnxruntime"))
    )


def search(
    name: str,
    folder: Path,
    device: TorchDevice,
    *,
    run: str,
    stop_after: int | None = None,
    epochs: int = 2,
) -> Any:
    """The result of a short search, for the middle of what can be reached."""
    priced = priced_space(name, folder / run)
    settings = SearchSettings(
        epochs=epochs, batch_size=16, torch_device=device, recipe=RECIPES.get(name)
    )
    (found,) = SEARCHERS[name](priced, settings).search(
        tiny_data(),
        [sum(priced.feasible_ms()) / 2],
        RunFolder(folder / run / "run", {}),
        progress=stopping_after(stop_after),
    )
    return found


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "run" / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row.get("loss") is not None]


@pytest.mark.parametrize("name", ["tfnas", "softmax", "gumbel", "sgnas"])
def test_a_search_on_the_gpu_draws_what_the_cpu_draws_and_meets_the_budget(
    name: str, gpu: TorchDevice, tmp_path: Path
) -> None:
    for folder in ("gpu", "cpu"):
        (tmp_path / folder).mkdir()
    with no_tf32():
        found = search(name, tmp_path, gpu, run="gpu")
    expected = search(name, tmp_path, CPU, run="cpu")
    assert found.latency_ms <= found.target_ms * 1.0001, format_ms(found.latency_ms)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05)
    assert np.isfinite(found.score) and found.target_ms == expected.target_ms


@pytest.mark.parametrize("name", ["random", "evolution", "nsga2", "exact"])
def test_searchers_that_ask_a_supernet_train_it_on_the_gpu(
    name: str, gpu: TorchDevice, tmp_path: Path
) -> None:
    if name == "nsga2":
        pytest.importorskip("pymoo")
    (tmp_path / "run").mkdir()
    found = search(name, tmp_path, gpu, run="run", epochs=1)
    assert found.latency_ms <= found.target_ms and np.isfinite(found.score)


@pytest.mark.parametrize("name", ["tfnas", "gumbel", "sgnas"])
@pytest.mark.parametrize("goes_on", ["there", "on the CPU"])
def test_a_search_that_was_interrupted_on_the_gpu_goes_on(
    name: str, goes_on: str, gpu: TorchDevice, tmp_path: Path
) -> None:
    """From its checkpoint, whose tensors belong to no device; equal up to rounding."""
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    with no_tf32():
        search(name, tmp_path, gpu, run="whole")
        with pytest.raises(Stop):
            search(name, tmp_path, gpu, run="broken", stop_after=8)
        (tmp_path / "broken" / f"{name}.sqlite").unlink()
        search(name, tmp_path, gpu if goes_on == "there" else CPU, run="broken")
    whole, broken = losses(tmp_path / "whole"), losses(tmp_path / "broken")
    assert broken == pytest.approx(whole, rel=0.05)


def tfnas_steps(device: TorchDevice, folder: Path, steps: int) -> list[float]:
    """Losses and expected latencies of weight and architecture steps in turn."""
    searcher = TFNASSearcher(priced_space("tfnas", folder), SearchSettings(torch_device=device))
    target_ms = sum(searcher.priced.feasible_ms()) / 2
    state = searcher.begin()
    x, labels = batch(tiny_data(), device)
    state.strategy.tau = 1.0
    objective, noise = searcher.objective_at(state, target_ms), generator(0)
    values: list[float] = []
    for _ in range(steps):
        values.append(float(state.weight_step(x, labels, rng=noise)))
        cost = state.architecture_step(x, labels, objective, rng=noise)
        assert cost is not None
        values.append(float(cost))
    return values


def batch(data: ImageData, device: TorchDevice, count: int = 64) -> tuple[torch.Tensor, ...]:
    split = data.train.take(torch.arange(count))
    images, labels = next(iter(split.read([torch.arange(count)], generator(0))))
    return data.to_input(images.to(device.device)), labels.to(device.device)


def test_steps_of_tfnas_agree_with_the_cpu(gpu: TorchDevice, tmp_path: Path) -> None:
    for folder in ("gpu", "cpu"):
        (tmp_path / folder).mkdir()
    with no_tf32():
        ours = tfnas_steps(gpu, tmp_path / "gpu", 10)
    expected = tfnas_steps(CPU, tmp_path / "cpu", 10)
    assert ours == pytest.approx(expected, rel=ROUNDED)
    assert ours[:2] == pytest.approx(expected[:2], rel=1e-5), "before the first update"


def unified_losses(device: TorchDevice, steps: int) -> list[float]:
    space = make_mix_space()
    supernet = device.place(UnifiedSupernet(space, seed=0))
    recipe = UnifiedRecipe(lr=0.02, momentum=0.9, weight_decay=0.0)
    x, labels = batch(tiny_data(), device)
    paths = FairPaths(len(space.layers), np.random.default_rng(0))
    criterion = nn.CrossEntropyLoss()
    state = UnifiedTraining(supernet, criterion, recipe, seed=0, torch_device=device)
    return [float(state.train_weights(x, labels, paths.step())) for _ in range(steps)]


def test_steps_of_the_unified_supernet_agree_with_the_cpu(gpu: TorchDevice) -> None:
    with no_tf32():
        ours = unified_losses(gpu, 10)
    assert ours == pytest.approx(unified_losses(CPU, 10), rel=ROUNDED)


def test_a_weight_step_of_tfnas_never_waits_for_the_gpu(gpu: TorchDevice, tmp_path: Path) -> None:
    searcher = TFNASSearcher(priced_space("tfnas", tmp_path), SearchSettings(torch_device=gpu))
    state = searcher.begin()
    state.strategy.tau = 1.0
    x, labels = batch(tiny_data(), gpu)
    noise = generator(0)
    state.weight_step(x, labels, rng=noise)
    with no_waits():
        loss = state.weight_step(x, labels, rng=noise)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_trains(precision: Precision, gpu: TorchDevice, tmp_path: Path) -> None:
    priced = priced_space("tfnas", tmp_path)
    recipe = TFNASRecipe(precision=precision)
    settings = SearchSettings(epochs=2, batch_size=16, recipe=recipe, torch_device=gpu)
    TFNASSearcher(priced, settings).search(
        tiny_data(), [sum(priced.feasible_ms()) / 2], RunFolder(tmp_path / "run", {})
    )
    assert np.isfinite(losses(tmp_path)).all()


def test_a_training_from_scratch_leaves_weights_for_any_device(
    gpu: TorchDevice, tmp_path: Path
) -> None:
    space = make_tiny_space()
    network = space.lower(space.random(np.random.default_rng(0)))
    data, recipe = tiny_data(), TrainingRecipe(epochs=3, batch_size=16)
    run = tmp_path / "run"
    score = scratch.train(network, data, recipe, RunFolder(run, {}), torch_device=gpu)
    model = scratch.load_model(network, run / module_training.WEIGHTS)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert module_training.test(model, data)["top1"] == pytest.approx(score["top1"], abs=0.03)
