"""Training a supernet by a strategy: what is trained, how gradients add up, exact resume."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import Classifier, ConvBlock, ShuffleUnit, ShuffleXception
from latbench.blocks.graph import Conv
from latbench.errors import InvalidValueError
from nas.data.images import ImageData, Split
from nas.latency.relaxation import Relaxed, one_hot
from nas.optimize.constraints import Count, Limit
from nas.recipes import load_recipe, shipped_recipes
from nas.searchers import SEARCHERS
from nas.searchers.base import SearchSettings
from nas.searchers.differentiable import DifferentiableRecipe
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import FixedLayer, SearchSpace
from nas.spaces.rows import inverted_residuals
from nas.supernet.candidates import FastConv, FastPool
from nas.supernet.mixed_operations import fixed_supernet
from nas.training.bilevel_settings import Objective
from nas.training.run_folder import RunFolder
from nas.training.strategies import STRATEGIES, DifferentiableStrategy, make_strategy
from nas.training.strategies.fair import StrictFairness
from nas.training.strategies.gumbel import GumbelSoftmax
from nas.training.strategies.sandwich import SandwichRule
from nas.training.strategies.uniform import UniformPath
from nas.training.supernet_training import SupernetRecipe, supernet_state, train_supernet

RECIPE = SupernetRecipe(epochs=2, batch_size=8, lr=0.1, alpha_lr=0.1, shift=1)


def _space(*, elastic_depth: bool = False) -> SearchSpace:
    """Two stages of layers with four and three operations, 8 px."""
    stem = ConvBlock(3, 8, 3, 1, "relu6", 8)
    inverted = inverted_residuals(("k3_e1_g2", "k5_e2", "k7_e2", "skip"), "prelu")
    shuffles = (
        ("k3", ShuffleUnit(12, 12, 3, 1, "relu6", 4)),
        ("k5", ShuffleUnit(12, 12, 5, 1, "relu6", 4)),
        ("xception", ShuffleXception(12, 12, 1, "relu6", 4)),
    )
    stages = ((inverted(8, 12, 2, 8), inverted(12, 12, 1, 4)), (FixedLayer(shuffles),))
    head = (ConvBlock(12, 16, 1, 1, "relu6", 4), Classifier(16, 4, 4))
    return SearchSpace("small", 8, 4, (stem,), stages, head, elastic_depth=elastic_depth)


def _data(images: int = 40) -> ImageData:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 8, 8), generator=rng, dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 4, (images,), generator=rng))
    return ImageData("noise", 4, split, split, 0.5, 0.3, flip=False)


def _batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 8, 8, generator=rng).to(memory_format=torch.channels_last)
    return x, torch.randint(0, 4, (6,), generator=rng)


def _ops(relaxed: Relaxed) -> list[int]:
    return [op for stage in relaxed.ops for row in stage for op in row]


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(STRATEGIES))
@pytest.mark.parametrize("elastic_depth", [False, True])
def test_what_is_drawn_fits_the_space(name: str, elastic_depth: bool) -> None:
    space = _space(elastic_depth=elastic_depth)
    strategy = STRATEGIES[name](space)
    for relaxed in strategy.draw(_rng(), 0.5):
        for layers, rows in zip(space.stages, relaxed.ops, strict=True):
            for layer, row in zip(layers, rows, strict=False):
                assert set(row) <= set(range(len(layer.ops)))
                assert sum(float(weight) for weight in row.values()) == pytest.approx(1)
        for stage, depths in enumerate(relaxed.depths):
            assert set(depths) <= set(space.depths(stage))
            assert sum(float(weight) for weight in depths.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_a_resumed_training_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    def run(folder: Path, *, stop_at: float = 2.0) -> tuple[dict[str, Tensor], object]:
        supernet, strategy = fixed_supernet(_space(), seed=3), STRATEGIES[name](_space())

        def progress(fraction: float, words: str) -> None:
            if fraction >= stop_at:
                raise KeyboardInterrupt

        train_supernet(
            supernet, strategy, _data(), RECIPE, RunFolder(folder, {}), seed=5, progress=progress
        )
        trained = {**supernet.state_dict(), **strategy.state_dict()}
        return trained, trained.pop("_extra_state", None)

    whole, left = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=0.7)
    resumed, left_then = run(tmp_path / "cut")
    assert left == left_then
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == RECIPE.epochs


def test_uniform_paths_reach_every_operation_alike() -> None:
    strategy, rng = UniformPath(_space()), _rng()
    counts = Counter(_ops(strategy.draw(rng, 0.0)[0])[0] for _ in range(400))
    assert set(counts) == {0, 1, 2, 3}
    assert all(60 < count < 140 for count in counts.values())


def test_uniform_paths_have_every_depth_alike() -> None:
    space = _space(elastic_depth=True)
    strategy, rng = UniformPath(space), _rng()
    drawn = [strategy.draw(rng, 0.0)[0].depths for _ in range(600)]
    for stage, _ in enumerate(space.stages):
        counts = Counter(depth for depths in drawn for depth in depths[stage])
        allowed = space.depths(stage)
        assert counts.keys() == set(allowed)
        assert all(abs(n - 600 / len(allowed)) < 70 for n in counts.values())


@pytest.mark.parametrize(("deep", "layers"), [(0.7, 3), (0.3, 2)])
def test_the_most_probable_depth_is_that_of_its_own_probability(deep: float, layers: int) -> None:
    """Equal operations do not count, however many more a deeper network has."""
    space = _space(elastic_depth=True)
    limits = (Limit(Count(space, "macs"), 1e12),)
    searcher: Any = SEARCHERS["softmax"](
        space, SearchSettings(recipe=DifferentiableRecipe(), limits=limits)
    )
    relaxation: Any = make_strategy("softmax", space)
    ops = [[1 / len(layer.ops)] * len(layer.ops) for layer in space.layers]
    relaxation.probabilities = lambda: (ops, [[1 - deep, deep], [1.0]])
    found = searcher._most_probable(relaxation, searcher.constraint(None))
    assert len(found.architecture.choices) == layers


def test_a_fair_step_trains_every_operation_once() -> None:
    strategy, rng = StrictFairness(_space()), _rng()
    for _ in range(5):
        drawn = [_ops(relaxed) for relaxed in strategy.draw(rng, 0.0)]
        assert len(drawn) == 4
        first, second, third = zip(*drawn, strict=True)
        assert sorted(first) == sorted(second) == [0, 1, 2, 3]
        assert sorted(third) in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2])


def test_fairness_holds_over_all_steps_for_layers_with_fewer_operations() -> None:
    strategy, rng, trained = StrictFairness(_space()), _rng(), Counter[int]()
    for _ in range(30):
        trained.update(_ops(relaxed)[2] for relaxed in strategy.draw(rng, 0.0))
        assert max(trained.values()) - min(trained[op] for op in range(3)) <= 1


def test_a_fair_step_of_layers_with_equal_operations_draws_one_order_for_each() -> None:
    space = _space()
    equal = replace(space, stages=space.stages[:1])
    strategy, rng, same = StrictFairness(equal), _rng(), _rng()
    for _ in range(3):
        drawn = [_ops(relaxed) for relaxed in strategy.draw(rng, 0.0)]
        orders = [torch.randperm(4, generator=same).tolist() for _ in equal.layers]
        assert [list(each) for each in zip(*drawn, strict=True)] == orders


def test_a_fair_strategy_reads_its_checkpoints_of_older_versions() -> None:
    strategy = StrictFairness(_space())
    strategy.draw(_rng(), 0.0)
    strategy.load_state_dict({})
    assert strategy.get_extra_state() == [[], [], []]


def test_gradients_of_a_step_are_added_up_before_the_update() -> None:
    """One update by the sum of the gradients of all paths, each alone at the same weights."""
    space, (x, labels) = _space(), _batch()
    recipe = SupernetRecipe(lr=0.1, momentum=0.0, weight_decay=0.0)
    strategy = StrictFairness(space)
    supernet, twin = fixed_supernet(space, seed=3), fixed_supernet(space, seed=3)
    state = supernet_state(supernet, strategy, nn.CrossEntropyLoss(), recipe)
    state.weight_step(x, labels, rng=_rng(7))
    total = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for relaxed in StrictFairness(space).draw(_rng(7), 0.0):
        twin.zero_grad()
        F.cross_entropy(twin(x, relaxed), labels).backward()
        for name, parameter in twin.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad
    before = dict(twin.named_parameters())
    for name, parameter in supernet.named_parameters():
        assert torch.allclose(parameter, before[name] - 0.1 * total[name], atol=1e-5), name


def test_the_sandwich_has_the_smallest_and_the_largest() -> None:
    space = _space(elastic_depth=True)
    drawn = SandwichRule(space).draw(_rng(), 0.0)
    assert drawn[:2] == [one_hot(space, space.largest()), one_hot(space, space.smallest())]
    assert len(drawn) == 4


def test_cold_gumbel_weights_choose_as_often_as_probability_says() -> None:
    strategy, rng = GumbelSoftmax(_space()), _rng()
    logits = torch.tensor([0.0, 1.0, 2.0])
    drawn = torch.stack([strategy.weights(logits, rng, 1.0) for _ in range(2000)])
    assert drawn.max(dim=1).values.mean() > 0.9
    assert torch.allclose(drawn.argmax(1).bincount() / 2000, logits.softmax(0), atol=0.03)
    warm = torch.stack([strategy.weights(logits, rng, 0.0) for _ in range(200)])
    assert warm.max(dim=1).values.mean() < 0.6


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_each_step_of_a_differentiable_strategy_moves_its_own(name: str) -> None:
    """Weight steps move no alpha, architecture steps no weight; both move what they should."""
    space, (x, labels) = _space(), _batch()
    supernet, strategy = fixed_supernet(space, seed=3), STRATEGIES[name](space)
    assert isinstance(strategy, DifferentiableStrategy)
    state = supernet_state(supernet, strategy, nn.CrossEntropyLoss(), RECIPE)

    def moved(module: nn.Module, before: dict[str, Tensor]) -> list[bool]:
        return [not torch.equal(p, before[n]) for n, p in module.named_parameters()]

    def snapshot(module: nn.Module) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in module.named_parameters()}

    weights, choices = snapshot(supernet), snapshot(strategy)
    state.weight_step(x, labels, rng=_rng())
    assert all(moved(supernet, weights))
    assert not any(moved(strategy, choices))
    weights, asked = snapshot(supernet), []
    objective = Objective(
        cost=lambda relaxed: asked.append(relaxed) or torch.zeros(()),
        total=lambda loss, cost: loss,
    )
    state.architecture_step(x, labels, objective, rng=_rng())
    assert not any(moved(supernet, weights))
    assert moved(strategy, choices) == [True] * 3 + [len(b) > 1 for b in strategy.betas]
    assert len(asked) == 1


def test_alphas_have_the_gradient_of_finite_differences() -> None:
    space, (x, labels) = _space(), _batch()
    strategy = STRATEGIES["softmax"](space).double()
    assert isinstance(strategy, DifferentiableStrategy)
    supernet = fixed_supernet(space, seed=3).double()

    def loss() -> Tensor:
        return F.cross_entropy(supernet(x.double(), strategy.relaxed(_rng(), 0.0)), labels)

    loss().backward()
    alpha, step = strategy.alphas[0], 1e-5
    for i in range(len(alpha)):
        with torch.no_grad():
            alpha[i] += step
            above = float(loss())
            alpha[i] -= 2 * step
            below = float(loss())
            alpha[i] += step
        assert alpha.grad is not None
        assert float(alpha.grad[i]) == pytest.approx((above - below) / (2 * step), rel=1e-3)


def test_a_path_is_the_network_that_is_cut_from_it() -> None:
    """In training and, with its running statistics, in evaluation."""
    space, (x, labels) = _space(), _batch()
    supernet = fixed_supernet(space, seed=3)
    state = supernet_state(supernet, UniformPath(space), nn.CrossEntropyLoss(), RECIPE)
    for seed in range(3):
        state.weight_step(x, labels, rng=_rng(seed))
    for seed in range(4):
        architecture = space.random(np.random.default_rng(seed))
        path, network = one_hot(space, architecture), supernet.cut(architecture)
        for training in (False, True):
            ours, theirs = supernet.train(training)(x, path), network.train(training)(x)
            assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        Conv(8, 8, 3, 1, 1, 8),
        Conv(8, 8, 7, 2, 3, 8),
        Conv(8, 8, 3, 1, 0, 8),
        Conv(8, 12, 1),
        Conv(8, 12, 1, bias=True),
        Conv(8, 12, 1, 2),
        Conv(8, 12, 1, groups=2),
    ],
)
@pytest.mark.parametrize("size", [4, 9])
def test_a_fast_convolution_is_a_convolution(layer: Conv, size: int) -> None:
    torch.manual_seed(0)
    conv = FastConv(layer)
    x = torch.randn(3, 8, size, size).to(memory_format=torch.channels_last).requires_grad_()
    bias = conv.bias
    expected = F.conv2d(x, conv.weight, bias, layer.stride, layer.padding, 1, layer.groups)
    out = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, [x, *conv.parameters()], out)
    got = conv(x)
    assert torch.allclose(got, expected, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(got, [x, *conv.parameters()], out), wanted, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_shipped_recipes_are_the_published_ones() -> None:
    published = {"criterion": "label-smoothing", "options": {"smoothing": 0.1}}
    assert shipped_recipes(SupernetRecipe) == []
    assert load_recipe(OneShotRecipe, "osnaslib-search-cifar100") == OneShotRecipe(
        evaluations=1000,
        surrogate=False,
        initial_population=50,
        crossovers=1.0,
        mutation_rate=0.1,
        mutate_crossed=True,
        single_point=True,
        **published,
    )
    assert load_recipe(DifferentiableRecipe, "osnaslib-differentiable-cifar100") == (
        DifferentiableRecipe(latency_objective="squared", **published)
    )


def test_a_fast_pool_is_a_mean_and_keeps_the_layout_of_gradients() -> None:
    x = torch.randn(3, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    pooled = FastPool()(x)
    assert torch.allclose(pooled, F.adaptive_avg_pool2d(x, 1), atol=1e-6)
    (gradient,) = torch.autograd.grad(pooled.square().sum(), x)
    (expected,) = torch.autograd.grad(F.adaptive_avg_pool2d(x, 1).square().sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_spaces_whose_operations_are_choices_are_refused(
    tiny_space: SearchSpace, tiny_fixed_space: SearchSpace
) -> None:
    with pytest.raises(InvalidValueError, match="tfnas"):
        fixed_supernet(tiny_space, seed=0)
    with pytest.raises(InvalidValueError, match="unified"):
        fixed_supernet(tiny_fixed_space, seed=0)
