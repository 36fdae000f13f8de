"""What the steps of trainings are given: learning rates, temperatures, images, clipped gradients.

Rates and norms are read where an optimiser takes its step, images where a supernet gets them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from latbench.blocks import Classifier, ConvBlock, Network
from latbench.tables import LatencyTable
from nas.data.images import ImageData, Split
from nas.evaluators.by_training import ScratchEvaluator
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Count, Limit
from nas.searchers import SEARCHERS
from nas.searchers.base import SearchSettings
from nas.searchers.differentiable import DifferentiableRecipe
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.tfnas.recipe import TFNASRecipe
from nas.searchers.tfnas.searcher import TFNASSearcher
from nas.spaces import SearchSpace
from nas.supernet.mixed_operations import fixed_supernet
from nas.training import from_scratch
from nas.training.bilevel import Bilevel
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies import STRATEGIES
from nas.training.supernet_training import SupernetRecipe, train_supernet
from nas.training.unified_training import UnifiedRecipe, divide, train_unified
from tests.conftest import make_small_space
from tests.nas.runs import numbered_data, numbers_in, numbers_of, tiny_data
from tests.nas.supernet.test_unified_blocks import make_unified_space

NETWORK: Network = (ConvBlock(3, 8, 3, 2, "relu", 4), Classifier(8, 10, 4))


class Step(NamedTuple):
    """A step of an optimiser: its class, learning rate, and norm of all gradients."""

    optimizer: str
    lr: float
    norm: float


@pytest.fixture
def steps() -> Iterator[list[Step]]:
    """The steps that optimisers took, in their order."""
    found: list[Step] = []

    def look(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
        found.append(Step(type(optimizer).__name__, optimizer.param_groups[0]["lr"], float(norm)))

    hook = register_optimizer_step_pre_hook(look)
    yield found
    hook.remove()


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _of(optimizer: str, steps: Sequence[Step]) -> list[Step]:
    return [step for step in steps if step.optimizer == optimizer]


@pytest.mark.parametrize("name", ["uniform", "gumbel"])
def test_weights_of_supernets_learn_at_a_falling_rate(
    name: str, steps: list[Step], tmp_path: Path
) -> None:
    space = make_small_space()
    recipe = SupernetRecipe(epochs=3, batch_size=16, lr=0.08, clip=1e-3, alpha_lr=0.01)
    supernet, strategy = fixed_supernet(space, seed=0), STRATEGIES[name](space)
    train_supernet(supernet, strategy, tiny_data(40), recipe, RunFolder(tmp_path / "run", {}))
    weights, alphas = _of("SGD", steps), _of("Adam", steps)
    assert [step.lr for step in weights] == pytest.approx(
        [0.08 * _half_cosine(epoch / 3) for epoch in (0, 0, 1, 1, 2, 2)]
    )
    assert [step.norm for step in weights] == pytest.approx([1e-3] * 6, rel=1e-3)
    assert {step.lr for step in alphas} == ({0.01} if name == "gumbel" else set())


def test_unified_weights_learn_at_a_rate_that_falls_with_every_step(
    steps: list[Step], tmp_path: Path
) -> None:
    data, recipe = tiny_data(80, classes=5), UnifiedRecipe(epochs=2, batch_size=32, lr=0.05)
    train_unified(
        make_unified_space(), data, divide(data, recipe, seed=0), recipe,
        RunFolder(tmp_path / "run", {}), seed=0,
    )  # fmt: skip
    expected = [0.05 * _half_cosine(step / len(steps)) for step in range(len(steps))]
    assert len(steps) >= 4
    assert [step.lr for step in steps] == pytest.approx(expected)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_networks_learn_by_the_schedule_of_their_recipe(
    clip: float, steps: list[Step], tmp_path: Path
) -> None:
    """A warm-up of two of six steps, then half a cosine over the other four."""
    recipe = TrainingRecipe(epochs=3, batch_size=16, lr_per_256=1.6, warmup=1 / 3, clip=clip)
    from_scratch.train(NETWORK, tiny_data(32), recipe, RunFolder(tmp_path / "run", {}))
    factors = [0.5, 1.0, *[_half_cosine(step / 4) for step in range(4)]]
    assert [step.lr for step in steps] == pytest.approx([0.1 * factor for factor in factors])
    if clip:
        assert [step.norm for step in steps] == pytest.approx([clip] * 6, rel=1e-3)
    else:
        assert max(step.norm for step in steps) > 0.01


def test_the_running_mean_keeps_the_decay_of_its_recipe(tmp_path: Path) -> None:
    """Its weights are the sum that the definition gives, over all steps from the start."""
    recipe = TrainingRecipe(epochs=2, batch_size=16, ema=0.9)
    name = "blocks.0.conv.weight"
    mean = from_scratch.begin(NETWORK, tiny_data(32), recipe).model.state_dict()[name].clone()
    seen: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        weights = next(p for p in optimizer.param_groups[0]["params"] if p.shape == mean.shape)
        seen.append(weights.detach().clone())  # as the step before left them

    hook = register_optimizer_step_pre_hook(look)
    try:
        from_scratch.train(NETWORK, tiny_data(32), recipe, RunFolder(tmp_path / "run", {}))
    finally:
        hook.remove()
    saved = torch.load(tmp_path / "run" / "checkpoint" / "last.pt", weights_only=True)
    assert torch.equal(seen[0], mean)
    for weights in (*seen[1:], saved["model"][name]):
        mean = 0.9 * mean + 0.1 * weights
    torch.testing.assert_close(saved["mean"][name], mean)


# TF-NAS


def _tfnas(table: LatencyTable, space: SearchSpace, **changes: Any) -> TFNASSearcher:
    recipe = TFNASRecipe(shift=0, alpha_every=1, **changes)
    settings = SearchSettings(epochs=4, batch_size=16, seed=1, recipe=recipe)
    return TFNASSearcher(PricedSpace(space, table), settings)


def test_tfnas_draws_two_paths_after_its_warm_up_at_a_falling_temperature(
    tiny_table: LatencyTable,
    tiny_space: SearchSpace,
    steps: list[Step],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    searcher = _tfnas(tiny_table, tiny_space, lr=0.02, clip=1e-3)
    recipe = searcher.recipe
    seen: list[tuple[int, float]] = []
    trained = Bilevel.train_weights

    def train_weights(self: Bilevel, x: Tensor, labels: Tensor, drawn: Any) -> Tensor:
        seen.append((len(drawn), self.strategy.tau))  # type: ignore[attr-defined]
        return trained(self, x, labels, drawn)

    monkeypatch.setattr(Bilevel, "train_weights", train_weights)
    data = tiny_data(40)
    low, high = searcher.priced.feasible_ms()
    searcher.search(data, [(low + high) / 2], RunFolder(tmp_path / "run", {}))
    warm = recipe.warmup_epochs
    assert 0 < warm < 3
    assert seen == [
        (1 if epoch < warm else 2, recipe.tau(epoch)) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)
    ]
    assert len({tau for _, tau in seen}) > 1
    weights = [step for step in steps if step.optimizer != "Adam"]
    assert [step.lr for step in weights] == pytest.approx(
        [0.02 * _half_cosine(epoch / 4) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    )
    assert [step.norm for step in weights] == pytest.approx([1e-3] * 8, rel=1e-3)


def test_widths_are_scaled_in_the_supernet(
    tiny_table: LatencyTable, tiny_space: SearchSpace
) -> None:
    """After it, the derived architecture at the supernet's widths has the scaled latency."""
    searcher = _tfnas(tiny_table, tiny_space)
    state = searcher.begin()
    low, high = searcher.priced.feasible_ms()
    before_ms = searcher.scale(state, high)["argmax_ms"]
    assert before_ms is not None
    target_ms = (low + before_ms) / 2
    scaled = searcher.scale(state, target_ms)
    assert scaled["derived_ms"] is not None and scaled["derived_ms"] < before_ms
    again = searcher.scale(state, target_ms)  # derived from the widths that are there now
    assert again["argmax_ms"] == pytest.approx(scaled["derived_ms"])


def test_the_expected_latency_reaches_alphas_and_betas(
    tiny_table: LatencyTable, tiny_space: SearchSpace
) -> None:
    """The gradient of the objective by the latency is that of the searcher's criterion."""
    searcher = _tfnas(tiny_table, tiny_space)
    objective = searcher.objective_at(searcher.begin(), 2.0)
    for loss, latency_ms in ((1.5, 1.0), (1.5, 3.0)):
        latency = torch.tensor(latency_ms, requires_grad=True)
        objective.total(torch.tensor(loss), latency).backward()  # type: ignore[no-untyped-call]
        values = [
            float(searcher.objective(torch.tensor(loss), torch.tensor(each), 2.0))
            for each in (latency_ms - 0.01, latency_ms + 0.01)
        ]
        assert latency.grad is not None and float(latency.grad) != 0
        assert float(latency.grad) == pytest.approx((values[1] - values[0]) / 0.02, rel=0.05)


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_the_expected_cost_reaches_the_choices(name: str) -> None:
    space = make_small_space()
    limits = (Limit(Count(space, "macs"), 3e4),)
    recipe = DifferentiableRecipe(epochs=1)
    searcher: Any = SEARCHERS[name](space, SearchSettings(recipe=recipe, limits=limits))
    objective = searcher._objective(searcher.constraint(None))
    strategy: Any = STRATEGIES[name](space)
    relaxed = strategy.relaxed(torch.Generator().manual_seed(0), 0.5)
    cost = objective.cost(relaxed)
    assert float(cost.detach()) > 0.03  # above the budget, in millions
    objective.total(torch.tensor(1.0), cost).backward()
    grads = [parameter.grad for parameter in strategy.parameters()]
    assert any(grad is not None and bool(grad.abs().max() > 0) for grad in grads)


# Which images


class Shown:
    """Numbers of the images that trained weights or choices, were calibrated with, or scored."""

    def __init__(self, data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights: list[int] = []
        self.choices: list[int] = []
        self.calibration: set[int] = set()
        self.scored: set[int] = set()
        trained, relaxed = Bilevel.train_weights, Bilevel.train_choices
        made = SupernetEvaluator.__init__

        def train_weights(state: Bilevel, x: Tensor, labels: Tensor, drawn: Any) -> Tensor:
            self.weights += numbers_of(x, data)
            return trained(state, x, labels, drawn)

        def train_choices(
            state: Bilevel, x: Tensor, labels: Tensor, there: Any, total: Any
        ) -> None:
            self.choices += numbers_of(x, data)
            relaxed(state, x, labels, there, total)

        def make(evaluator: Any, *args: Any, **named: Any) -> None:
            made(evaluator, *args, **named)
            for images in evaluator.inputs:
                self.calibration.update(numbers_of(images, data))
            self.scored.update(numbers_in(named["selection"]))

        monkeypatch.setattr(Bilevel, "train_weights", train_weights)
        monkeypatch.setattr(Bilevel, "train_choices", train_choices)
        monkeypatch.setattr(SupernetEvaluator, "__init__", make)


@pytest.mark.parametrize("name", ["random", "gumbel"])
def test_searches_score_on_images_that_trained_no_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, space = numbered_data(), make_small_space()
    shown = Shown(data, monkeypatch)
    few = {"epochs": 2, "batch_size": 8, "shift": 3}
    recipe = (
        OneShotRecipe(evaluations=2, **few) if name == "random" else DifferentiableRecipe(**few)
    )
    limits = (Limit(Count(space, "macs"), 1e9),)
    settings = SearchSettings(seed=1, recipe=recipe, limits=limits)
    SEARCHERS[name](space, settings).search(data, [], RunFolder(tmp_path / "run", {}))
    weights = set(shown.weights)
    assert len(weights) == 32  # of 40; the others are held out
    assert shown.scored == set(range(40)) - weights
    assert set(shown.choices) == (shown.scored if name == "gumbel" else set())
    assert shown.calibration <= weights


def test_tfnas_trains_choices_on_images_that_trained_no_weights(
    tiny_table: LatencyTable,
    tiny_space: SearchSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = numbered_data()
    shown = Shown(data, monkeypatch)
    searcher = _tfnas(tiny_table, tiny_space)
    low, high = searcher.priced.feasible_ms()
    searcher.search(data, [(low + high) / 2], RunFolder(tmp_path / "run", {}))
    assert set(shown.weights) | set(shown.choices) <= set(range(40))
    assert shown.choices and set(shown.weights).isdisjoint(shown.choices)


def test_every_epoch_shows_all_training_images_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed gives another order; the same seed the same one."""
    data, space = numbered_data(), make_small_space()
    orders = []
    for run, seed in enumerate((3, 3, 4)):
        shown = Shown(data, monkeypatch)
        recipe = SupernetRecipe(epochs=2, batch_size=8, lr=0.1, shift=0)
        train_supernet(
            fixed_supernet(space, seed=0), STRATEGIES["uniform"](space), data, recipe,
            RunFolder(tmp_path / str(run), {}), parts=(data.train, data.test), seed=seed,
        )  # fmt: skip
        monkeypatch.undo()
        orders.append(shown.weights)
    first, second = orders[0][:40], orders[0][40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first not in (sorted(first), sorted(first)[::-1])
    assert orders[0] == orders[1] != orders[2]


def test_networks_are_trained_in_an_order_of_their_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, orders = numbered_data(), []
    for run, seed in enumerate((3, 3, 4)):
        shown: list[int] = []
        to_input = ImageData.to_input

        def watched(
            self: ImageData, images: Tensor, shown: list[int] = shown, real: Any = to_input
        ) -> Any:
            shown += images[:, 0, 4, 4].tolist()
            return real(self, images)

        monkeypatch.setattr(ImageData, "to_input", watched)
        recipe = TrainingRecipe(epochs=2, batch_size=8, shift=0, seed=seed)
        from_scratch.train(NETWORK, data, recipe, RunFolder(tmp_path / str(run), {}))
        monkeypatch.undo()
        orders.append([number for number in shown if number < 200])
    first, second = orders[0][:40], orders[0][40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert orders[0] == orders[1] != orders[2]


def test_a_score_by_training_is_that_of_held_out_training_images(tmp_path: Path) -> None:
    """Test images do not change it."""
    data = tiny_data(60)
    assert isinstance(data.test, Split)
    other = replace(data, test=Split(data.test.images, (data.test.labels + 1) % 10))
    recipe = TrainingRecipe(epochs=12, batch_size=16, seed=1)
    space = make_small_space()
    architecture = space.random(seed=0)
    scores = [
        ScratchEvaluator(space, each, recipe=recipe, folder=tmp_path / name).score(architecture)
        for name, each in (("a", data), ("b", other))
    ]
    assert scores[0] == scores[1] > 0.3
