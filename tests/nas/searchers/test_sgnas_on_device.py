"""SGNAS on a GPU: it computes there what it computes on the CPU, and no step waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.device import DeviceProfile
from latbench.device_files import load_device
from nas.evaluators.relaxed import AnyRelaxedEvaluator
from nas.generator import answers, load_generator, raw_answers, save_generator
from nas.latency.priced_space import PricedSpace
from nas.searchers.base import SearchSettings
from nas.searchers.sgnas.adaptation import adapt
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import SGNASSearcher, evaluator_of
from nas.spaces import SearchSpace
from nas.spaces.sgnas import SKIP, SUB_BLOCKS
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.run_files import generator_file
from nas.training.run_folder import RunFolder
from nas.training.strategies.kernel_paths import FairPaths
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import UnifiedRecipe, UnifiedTraining
from tests.conftest import make_mix_space, make_small_space, write_table
from tests.nas.pretend_gpu import DeviceTensor, Recorder, on_pretend_gpu, pretend_gpu
from tests.nas.runs import tiny_data
from tests.nas.supernet.test_unified_blocks import make_supernet, make_unified_space

BATCH = 8
IMAGES = tiny_data(40)
RECIPE = SGNASRecipe(
    epochs=1, generator_epochs=1, batch_size=8, held_out=0.5, budgets=3, priors=2,
    prior_candidates=2, selected_on=2, calibration_batches=1, imitation_steps=1,
)  # fmt: skip


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with pretend_gpu() as recorder:
        yield recorder


def _held(value: Tensor) -> Tensor:
    return value.held if isinstance(value, DeviceTensor) else value


def _batch(device: TorchDevice, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, 3, 8, 8, generator=rng)
    labels = torch.randint(5, (BATCH,), generator=rng)
    placed = images.to(device.device, memory_format=torch.channels_last)
    return placed, labels.to(device.device)


def _close(found: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(_held(value), theirs[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("folded_values", [0, 1 << 40], ids=["folded", "plain"])
def test_a_supernet_step_is_the_cpus_and_waits_for_nothing(
    folded_values: int, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the expansion's batch norm folded, as on the largest maps, and without."""
    monkeypatch.setattr("nas.supernet.unified_path.FOLDED_VALUES", folded_values)
    trained = []
    for device in (on_pretend_gpu(), CPU):
        supernet = device.place(UnifiedSupernet(make_unified_space(), seed=0))
        recipe = UnifiedRecipe(lr=0.1, momentum=0.9, weight_decay=1e-4)
        smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
        state = UnifiedTraining(supernet, smoothed, recipe, seed=0, torch_device=device)
        drawn = FairPaths(3, np.random.default_rng(0))
        losses = []
        for number in range(2):
            images, labels = _batch(device, number)
            recorder.clear()
            loss = state.train_weights(images, labels, drawn.step())
            assert (recorder.sent, recorder.waits) == ([], [])
            assert not loss.requires_grad
            losses.append(float(_held(loss)))
        trained.append((supernet, losses))
    (found, ours), (expected, theirs) = trained
    _close(found, expected)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_tensor_that_is_left_on_the_cpu_is_an_error(recorder: Recorder) -> None:
    """So the tests above would notice one."""
    device = on_pretend_gpu()
    supernet = device.place(UnifiedSupernet(make_unified_space(), seed=0))
    supernet.layers[1].norms[0].bias = nn.Parameter(torch.zeros(6))
    images, _ = _batch(device)
    with pytest.raises(RuntimeError, match="lies on the CPU"):
        supernet(images, [[0] * SUB_BLOCKS] * 3)


def _probabilities(spread: float, *, bare: bool) -> Tensor:
    logits = torch.randn(3, SUB_BLOCKS, SKIP + 1, generator=torch.Generator().manual_seed(3))
    logits *= spread
    if bare:
        logits[1, 1:, SKIP] = 50.0
    logits[:, 0, SKIP] = -1e4
    return logits.softmax(-1)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_a_mixture_is_the_cpus_and_waits_for_nothing(
    spread: float, bare: bool, recorder: Recorder
) -> None:
    """Outputs and gradients, for choices of small probability and layers without expansion."""
    found = []
    for device in (on_pretend_gpu(), CPU):
        supernet = device.place(make_supernet()).eval().requires_grad_(False)
        mixture = supernet.frozen() if device.is_gpu else supernet
        images, labels = _batch(device)
        given = _probabilities(spread, bare=bare).to(device.device).requires_grad_()
        recorder.clear()
        outputs = mixture(images, given)
        F.cross_entropy(outputs, labels).backward()
        assert (recorder.sent, recorder.waits) == ([], [])
        assert given.grad is not None
        found.append((_held(outputs.detach()), _held(given.grad)))
    (ours, by_ours), (theirs, by_theirs) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_ours, by_theirs, rtol=1e-3, atol=1e-6)


@pytest.fixture(
    scope="module", params=[make_mix_space(), make_small_space()], ids=["unified", "separate"]
)
def priced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    space: SearchSpace = request.param
    path = tmp_path_factory.mktemp("tables") / "table"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


@pytest.fixture(scope="module")
def trained(priced: PricedSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a supernet that is trained on the CPU."""
    folder = tmp_path_factory.mktemp("trained")
    _evaluator(priced, folder, CPU)
    return folder


def _evaluator(priced: PricedSpace, folder: Path, device: TorchDevice) -> AnyRelaxedEvaluator:
    """A supernet that is trained by the first call for a folder, and read by others."""
    run = RunFolder(folder / "supernet", {})
    return evaluator_of(run, priced.space, IMAGES, RECIPE, seed=0, torch_device=device)


def test_a_generator_step_is_the_cpus_and_waits_for_nothing(
    priced: PricedSpace, trained: Path, recorder: Recorder
) -> None:
    """For latencies, MACs, parameters, and latency and MACs together."""
    budgets = Budgets.of(priced.space, [priced], low=0.1, high=0.9)
    made = []
    for device in (on_pretend_gpu(), CPU):
        evaluator = _evaluator(priced, trained, device)
        training = GeneratorTraining(evaluator, priced.space, budgets, RECIPE, 0)
        # Adam makes a step of any gradient, of rounding errors as well
        training.state.adam = torch.optim.SGD(training.state.generator.parameters(), lr=1e-3)  # type: ignore[assignment]
        noise, asked = (torch.Generator().manual_seed(seed) for seed in (5, 6))
        drawn = budgets.epoch(2, 0.1, asked)
        requests = [next(drawn) for _ in range(2 * 4)]  # two of every kind
        assert {len(request.limits) for request in requests} == {1, 2}
        images, labels = _batch(device)
        for again in (False, True):
            for request in requests:
                recorder.clear()
                loss, excess = training.step(images, labels, request, noise=noise, tau=5.0)
                assert not (loss.requires_grad or excess.requires_grad)
                if device.is_gpu and again:  # what is constant was sent before
                    assert recorder.waits == []
                    numbers, gumbel = recorder.sent
                    assert numbers == 7  # three budgets, which are limited, the nearest prior
                    assert gumbel == training.plane.allowed.numel()
        made.append(training.state.generator)
    _close(*made)


def test_a_supernet_scores_as_on_the_cpu(
    priced: PricedSpace, trained: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is cut, calibrated and evaluated on the device, and a score is read once."""
    scores = []
    architecture = priced.space.largest()
    for device in (on_pretend_gpu(), CPU):
        evaluator = _evaluator(priced, trained, device)
        monkeypatch.setattr("nas.tasks.base.EVALUATION_BATCH_SIZE", 2)  # several batches
        recorder.clear()
        scores.append(evaluator.score(architecture))
        assert len(recorder.waits) == (1 if device.is_gpu else 0)
        hits = evaluator.hits(architecture)
        assert hits.device == device.device
    assert scores[0] == pytest.approx(scores[1])


def test_answers_are_those_of_the_generator_on_the_cpu(
    priced: PricedSpace, trained: Path, tmp_path: Path, recorder: Recorder
) -> None:
    """And its file is the same, wherever it lies."""
    budgets = Budgets.of(priced.space, [priced], low=0.1, high=0.9)
    training = GeneratorTraining(_evaluator(priced, trained, CPU), priced.space, budgets, RECIPE, 0)
    path = tmp_path / "generator"
    save_generator(training.state.generator, path)
    here, there = load_generator(path), load_generator(path)
    there.to(on_pretend_gpu().device)
    for row in budgets.grid(3):
        for answered in (answers, raw_answers):
            assert answered(here, priced.space, row) == answered(there, priced.space, row)
    save_generator(there, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_search_goes_from_beginning_to_end(
    priced: PricedSpace, profile: DeviceProfile, tmp_path: Path, recorder: Recorder
) -> None:
    """A run on a GPU goes on, on the CPU as well, and a device joins it."""
    low, high = priced.feasible_ms()
    targets = [low + 0.6 * (high - low)]
    found = []
    for device in (on_pretend_gpu(), CPU):  # the second finds everything trained
        settings = SearchSettings(seed=1, recipe=RECIPE, torch_device=device)
        folder = RunFolder(tmp_path / "run", {})
        found += SGNASSearcher(priced, settings).search(IMAGES, targets, folder)
    assert found[0].architecture == found[1].architecture
    assert found[0].score == pytest.approx(found[1].score)
    assert load_generator(generator_file(folder.path)).priors.device.type == "cpu"
    other = msgspec.structs.replace(profile, name="other")
    table = write_table(tmp_path / "other", priced.space, other)
    added = PricedSpace(priced.space, table)
    made = adapt(folder, added, IMAGES, RECIPE, seed=1, torch_device=on_pretend_gpu())
    assert made.devices.device == on_pretend_gpu().device
    assert len(made.label.devices) == 2
