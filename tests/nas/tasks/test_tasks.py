"""Tasks: their metrics against plain loops; faces end to end on folders written here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError
from latbench.tables import LatencyTable
from nas.data import load_data
from nas.data.images import ImageData, Pairs, Split
from nas.latency.priced_space import PricedSpace
from nas.recipes import load_recipe
from nas.searchers import SEARCHERS, SearchResult, SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import SGNASSearcher
from nas.spaces import SearchSpace
from nas.tasks import TASKS, task_of
from nas.tasks.face_recognition import verify
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.unified_training import divide
from tests.conftest import make_mix_space, make_small_space, write_table
from tests.nas.data.test_data import write_identities, write_pairs
from tests.nas.runs import tiny_data


def split_of(values: Tensor, labels: Tensor) -> Split:
    """Images of one pixel."""
    return Split(values.to(torch.uint8).view(-1, 1, 1, 1), labels)


def test_top1_and_top5_are_counted() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 8, generator=rng)
    labels = torch.randint(8, (40,), generator=rng)
    split = split_of(torch.arange(40), labels)
    data = ImageData("x", 8, split, split, 0.0, 1.0, flip=False)
    score = task_of(data).test(lambda x: logits[(x[:, 0, 0, 0] * 255).round().long()])
    ranks = [(row > row[label]).sum() for row, label in zip(logits, labels, strict=True)]
    assert score["top1"] == sum(int(rank == 0) for rank in ranks) / 40
    assert score["top5"] == sum(int(rank < 5) for rank in ranks) / 40


def test_verification_is_the_protocol_of_lfw() -> None:
    """Against loops over folds and thresholds."""
    rng = torch.Generator().manual_seed(0)
    same = torch.rand(200, generator=rng) < 0.5
    distances = torch.where(same, 1.0, 1.5) + torch.randn(200, generator=rng) * 0.4
    distances = distances.clamp(0, 4)
    fold = torch.arange(200) // 20
    nothing = torch.zeros(0, dtype=torch.long)
    pairs = Pairs(split_of(nothing, nothing), nothing, nothing, same, fold)
    accuracies, chosen = [], []
    for f in range(10):
        best, best_right = 0.0, -1
        for i in range(400):
            predicted = (distances < i / 100) == same
            right = int(predicted[fold != f].sum())
            if right > best_right:
                best, best_right = i / 100, right
        accuracies.append(float(((distances < best) == same)[fold == f].float().mean()))
        chosen.append(best)
    accuracy, threshold = verify(distances, pairs)
    assert accuracy == pytest.approx(sum(accuracies) / 10)
    assert threshold == pytest.approx(sum(chosen) / 10)


def write_faces(folder: Path) -> None:
    """Six identities to train on, and pairs of four others."""
    write_identities(folder / "train", identities=6, each=8)
    write_identities(folder / "test", identities=4, each=3)
    write_pairs(folder / "pairs.txt", folds=5, each=4)


def _faces(tmp_path: Path) -> ImageData:
    write_faces(tmp_path)
    return load_data("faces", input_size=16, classes=8, data_dir=tmp_path)


def test_embeddings_that_know_the_person_verify_all_pairs(tmp_path: Path) -> None:
    """An identity's images are alike but for noise, which smaller images do not show."""
    data = _faces(tmp_path)
    score = task_of(data).test(lambda x: nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
    assert score["accuracy"] > 0.9
    assert 0 < score["threshold"] < 4
    noise = torch.Generator().manual_seed(0)
    chance = task_of(data).test(lambda x: torch.randn(len(x), 8, generator=noise))
    assert chance["accuracy"] < 0.8


NETWORK: Network = (
    ConvBlock(3, 8, 3, 2, "relu", 16),
    InvertedResidual(8, 8, 16, 3, 1, "relu", 8),
    Classifier(8, 8, 8),
)


@pytest.mark.parametrize("criterion", ["angular", "triplet"])
def test_faces_are_trained_and_verified(criterion: str, tmp_path: Path) -> None:
    """The loss falls, and the kept weights verify as the network did at its end."""
    data = _faces(tmp_path)
    recipe = TrainingRecipe(
        epochs=8,
        batch_size=12,
        lr_per_256=1.0,
        criterion=criterion,
        options={"scale": 16.0} if criterion == "angular" else {},
        per_class=3,
        shift=0,
    )
    run = tmp_path / "run"
    score = scratch.train(NETWORK, data, recipe, RunFolder(run, {}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[7]["loss"] < lines[0]["loss"]
    assert lines[8]["accuracy"] == score["accuracy"]
    assert (
        module_training.test(scratch.load_model(NETWORK, run / module_training.WEIGHTS), data)
        == score
    )


def _faces_search(priced: PricedSpace, data: ImageData, name: str, folder: Path) -> SearchResult:
    kind = SEARCHERS[name].recipe_kind
    changes = ["evaluations=6"] if name == "evolution" else []
    recipe = load_recipe(kind, None, changes) if kind is not None else None
    searcher = SEARCHERS[name](priced, SearchSettings(epochs=3, batch_size=8, recipe=recipe))
    low_ms, high_ms = priced.feasible_ms()
    target_ms = (low_ms + high_ms) / 2
    found = searcher.search(data.subset(48, seed=0), [target_ms], RunFolder(folder, {}))[0]
    assert found.latency_ms <= target_ms
    assert found.score < 0  # minus the loss
    return found


def test_faces_are_searched_by_evolution(
    tiny_space: SearchSpace, tiny_table: LatencyTable, tmp_path: Path
) -> None:
    """On a shared supernet, by the loss of held-out images."""
    _faces(tmp_path)
    data = load_data("faces", input_size=8, classes=tiny_space.classes, data_dir=tmp_path)
    found = _faces_search(PricedSpace(tiny_space, tiny_table), data, "evolution", tmp_path / "s")
    tiny_space.check(found.architecture)


def test_a_score_is_shown_as_what_it_is() -> None:
    """Accuracy as a percentage; for faces, whose score is minus a loss, the loss."""
    shown = {name: (TASKS[name].fitness_name, TASKS[name].shown) for name in TASKS}
    assert shown["classification"][0] == "accuracy"
    assert shown["classification"][1](0.9312) == "93.1%"
    assert shown["face-recognition"][0] == "loss"
    assert shown["face-recognition"][1](-12.3456) == "12.346"


def test_a_search_of_faces_reports_its_loss(
    tiny_space: SearchSpace, tiny_table: LatencyTable, tmp_path: Path
) -> None:
    _faces(tmp_path)
    data = load_data("faces", input_size=8, classes=tiny_space.classes, data_dir=tmp_path)
    priced = PricedSpace(tiny_space, tiny_table)
    reported: list[str] = []
    recipe = load_recipe(OneShotRecipe, None, ["evaluations=4"])
    searcher = SEARCHERS["random"](priced, SearchSettings(epochs=1, batch_size=8, recipe=recipe))
    (found,) = searcher.search(
        data.subset(48, seed=0),
        [priced.feasible_ms()[1]],
        RunFolder(tmp_path / "run", {}),
        progress=lambda fraction, words: reported.append(words),
    )
    assert reported[-2] == f"architecture 4 of 4, best loss {-found.score:.3f}"


def test_faces_are_searched_trained_and_verified(
    tiny_space: SearchSpace, tiny_table: LatencyTable, tmp_path: Path
) -> None:
    """The classes of the space are the size of the embedding."""
    _faces(tmp_path)
    data = load_data("faces", input_size=8, classes=tiny_space.classes, data_dir=tmp_path)
    found = _faces_search(PricedSpace(tiny_space, tiny_table), data, "tfnas", tmp_path / "s")
    saved = torch.load(tmp_path / "s" / "checkpoint" / "warmup.pt", weights_only=True)
    later = torch.load(
        next(f for f in (tmp_path / "s" / "checkpoint").iterdir() if f.name != "warmup.pt"),
        weights_only=True,
    )
    assert saved["criterion"]["centres"].shape == (6, 10)
    assert not torch.equal(saved["criterion"]["centres"], later["criterion"]["centres"])
    recipe = TrainingRecipe(epochs=1, batch_size=8, shift=0)
    network = tiny_space.lower(found.architecture)
    score = scratch.train(network, data, recipe, RunFolder(tmp_path / "t", {}))
    assert 0 <= score["accuracy"] <= 1


@pytest.mark.parametrize("space", [make_mix_space(), make_small_space()], ids=["mix", "separate"])
def test_faces_are_searched_by_a_generator(
    space: SearchSpace, profile: DeviceProfile, tmp_path: Path
) -> None:
    """On a supernet that gives embeddings, with angular centres that learn beside it."""
    _faces(tmp_path)
    data = load_data("faces", input_size=8, classes=space.classes, data_dir=tmp_path)
    priced = PricedSpace(space, write_table(tmp_path / "t", space, profile))
    small = ("generator_epochs=1", "budgets=3", "priors=1", "prior_candidates=2", "selected_on=2")
    recipe = load_recipe(SGNASRecipe, None, [*small, "held_out=0.4", "per_class=2"])
    searcher = SGNASSearcher(priced, SearchSettings(epochs=2, batch_size=8, recipe=recipe))
    target_ms = sum(priced.feasible_ms()) / 2
    run = tmp_path / "s"
    found = searcher.search(data, [target_ms], RunFolder(run, {}))[0]
    assert found.latency_ms <= target_ms
    assert found.score < 0  # minus the loss
    saved = torch.load(run / "checkpoint" / "supernet.pt", weights_only=True)
    begun = task_of(data).criterion(space.classes).state_dict()
    assert saved["criterion"]["centres"].shape == (6, 10)
    assert not torch.equal(saved["criterion"]["centres"], begun["centres"])
    with pytest.raises(InvalidValueError, match="held_out_from"):
        divide(data, load_recipe(SGNASRecipe, None, ["held_out_from=test"]), seed=0)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_has_a_criterion_a_metric_and_a_fitness(name: str) -> None:
    split = split_of(torch.arange(6), torch.arange(6))
    task = TASKS[name](ImageData("x", 6, split, split, 0.0, 1.0, flip=False, task=name))
    criterion = task.criterion(6)
    assert isinstance(criterion, nn.Module)
    labels = torch.arange(6)
    good, bad = 10 * torch.eye(6), 10 * torch.eye(6).roll(1, 0)
    for parameter in criterion.parameters():
        parameter.data.copy_(torch.eye(6))
    assert task.fitness(good, labels, criterion) > task.fitness(bad, labels, criterion)
    assert task.metric


@pytest.mark.parametrize("name", list(TASKS))
def test_what_counts_of_a_task_is_1_for_a_perfect_network_and_less_for_a_blind_one(
    name: str,
) -> None:
    images = split_of(torch.arange(6), torch.arange(6))
    first, second = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    pairs = Pairs(images, first, second, same=first == second, fold=torch.arange(6) % 2)
    data = ImageData("x", 6, images, images, 0.0, 1.0, flip=False, task=name, pairs=pairs)
    task = TASKS[name](data)
    perfect = task.test(lambda x: torch.eye(6)[(x[:, 0, 0, 0] * 255).round().long()])
    blind = task.test(lambda x: torch.ones(len(x), 6))
    assert blind[task.metric] < perfect[task.metric] == 1


def test_a_loss_that_draws_gives_a_network_the_same_score_again() -> None:
    """Whatever was drawn before, and without a trace in what is drawn later."""
    data = replace(tiny_data(64, classes=4, channels=3), task="face-recognition")
    task = task_of(data)
    criterion = task.criterion(8, name="triplet", options={"mining": "random"})
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        scores.append(task.mean_fitness(network, data.train, criterion))
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(1))
    assert scores[0] == scores[1] != 0


@pytest.mark.parametrize("count", [8, 256, 257, 258, 513])
def test_even_batches_show_every_image_once_in_nearly_equal_parts(count: int) -> None:
    data, sizes = tiny_data(count, classes=4), []

    def seen(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return torch.eye(4)[(images[:, 0, 0, 0] > 0).long()]

    task = task_of(data)
    even = task.mean_fitness(seen, data.train, nn.CrossEntropyLoss(), even=True)
    assert sum(sizes) == count and max(sizes) <= 256
    assert len(sizes) == -(-count // 256) and max(sizes) - min(sizes) <= 1
    whole = task.mean_fitness(seen, data.train, nn.CrossEntropyLoss())
    assert even == pytest.approx(whole, abs=1e-6)
