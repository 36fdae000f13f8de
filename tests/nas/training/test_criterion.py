"""A recipe's criterion and batches, the same rules for searches and for trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latbench.errors import InvalidValueError, UnknownNameError
from nas.criteria import CRITERIA
from nas.criteria.focal import Focal
from nas.data.images import batches, generator
from nas.training.criterion import check_batches, criterion_of, loss_of
from nas.training.distributed import Workers
from nas.training.steps import TrainingImages
from nas.training.supernet_training import SupernetRecipe
from tests.nas.runs import tiny_data


def test_a_recipe_names_the_criterion_and_its_options() -> None:
    recipe = SupernetRecipe(criterion="focal", options={"gamma": 1.5})
    made = criterion_of(tiny_data(), 10, recipe)
    assert isinstance(made, Focal) and made.gamma == 1.5


def test_an_unknown_criterion_or_option_is_refused_with_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="focal"):
        criterion_of(tiny_data(), 10, SupernetRecipe(criterion="focla"))
    with pytest.raises(UnknownNameError, match="smoothing"):
        recipe = SupernetRecipe(criterion="label-smoothing", options={"smooth": 0.1})
        criterion_of(tiny_data(), 10, recipe)


@pytest.mark.parametrize("name", list(CRITERIA))
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_losses_are_in_single_precision_under_autocast(name: str, half: torch.dtype) -> None:
    """Value and gradient equal those of the same outputs without autocast."""
    labels, criterion = torch.arange(24) % 6, CRITERIA[name](6, 6)
    outputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)).to(half)
    found = []
    for is_on in (False, True):
        given = outputs.clone().requires_grad_()
        torch.manual_seed(0)
        with torch.autocast("cpu", half, enabled=is_on):
            loss = loss_of(criterion, given, labels) if is_on else criterion(given.float(), labels)
        loss.backward()
        found.append((loss.detach(), given.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert found[1][0].dtype == torch.float32


@pytest.mark.parametrize("name", ["triplet", "angular"])
def test_embeddings_are_for_identities_and_not_for_classes(name: str) -> None:
    recipe = SupernetRecipe(criterion=name)
    with pytest.raises(InvalidValueError, match="cross-entropy"):
        criterion_of(tiny_data(), 10, recipe)
    faces = replace(tiny_data(), task="face-recognition")
    assert criterion_of(faces, 6, recipe) is not None


def test_batches_that_do_not_divide_are_refused_with_those_that_do() -> None:
    check_batches(SupernetRecipe(batch_size=12, per_class=3))
    with pytest.raises(InvalidValueError, match="multiple of 5"):
        check_batches(SupernetRecipe(batch_size=12, per_class=5))
    with pytest.raises(InvalidValueError, match="multiple of 8"):
        check_batches(SupernetRecipe(batch_size=12, per_class=4), Workers(0, 2))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("per_class", [0, 1, 2, 3])
def test_batches_are_refused_where_a_training_would_refuse_them(
    per_class: int, processes: int
) -> None:
    """Every batch size, against drawing and sharing the first batch of each part."""
    data, workers, fits = tiny_data(60), Workers(0, processes), []
    parts = data.train, data.train.take(torch.arange(11))
    classes = [len(part.labels.unique()) for part in parts]
    assert classes == [10, 6]

    def is_drawn(batch_size: int) -> bool:
        try:
            for part in parts:
                _, labels = next(batches(part, batch_size, generator(0), per_class=per_class))
                workers.share(batch_size)
                workers.share(len(labels))
        except InvalidValueError:
            return False
        shown = batch_size // max(per_class, 1)
        is_shared = shown >= 2 * processes if per_class else True  # two classes a process
        return is_shared and batch_size % (max(per_class, 1) * processes) == 0

    for batch_size in range(1, 41):
        try:
            recipe = SupernetRecipe(batch_size=batch_size, per_class=per_class)
            check_batches(recipe, workers, parts=parts)
            fits.append(batch_size)
        except InvalidValueError:
            pass
    assert fits == [size for size in range(1, 41) if is_drawn(size)]
    if per_class:
        recipe = SupernetRecipe(batch_size=36 * per_class, per_class=per_class)
        with pytest.raises(InvalidValueError, match=f"choose {fits[0]} to {fits[-1]} images"):
            check_batches(recipe, workers, parts=parts)


def test_searches_see_batches_of_p_classes_times_k_images() -> None:
    data = tiny_data(120)
    images = TrainingImages(data, data.train, 12, 0, per_class=3)
    seen = []

    def step(number: int, x: torch.Tensor, labels: torch.Tensor) -> float:
        seen.append(labels.bincount().unique().tolist())
        return 0.0

    draws = torch.Generator().manual_seed(0)
    images.show(step, lambda done, loss: None, order=draws, shifts=draws)
    others = torch.Generator().manual_seed(1)
    seen.append(next(images.unaugmented(data.train, others))[1].bincount().unique().tolist())
    assert len(seen) == 11
    assert all(counts in ([0, 3], [3]) for counts in seen)


def test_what_a_criterion_draws_follows_from_the_seed_and_leaves_no_trace() -> None:
    data = tiny_data(24)
    images = TrainingImages(data, data.train, 12, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        rng = torch.Generator().manual_seed(3)
        images.show(
            lambda number, x, labels: drawn.append(float(torch.rand(()))) or 0.0,
            lambda done, loss: None,
            order=rng,
            shifts=rng,
        )
    assert drawn[:2] == drawn[2:]
    assert bool((torch.get_rng_state() == before).all())


def test_a_search_is_trained_by_the_criterion_of_its_recipe(tmp_path: Path) -> None:
    from nas.spaces import make_space
    from nas.supernet.mixed_operations import fixed_supernet
    from nas.training.run_folder import RunFolder
    from nas.training.strategies import STRATEGIES
    from nas.training.supernet_training import train_supernet

    space = make_space("nasbench-macro", 8, 10)
    states = []
    for number, name in enumerate(["cross-entropy", "focal"]):
        recipe = SupernetRecipe(epochs=1, batch_size=48, criterion=name)
        data = tiny_data()
        supernet = fixed_supernet(space, seed=0)
        train_supernet(
            supernet,
            STRATEGIES["uniform"](space),
            data,
            recipe,
            RunFolder(tmp_path / str(number), {}),
            criterion=criterion_of(data, 10, recipe),
        )
        states.append(torch.cat([p.detach().flatten() for p in supernet.parameters()]))
    assert not torch.equal(*states)
