"""Searches and trainings: resumed equals uninterrupted, budgets are kept, data are correct."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.device_files import load_device
from latbench.errors import (
    BudgetError,
    DivergedError,
    InvalidFileError,
    InvalidValueError,
    MismatchError,
)
from latbench.measure.swept_networks import SweptNetworks
from latbench.progress import Progress
from latbench.workflows.verdict_sweep import SweepRule
from nas.data import load_data
from nas.data.augmentation import augment
from nas.data.fashion_mnist import fashion_mnist, read_idx
from nas.data.images import Split, batches, generator, resize
from nas.latency.measured_rounds import Measure
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import read_rounds
from nas.optimize.constraints import COUNTED, Count, Counted, Limit
from nas.recipes import Recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.differentiable import DifferentiableRecipe
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.tfnas.searcher import TFNASRecipe
from nas.spaces import SearchSpace
from nas.spaces.architecture import read_architecture
from nas.supernet.mixed_operations import Supernet, fixed_supernet, searchable_supernet
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.distributed import Workers
from nas.training.recipe import TrainingRecipe
from nas.training.run_files import phase_of, rounds_file
from nas.training.run_folder import RunFolder
from nas.workflows.export import export_onnx
from tests.conftest import make_mix_space, make_small_space, make_tiny_space, write_table
from tests.nas.runs import Stop, stopping_after, tiny_data
from tests.nas.simulated_device import exactly

SPACES = {"sgnas": make_mix_space}
"""Search spaces for the tests of searchers that do not use the tiny space."""

RECIPES: dict[str, Recipe] = {
    "sgnas": SGNASRecipe(
        budgets=5, priors=1, prior_candidates=2, selected_on=2, calibration_batches=1
    )
}
"""Recipes for the tests of searchers whose own recipe takes long."""


FEW_OPS = ("k3_e3", "k5_e6", "k3_e6_se")  # of the tiny space's eight, so that steps are short


@pytest.fixture
def priced(name: str, tmp_path: Path) -> PricedSpace:
    space = SPACES.get(name, make_tiny_space)()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    whole = PricedSpace(space, table)
    return whole if name in SPACES else whole.only(lambda op: op in FEW_OPS)


EVERY_SEARCHER = pytest.mark.parametrize("name", list(SEARCHERS))


def _search(
    name: str,
    priced: PricedSpace | SearchSpace,
    folder: Path,
    targets: list[float],
    measure: Measure | None = None,
    *,
    epochs: int = 4,
    limits: tuple[Limit, ...] = (),
    stop_after: int | None = None,
) -> list[dict[str, Any]]:
    family = SEARCHERS[name]
    recipe = RECIPES.get(name)
    if family.recipe_kind is OneShotRecipe:
        recipe = OneShotRecipe(evaluations=7, initial_population=4)
    settings = SearchSettings(
        epochs=epochs, batch_size=16, seed=3, recipe=recipe, measure=measure, limits=limits
    )
    searcher = family(priced, settings)
    progress = stopping_after(stop_after)
    found = searcher.search(tiny_data(), targets, RunFolder(folder, {}), progress=progress)
    return [result.as_dict() for result in found]


def _targets(priced: PricedSpace) -> list[float]:
    low, high = priced.feasible_ms()
    return [low + 0.35 * (high - low), low + 0.2 * (high - low)]


def test_a_searcher_searches_once(tmp_path: Path) -> None:
    """A second search would begin with the trained weights of the first; a refusal trains none."""
    limits = (Limit(Count(make_tiny_space(), "params"), 1e9),)
    recipe = OneShotRecipe(evaluations=2, initial_population=2)
    searcher = SEARCHERS["random"](
        make_tiny_space(), SearchSettings(epochs=1, batch_size=16, recipe=recipe, limits=limits)
    )
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with pytest.raises(MismatchError, match="holds no run"):
        searcher.search(tiny_data(), [], lambda: RunFolder(tmp_path / "foreign", {}))
    assert len(searcher.search(tiny_data(), [], RunFolder(tmp_path / "run", {}))) == 1
    with pytest.raises(InvalidValueError, match="make a new one"):
        searcher.search(tiny_data(), [], RunFolder(tmp_path / "other", {}))


@EVERY_SEARCHER
def test_a_resumed_search_is_bit_identical(name: str, priced: PricedSpace, tmp_path: Path) -> None:
    """Stopped in warm-up, in the first search and in the second; weights, choices, results.

    Results come in the order asked, and below their targets.
    """
    targets = _targets(priced)
    whole = _search(name, priced, tmp_path / "whole", targets)
    _assert_in_order_and_below(whole, targets, tmp_path / "whole")
    for stop_after in (3, 5, 9, 6):  # 4 steps an epoch, 3 epochs a target
        with pytest.raises(Stop):
            _search(name, priced, tmp_path / "cut", targets, stop_after=stop_after)
    assert _search(name, priced, tmp_path / "cut", targets) == whole
    for file in sorted((tmp_path / "whole" / "checkpoint").iterdir()):
        ours = torch.load(file, weights_only=True)
        theirs = torch.load(tmp_path / "cut" / "checkpoint" / file.name, weights_only=True)
        _assert_equal(ours, theirs)


@EVERY_SEARCHER
def test_operations_start_as_alike_as_the_recipe_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every searcher; a recipe that says nothing asks for nothing."""
    space, family, asked = make_small_space(), SEARCHERS[name], set[float]()
    priced = PricedSpace(
        space, write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    )
    monkeypatch.setattr(Supernet, "start_alike", lambda _, correlation: asked.add(correlation))
    assert family.recipe_kind is not None
    usual = RECIPES.get(name) or family.recipe_kind()
    for alike in (0.0, 0.5):
        recipe = msgspec.structs.replace(usual, alike=alike)
        searcher = family(priced, SearchSettings(epochs=1, batch_size=16, recipe=recipe))
        with pytest.raises(Stop):
            folder = RunFolder(tmp_path / f"run-{alike}", {})
            searcher.search(tiny_data(), _targets(priced), folder, progress=stopping_after(3))
        assert asked == ({alike} if alike else set())


@EVERY_SEARCHER
def test_a_search_whose_loss_is_no_number_ends_with_an_error(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    """The learning rate is far too high. No metric and no checkpoint reports success."""
    family = SEARCHERS[name]
    assert family.recipe_kind is not None
    recipe = msgspec.structs.replace(RECIPES.get(name) or family.recipe_kind(), lr=1e30)
    searcher = family(priced, SearchSettings(epochs=4, batch_size=16, seed=3, recipe=recipe))
    folder = RunFolder(tmp_path / "run", {})
    with pytest.raises(DivergedError, match=r"diverged in epoch .* lower learning rate"):
        searcher.search(tiny_data(), _targets(priced), folder)
    assert "NaN" not in (folder.path / "metrics.jsonl").read_text()
    for file in folder.path.glob("checkpoint/*.pt"):
        saved = torch.load(file, weights_only=True)
        assert all(t.isfinite().all() for t in saved["supernet"].values())


def _assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            _assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


SLOWER = {"sgnas": 1.01}
"""Factors of devices on whose spaces all latencies are nearly the same."""


def _device(priced: PricedSpace, *, factor: float, most: int = 100) -> Measure:
    """A device that is slower than its table by a factor, and fails after ``most`` sweeps."""
    left = iter(range(most))
    known = exactly(lambda network: factor * priced.table.predict(network).latency_ms)

    def measure(networks: Sequence[Network], rule: SweepRule, progress: Progress) -> SweptNetworks:
        if next(left, None) is None:
            raise Stop
        return known(networks, rule, progress)

    return measure


EVERY_CORRECTING = pytest.mark.parametrize(
    "name", [name for name in SEARCHERS if SEARCHERS[name].corrects_on_device]
)


@EVERY_CORRECTING
def test_a_finished_search_is_corrected_later_without_training(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    """The result is the same as with measurement from the start."""
    targets, run, factor = _targets(priced), tmp_path / "run", SLOWER.get(name, 1.1)
    asked = _search(name, priced, tmp_path / "at once", targets, _device(priced, factor=factor))
    predicted = _search(name, priced, run, targets)
    epochs = _epochs(run)
    assert _search(name, priced, run, targets, _device(priced, factor=factor)) == asked
    assert _epochs(run) == epochs == _epochs(tmp_path / "at once")
    for result, before in zip(asked, predicted, strict=True):
        assert result["status"] == "met"
        assert result["measured_ms"] <= result["target_ms"]
        assert result["measured_low_ms"] <= result["measured_ms"] <= result["measured_high_ms"]
        if name == "tfnas":
            assert result["target_ms"] < 1.1 * before["latency_ms"]
        made = read_architecture(run / "architectures" / f"{phase_of(result['target_ms'])}.json")
        assert made.as_dict() == result["architecture"]
        predicted_ms = priced.latency_ms(made)
        assert result["measured_ms"] == pytest.approx(factor * predicted_ms)
        record = read_rounds(rounds_file(run, result["target_ms"]))
        assert record.status == "met"
        assert result["rounds"] == len(record.rounds)
    assert _search(name, priced, run, targets) == predicted


@EVERY_CORRECTING
def test_a_search_killed_while_measuring_goes_on(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    targets, factor = _targets(priced), SLOWER.get(name, 1.1)
    whole = _search(name, priced, tmp_path / "whole", targets, _device(priced, factor=factor))
    for most in (0, 1, 1):  # in the first selection, and in each of the next two sweeps
        with pytest.raises(Stop):
            device = _device(priced, factor=factor, most=most)
            _search(name, priced, tmp_path / "cut", targets, device)
    cut = tmp_path / "cut"
    assert _search(name, priced, cut, targets, _device(priced, factor=factor)) == whole
    assert _epochs(cut) == _epochs(tmp_path / "whole")
    measured = [line for line in _lines(cut) if "measured_ms" in line]
    assert len(measured) == sum(result["rounds"] for result in whole)
    for target_ms in targets:
        files = [rounds_file(tmp_path / run, target_ms).read_bytes() for run in ("cut", "whole")]
        assert files[0] == files[1]


@EVERY_CORRECTING
def test_one_process_measures(name: str, priced: PricedSpace) -> None:
    settings = SearchSettings(measure=_device(priced, factor=1.0), workers=Workers(0, 2))
    with pytest.raises(InvalidValueError, match="torchrun"):
        SEARCHERS[name](priced, settings)


def test_every_searcher_of_the_project_measures() -> None:
    assert all(SEARCHERS[name].corrects_on_device for name in SEARCHERS)


@pytest.mark.parametrize("name", ["random"])
def test_searchers_that_do_not_measure_name_the_command_that_does(
    name: str, priced: PricedSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of another package."""
    family = SEARCHERS[name]
    monkeypatch.setattr(family, "corrects_on_device", False)
    with pytest.raises(InvalidValueError, match="fit --until-verified"):
        family(priced, SearchSettings(measure=_device(priced, factor=1.0)))


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _epochs(run: Path) -> list[tuple[str, int]]:
    """The epochs that were trained."""
    return [(line["phase"], line["epoch"]) for line in _lines(run) if "loss" in line]


def _assert_in_order_and_below(
    found: list[dict[str, Any]], targets: list[float], run: Path
) -> None:
    assert [result["target_ms"] for result in found] == targets
    assert all(r["latency_ms"] <= r["target_ms"] for r in found)
    assert {file.name for file in run.iterdir()} > {
        "config.json",
        "metrics.jsonl",
        "architectures",
        "checkpoint",
    }
    assert _lines(run)[-1]["derived_ms"] is not None


@EVERY_SEARCHER
def test_an_infeasible_target_is_refused_before_training(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError) as caught:
        _search(name, priced, tmp_path / "run", [1e-4])
    assert caught.value.nearest_ms == priced.feasible_ms()[0]
    assert not (tmp_path / "run" / "checkpoint").exists()


@EVERY_SEARCHER
def test_upper_ends_of_latencies_keep_the_target(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    """As with a confidence: what is searched under is the prediction with its margin."""
    wary = PricedSpace(priced.space, priced.table, margin=0.02)
    low_ms, high_ms = wary.feasible_ms()
    target_ms = low_ms + 0.35 * (high_ms - low_ms)
    (found,) = _search(name, wary, tmp_path / "run", [target_ms], epochs=2)
    made = read_architecture(tmp_path / "run" / "architectures" / f"{phase_of(target_ms)}.json")
    assert found["latency_ms"] == pytest.approx(1.02 * priced.latency_ms(made))
    assert found["latency_ms"] <= target_ms
    assert low_ms == pytest.approx(1.02 * priced.feasible_ms()[0])


LIMITED_CASES = [
    (name, kind, with_target)
    for row, name in enumerate(name for name in SEARCHERS if SEARCHERS[name].limited)
    for column, kind in enumerate(COUNTED)
    for with_target in (False, True)
    if (row + column + with_target) % 2
]  # every pair of searcher, count, and with or without a target
LIMITED = pytest.mark.parametrize("name", [name for name in SEARCHERS if SEARCHERS[name].limited])


@pytest.fixture
def countable(name: str, tmp_path: Path) -> PricedSpace:
    """A space on which a searcher can keep limits; differentiable searchers need fixed widths."""
    space = SPACES.get(name, make_small_space)()
    path = tmp_path / "t.sqlite"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


def _limit(space: SearchSpace, kind: Counted, share: float) -> Limit:
    """A limit at a fraction between the least and the greatest amount of the space."""
    low, high = (
        getattr(network_cost(space.lower(architecture)), kind)
        for architecture in (space.smallest(), space.largest())
    )
    return Limit(Count(space, kind), low + share * (high - low))


@pytest.mark.parametrize(("name", "kind", "with_target"), LIMITED_CASES)
def test_a_search_under_limits_ends_within_them(
    name: str, kind: Counted, with_target: bool, countable: PricedSpace, tmp_path: Path
) -> None:
    """With targets that allow nearly all of the space, and alone."""
    limit = _limit(countable.space, kind, 0.3)
    targets = [countable.feasible_ms()[1] * 0.99] if with_target else []
    (found,) = _search(name, countable, tmp_path / "run", targets, epochs=1, limits=(limit,))
    (file,) = (tmp_path / "run" / "architectures").iterdir()
    made = read_architecture(file)
    cost = network_cost(countable.space.lower(made))
    assert getattr(cost, kind) <= limit.budget
    assert found["target_ms"] == (targets[0] if with_target else None)
    assert found["latency_ms"] == pytest.approx(countable.latency_ms(made))
    assert made.as_dict() == found["architecture"]


@LIMITED
def test_limits_alone_cannot_be_verified(name: str, countable: PricedSpace, tmp_path: Path) -> None:
    limits, device = (_limit(countable.space, "macs", 0.3),), _device(countable, factor=1.0)
    with pytest.raises(InvalidValueError, match="needs a budget to verify"):
        _search(name, countable, tmp_path / "run", [], device, limits=limits)
    assert not (tmp_path / "run" / "checkpoint").exists()


@LIMITED
def test_an_infeasible_limit_is_refused_before_training(
    name: str, countable: PricedSpace, tmp_path: Path
) -> None:
    space = countable.space
    below = Limit(Count(space, "params"), 10)
    with pytest.raises(BudgetError, match="parameters of 1e-05 M is out of reach") as caught:
        _search(name, countable, tmp_path / "run", [], limits=(below,))
    least = network_cost(space.lower(space.smallest())).params
    assert caught.value.nearest_params_m == pytest.approx(least / 1e6)
    if not SEARCHERS[name].generates:
        with pytest.raises(InvalidValueError, match="name a budget"):
            _search(name, countable, tmp_path / "run", [])
    assert not (tmp_path / "run" / "checkpoint").exists()


BARE = pytest.mark.parametrize("name", [n for n in SEARCHERS if not SEARCHERS[n].needs_table])


@BARE
def test_limits_need_no_table(name: str, tmp_path: Path) -> None:
    """A search without a device resumes, and its results contain no latency."""
    space = SPACES.get(name, make_small_space)()
    limit = _limit(space, "macs", 0.3)
    (found,) = _search(name, space, tmp_path / "run", [], epochs=1, limits=(limit,))
    (file,) = (tmp_path / "run" / "architectures").iterdir()
    made = read_architecture(file)
    assert network_cost(space.lower(made)).macs <= limit.budget
    assert found["latency_ms"] is None and found["target_ms"] is None
    assert _search(name, space, tmp_path / "run", [], epochs=1, limits=(limit,)) == [found]


@BARE
def test_a_latency_needs_a_table(name: str, tmp_path: Path) -> None:
    space = SPACES.get(name, make_small_space)()
    with pytest.raises(InvalidValueError, match="--target needs --table"):
        _search(name, space, tmp_path / "run", [1.0], limits=(_limit(space, "macs", 0.3),))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_searchers_that_need_a_table_refuse_a_space_without_one() -> None:
    for name in SEARCHERS:
        if SEARCHERS[name].needs_table:
            with pytest.raises(InvalidValueError, match="give --table"):
                SEARCHERS[name](make_small_space(), SearchSettings())
    for name in ("softmax", "gumbel"):
        with pytest.raises(InvalidValueError, match="give one --table"):
            SEARCHERS[name](make_tiny_space(), SearchSettings())


@pytest.mark.parametrize("strategy", ["softmax", "gumbel"])
def test_black_boxes_refuse_strategies_that_train_probabilities(strategy: str) -> None:
    """Such probabilities would stay at their initial values, because no image trains them."""
    settings = SearchSettings(recipe=OneShotRecipe(strategy=strategy))
    with pytest.raises(InvalidValueError, match=f"--searcher {strategy}"):
        SEARCHERS["evolution"](make_small_space(), settings)


def test_batches_by_class_fit_all_images_that_are_shown_in_them() -> None:
    """Held-out images are shown in batches where they train choices."""
    space, data = make_small_space(), tiny_data(40)
    limits = (_limit(space, "macs", 0.5),)
    for family, recipe in (
        ("evolution", OneShotRecipe(batch_size=16, per_class=2)),
        ("softmax", DifferentiableRecipe(batch_size=16, per_class=2)),
    ):
        _, held_out = data.held_out(recipe.held_out, seed=0)
        assert len(held_out.labels.unique()) == 6
        searcher = SEARCHERS[family](space, SearchSettings(recipe=recipe, limits=limits))
        if family == "evolution":
            searcher.check(data, [])
        else:
            with pytest.raises(InvalidValueError, match="has 6: choose 4 to 12 images"):
                searcher.check(data, [])


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_paths_train_the_weights_and_the_mixture_trains_the_logits(
    name: str, tmp_path: Path
) -> None:
    """A step changes only weights of its path, and the logits of all layers."""
    space = make_small_space()
    limit = _limit(space, "macs", 0.5)
    checkpoints = []
    for strategy in ("", "uniform"):
        recipe = DifferentiableRecipe(strategy=strategy, alpha_lr=0.1)
        settings = SearchSettings(1, 96, 0, recipe, limits=(limit,))  # one step
        folder = RunFolder(tmp_path / f"run-{strategy}", {})
        data = replace(tiny_data(), train=tiny_data(120).train)
        SEARCHERS[name](space, settings).search(data, [], folder)
        checkpoints.append(folder.checkpoint("limits"))
    mixed, sampled = checkpoints
    assert mixed is not None and sampled is not None
    assert mixed["relaxation"] is None
    logits = [value for key, value in sampled["relaxation"].items() if key.startswith("alphas")]
    assert all(bool(row.any()) for row in logits)
    first = fixed_supernet(space, seed=0).state_dict()
    moved = [
        {k for k, v in state["supernet"].items() if "weight" in k and not torch.equal(v, first[k])}
        for state in checkpoints
    ]
    assert moved[1] < moved[0]
    with pytest.raises(InvalidValueError, match="choose uniform, fair or sandwich"):
        recipe = DifferentiableRecipe(strategy="softmax")
        SEARCHERS[name](space, SearchSettings(recipe=recipe, limits=(limit,)))


@pytest.mark.parametrize("name", ["softmax"])
@pytest.mark.parametrize("strategy", ["", "uniform"])
def test_every_width_that_may_be_derived_is_trained(
    strategy: str, name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    """Channels beyond those of the start differ from their random values, all in mixtures.

    Few paths have the widest width of an operation.
    """
    space, data = priced.space, tiny_data()
    recipe = DifferentiableRecipe(strategy=strategy)
    searcher = SEARCHERS[name](priced, SearchSettings(6, 8, 0, recipe))
    target_ms = _targets(priced)[0]
    folder = RunFolder(tmp_path / "run", {})
    searcher.search(data, [target_ms], folder)
    saved = folder.checkpoint(phase_of(target_ms))
    assert saved is not None
    fresh = searchable_supernet(space, seed=0).state_dict()
    for s, layers in enumerate(space.stages):
        for i, layer in enumerate(layers):
            for number, op in enumerate(layer.ops):
                widest = max(priced.widths(layer, op))
                start = layer.start_width(op)
                assert start is not None and start < widest
                weight = f"stages.{s}.{i}.{number}.depthwise.weight"
                moved = (saved["supernet"][weight] != fresh[weight]).flatten(1).any(1)
                beyond = moved[start:widest]
                assert bool(beyond.any() if strategy else beyond.all())
                assert not bool(moved[widest:].any())
    mixture = saved["relaxation"] if strategy else saved["strategy"]
    assert {key.partition(".")[0] for key in mixture} == {"alphas", "betas"}
    assert strategy or saved["relaxation"] is None


@pytest.mark.parametrize("name", ["tfnas", "softmax", "gumbel"])
def test_searchers_that_scale_widths_to_a_latency_refuse_limits(
    name: str, priced: PricedSpace, tmp_path: Path
) -> None:
    limit = _limit(priced.space, "macs", 0.5)
    with pytest.raises(InvalidValueError, match="leave out --max-macs"):
        _search(name, priced, tmp_path / "run", _targets(priced), limits=(limit,))


def test_the_schedule_ends_at_its_temperature() -> None:
    for epochs in (9, 90):
        recipe = TFNASRecipe().scaled(epochs, None)
        assert recipe.tau(recipe.warmup_epochs) == recipe.tau_start
        assert recipe.tau(epochs - 1) == pytest.approx(recipe.tau_end)
    assert recipe.tau(11) / recipe.tau(10) == pytest.approx(0.96, abs=1e-3)


def _train(
    space: SearchSpace, folder: Path, *, epochs: int = 3, stop_after: int | None = None
) -> dict[str, float]:
    return scratch.train(
        space.lower(space.largest()),
        tiny_data(),
        TrainingRecipe(epochs=epochs, batch_size=16, shift=0),
        RunFolder(folder, {"epochs": epochs}),
        progress=stopping_after(stop_after),
    )


def test_a_resumed_training_is_bit_identical(tiny_space: SearchSpace, tmp_path: Path) -> None:
    whole = _train(tiny_space, tmp_path / "whole")
    with pytest.raises(Stop):
        _train(tiny_space, tmp_path / "cut", stop_after=9)
    assert _train(tiny_space, tmp_path / "cut") == whole
    weights = [(tmp_path / run / module_training.WEIGHTS).read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_training_learns(tiny_space: SearchSpace, tmp_path: Path) -> None:
    score = _train(tiny_space, tmp_path / "run", epochs=15)
    assert score["top1"] > 0.5
    assert score["top5"] >= score["top1"]


def test_trained_weights_are_read_and_exported(tiny_space: SearchSpace, tmp_path: Path) -> None:
    _train(tiny_space, tmp_path / "run", epochs=1)
    network = tiny_space.lower(tiny_space.largest())
    weights = tmp_path / "run" / module_training.WEIGHTS
    assert export_onnx(network, weights, tmp_path / "m.onnx") < 1e-4
    with pytest.raises(MismatchError, match="another network"):
        scratch.load_model(tiny_space.lower(tiny_space.smallest()), weights)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InvalidFileError, match="weights of a trained run"):
        scratch.load_model(network, weights)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", {"seed": 0})
    RunFolder(tmp_path / "run", {"seed": 0})
    with pytest.raises(MismatchError, match="seed is 0 there and 1 here"):
        RunFolder(tmp_path / "run", {"seed": 1})
    RunFolder(tmp_path / "long", {"prices": [*range(50)], "recipe": {"lr": 0.1, "epochs": 2}})
    told = r"prices differs, recipe\.lr is 0\.1 there and 0\.2 here, seed is null there and 1 here"
    with pytest.raises(MismatchError, match=rf"\({told}\)"):
        RunFolder(tmp_path / "long", {"prices": [], "recipe": {"lr": 0.2, "epochs": 2}, "seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(MismatchError, match="holds no run"):
        RunFolder(tmp_path / "other", {"seed": 0})


_HOLDER = """
import sys
from pathlib import Path
from nas.training.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), {})
folder.hold()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    """The other one is named. What this process opened before does not count, nor one killed."""
    folder = RunFolder(tmp_path / "run", {})
    hold = [sys.executable, "-c", _HOLDER, str(folder.path)]
    with subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InvalidFileError, match=f"in use by process {other.pid}: wait"):
            folder.hold()
        other.kill()
    folder.hold()
    RunFolder(tmp_path / "run", {}).hold()  # its end leaves the lock
    refused = subprocess.run(hold, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert f"in use by process {os.getpid()}".encode() in refused.stderr


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave an empty file of the new name."""
    calls: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(f"sync {os.fstat(descriptor).st_size > 1000}")
        sync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        calls.append("replace")
        return rename(self, target)

    folder = RunFolder(tmp_path / "run", {})
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    folder.save_checkpoint("last", {"weights": torch.zeros(1000)})
    assert calls == ["sync True", "replace"]


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    """A limit of file sizes makes a write fail like a full disk."""
    folder = RunFolder(tmp_path / "run", {})
    folder.save_checkpoint("last", {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(InvalidFileError, match=r"MiB are free.* make room"):
            folder.save_checkpoint("last", {"epoch": 2, "weights": torch.zeros(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.checkpoint("last") == {"epoch": 1}
    assert [file.name for file in (folder.path / "checkpoint").iterdir()] == ["last.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    folder.save_checkpoint("last", {"epoch": 1})
    file = tmp_path / "run" / "checkpoint" / "last.pt"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InvalidFileError, match=r"last\.pt"):
        folder.checkpoint("last")


def test_digits_are_real_and_divided_once() -> None:
    data = load_data("digits", input_size=16, classes=10)
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.shape[1:] == (1, 16, 16)
    assert set(data.test.labels.tolist()) == set(range(10))
    with pytest.raises(MismatchError, match="10 classes"):
        load_data("digits", input_size=16, classes=100)


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    raw = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 28, 28)), rng.integers(0, 10, 20)
    _write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    _write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    _write_idx(tmp_path / "t10k-images-idx3-ubyte", images)
    _write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    data = fashion_mnist(28, tmp_path)
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(images).to(torch.uint8))
    assert data.test.labels.tolist() == labels.tolist()
    assert fashion_mnist(32, tmp_path).train.images.shape == (20, 1, 32, 32)


def test_damaged_and_missing_idx_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x-idx1-ubyte"
    _write_idx(path, np.arange(20))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidFileError, match="truncated"):
        read_idx(path)
    path.write_bytes(b"PNG")
    with pytest.raises(InvalidFileError, match="not an IDX file"):
        read_idx(path)
    with pytest.raises(InvalidFileError, match="--data-dir"):
        fashion_mnist(32, tmp_path)


def test_augmentation_shifts_and_mirrors() -> None:
    images = torch.arange(2 * 1 * 4 * 4, dtype=torch.uint8).reshape(2, 1, 4, 4)
    assert torch.equal(augment(images, generator(0), flip=False, shift=0), images)
    many = images[:1].expand(64, -1, -1, -1)
    made = augment(many, generator(1), flip=True, shift=0)
    mirrored = sum(bool(torch.equal(one, images[0].flip(-1))) for one in made)
    assert 16 < mirrored < 48  # 32 and four standard deviations
    assert all(torch.equal(o, images[0]) or torch.equal(o, images[0].flip(-1)) for o in made)
    moved = augment(many, generator(1), flip=False, shift=1)
    assert len({tuple(one.flatten().tolist()) for one in moved}) == 9


def test_an_epoch_shows_every_image_once() -> None:
    split = Split(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
    whole = [labels for _, labels in batches(split, 4, generator(0), drop_last=False)]
    assert sorted(torch.cat(whole).tolist()) == list(range(10))
    assert [len(labels) for _, labels in batches(split, 4, generator(0))] == [4, 4]


def test_resizing_keeps_brightness() -> None:
    images = torch.full((2, 1, 8, 8), 93, dtype=torch.uint8)
    assert torch.equal(resize(images, 32), torch.full((2, 1, 32, 32), 93, dtype=torch.uint8))
