"""Training of a generator: trained and frozen weights, requests, several devices."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import nas
from latbench.blocks import BlockSpec
from latbench.cost import network_cost
from latbench.device import DeviceProfile
from latbench.errors import (
    BudgetError,
    InvalidFileError,
    InvalidValueError,
    MismatchError,
    UnknownNameError,
)
from latbench.tables import LatencyTable
from nas.crew.base import CrewSettings
from nas.criteria import hardware
from nas.data.images import ImageData
from nas.evaluators.base import Evaluator
from nas.evaluators.operations import OperationsEvaluator
from nas.evaluators.unified_weights import UnifiedEvaluator, trained_unified
from nas.generator import Request, answers, device_of, load_generator, plane_of
from nas.generator.kernel_multisets import MultisetProbabilities, multisets_of
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import one_hot
from nas.optimize.constraints import Count, Limit
from nas.recipes import Recipe, load_recipe, shipped_recipes
from nas.searchers.base import SearchSettings
from nas.searchers.differentiable import DifferentiableRecipe
from nas.searchers.results import SearchResult
from nas.searchers.sgnas.adaptation import adapt
from nas.searchers.sgnas.budgets import RANGE, Budgets
from nas.searchers.sgnas.generator_state import GeneratorState, new_generator
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.imitation import imitate
from nas.searchers.sgnas.priors import best_finalists, rank_candidates
from nas.searchers.sgnas.recipe import SGNASRecipe, read_run
from nas.searchers.sgnas.searcher import SGNASSearcher, evaluator_of
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.searchers.tfnas.searcher import TFNASSearcher
from nas.spaces import Architecture, SearchSpace, make_space
from nas.spaces.sgnas import KERNELS, architecture_of
from nas.training.distributed import ALONE, Workers
from nas.training.run_files import generator_file
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU
from tests.conftest import make_mix_space, make_small_space, random_price, write_table
from tests.nas.runs import Stop, numbered_data, numbers_in, numbers_of, stopping_after, tiny_data

RECIPE = SGNASRecipe(
    epochs=1, generator_epochs=2, batch_size=16, budgets=5, priors=2, prior_candidates=2,
    selected_on=2, calibration_batches=1,
)  # fmt: skip


def _table(path: Path, profile: DeviceProfile, name: str) -> LatencyTable:
    return write_table(path / name, make_mix_space(), msgspec.structs.replace(profile, name=name))


@pytest.fixture
def devices(tmp_path: Path, profile: DeviceProfile) -> list[PricedSpace]:
    space = make_mix_space()
    return [PricedSpace(space, _table(tmp_path, profile, name)) for name in ("one", "two", "new")]


def test_budgets_are_asked_evenly_on_every_device(devices: list[PricedSpace]) -> None:
    """A round has one request for each budget of the grid of each kind, within the jitter."""
    budgets = Budgets.of(devices[0].space, devices[:2], low=0.1, high=0.9)
    asked = budgets.epoch(5, 0.1, torch.Generator().manual_seed(0))
    round_ = [next(asked) for _ in range(5 * 5)]  # two devices, two counts, one pair
    singles = [request for request in round_ if len(request.limits) == 1]
    assert len(singles) == 20
    assert {request.device for request in singles} == {*budgets.latencies, None}
    by_kind: dict[tuple[str, str | None], list[float]] = {}
    for request in singles:
        (limit,) = request.limits
        low, high = limit.costs.feasible_range
        place = (limit.budget - low) / (high - low)
        by_kind.setdefault((limit.costs.kind, request.device), []).append(place)
    for places in by_kind.values():
        grid = torch.linspace(0.1, 0.9, 5).tolist()
        assert sorted(places) == pytest.approx(grid, abs=0.1 * 0.2)
    pairs = [request for request in round_ if len(request.limits) == 2]
    assert {tuple(x.costs.kind for x in request.limits) for request in pairs} == {
        ("latency", "macs")
    }


def test_the_hardware_loss_is_the_published_one_in_its_units() -> None:
    recipe = SGNASRecipe()
    excess = torch.tensor([0.05, -0.1, 2.0, -2.0])
    expected = [0.0, 0.0, 3e-4 * 4 * 1.2, 3e-4 * 4]
    assert recipe.hardware_loss(excess).tolist() == pytest.approx(expected)
    for each in (0.05, -0.05, 0.2, -0.2, 7.0):  # an objective of one cost has the same form
        loss = float(recipe.hardware_loss(torch.tensor(each)))
        assert loss == pytest.approx(hardware.sgnas(0.0, each, 0.0))


def test_the_excess_is_of_the_budget_that_is_exceeded_most(devices: list[PricedSpace]) -> None:
    budgets = Budgets.of(devices[0].space, devices[:1], low=0.0, high=0.5)
    (latency,), (macs, _) = budgets.latencies.values(), budgets.counts
    p = torch.zeros(2, 6, 4)
    p[..., 1] = 1.0  # certain, so the expectation is a cost
    for place in (0.1, 0.9):
        request = Request((budgets.limit(latency, place), budgets.limit(macs, 0.5)), "one")
        spans = [(c.feasible_range[1] - c.feasible_range[0]) / 2 for c in (latency, macs)]
        over = [
            (float(limit.costs.expected(MultisetProbabilities()(p))) - limit.budget) / span * RANGE
            for limit, span in zip(request.limits, spans, strict=True)
        ]
        assert float(budgets.excess(request, p)) == pytest.approx(max(over), rel=1e-5)


def test_the_temperature_falls_to_its_end() -> None:
    recipe = SGNASRecipe()
    assert recipe.tau(0) == 5.0
    assert recipe.tau(1) / recipe.tau(0) == pytest.approx(0.95, abs=1e-3)
    assert recipe.tau(49) == pytest.approx(0.405)
    assert recipe.scaled(10, 32).generator_epochs == 10


def test_the_recipe_for_small_images_is_shipped() -> None:
    assert "sgnas-small" in shipped_recipes(SGNASRecipe)
    recipe = load_recipe(SGNASRecipe, "sgnas-small", ["epochs=6"])
    assert (recipe.epochs, recipe.batch_size, recipe.alike) == (6, 32, 0.9)
    assert recipe.imitation_steps > SGNASRecipe().imitation_steps == 0  # as published


@pytest.mark.parametrize(
    ("name", "size", "classes", "low_m", "high_m", "batch"),
    [("sgnas-cifar", 32, 100, 80, 120, 512), ("sgnas-imagenet-search", 224, 1000, 270, 450, 128)],
)
def test_published_recipes_ask_for_the_published_macs(
    name: str, size: int, classes: int, low_m: float, high_m: float, batch: int
) -> None:
    """Range, step, jitter, prior and hardware loss, in millions of MACs."""
    recipe = load_recipe(SGNASRecipe, name)
    assert recipe.batch_size == batch
    budgets = Budgets.of(make_space("sgnas", size, classes), (), low=recipe.low, high=recipe.high)
    asked = [request.limits[0].budget for request in budgets.grid(recipe.budgets)[0]]
    assert asked == pytest.approx(np.arange(low_m, high_m + 1, 5).tolist(), abs=0.01)
    assert recipe.jitter * 5 == 0.5
    assert recipe.priors == 1
    for distance_m, loss in ((2.0, 3e-4 * 4 * 1.2), (-2.0, 3e-4 * 4), (0.09, 0.0)):
        excess = torch.tensor(distance_m / (high_m - low_m) * RANGE)
        assert float(recipe.hardware_loss(excess)) == pytest.approx(loss, rel=1e-3)
    assert [recipe.tau(epoch) for epoch in (0, 1)] == pytest.approx([5, 4.75], rel=1e-3)


@pytest.mark.parametrize("name", shipped_recipes(SGNASRecipe))
def test_shipped_recipes_fit_a_space(name: str) -> None:
    recipe = load_recipe(SGNASRecipe, name)
    space = make_space("proxylessnas" if recipe.strategy else "sgnas", 32, 10)
    data = tiny_data(640)
    SGNASSearcher(space, SearchSettings(recipe=recipe)).check(data, [])


def _search(devices: list[PricedSpace], folder: Path, *, recipe: SGNASRecipe = RECIPE) -> Path:
    settings = SearchSettings(seed=1, recipe=recipe, others=tuple(devices[1:]))
    searcher = SGNASSearcher(devices[0], settings)
    low, high = devices[0].feasible_ms()
    targets = [low + place * (high - low) for place in (0.7, 0.3)]
    found = searcher.search(tiny_data(), targets, RunFolder(folder, {}))
    assert [result.target_ms for result in found] == targets
    assert all(0 <= result.score <= 1 for result in found)
    return folder


def test_one_training_serves_several_devices_and_kinds(
    devices: list[PricedSpace], tmp_path: Path
) -> None:
    """The generator file of a run answers latencies on both devices, and MACs."""
    folder = _search(devices[:2], tmp_path / "run")
    alone = SGNASSearcher(devices[0], SearchSettings(seed=1, recipe=RECIPE, others=(devices[1],)))
    assert alone.search(tiny_data(), [], RunFolder(folder, {})) == []  # a generator needs no target
    generator = load_generator(generator_file(folder))
    assert generator.label.devices == tuple(device_of(each.table) for each in devices[:2])
    budgets = Budgets.of(devices[0].space, devices[:2], low=0.3, high=0.6)
    for row in budgets.grid(2):
        for request, answer in zip(row, answers(generator, devices[0].space, row), strict=True):
            if request.device is not None:
                priced = devices[generator.label.devices.index(request.device)]
                assert priced.latency_ms(answer.architecture) <= request.limits[0].budget


@pytest.fixture
def separate(tmp_path: Path, profile: DeviceProfile) -> PricedSpace:
    """A space of separate operations, 243 networks."""
    space = make_small_space()
    return PricedSpace(space, write_table(tmp_path / "separate", space, profile))


@pytest.mark.parametrize("strategy", ["uniform", "fair"])
def test_a_generator_learns_a_space_of_separate_operations(
    separate: PricedSpace, strategy: str, tmp_path: Path
) -> None:
    """Budgets hold, the file answers, and an interrupted run equals an uninterrupted one."""
    recipe = msgspec.structs.replace(RECIPE, strategy=strategy, imitation_steps=5)
    settings = SearchSettings(seed=1, recipe=recipe)
    low, high = separate.feasible_ms()
    targets = [low + place * (high - low) for place in (0.7, 0.3)]

    def search(folder: Path, *, stop_after: int | None = None) -> list[SearchResult]:
        return SGNASSearcher(separate, settings).search(
            tiny_data(), targets, RunFolder(folder, {}), progress=stopping_after(stop_after)
        )

    found = search(tmp_path / "run")
    assert all(r.latency_ms <= t for r, t in zip(found, targets, strict=True))
    assert all(0 <= r.score <= 1 for r in found)
    generator = load_generator(generator_file(tmp_path / "run"))
    assert generator.label.plane == "operations"
    assert generator.label.kinds == ("latency", "macs", "params")
    saved = torch.load(tmp_path / "run" / "checkpoint" / "supernet.pt", weights_only=True)
    assert saved["epoch"] == 1
    for stop_after in (3, 12, 10):
        with pytest.raises(Stop):
            search(tmp_path / "killed", stop_after=stop_after)
    assert search(tmp_path / "killed") == found


def test_a_device_is_added_on_a_space_of_separate_operations(
    separate: PricedSpace, profile: DeviceProfile, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run", {})
    SGNASSearcher(separate, SearchSettings(seed=1, recipe=RECIPE)).search(tiny_data(), [], folder)
    other = msgspec.structs.replace(profile, name="other")
    table = write_table(tmp_path / "other", separate.space, other)
    made = adapt(folder, PricedSpace(separate.space, table), tiny_data(), RECIPE, seed=1)
    assert made.label.devices == (device_of(separate.table), device_of(table))


def test_gradients_reach_the_probabilities_of_a_supernet_of_operations(
    separate: PricedSpace, tmp_path: Path
) -> None:
    """A certain choice equals its path, improbable choices are skipped, weights are frozen."""
    evaluator = evaluator_of(
        RunFolder(tmp_path / "run", {}), separate.space, tiny_data(), RECIPE, seed=0
    )
    assert isinstance(evaluator, OperationsEvaluator)
    images = tiny_data().to_input(tiny_data().train.images[:4])  # type: ignore[attr-defined]
    plane = plane_of(separate.space)
    choices = torch.from_numpy(plane.random(np.random.default_rng(0)))
    certain = torch.nn.functional.one_hot(choices, plane.choices).float()
    path = one_hot(separate.space, plane.chosen(choices.numpy()))
    assert torch.equal(evaluator.outputs(images, certain), evaluator.supernet(images, path))
    p = torch.full(certain.shape, 1 / 3, requires_grad=True)
    evaluator.outputs(images, p).square().sum().backward()
    assert p.grad is not None
    assert (p.grad != 0).all()
    assert all(w.grad is None for w in evaluator.supernet.parameters())


@pytest.mark.parametrize("space", [make_mix_space(), make_small_space()], ids=["mix", "separate"])
def test_without_a_table_a_generator_knows_macs_and_parameters(
    space: SearchSpace, devices: list[PricedSpace], tmp_path: Path
) -> None:
    """As published, without latency."""
    macs = Count(space, "macs")
    ends = [network_cost(space.lower(made)).macs for made in (space.smallest(), space.largest())]
    settings = SearchSettings(seed=1, recipe=RECIPE, limits=(Limit(macs, sum(ends) / 2),))
    folder = RunFolder(tmp_path / "run", {})
    (found,) = SGNASSearcher(space, settings).search(tiny_data(), [], folder)
    assert (found.target_ms, found.latency_ms) == (None, None)
    assert network_cost(space.lower(found.architecture)).macs <= sum(ends) / 2
    generator = load_generator(generator_file(folder.path))
    assert (generator.label.kinds, generator.label.devices) == (("macs", "params"), ())
    assert [request.device for request in Budgets.of(space, (), low=0, high=1).selected(3)] == [
        None
    ] * 3
    with pytest.raises(InvalidValueError, match="--table"):
        SGNASSearcher(space, settings).check_targets([1.0])
    with pytest.raises(BudgetError):
        limits = (Limit(macs, ends[0] / 2),)
        SGNASSearcher(space, SearchSettings(recipe=RECIPE, limits=limits)).check_targets([])


def test_budgets_without_devices_are_of_macs_parameters_and_both() -> None:
    budgets = Budgets.of(make_mix_space(), (), low=0.1, high=0.9)
    asked = budgets.epoch(4, 0.1, torch.Generator().manual_seed(0))
    kinds = Counter(tuple(x.costs.kind for x in next(asked).limits) for _ in range(12))
    assert kinds == {("macs",): 4, ("params",): 4, ("macs", "params"): 4}


def test_data_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes, words in (
        ({"criterion": "angular"}, "embeddings"),
        ({"per_class": 5}, "cannot show"),
        ({"held_out": 0.01}, "too few"),
        # the images that train the generator show 5 of 10 classes
        ({"per_class": 1, "batch_size": 10}, "choose 2 to 5 images"),
    ):
        recipe = msgspec.structs.replace(RECIPE, **changes)
        searcher = SGNASSearcher(make_mix_space(), SearchSettings(recipe=recipe))
        with pytest.raises(InvalidValueError, match=words):
            searcher.check(tiny_data(), [])
    smoothed = msgspec.structs.replace(RECIPE, options={"smoothing": 0.2})
    SGNASSearcher(make_mix_space(), SearchSettings(recipe=smoothed)).check(tiny_data(), [])


@pytest.mark.parametrize("high", [0.1, 0.5])
def test_an_empty_range_of_budgets_is_refused(high: float) -> None:
    recipe = msgspec.structs.replace(RECIPE, low=0.5, high=high)
    with pytest.raises(InvalidValueError, match=f"between low=0.5 and high={high}"):
        SGNASSearcher(make_mix_space(), SearchSettings(recipe=recipe))


def test_strategies_that_train_probabilities_are_refused(separate: PricedSpace) -> None:
    recipe = msgspec.structs.replace(RECIPE, strategy="softmax")
    with pytest.raises(InvalidValueError, match="uniform or fair"):
        SGNASSearcher(separate, SearchSettings(recipe=recipe))
    with pytest.raises(InvalidValueError, match="fair paths"):
        SGNASSearcher(make_mix_space(), SearchSettings(recipe=recipe))
    with pytest.raises(UnknownNameError, match="uniform"):
        SGNASSearcher(
            separate,
            SearchSettings(recipe=msgspec.structs.replace(RECIPE, strategy="unifrom")),
        )


def test_spaces_with_more_to_choose_are_refused_at_once(
    tiny_space: SearchSpace, tiny_table: LatencyTable
) -> None:
    with pytest.raises(MismatchError, match="widths to choose"):
        SGNASSearcher(PricedSpace(tiny_space, tiny_table), SearchSettings(recipe=RECIPE))


def test_imitation_teaches_the_priors_without_images(
    devices: list[PricedSpace], tmp_path: Path
) -> None:
    """After a few steps the output is nearly the prior that is nearest to each budget."""
    priced, agreements = devices[0], []
    for steps in (0, 150):
        recipe = msgspec.structs.replace(
            RECIPE, generator_epochs=1, imitation_steps=steps, generator_lr=3e-3
        )
        budgets = Budgets.of(priced.space, [priced], low=recipe.low, high=recipe.high)
        evaluator = trained_unified(
            RunFolder(tmp_path / "run", {}), priced.space, tiny_data(), recipe, seed=1
        )
        made = GeneratorTraining(evaluator, priced.space, budgets, recipe, 1).run(
            None, lambda fraction, words: None
        )
        requests = [request for row in budgets.grid(9) for request in row]
        with torch.no_grad():
            said = budgets.plane.decode(made(requests))
        wanted = made.prior_choices()[made.nearest_priors(requests)]
        agreements.append(float((said == wanted).float().mean()))
    assert agreements[1] > max(0.9, agreements[0] + 0.1)


def _training(
    devices: list[PricedSpace], folder: Path, data: ImageData, recipe: SGNASRecipe
) -> GeneratorTraining:
    priced = devices[0]
    budgets = Budgets.of(priced.space, [priced], low=recipe.low, high=recipe.high)
    evaluator = trained_unified(RunFolder(folder, {}), priced.space, data, recipe, seed=1)
    return GeneratorTraining(evaluator, priced.space, budgets, recipe, 1)


@pytest.mark.parametrize("place", [0.05, 0.95])
def test_steps_move_the_expected_cost_to_its_budget(
    place: float, devices: list[PricedSpace], tmp_path: Path
) -> None:
    """From the same start, down to a low budget and up to a high one."""
    data = tiny_data()
    recipe = msgspec.structs.replace(RECIPE, generator_lr=3e-3)
    training = _training(devices, tmp_path / "run", data, recipe)
    (latency,) = training.budgets.latencies.values()
    request = Request(
        (training.budgets.limit(latency, place),), next(iter(training.budgets.latencies))
    )
    x, labels = data.to_input(data.train.images[:8]), data.train.labels[:8]  # type: ignore[attr-defined]
    noise = torch.Generator().manual_seed(0)
    excesses = [
        float(training.step(x, labels, request, noise=noise, tau=1.0)[1]) for _ in range(60)
    ]
    assert excesses[0] * (0.5 - place) > 0  # the start is between the two budgets
    assert abs(excesses[-1]) < 0.75 * abs(excesses[0])


def test_every_epoch_of_a_generator_has_its_temperature_and_its_own_images(
    devices: list[PricedSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are not those that trained the supernet."""
    data, seen, shown = numbered_data(96), [], set()
    recipe = msgspec.structs.replace(RECIPE, generator_epochs=3)
    training = _training(devices, tmp_path / "run", data, recipe)
    step = GeneratorTraining.step

    def watched(
        self: GeneratorTraining, x: torch.Tensor, labels: torch.Tensor, *rest: Any, **named: Any
    ) -> Any:
        seen.append(named["tau"])
        shown.update(numbers_of(x, data))
        return step(self, x, labels, *rest, **named)

    monkeypatch.setattr(GeneratorTraining, "step", watched)
    training.run(None, lambda fraction, words: None)
    assert list(dict.fromkeys(seen)) == [recipe.tau(epoch) for epoch in range(3)]
    parts = training.evaluator.parts
    weights, own = (set(numbers_in(part)) for part in (parts.weights, parts.generator))
    assert shown and shown <= own
    assert own.isdisjoint(weights)


def test_imitation_keeps_the_budgets_as_well(
    devices: list[PricedSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only prior is far from the lowest and the highest budget."""
    budgets = Budgets.of(devices[0].space, devices[:1], low=0.05, high=0.95)
    recipe = msgspec.structs.replace(RECIPE, imitation_steps=40, generator_lr=1e-2, priors=1)
    hardware, far = SGNASRecipe.hardware_loss, []
    for weight in (0.0, 1.0):
        monkeypatch.setattr(
            SGNASRecipe,
            "hardware_loss",
            lambda self, excess, weight=weight: weight * hardware(self, excess),
        )
        made = new_generator(devices[0].space, budgets, recipe=recipe, seed=0)
        prior = budgets.plane.random(np.random.default_rng(0))
        made.priors.copy_(budgets.plane.one_hot(torch.from_numpy(prior)[None]))
        imitate(
            GeneratorState(made, recipe),
            budgets,
            recipe=recipe,
            rng=torch.Generator().manual_seed(0),
            torch_device=CPU,
            workers=ALONE,
            progress=lambda fraction, words: None,
        )
        requests = [request for row in budgets.grid(2) for request in row]
        with torch.no_grad():
            excess = [float(budgets.excess(x, made([x])[0].softmax(-1))) for x in requests]
        far.append(np.mean(np.abs(excess)))
    assert far[1] < 0.8 * far[0]


def test_the_best_weights_are_kept_and_are_part_of_a_checkpoint() -> None:
    """If two scores are equal, the later weights are kept."""
    space = make_mix_space()
    budgets = Budgets.of(space, (), low=RECIPE.low, high=RECIPE.high)

    def new_state() -> GeneratorState:
        return GeneratorState(new_generator(space, budgets, recipe=RECIPE, seed=0), RECIPE)

    state = new_state()
    for mark, score in ((1.0, 0.5), (2.0, 0.5), (3.0, 0.4)):
        state.generator.priors.fill_(mark)
        state.keep_if_best(score)
    restored = new_state()
    restored.load(state.save())
    assert restored.best_score == 0.5
    assert (restored.generator.priors == 3.0).all()  # the training goes on from its last weights
    assert (restored.best_generator().priors == 2.0).all()


class _Additive(Evaluator):
    """Scores that add up over layers, by a rule that the search does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = np.random.default_rng(0).normal(size=(3, len(KERNELS)))

    def _score(self, architecture: Architecture) -> float:
        return sum(
            float(self.gains[layer, KERNELS.index(kernel)])
            for layer, choice in enumerate(architecture.choices)
            for kernel in choice.kernels or ()
        )


def test_priors_are_near_their_places_and_better_than_random_ones(
    devices: list[PricedSpace],
) -> None:
    """With equally many evaluations, networks chosen by the model score higher."""
    space = devices[0].space
    budgets = Budgets.of(space, devices[:2], low=0.05, high=0.95)
    places = (0.3, 0.5, 0.7)
    evaluator = _Additive()
    plane = budgets.plane
    best: dict[bool, list[float]] = {}
    for modelled in (False, True):
        evaluator.evaluations = 0
        with pytest.MonkeyPatch.context() as patch:
            if not modelled:  # without features the model expects the same score everywhere
                patch.setattr(
                    type(plane), "features", lambda self, outcomes: np.zeros((len(outcomes), 1))
                )
            ranked = rank_candidates(
                plane, places, budgets.place, evaluator, candidates=20, rng=np.random.default_rng(1)
            )
            found = [candidates[0] for candidates in ranked]
        assert evaluator.evaluations <= len(places) * 20
        counts = [multisets_of(path) for path in found]
        at = [budgets.place(row) for row in counts]
        assert at == pytest.approx(places, abs=0.1)
        best[modelled] = [evaluator.score(architecture_of(space, path.tolist())) for path in found]
    assert all(a >= b for a, b in zip(best[True], best[False], strict=True)), best
    assert sum(best[True]) > sum(best[False])


def test_the_best_quarter_of_the_candidates_is_evaluated_on_all_images(
    devices: list[PricedSpace],
) -> None:
    """A rough score chooses who is in it, the evaluator who is best."""
    space = devices[0].space
    plane, evaluator = Budgets.of(space, devices[:2], low=0.05, high=0.95).plane, _Additive()
    rng = np.random.default_rng(2)
    ranked = [[plane.random(rng) for _ in range(count)] for count in (1, 4, 9)]
    found = best_finalists(plane, ranked, evaluator)
    assert evaluator.evaluations == 1 + 1 + 3
    for best, candidates, count in zip(found, ranked, (1, 1, 3), strict=True):
        scores = [evaluator.score(plane.chosen(choices)) for choices in candidates[:count]]
        assert evaluator.score(plane.chosen(best)) == max(scores)


def test_candidates_are_evaluated_on_few_images_first(
    devices: list[PricedSpace], tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(RECIPE, prior_images=0.5, prior_candidates=8)
    run = _search(devices[:2], tmp_path / "run", recipe=recipe)
    journals = [run / name for name in ("priors-first.jsonl", "priors.jsonl")]
    first, finalists = (
        {json.dumps(json.loads(line)["architecture"]) for line in journal.read_text().splitlines()}
        for journal in journals
    )
    assert finalists < first
    assert len(finalists) <= 2 * recipe.priors


def test_networks_evaluated_for_priors_are_not_evaluated_again(
    devices: list[PricedSpace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed while it finds priors goes on to the same result."""
    evaluated: list[Architecture] = []
    left, score = math.inf, UnifiedEvaluator.score

    def counted(self: UnifiedEvaluator, architecture: Architecture) -> float:
        if len(evaluated) >= left:
            raise Stop
        evaluated.append(architecture)
        return score(self, architecture)

    monkeypatch.setattr(UnifiedEvaluator, "score", counted)
    whole = load_generator(generator_file(_search(devices[:2], tmp_path / "whole")))
    at_once = evaluated.copy()
    evaluated.clear()
    left = 3
    with pytest.raises(Stop):
        _search(devices[:2], tmp_path / "killed")
    left = math.inf
    ended = load_generator(generator_file(_search(devices[:2], tmp_path / "killed")))
    assert evaluated == at_once
    for name, value in whole.state_dict().items():
        assert torch.equal(value, ended.state_dict()[name])


def test_the_number_of_workers_changes_no_prior_and_no_answer(
    devices: list[PricedSpace], separate: PricedSpace, tmp_path: Path
) -> None:
    for name, priced in (("unified", devices[0]), ("separate", separate)):
        found = {}
        for count in (1, 2):
            run = tmp_path / f"{name}{count}"
            settings = SearchSettings(seed=1, recipe=RECIPE, crew=CrewSettings(count))
            low, high = priced.feasible_ms()
            target_ms = low + 0.5 * (high - low)
            searcher = SGNASSearcher(priced, settings)
            found[count] = searcher.search(tiny_data(), [target_ms], RunFolder(run, {}))
        texts = [(tmp_path / f"{name}{count}" / "priors.jsonl").read_bytes() for count in (1, 2)]
        assert texts[0] == texts[1] != b""
        assert found[1] == found[2]


def test_workers_are_refused_where_they_have_nothing_to_do(devices: list[PricedSpace]) -> None:
    with pytest.raises(InvalidValueError, match="leave out --workers"):
        TFNASSearcher(devices[0], SearchSettings(crew=CrewSettings(2)))
    with pytest.raises(InvalidValueError, match="torchrun"):
        SGNASSearcher(
            devices[0],
            SearchSettings(recipe=RECIPE, workers=Workers(0, 2), crew=CrewSettings(2)),
        )


def test_supernet_weights_stay_as_they_are_and_a_device_learns_its_vector_alone(
    devices: list[PricedSpace], tmp_path: Path
) -> None:
    folder = RunFolder(_search(devices[:2], tmp_path / "run"), {})
    before = folder.checkpoint("supernet")
    known = load_generator(generator_file(folder.path))
    recipe = msgspec.structs.replace(RECIPE, generator_epochs=3)
    made = adapt(folder, devices[2], tiny_data(), recipe, seed=1)
    after = folder.checkpoint("supernet")
    assert before is not None
    assert after is not None
    for name, value in before["supernet"].items():
        assert torch.equal(value, after["supernet"][name])
    for name, value in known.state_dict().items():
        ours = made.state_dict()[name]
        assert torch.equal(ours[:2] if name == "devices" else ours, value)
    assert not torch.equal(made.devices[2], known.devices.mean(0))
    with pytest.raises(MismatchError, match="already"):
        adapt(folder, devices[0], tiny_data(), recipe, seed=1)


def test_the_command_adapts_the_generator_of_a_run(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    space = make_space("nasbench-macro", 8, 10)
    for name in ("one", "two"):
        device = msgspec.structs.replace(profile, name=name)
        write_table(tmp_path / f"{name}.sqlite", space, device)
    settings = ("budgets=3", "priors=1", "prior_candidates=2", "selected_on=1")
    settings += ("generator_epochs=1", "calibration_batches=1", "batch_size=16")
    folder, file = tmp_path / "run", tmp_path / "adapted.safetensors"
    asked = ["search", "nasbench-macro", "--searcher", "sgnas", "--data", "digits", "--images", 240]
    asked += [word for setting in settings for word in ("--set", setting)]
    found = run(*asked, "--table", tmp_path / "one.sqlite", "--epochs", 1, "-o", folder)
    assert found[0] == 0, found[2]
    adapting = ("generator", "adapt", folder, "--table", tmp_path / "two.sqlite", "--epochs", 1)
    code, out, err = run(*adapting, "-o", file, "--json")
    assert code == 0, err
    assert json.loads(out)
    before, after = load_generator(generator_file(folder)), load_generator(file)
    assert [name.split()[0] for name in after.label.devices] == ["one", "two"]
    assert torch.equal(before.devices[0], after.devices[0])


def test_a_run_of_an_older_recipe_is_read(tmp_path: Path) -> None:
    """In older recipes label smoothing was a separate setting."""
    recipe = msgspec.to_builtins(RECIPE)
    for name in ("criterion", "options", "per_class", "held_out_from"):
        del recipe[name]
    RunFolder(tmp_path, {**CONFIG, "recipe": {**recipe, "smoothing": 0.2}})
    read = read_run(tmp_path)[1]
    assert (read.epochs, read.criterion, read.options) == (4, "label-smoothing", {"smoothing": 0.2})


CONFIG = {
    "searcher": "sgnas", "epochs": 4, "batch_size": None, "data": "digits", "images": None,
    "seed": 0,
}  # fmt: skip


def test_a_run_of_a_newer_version_is_named(tmp_path: Path) -> None:
    recipe = msgspec.to_builtins(RECIPE)
    RunFolder(tmp_path / "newer", {**CONFIG, "recipe": {**recipe, "unheard_of": 1}})
    RunFolder(tmp_path / "lacking", {"searcher": "sgnas", "recipe": recipe})
    for name, words in (("newer", "unheard_of"), ("lacking", "lacks epochs, batch_size")):
        with pytest.raises(InvalidFileError, match=f"{name} is a run of another version.*{words}"):
            read_run(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SGNASRecipe, "generator_betas"),
        (TFNASRecipe, "alpha_betas"),
        (DifferentiableRecipe, "alpha_betas"),
    ],
)
def test_betas_that_adam_refuses_are_refused_at_once(kind: type[Recipe], name: str) -> None:
    """Not when the generator begins, after hours of the supernet."""
    for betas in ("[0.5, 1.0]", "[-0.1, 0.9]", "[0.5]"):
        with pytest.raises(InvalidValueError, match=name):
            load_recipe(kind, None, [f"{name}={betas}"])


def test_a_front_is_that_of_the_device_on_which_targets_hold(
    tmp_path: Path, profile: DeviceProfile
) -> None:
    """With a generator the first; its others are far slower here. Otherwise all of them."""
    space, tables = make_mix_space(), []
    for name, factor in (("one", 1.0), ("two", 20.0)):
        device = msgspec.structs.replace(profile, name=name)
        prices = partial(_times, factor)
        tables.append(write_table(tmp_path / name, space, device, prices=prices))
    low, high = PricedSpace(space, tables[0]).feasible_ms()
    settings = ["generator_epochs=1", "budgets=5", "priors=1", "prior_candidates=2"]
    found = nas.search(
        space, tables, data=tiny_data(), output=tmp_path / "run", front=2, searcher="sgnas",
        widths="any", settings=settings, epochs=1, batch_size=16,
    )  # fmt: skip
    assert all(low <= result.target_ms <= high for result in found)


def _times(factor: float, spec: BlockSpec) -> float:
    return factor * random_price(spec)


def test_searchers_of_one_device_refuse_several(devices: list[PricedSpace]) -> None:
    with pytest.raises(InvalidValueError, match="one --table"):
        TFNASSearcher(devices[0], SearchSettings(others=tuple(devices[1:])))
