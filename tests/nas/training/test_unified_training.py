"""Training the unified supernet: fair draws, bit-exact resume, calibrated answers."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from nas.data.images import ImageData, Split, image_data
from nas.evaluators.unified_weights import UnifiedEvaluator
from nas.spaces.sgnas import SKIP, SUB_BLOCKS, architecture_of
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.calibration import calibrate
from nas.training.criterion import criterion_of
from nas.training.optimizer import TensorFlowRMSprop
from nas.training.run_folder import RunFolder
from nas.training.strategies.kernel_paths import BARE, FairPaths, UniformKernels
from nas.training.unified_training import (
    UnifiedRecipe,
    UnifiedTraining,
    answer,
    divide,
    fitness,
    train_unified,
)
from tests.nas.runs import Stop, stopping_after, tiny_data
from tests.nas.supernet.test_unified_blocks import make_unified_space

RECIPE = UnifiedRecipe(epochs=2, batch_size=32, lr=0.05, calibration_batches=2)


def test_expansions_of_a_step_are_drawn_without_replacement() -> None:
    drawn = FairPaths(5, np.random.default_rng(0))
    bare = 0
    for _ in range(200):
        paths = np.array(drawn.step())
        assert paths.shape == (4, 5, SUB_BLOCKS)
        expansions = (paths != SKIP).sum(2)  # (paths, layers)
        for layer in expansions.T.tolist():
            assert len(set(layer)) == 4
            assert set(layer) <= set(range(1, SUB_BLOCKS + 1))
            bare += 1 in layer
    assert abs(bare / 1000 - BARE) < 0.05


def test_uniform_paths_have_the_expansions_of_fair_ones() -> None:
    """Independent draws of all sub-blocks would hardly ever train a narrow layer."""
    space, rng, count = make_unified_space(), torch.Generator().manual_seed(0), 3000
    strategy = UniformKernels(space)
    rows = np.array([row for _ in range(count) for path in strategy.draw(rng, 0) for row in path])
    counts = np.bincount((rows != SKIP).sum(1), minlength=SUB_BLOCKS + 1) / len(rows)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx([BARE / 4, *[(1 - BARE / 4) / 5] * 5], abs=0.02)
    for choices in rows.T:  # of one sub-block
        used = np.bincount(choices, minlength=SKIP + 1) / len(rows)
        assert used[:SKIP] == pytest.approx([(1 - used[SKIP]) / SKIP] * SKIP, abs=0.02)
        assert used[SKIP] == pytest.approx(1 - (1 * BARE / 4 + 4 * (1 - BARE / 4)) / 6, abs=0.02)


def test_kernels_of_a_sub_block_are_dealt_evenly_at_any_time() -> None:
    drawn = FairPaths(2, np.random.default_rng(1))
    counts: dict[tuple[int, int], Counter[int]] = {}
    skips: Counter[int] = Counter()
    for _ in range(100):
        for path in drawn.step():
            for layer, row in enumerate(path):
                for b, choice in enumerate(row):
                    if choice == SKIP:
                        skips[b] += 1
                    else:
                        counts.setdefault((layer, b), Counter())[choice] += 1
        for count in counts.values():
            numbers = [count[choice] for choice in range(SKIP)]
            assert max(numbers) - min(numbers) <= 1
    assert max(skips.values()) - min(skips.values()) < 80  # of 270 on average: sub-blocks alike


def data_of_five_classes() -> ImageData:
    data = tiny_data(160)
    split = Split(data.train.images, data.train.labels % 5)
    return image_data("tiny", train=split, test=split, classes=5, input_size=8, flip=False)


def _train(folder: Path, *, stop_after: int | None = None) -> UnifiedSupernet:
    data = data_of_five_classes()
    return train_unified(
        make_unified_space(),
        data,
        divide(data, RECIPE, seed=2),
        RECIPE,
        RunFolder(folder, {}),
        seed=2,
        progress=stopping_after(stop_after),
    )


def test_a_step_sums_the_gradients_of_its_paths() -> None:
    """Although what they share is computed once."""
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    paths = FairPaths(3, np.random.default_rng(3)).step()
    ours, apart = (UnifiedSupernet(make_unified_space(), seed=0).train() for _ in range(2))
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    mean = UnifiedTraining(ours, smoothed, RECIPE, seed=0).train_weights(images, labels, paths)
    losses = [smoothed(apart(images, path), labels) for path in paths]
    sum(losses).backward()
    assert mean == pytest.approx(float(sum(losses).detach()) / 4, rel=1e-5)
    for (name, p), q in zip(ours.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[UnifiedSupernet, Path]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return _train(folder), folder


def test_a_resumed_training_is_an_uninterrupted_one(
    trained: tuple[UnifiedSupernet, Path], tmp_path: Path
) -> None:
    whole, folder = trained
    for stop_after in (2, 5):
        with pytest.raises(Stop):
            _train(tmp_path, stop_after=stop_after)
    resumed = _train(tmp_path).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.state_dict().items())
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["lr"] < 0.1 * RECIPE.lr


def test_a_training_goes_on_where_updates_are_one_call(
    trained: tuple[UnifiedSupernet, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose updates need velocities of all parameters; and back again."""
    with pytest.raises(Stop):
        _train(tmp_path, stop_after=5)  # in the second of two epochs
    monkeypatch.setattr("nas.training.unified_training.updates_at_once", lambda torch_device: True)
    state = _train(tmp_path).state_dict()
    for name, value in trained[0].state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)
    monkeypatch.undo()
    assert not _train(tmp_path).training  # what has ended there is read here


def test_every_batch_norm_is_trained(trained: tuple[UnifiedSupernet, Path]) -> None:
    """That of expansion 1 included, which published training never reaches."""
    supernet, _ = trained
    reached = {
        (layer, row.count(SKIP))
        for epoch in range(RECIPE.epochs)
        for path in _paths(FairPaths(3, np.random.default_rng([2, epoch])), steps=4)
        for layer, row in enumerate(path)
    }
    assert any(skips == SUB_BLOCKS - 1 for _, skips in reached)
    fresh = UnifiedSupernet(make_unified_space(), seed=2)
    moved = {
        (layer, skips)
        for layer, (block, other) in enumerate(zip(supernet.layers, fresh.layers, strict=True))
        for skips, (now, then) in enumerate(zip(block.norms, other.norms, strict=True))
        if not torch.equal(now.weight, then.weight)
    }
    assert moved == reached


def _paths(drawn: FairPaths, *, steps: int) -> list[list[list[int]]]:
    return [path for _ in range(steps) for path in drawn.step()]


def test_an_answer_is_calibrated_and_the_supernet_stays_as_it_is(
    trained: tuple[UnifiedSupernet, Path],
) -> None:
    data = data_of_five_classes()
    parts = divide(data, RECIPE, seed=2)
    supernet, _ = trained
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    path = [[0, 1, SKIP, SKIP, SKIP, SKIP]] * 3
    network = answer(supernet, path, data, parts, RECIPE)
    assert not network.training
    criterion = criterion_of(data, 5, RECIPE, seed=2, default="scratch")
    score = fitness(supernet, path, data, parts, RECIPE, criterion=criterion)
    evaluator = UnifiedEvaluator(copy.deepcopy(supernet), data, parts, RECIPE, criterion=criterion)
    architecture = architecture_of(make_unified_space(), path)
    accuracy = float(evaluator.hits(architecture).float().mean())
    assert score == evaluator.score(architecture) == accuracy
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())
    cut = supernet.cut(path).state_dict()
    calibrated = network.state_dict()
    for name, value in calibrated.items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(value, cut[name])
    assert any(not torch.equal(calibrated[n], v) for n, v in cut.items() if "running" in n)


def test_calibration_is_the_mean_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3))
    batches = [torch.randn(4, 2, 3, 3) + i for i in range(3)]
    calibrate(model, iter(batches))
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, means)
    assert model[0].momentum == 0.3
    with pytest.raises(ValueError, match="no batch"):
        calibrate(model, [])
    torch.testing.assert_close(model[0].running_mean, means)


def test_the_parts_are_disjoint_and_whole() -> None:
    data = data_of_five_classes()
    numbered = data.train.images.clone()
    numbered[:, :, 0, 0] = torch.arange(160, dtype=torch.uint8)[:, None]
    data = image_data(
        "tiny",
        train=Split(numbered, data.train.labels),
        test=data.test,
        classes=5,
        input_size=8,
        flip=False,
    )
    parts = divide(data, RECIPE, seed=0)
    numbers = [
        set(part.images[:, 0, 0, 0].tolist())
        for part in (parts.weights, parts.generator, parts.selection)
    ]
    assert [len(part) for part in numbers] == [128, 16, 16]
    assert set().union(*numbers) == set(range(160))
    with pytest.raises(InvalidValueError, match="too few"):
        divide(data.subset(30, seed=0), RECIPE, seed=0)


def test_test_images_are_held_out_where_a_recipe_says_so() -> None:
    """All training images then train the weights."""
    data = data_of_five_classes()
    parts = divide(data, msgspec.structs.replace(RECIPE, held_out_from="test"), seed=0)
    assert [len(parts.weights), len(parts.generator), len(parts.selection)] == [160, 80, 80]
    assert parts.weights is data.train


def test_the_loss_is_that_of_the_recipe_or_the_published_one() -> None:
    """Label smoothing of 0.1 where nothing else is asked for."""
    data = data_of_five_classes()
    logits, labels = torch.randn(8, 5), torch.randint(5, (8,))
    published = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert criterion_of(data, 5, RECIPE, seed=0, default="scratch")(logits, labels) == published
    plain = msgspec.structs.replace(RECIPE, criterion="cross-entropy")
    expected = nn.functional.cross_entropy(logits, labels)
    assert criterion_of(data, 5, plain, seed=0, default="scratch")(logits, labels) == expected


def test_rmsprop_is_tensorflows_formula() -> None:
    """By hand, with a learning rate that falls: it acts on each gradient once."""
    w = nn.Parameter(torch.tensor([1.0, -2.0]))
    gradients = [[0.5, -1.0], [-0.2, 3.0], [0.0, 0.1]]
    rates = [0.1, 0.01, 0.001]
    optimizer = TensorFlowRMSprop([w], lr=0.1, alpha=0.8, momentum=0.9, weight_decay=0.1)
    expected = []
    for i, start in enumerate([1.0, -2.0]):
        value, square, velocity = start, 1.0, 0.0
        for row, rate in zip(gradients, rates, strict=True):
            g = row[i] + 0.1 * value
            square = 0.8 * square + 0.2 * g * g
            velocity = 0.9 * velocity + rate * g / math.sqrt(square + 1e-3)
            value -= velocity
        expected.append(value)
    for row, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.tensor(row)
        optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor(expected))


def test_rmsprop_goes_on_from_its_state() -> None:
    def step(w: Tensor, optimizer: TensorFlowRMSprop) -> None:
        w.grad = w.detach() - 3
        optimizer.step()

    w, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    first = TensorFlowRMSprop([w], lr=0.1)
    step(w, first)
    second = TensorFlowRMSprop([other], lr=0.1)
    other.data.copy_(w.detach())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(w, first)
    step(other, second)
    assert torch.equal(w, other)
