"""Settings of a TF-NAS search have the published values and the documented effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from latbench.device_files import load_device
from nas.latency.priced_space import PricedSpace
from nas.recipes import load_recipe, shipped_recipes
from nas.searchers import SearchSettings
from nas.searchers.derivation import most_probable
from nas.searchers.tfnas.searcher import SearchState, TFNASRecipe, TFNASSearcher
from nas.spaces import Architecture, Choice
from nas.supernet.elastic import ElasticInvertedResidual
from nas.training.run_folder import RunFolder
from tests.conftest import make_tiny_space, write_table
from tests.nas.runs import tiny_data

FEW_OPS = ("k3_e3", "k5_e6", "k3_e6_se")


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    space = make_tiny_space()
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    whole = PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))
    return whole.only(lambda op: op in FEW_OPS)


def test_the_shipped_recipe_equals_the_defaults_except_for_images() -> None:
    """The defaults are for small images; the recipe has the code's values for ImageNet."""
    assert "tfnas-imagenet100" in shipped_recipes(TFNASRecipe)
    shipped = load_recipe(TFNASRecipe, "tfnas-imagenet100")
    assert shipped == replace(TFNASRecipe(), least_area=0.08, shift=0, jitter=0.4, hue=0.2)


def test_the_shipped_recipe_has_the_values_of_the_published_code() -> None:
    recipe = load_recipe(TFNASRecipe, "tfnas-imagenet100")
    assert (recipe.clip, recipe.alpha_clip) == (5.0, 5.0)
    assert recipe.restart_optimizers
    assert recipe.kept_channels == "all"
    assert recipe.initial == "torch"
    assert recipe.latency_objective == "absolute"
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (90, 10, 32)
    for epoch in range(90):  # 5.0 through epoch 10, then x 0.96
        assert recipe.tau(epoch) == pytest.approx(5.0 * 0.96 ** max(0, epoch - 10), rel=1e-12)


def test_the_temperature_of_the_paper_falls_linearly() -> None:
    recipe = load_recipe(TFNASRecipe, "tfnas-imagenet100", ["tau_schedule=linear", "tau_end=0.2"])
    for epoch in range(90):
        assert recipe.tau(epoch) == pytest.approx(5.0 - 4.8 * max(0, epoch - 10) / 79, rel=1e-12)


@pytest.mark.parametrize("schedule", ["geometric", "linear"])
@pytest.mark.parametrize("epochs", [1, 2, 9])
def test_a_schedule_of_few_epochs_ends_at_the_same_temperature(schedule: str, epochs: int) -> None:
    recipe = load_recipe(TFNASRecipe, None, [f"tau_schedule={schedule}", f"epochs={epochs}"])
    taus = [recipe.tau(epoch) for epoch in range(epochs)]
    assert taus == sorted(taus, reverse=True)
    assert taus[0] == 5.0
    if epochs - 1 > recipe.warmup_epochs:
        assert taus[-1] == pytest.approx(recipe.tau_end)


def _begun(priced: PricedSpace, **changes: Any) -> tuple[TFNASSearcher, SearchState]:
    recipe = TFNASRecipe(shift=0, **changes)
    searcher = TFNASSearcher(priced, SearchSettings(epochs=3, batch_size=16, recipe=recipe))
    return searcher, searcher.begin()


def _gradient_norm(priced: PricedSpace, scale: float, **changes: Any) -> float:
    """Norm of the gradient of alphas and betas in an architecture step."""
    searcher, state = _begun(priced, **changes)
    searcher.objective = lambda loss, latency_ms, target_ms: scale * (loss + latency_ms)
    x, labels = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    state.strategy.tau = 1.0
    objective = searcher.objective_at(state, 1.0)
    state.architecture_step(x, labels, objective, rng=torch.Generator().manual_seed(0))
    grads = [p.grad for p in state.choices.parameters() if p.grad is not None]
    return float(torch.stack([grad.norm() for grad in grads]).norm())


def test_the_gradients_of_alphas_and_betas_are_clipped_together(priced: PricedSpace) -> None:
    free = _gradient_norm(priced, 1e3, alpha_clip=0.0)
    assert free > 5
    assert _gradient_norm(priced, 1e3) == pytest.approx(5.0, rel=1e-4)
    assert _gradient_norm(priced, 1e3, alpha_clip=0.5) == pytest.approx(0.5, rel=1e-4)
    small = _gradient_norm(priced, 1e-3, alpha_clip=0.0)
    assert _gradient_norm(priced, 1e-3) == pytest.approx(small)


@pytest.mark.parametrize("restart", [True, False])
def test_optimisers_are_reset_at_every_epoch_if_asked(
    restart: bool, priced: PricedSpace, tmp_path: Path
) -> None:
    """Two epochs of four steps each after warm-up, an architecture step at every second."""
    recipe = TFNASRecipe(shift=0, restart_optimizers=restart)
    settings = SearchSettings(epochs=3, batch_size=16, seed=3, recipe=recipe)
    low, high = priced.feasible_ms()
    run = tmp_path / "run"
    TFNASSearcher(priced, settings).search(tiny_data(), [(low + high) / 2], RunFolder(run, {}))
    file = next(f for f in (run / "checkpoint").iterdir() if f.name != "warmup.pt")
    adam = torch.load(file, weights_only=True)["adam"]["state"]
    assert {int(state["step"]) for state in adam.values()} == {2 if restart else 4}


def test_momentum_is_gone_when_an_epoch_begins(priced: PricedSpace) -> None:
    for restart in (True, False):
        _, state = _begun(priced, restart_optimizers=restart)
        state.strategy.both = False
        x, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
        noise = torch.Generator().manual_seed(0)
        state.weight_step(x, labels, rng=noise)
        assert state.sgd.state
        state.begin_epoch()
        assert bool(state.sgd.state) != restart


@pytest.mark.parametrize("kept", ["all", "in-use"])
def test_new_widths_take_the_channels_that_the_recipe_names(kept: str, priced: PricedSpace) -> None:
    """Only the published rule takes a strong channel that is not in use."""
    _, state = _begun(priced, kept_channels=kept)
    places = most_probable(state.choices.log_probabilities())
    op = places[0][0]
    assert op is not None
    block = state.supernet.block(0, 0, op)
    assert isinstance(block, ElasticInvertedResidual)
    with torch.no_grad():
        block.depthwise.weight[-1] = 100.0
    narrower = _narrowed(priced, state)
    state.set_widths(narrower, places)
    used: Tensor = block.depthwise.weight.detach()[: block.width]
    assert bool((used == 100.0).any()) == (kept == "all")


def _narrowed(priced: PricedSpace, state: SearchState) -> Architecture:
    """The most probable architecture at its narrowest."""
    places = most_probable(state.choices.log_probabilities())
    stages = [
        [
            Choice(layer.ops[op], layer.widths(layer.ops[op])[0])
            for layer, op in zip(layers, row, strict=True)
            if op is not None
        ]
        for layers, row in zip(priced.space.stages, places, strict=True)
    ]
    return priced.space.architecture(stages)
