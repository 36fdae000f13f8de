"""Searches over kernels of unified blocks: expectations, optima and draws."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latbench.cost import network_cost
from latbench.device_files import load_device
from latbench.errors import InvalidValueError
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Constraint, Count, Limit
from nas.optimize.encoding import EncodedSpace
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.differentiable import DifferentiableRecipe
from nas.searchers.kernels import KernelLoads, most_probable_kernels
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces.sgnas import CHOICES, SKIP, SUB_BLOCKS, architecture_of
from nas.training.bilevel import Bilevel
from nas.training.run_folder import RunFolder
from nas.training.strategies import Relaxation, make_strategy
from nas.training.strategies.kernel_paths import UNIFIED, RelaxedKernels
from tests.conftest import make_mix_space, write_table
from tests.nas.runs import Stop, stopping_after, tiny_data

STRATEGIES = [*UNIFIED, "softmax", "gumbel"]


def _probabilities(layers: int, seed: int, *, sharp: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(layers, SUB_BLOCKS, CHOICES, generator=rng, dtype=torch.float64)
    logits[:, 0, SKIP] = -torch.inf
    return logits.softmax(-1)


def _constraint(share: float = 1.0) -> Constraint:
    space = make_mix_space(2)
    most = network_cost(space.lower(space.largest()))
    limits = (
        Limit(Count(space, "macs"), share * most.macs),
        Limit(Count(space, "params"), share * most.params),
    )
    return Constraint(limits)


def test_the_expected_load_equals_the_enumeration() -> None:
    """Over all outcomes of one layer; the other layer is certain."""
    constraint = _constraint()
    p = _probabilities(2, 0)
    p[1] = 0.0
    p[1, :, 0] = 1.0
    space, expected = constraint.space, np.zeros(2)
    cost_of = cache(lambda architecture: network_cost(space.lower(architecture)))
    for row in product(range(CHOICES), repeat=SUB_BLOCKS):
        weight = float(np.prod([p[0, b, c] for b, c in enumerate(row)]))
        if weight == 0:
            continue
        cost = cost_of(architecture_of(space, [row, [0] * SUB_BLOCKS]))
        expected += weight * np.array([cost.macs, cost.params])
    found = KernelLoads(constraint).expected(p)
    assert float(found) == pytest.approx((expected / constraint.budgets()).max())


def test_the_most_probable_kernels_equal_the_enumeration() -> None:
    """The best feasible pair of multisets, each by its likeliest choices."""
    p = _probabilities(2, 3, sharp=2.0)
    p[:, 1:] = 0.0
    p[:, 1:3] = _probabilities(2, 4, sharp=2.0)[:, 1:3]  # three sub-blocks choose,
    p[:, 3:, SKIP] = 1.0  # the others are skipped
    encoded = EncodedSpace(_constraint(0.3))
    best, best_score = None, -np.inf
    rows = [(*row, SKIP, SKIP, SKIP) for row in product(range(CHOICES), repeat=3) if row[0] != SKIP]
    scored = [
        [(row, sum(float(p[layer, b, c].log()) for b, c in enumerate(row[:3]))) for row in rows]
        for layer in range(2)
    ]
    for (one, a), (other, b) in product(*scored):
        if a + b > best_score:
            architecture = architecture_of(encoded.space, [sorted(one), sorted(other)])
            if encoded.feasible(encoded.encode(architecture)):
                best, best_score = encoded.encode(architecture), a + b
    assert most_probable_kernels(encoded, p) == best


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_drawn_is_a_path_or_probabilities(name: str) -> None:
    strategy = make_strategy(name, make_mix_space(3))
    rng = torch.Generator().manual_seed(1)
    for drawn in [d for _ in range(20) for d in strategy.draw(rng, 0.5)]:
        if isinstance(strategy, Relaxation):
            assert drawn.shape == (3, SUB_BLOCKS, CHOICES)
            assert drawn.sum(-1).tolist() == [pytest.approx([1.0] * SUB_BLOCKS)] * 3
            assert not drawn[:, 0, SKIP].any()
        else:
            assert len(drawn) == 3
            assert all(len(row) == SUB_BLOCKS and set(row) <= set(range(CHOICES)) for row in drawn)
            assert all(set(row) != {SKIP} for row in drawn)


def test_a_strategy_without_a_form_for_mixes_is_refused_with_those_that_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(UNIFIED, "fair")
    with pytest.raises(InvalidValueError, match="uniform, sandwich, softmax or gumbel"):
        make_strategy("fair", make_mix_space())


def test_a_relaxation_is_differentiable_by_its_logits() -> None:
    relaxation = make_strategy("gumbel", make_mix_space(2))
    assert isinstance(relaxation, RelaxedKernels)
    loads = KernelLoads(_constraint())
    loads.expected(relaxation.relaxed(torch.Generator().manual_seed(0), 0.9)).backward()
    assert relaxation.logits.grad is not None
    assert bool((relaxation.logits.grad[:, 1:].abs().sum(-1) > 0).all())


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_weights_of_unified_blocks_are_trained_by_paths(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixture does not train the sub-blocks and norms of the network that is scored."""
    drawn: list[Any] = []
    trained = Bilevel.train_weights

    def watched(self: Bilevel, x: Tensor, labels: Tensor, paths: Any) -> Tensor:
        drawn.extend(paths)
        return trained(self, x, labels, paths)

    monkeypatch.setattr(Bilevel, "train_weights", watched)
    limits = _constraint(0.7).limits
    settings = SearchSettings(1, 8, 0, DifferentiableRecipe(), limits=limits)
    searcher = SEARCHERS[name](make_mix_space(2), settings)
    searcher.search(tiny_data(40), [], RunFolder(tmp_path / "run", {}))
    assert len(drawn) == 4
    assert all(set(row) <= set(range(CHOICES)) for path in drawn for row in path)


@pytest.fixture
def priced(tmp_path: Path) -> PricedSpace:
    space = make_mix_space()
    return PricedSpace(
        space, write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    )


def _recipe(name: str, strategy: str) -> Any:
    if SEARCHERS[name].recipe_kind is OneShotRecipe:
        return OneShotRecipe(
            evaluations=7, initial_population=4, strategy=strategy or "uniform", alike=0.5
        )
    return DifferentiableRecipe(strategy=strategy, alpha_lr=0.1)


CASES = [
    ("random", "uniform"),
    ("evolution", "fair"),
    ("nsga2", "sandwich"),
    ("exact", "uniform"),
    ("softmax", ""),
    ("softmax", "sandwich"),
    ("gumbel", "fair"),
]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_a_search_over_kernels_ends_below_its_target_and_resumes_exactly(
    name: str, strategy: str, priced: PricedSpace, tmp_path: Path
) -> None:
    low, high = priced.feasible_ms()
    targets = [low + 0.4 * (high - low)]

    def search(folder: Path, stop_after: int | None = None) -> list[dict[str, Any]]:
        settings = SearchSettings(epochs=2, batch_size=8, seed=3, recipe=_recipe(name, strategy))
        searcher = SEARCHERS[name](priced, settings)
        progress = stopping_after(stop_after)
        found = searcher.search(tiny_data(40), targets, RunFolder(folder, {}), progress=progress)
        return [result.as_dict() for result in found]

    whole = search(tmp_path / "whole")
    assert low <= whole[0]["latency_ms"] <= targets[0]
    for stop_after in (2, 6):
        with pytest.raises(Stop):
            search(tmp_path / "cut", stop_after)
    assert search(tmp_path / "cut") == whole
