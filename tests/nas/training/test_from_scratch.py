"""Training from scratch: resumed equals uninterrupted, two processes equal one; recipes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network
from latbench.errors import InvalidFileError, InvalidValueError, UnknownNameError
from latbench.render.torch import NetworkModule
from nas.criteria.label_smoothing import LabelSmoothing
from nas.data.images import ImageData, Split, resize
from nas.evaluators.by_training import ScratchEvaluator
from nas.recipes import load_recipe, shipped_recipes
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.distributed import ALONE, Workers
from nas.training.recipe import TrainingRecipe
from nas.training.regularisation import add_drop_connect, add_dropout, drop_images
from nas.training.run_folder import RunFolder
from tests.conftest import make_small_space
from tests.nas.runs import Stop, run_of_both, run_together, stopping_after, tiny_data

NETWORK: Network = (
    ConvBlock(3, 8, 3, 1, "relu", 8),
    InvertedResidual(8, 8, 16, 3, 1, "relu", 8),
    InvertedResidual(8, 8, 16, 3, 1, "relu", 8, se_channels=4),
    Classifier(8, 4, 8),
)
FULL = {
    "dropout": 0.2,
    "drop_connect": 0.3,
    "ema": 0.5,
    "jitter": 0.2,
    "criterion": "label-smoothing",
    "norm_momentum": 0.3,
}


def make_data() -> ImageData:
    return tiny_data(64, classes=4, channels=3, step=60)


def run(folder: Path, recipe: TrainingRecipe, *, stop_after: int = 0) -> dict[str, float]:
    made = RunFolder(folder, {"epochs": recipe.epochs})
    return scratch.train(NETWORK, make_data(), recipe, made, progress=stopping_after(stop_after))


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_everything_a_recipe_asks_for_resumes_bit_exactly(optimizer: str, tmp_path: Path) -> None:
    recipe = TrainingRecipe(epochs=3, batch_size=16, optimizer=optimizer, **FULL)
    whole = run(tmp_path / "whole", recipe)
    for stop_after in (2, 6):
        with pytest.raises(Stop):
            run(tmp_path / "cut", recipe, stop_after=stop_after)
    assert run(tmp_path / "cut", recipe) == whole
    weights = [
        (tmp_path / name / module_training.WEIGHTS).read_bytes() for name in ("whole", "cut")
    ]
    assert weights[0] == weights[1]


def test_the_running_mean_is_what_is_kept(tmp_path: Path) -> None:
    run(tmp_path / "run", TrainingRecipe(epochs=2, batch_size=16, ema=0.9))
    saved = torch.load(tmp_path / "run" / "checkpoint" / "last.pt", weights_only=True)
    kept = scratch.load_model(NETWORK, tmp_path / "run" / module_training.WEIGHTS).state_dict()
    for name, value in kept.items():
        assert torch.equal(value, saved["mean"][name])
    assert not torch.equal(kept["blocks.0.conv.weight"], saved["model"]["blocks.0.conv.weight"])


def test_half_precision_learns_as_well(tmp_path: Path) -> None:
    score = run(tmp_path / "run", TrainingRecipe(epochs=12, batch_size=16, precision="bf16"))
    assert score["top1"] > 0.6


ONE_STEP = TrainingRecipe(epochs=1, batch_size=64, shift=0, clip=0.0)


def _take_a_step(folder: Path) -> None:
    with run_of_both(folder) as (group, made):
        scratch.train(NETWORK, make_data(), ONE_STEP, made, group=group)


def test_two_processes_take_the_step_of_one_that_averages_two_halves(tmp_path: Path) -> None:
    """One epoch is one step here; both processes must end with the same weights."""
    assert run_together(_take_a_step, tmp_path / "two") == [0, 0]
    data, recipe = make_data(), ONE_STEP
    state = scratch.begin(NETWORK, data, recipe)
    start = {name: value.clone() for name, value in state.model.state_dict().items()}
    gradients, means = [], []
    for rank in range(2):
        state.model.load_state_dict(start)
        state.optimizer.zero_grad()
        lone = _Half(rank, 2)
        state.train_epoch(data, recipe, lone, lambda fraction, words: None)
        gradients.append([p.grad.clone() for p in state.parameters if p.grad is not None])
        means.append(state.model.state_dict()["blocks.0.conv_norm.running_mean"].clone())
    fresh = scratch.begin(NETWORK, data, recipe)
    for parameter, *halves in zip(fresh.parameters, *gradients, strict=True):
        parameter.grad = (halves[0] + halves[1]) / 2
    for group in fresh.optimizer.param_groups:
        group["lr"] = state.optimizer.param_groups[0]["lr"]
    fresh.optimizer.step()
    found = scratch.load_model(NETWORK, tmp_path / "two" / module_training.WEIGHTS)
    for ours, theirs in zip(found.parameters(), fresh.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    mean = found.state_dict()["blocks.0.conv_norm.running_mean"]
    torch.testing.assert_close(mean, (means[0] + means[1]) / 2)


class _Half(Workers):
    """One of two processes whose partner does nothing."""

    def sum(self, values: list[float]) -> list[float]:  # type: ignore[override]
        return values

    def _average(self, tensors: list[torch.Tensor]) -> None:
        return


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    recipe = TrainingRecipe(epochs=1, batch_size=15)
    with pytest.raises(InvalidValueError, match="multiple of 2"):
        scratch.train(
            NETWORK, make_data(), recipe, RunFolder(tmp_path / "r", {}), group=_Half(0, 2)
        )


SMALLEST_MAPS: Network = (
    ConvBlock(3, 8, 3, 2, "relu", 2),
    InvertedResidual(8, 8, 16, 3, 1, "relu", 1),
    Classifier(8, 4, 1),
)


@pytest.mark.parametrize(
    ("images", "batch_size"), [(33, 32), (5, 64), (3, 2), (2, 64), (2, 2), (17, 8)]
)
def test_a_last_batch_of_one_image_does_no_harm(images: int, batch_size: int) -> None:
    """On maps of one pixel batch norm refuses a batch of one."""
    data = tiny_data(images, classes=4, channels=3)
    data = replace(data, train=Split(resize(data.train.images, 2), data.train.labels))  # type: ignore[attr-defined]
    recipe = TrainingRecipe(epochs=1, batch_size=batch_size)
    scratch.check(SMALLEST_MAPS, data, recipe, ALONE)
    state = scratch.begin(SMALLEST_MAPS, data, recipe)
    values = state.train_epoch(data, recipe, ALONE, lambda done, loss: None)
    assert math.isfinite(values["loss"] or 0.0)


def test_too_few_images_for_batch_norm_are_refused(tmp_path: Path) -> None:
    for images, count, words in ((1, 1, "2 or more"), (2, 2, "4 or more"), (5, 2, "multiple of 2")):
        data = tiny_data(images, classes=4, channels=3)
        recipe = TrainingRecipe(epochs=1, batch_size=64)
        with pytest.raises(InvalidValueError, match=words):
            scratch.check(NETWORK, data, recipe, Workers(0, count))
        with pytest.raises(InvalidValueError, match="too few"):
            ScratchEvaluator(make_small_space(), data, recipe=recipe, folder=tmp_path)


def test_the_defaults_smooth_labels() -> None:
    state = scratch.begin(NETWORK, make_data(), TrainingRecipe())
    assert isinstance(state.criterion, LabelSmoothing)
    assert state.criterion.smoothing == 0.1


def test_norms_and_biases_do_not_decay() -> None:
    state = scratch.begin(NETWORK, make_data(), TrainingRecipe(weight_decay=0.1))
    decayed, plain = state.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}
    every = TrainingRecipe(weight_decay=0.1, decay_norms=True)
    groups = scratch.begin(NETWORK, make_data(), every).optimizer.param_groups
    assert len(groups[0]["params"]) == len(decayed["params"]) + len(plain["params"])


def _rate(recipe: TrainingRecipe, epoch: float, *, step: float = 0.0) -> float:
    """The rate after a number of epochs; a step takes ``step`` epochs."""
    done, length = epoch / recipe.epochs, step / recipe.epochs
    return module_training.learning_rate(recipe, done, step=length)


def test_schedules_are_the_published_ones() -> None:
    tfnas = load_recipe(TrainingRecipe, "tfnas-imagenet")
    for epoch in range(250):  # a cosine from epoch 0; the first five take 1/5, 2/5, ... of it
        rate = 0.1 * (1 + math.cos(math.pi * epoch / 250)) * min(1.0, (epoch + 1) / 5)
        assert _rate(tfnas, epoch) == pytest.approx(rate)
        assert _rate(tfnas, epoch + 0.99) == pytest.approx(rate)
    sgnas = load_recipe(TrainingRecipe, "sgnas-imagenet")
    assert _rate(sgnas, 5) == pytest.approx(0.016)
    for step in (0, 1, 50, 166):
        rate = 0.016 * 0.963**step
        assert _rate(sgnas, 5 + 3 * step + 0.1) == pytest.approx(rate)
        assert _rate(sgnas, 5 + 3 * step + 2.9) == pytest.approx(rate)
    cifar = load_recipe(TrainingRecipe, "osnaslib-cifar100")
    assert _rate(cifar, 0) == pytest.approx(0.045)
    assert _rate(cifar, 75) == pytest.approx(0.045 / 2)


def test_a_cosine_begins_after_the_warm_up_or_with_it() -> None:
    after = TrainingRecipe(epochs=100, batch_size=256, lr_per_256=1.0, warmup=0.1)
    assert _rate(after, 5) == pytest.approx(0.5)
    assert _rate(after, 10) == pytest.approx(1.0)
    assert _rate(after, 55) == pytest.approx(0.5)
    within = msgspec.structs.replace(after, cosine_from="start")
    assert _rate(within, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.05)) / 2)
    assert _rate(within, 50) == pytest.approx(0.5)
    stepped = msgspec.structs.replace(after, lr_changes="epoch")
    assert _rate(stepped, 0) == _rate(stepped, 0.9) == pytest.approx(0.1)
    assert _rate(stepped, 9.5) == pytest.approx(1.0)
    assert _rate(stepped, 55.5) == pytest.approx(0.5)


@pytest.mark.parametrize("start", ["warmup", "start"])
def test_every_step_of_a_warm_up_trains(start: str) -> None:
    """Steps of the warm-up have 1 / n, 2 / n, ... of the rate that they would have without it."""
    recipe = TrainingRecipe(
        epochs=5, batch_size=256, lr_per_256=1.0, warmup=0.2, cosine_from=start
    )  # 10 steps an epoch: the first epoch is the warm-up
    for step in range(50):
        whole = (1 + math.cos(math.pi * step / 50)) / 2
        if start == "warmup":
            whole = (1 + math.cos(math.pi * max(0, step - 10) / 40)) / 2
        expected = whole * min(1.0, (step + 1) / 10)
        assert _rate(recipe, step / 10, step=0.1) == pytest.approx(expected)
    assert _rate(TrainingRecipe(epochs=1), 0, step=1) == pytest.approx(0.4 * 64 / 256)


def test_an_epoch_of_one_batch_trains(tmp_path: Path) -> None:
    recipe = TrainingRecipe(epochs=1, batch_size=64)
    state = scratch.begin(NETWORK, make_data(), recipe)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    few = make_data().subset(64, seed=0)
    values = state.train_epoch(few, recipe, ALONE, lambda done, loss: None)
    assert values["lr"] == pytest.approx(0.1)
    after = list(state.model.parameters())
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_recipe_says_how_weights_begin() -> None:
    """Torch's default of a depthwise convolution depends on its kernel alone."""
    stds = {}
    for initial in ("torch", "he"):
        recipe = load_recipe(TrainingRecipe, None, [f"initial={initial}"])
        model = scratch.begin(NETWORK, make_data(), recipe).model
        convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert convs
        stds[initial] = float(convs[0].weight.detach().std())
    assert stds["torch"] == pytest.approx(27**-0.5, rel=0.2)
    assert stds["he"] == pytest.approx((2 / (convs[0].out_channels * 9)) ** 0.5, rel=0.2)


def test_the_published_retraining_of_tf_nas_is_its_codes() -> None:
    recipe = load_recipe(TrainingRecipe, "tfnas-imagenet")
    assert recipe.decay_norms
    assert recipe.initial == "torch"
    assert (recipe.least_area, recipe.jitter, recipe.hue) == (0.08, 0.4, 0.2)


def test_shipped_recipes_are_of_the_schema_and_train(tmp_path: Path) -> None:
    names = shipped_recipes(TrainingRecipe)
    assert {"tfnas-imagenet", "sgnas-imagenet", "osnaslib-cifar100", "osnaslib-faces"} <= {*names}
    for name in names:
        if name == "osnaslib-faces":
            continue  # needs pairs; tests of the task train on faces
        recipe = load_recipe(TrainingRecipe, name, ["epochs=1", "batch_size=32"])
        made = RunFolder(tmp_path / name, {})
        score = scratch.train(NETWORK, make_data(), recipe, made)
        assert math.isfinite(score["top1"])


def test_a_wrong_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tfnas-imagenet"):
        load_recipe(TrainingRecipe, "tfnas-imagnet")
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "training"\nepochs = 0\n')
    with pytest.raises(InvalidFileError) as caught:
        load_recipe(TrainingRecipe, str(file))
    assert caught.value.path == "$.epochs"


def test_dropout_and_drop_connect_act_in_training_alone() -> None:
    model = scratch.make_model(NETWORK, seed=0)
    x = torch.randn(16, 3, 8, 8)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        add_dropout(model, 0.5)
        add_drop_connect(model, 0.9)
        assert torch.equal(model(x), expected)
        model.train()
        assert not torch.equal(model(x), model(x))
    assert model.state_dict().keys() == scratch.make_model(NETWORK, seed=0).state_dict().keys()


def test_features_are_dropped_at_the_rate_that_is_asked_for() -> None:
    model = scratch.make_model(NETWORK, seed=0).train()
    (last,) = [module for module in model.modules() if isinstance(module, nn.Linear)]
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0]))
    add_dropout(model, 0.25)
    last.register_forward_pre_hook(lambda module, inputs: after.append(inputs[0]))
    model(torch.rand(400, 3, 8, 8))
    dropped = (after[0] == 0) & (before[0] != 0)
    assert dropped.float().mean() / (before[0] != 0).float().mean() == pytest.approx(0.25, abs=0.05)


def test_deeper_blocks_are_skipped_more_often() -> None:
    """From nothing at the first convolution, linearly to the rate at the last block."""
    block = NETWORK[1]
    model = NetworkModule((NETWORK[0], block, block, block)).train()
    add_drop_connect(model, 0.6)
    seen: list[torch.Tensor] = []
    for each in model.blocks:
        each.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.manual_seed(0)
    model(torch.randn(1000, 3, 8, 8))
    for number, (x, made) in enumerate(pairwise(seen), start=1):
        skipped = (made - x).abs().amax((1, 2, 3)) == 0
        assert float(skipped.float().mean()) == pytest.approx(0.2 * number, abs=0.05)


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    """At the last block nearly every image passes by; what passes through keeps the mean."""
    block = NETWORK[1]
    model = NetworkModule((block, block))
    add_drop_connect(model, 0.999)
    seen: list[torch.Tensor] = []
    model.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(64, 8, 8, 8)
    made = model(x)
    same = (made - seen[0]).abs().amax((1, 2, 3)) == 0
    assert int(same.sum()) >= 60
    torch.manual_seed(0)
    kept = drop_images(torch.ones(4000, 1, 1, 1), 0.25)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.05)


def test_a_group_of_one_is_the_default() -> None:
    assert ALONE.leads
    assert isinstance(scratch.make_model(NETWORK, seed=0), nn.Module)


def test_a_trained_network_computes_as_the_rendered_one() -> None:
    """Outputs, gradients and running statistics of its modules, in double precision."""
    network = (
        *NETWORK[:3],
        InvertedResidual(8, 12, 16, 5, 2, "swish", 8, se_channels=4),
        InvertedResidual(12, 12, 24, 3, 2, "relu", 4),
        InvertedResidual(12, 12, 24, 3, 1, "relu", 2),
        Classifier(12, 4, 2),
    )
    ours = scratch.make_model(network, seed=0).double()
    plain = NetworkModule(network).double()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, 8, 8, dtype=torch.double)
    for model in (ours, plain):
        model(images).square().sum().backward()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    theirs = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad)
