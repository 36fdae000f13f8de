"""TF-NAS on spaces without elastic widths: bi-sampling, running norms, a hard budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.errors import InvalidValueError
from latbench.tables import LatencyTable
from nas.data import load_data
from nas.data.images import ImageData, Split, image_data
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.priced_space import PricedSpace
from nas.searchers import SearchSettings
from nas.searchers.derivation import architecture_at
from nas.searchers.results import SearchResult
from nas.searchers.tfnas.choices import DepthSearch
from nas.searchers.tfnas.searcher import SearchState, TFNASRecipe, TFNASSearcher
from nas.spaces import SearchSpace, make_space
from nas.spaces.proxylessnas import ROWS
from nas.training.run_folder import RunFolder
from tests.conftest import make_small_space, write_table
from tests.nas.runs import Stop, run_of_both, run_together, stopping_after, tiny_data
from tests.nas.simulated_device import exactly
from tests.nas.tasks.test_tasks import write_faces

IMAGES = tiny_data(40)
# the smallest input of a space with skips, and of one whose operations are few
SIZES = {"proxylessnas": 16, "nasbench-macro": 8}


def _priced(space: SearchSpace, tmp_path: Path) -> PricedSpace:
    device = load_device("cpu-onnxruntime")
    return PricedSpace(space, write_table(tmp_path / "t.sqlite", space, device))


def _images(size: int) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (40,), generator=rng)
    images = torch.randint(0, 255, (40, 1, size, size), generator=rng)
    split = Split(images.to(torch.uint8), labels)
    return image_data("tiny", train=split, test=split, classes=10, input_size=size, flip=False)


def _target_ms(priced: PricedSpace, share: float = 0.4) -> float:
    low, high = priced.feasible_ms()
    return low + share * (high - low)


def _search(
    priced: PricedSpace,
    data: ImageData,
    targets: list[float],
    folder: Path,
    *,
    stop_after: int | None = None,
    measure: Any = None,
    **changes: Any,
) -> list[SearchResult]:
    recipe = TFNASRecipe(shift=0, **changes)
    settings = SearchSettings(epochs=3, batch_size=8, seed=1, recipe=recipe, measure=measure)
    searcher = TFNASSearcher(priced, settings)
    progress = stopping_after(stop_after)
    return searcher.search(data, targets, RunFolder(folder, {}), progress=progress)


@pytest.mark.parametrize("name", list(SIZES))
def test_spaces_without_widths_are_searched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers have different numbers of operations, some a skip; results are below the target."""
    monkeypatch.setattr("nas.spaces.proxylessnas.ROWS", ROWS[:6])
    priced = _priced(make_space(name, SIZES[name], 10), tmp_path)
    target_ms = _target_ms(priced)
    settings = SearchSettings(epochs=2, batch_size=16, seed=1, recipe=TFNASRecipe(shift=0))
    searcher = TFNASSearcher(priced, settings)
    folder = RunFolder(tmp_path / "run", {})
    highest_ms = priced.feasible_ms()[1]
    found, widest = searcher.search(_images(SIZES[name]), [target_ms, highest_ms], folder)
    assert widest.argmax is not None and widest.architecture == widest.argmax.architecture
    priced.space.check(found.architecture)
    assert found.latency_ms == pytest.approx(priced.latency_ms(found.architecture))
    assert found.latency_ms <= target_ms
    assert found.argmax is not None
    if found.argmax.latency_ms <= target_ms:
        assert found.architecture == found.argmax.architecture


@pytest.fixture
def small(tmp_path: Path) -> PricedSpace:
    return _priced(make_small_space(), tmp_path)


def test_a_resumed_search_is_bit_identical(small: PricedSpace, tmp_path: Path) -> None:
    """Running statistics and optimisers included."""
    targets = [_target_ms(small), _target_ms(small, 0.2)]
    whole = _search(small, IMAGES, targets, tmp_path / "whole")
    for stop_after in (2, 6, 11):
        with pytest.raises(Stop):
            _search(small, IMAGES, targets, tmp_path / "cut", stop_after=stop_after)
    cut = _search(small, IMAGES, targets, tmp_path / "cut")
    assert [found.as_dict() for found in cut] == [found.as_dict() for found in whole]
    for file in (tmp_path / "whole" / "checkpoint").iterdir():
        ours, theirs = (
            torch.load(tmp_path / run / "checkpoint" / file.name, weights_only=True)
            for run in ("whole", "cut")
        )
        for part in ("supernet", "choices"):
            for key, value in ours[part].items():
                assert torch.equal(value, theirs[part][key]), key


def test_norms_are_calibrated_before_a_network_is_evaluated(
    small: PricedSpace, tmp_path: Path
) -> None:
    """The score equals that of the evaluator of one-shot searches with the same weights."""
    data, target_ms = IMAGES, _target_ms(small)
    (found,) = _search(small, data, [target_ms], tmp_path / "run")
    settings = SearchSettings(epochs=3, batch_size=8, seed=1, recipe=TFNASRecipe(shift=0))
    state = TFNASSearcher(small, settings).begin()
    names = {p.name for p in (tmp_path / "run" / "checkpoint").iterdir()} - {"warmup.pt"}
    saved = torch.load(tmp_path / "run" / "checkpoint" / names.pop(), weights_only=True)
    state.load(saved)
    assert any(name.endswith("running_mean") for name in saved["supernet"])
    train, held_out = data.held_out(0.2, seed=1)
    evaluator = SupernetEvaluator(
        state.supernet, data, criterion=state.criterion, calibration=train, selection=held_out
    )
    assert found.score == evaluator.score(found.architecture)


def _search_together(folder: Path, table: Path, target_ms: float) -> None:
    with run_of_both(folder) as (group, run):
        states = []

        class Watched(TFNASSearcher):
            def begin(self, criterion: nn.Module | None = None) -> SearchState:
                states.append(super().begin(criterion))
                return states[-1]

        priced = PricedSpace(make_small_space(), LatencyTable.open(table))
        settings = SearchSettings(2, 16, 3, TFNASRecipe(shift=0), group)
        Watched(priced, settings).search(tiny_data(), [target_ms], run)
        torch.save(states[-1].supernet.state_dict(), folder / f"{group.rank}.pt")


def test_two_processes_hold_the_same_running_statistics(small: PricedSpace, tmp_path: Path) -> None:
    """Each process gets half of every batch, and their statistics are averaged."""
    run = tmp_path / "run"
    assert run_together(_search_together, run, small.table.path, _target_ms(small)) == [0, 0]
    ours, theirs = (torch.load(run / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert any(name.endswith("running_mean") for name in ours)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("depth", ["sink-connecting", "skip-among", "skip-beside"])
def test_elastic_depth_is_searched(depth: DepthSearch, tmp_path: Path) -> None:
    """Without widths but with elastic depth, choices of depth learn and budgets hold."""
    whole = make_small_space()
    stages = (whole.stages[0], *((layers[0],) for layers in whole.stages[1:]))
    priced = _priced(replace(whole, stages=stages, elastic_depth=True), tmp_path)
    for share in (0.0, 0.9):
        target_ms = _target_ms(priced, share)
        run = tmp_path / f"run-{share}"
        (found,) = _search(priced, IMAGES, [target_ms], run, depth=depth)
        assert found.latency_ms <= target_ms * (1 + 1e-9)
        file = next(f for f in (run / "checkpoint").iterdir() if f.name != "warmup.pt")
        learnt = torch.load(file, weights_only=True)["choices"]
        name = "alphas.1" if depth == "skip-among" else "betas.0"
        assert len(learnt[name]) == {"sink-connecting": 3, "skip-among": 4, "skip-beside": 2}[depth]
        assert learnt[name].std() > 0


def test_a_network_has_the_weights_of_the_layers_that_it_uses(tmp_path: Path) -> None:
    """If the second layer of a stage is left out, the third one remains."""
    space = replace(make_small_space(), elastic_depth=True)
    priced = _priced(space, tmp_path)
    state = TFNASSearcher(priced, SearchSettings(recipe=TFNASRecipe(depth="skip-among"))).begin()
    places = ((1, None, 2), (1,), (1,))
    made = architecture_at(space, places, state.supernet.widths())
    network = state.supernet.cut(made, places)
    third = state.supernet.block(0, 2, 2).state_dict()
    position = len(space.stem) + 1
    for key, value in network.blocks[position].state_dict().items():
        assert torch.equal(value, third[key]), key


def test_layers_of_fixed_depth_cannot_be_left_out(small: PricedSpace) -> None:
    """The error occurs when the searcher is made."""
    with pytest.raises(InvalidValueError, match="sink-connecting"):
        TFNASSearcher(small, SearchSettings(recipe=TFNASRecipe(depth="skip-beside")))


@pytest.mark.parametrize("name", ["sgnas", "sgnas-proxyless"])
def test_spaces_of_unified_blocks_are_refused(
    name: str, tmp_path: Path, profile: DeviceProfile
) -> None:
    space = make_space(name, 32, 10)
    table = write_table(tmp_path / "table.sqlite", space, profile)
    with pytest.raises(InvalidValueError, match="another searcher, such as sgnas"):
        TFNASSearcher(PricedSpace(space, table), SearchSettings())


def test_measuring_proposes_other_operations(small: PricedSpace, tmp_path: Path) -> None:
    """The device takes a fifth longer than its table predicts."""

    measure = exactly(lambda network: 1.2 * small.table.predict(network).latency_ms)
    target_ms = _target_ms(small, 0.6)
    (predicted,) = _search(small, IMAGES, [target_ms], tmp_path / "predicted")
    (found,) = _search(small, IMAGES, [target_ms], tmp_path / "measured", measure=measure)
    assert 1.2 * predicted.latency_ms > target_ms
    assert found.correction is not None
    assert found.correction.measured_ms == pytest.approx(1.2 * small.latency_ms(found.architecture))
    assert found.correction.measured_ms <= target_ms
    assert found.architecture != predicted.architecture


def test_bi_sampling_trains_every_operation(small: PricedSpace) -> None:
    """Both paths of every step train weights, except for operations without weights."""
    settings = SearchSettings(recipe=TFNASRecipe(shift=0))
    searcher = TFNASSearcher(small, settings)
    state = searcher.begin()
    before = {name: value.clone() for name, value in state.supernet.named_parameters()}
    noise = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = torch.from_numpy(rng.normal(size=(8, 3, 8, 8))).float()
        state.weight_step(x, torch.arange(8), rng=noise)
    changed: dict[str, Tensor] = dict(state.supernet.named_parameters())
    assert all(not torch.equal(value, changed[name]) for name, value in before.items())


def test_faces_are_searched_on_mobilefacenet(tmp_path: Path) -> None:
    """The loss of the task trains a space without widths."""
    space = make_space("mobilefacenet", 16, 8)
    priced = _priced(space, tmp_path)
    write_faces(tmp_path)
    data = load_data("faces", input_size=16, classes=8, data_dir=tmp_path)
    target_ms = _target_ms(priced)
    (found,) = _search(priced, data, [target_ms], tmp_path / "run")
    assert found.latency_ms <= target_ms
    assert found.score < 0  # minus the loss
