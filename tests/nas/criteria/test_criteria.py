"""Losses: each equals its formula, or torch's own; its gradient is finite and points the way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from latbench.blocks import Classifier, ConvBlock, Network
from latbench.errors import InvalidValueError, UnknownNameError
from nas.criteria import CRITERIA, hardware, make_criterion
from nas.criteria.angular import AngularMargin
from nas.training import from_scratch
from nas.training.recipe import TrainingRecipe
from tests.nas.runs import tiny_data


@pytest.mark.parametrize("name", list(hardware.OBJECTIVES))
@pytest.mark.parametrize("cost", [0.4, 14.0, 15.0, 15.05, 21.0])
def test_an_objective_is_the_same_on_floats_and_tensors(name: str, cost: float) -> None:
    objective = hardware.OBJECTIVES[name]
    plain = objective(2.0, cost, 15.0)
    task, tensor = torch.tensor(2.0, requires_grad=True), torch.tensor(cost, requires_grad=True)
    total = objective(task, tensor, 15.0)
    total.backward()
    assert total.item() == pytest.approx(plain, rel=1e-5)
    assert task.grad is not None and task.grad > 0
    if tensor.grad is not None:
        nudged = objective(2.0, cost + 1e-6, 15.0) - objective(2.0, cost - 1e-6, 15.0)
        if cost != 15.0:  # where the forms with a kink have no derivative
            assert tensor.grad.item() == pytest.approx(nudged / 2e-6, rel=1e-3, abs=1e-6)


def test_objectives_are_their_papers_formulas() -> None:
    assert hardware.c1(2.0, 20.0, 1.0) == pytest.approx(2 * 0.2 * math.log(20_000) ** 0.6)
    assert hardware.c2(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * 18 / 15)
    assert hardware.eq9(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * (18 / 15 - 1))
    assert hardware.eq9(2.0, 12.0, 15.0) == 2.0
    assert hardware.absolute(2.0, 12.0, 15.0) == pytest.approx(2 + 0.1 * (1 - 12 / 15))
    assert hardware.hinge(2.0, 18.0, 15.0) == pytest.approx(2 + 0.1 * 3)
    assert hardware.hinge(2.0, 12.0, 15.0) == 2.0
    assert hardware.squared(0.0, 110.0, 100.0) == pytest.approx(3e-4 * 100)
    assert hardware.sgnas(0.0, 110.0, 100.0) == pytest.approx(3e-4 * 100 * 1.2)
    assert hardware.sgnas(0.0, 90.0, 100.0) == pytest.approx(3e-4 * 100)
    assert hardware.sgnas(0.0, 100.05, 100.0) == 0.0


@pytest.mark.parametrize("name", list(hardware.OBJECTIVES))
def test_a_search_feels_a_budget_of_milliseconds_as_one_of_millions(name: str) -> None:
    """What moves a search is the fraction that a cost is off, whatever its unit."""
    objective = hardware.objective_of(name)
    by_ms, by_millions = objective(2.0, 0.6, 0.5), objective(2.0, 32.4, 27.0)
    if name == "c1":  # knows no target
        assert by_ms == hardware.c1(2.0, 0.6, 0.5)
        return
    assert by_ms == pytest.approx(by_millions)
    assert by_ms - 2.0 > 1e-3
    reference = hardware.REFERENCE_TARGETS.get(name, 1.0)
    assert by_ms == pytest.approx(hardware.OBJECTIVES[name](2.0, 1.2 * reference, reference))


def test_an_unknown_objective_is_answered_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="eq9"):
        hardware.OBJECTIVES["eq8"]


def _make(name: str, **options: float | str) -> nn.Module:
    return make_criterion(name, outputs=6, classes=6, options=options)


def _batch(count: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    outputs = torch.randn(count, 6, generator=rng).requires_grad_()
    return outputs, torch.arange(count) % 6


@pytest.mark.parametrize("name", list(CRITERIA))
def test_a_criterion_is_a_scalar_whose_gradient_lowers_it(name: str) -> None:
    outputs, labels = _batch()
    criterion = _make(name)
    before = criterion(outputs, labels)
    assert before.shape == ()
    before.backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    after = criterion(outputs.detach() - 1e-3 * outputs.grad, labels)
    assert after < before.detach()


@pytest.mark.parametrize("name", list(CRITERIA))
def test_an_unknown_option_is_answered_with_the_choices(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"option of {name} 'sharpness'"):
        _make(name, sharpness=1.0)


def test_an_option_of_a_criterion_without_options_is_to_be_left_out() -> None:
    with pytest.raises(UnknownNameError, match="there is none, leave it out") as caught:
        _make("cross-entropy", scale=2.0)
    assert caught.value.choices == []


def test_options_out_of_range_are_refused() -> None:
    for name, options in (
        ("label-smoothing", {"smoothing": 1.5}),
        ("focal", {"gamma": -1.0}),
        ("triplet", {"margin": 5.0}),
        ("angular", {"margin": 2.0}),
    ):
        with pytest.raises(InvalidValueError, match="out of range"):
            _make(name, **options)
    with pytest.raises(UnknownNameError, match="semi-hard"):
        _make("triplet", mining="semihard")
    with pytest.raises(InvalidValueError, match="one output per class"):
        make_criterion("cross-entropy", outputs=128, classes=6)


def test_label_smoothing_is_its_formula() -> None:
    outputs, labels = _batch()
    truth = torch.full_like(outputs, 0.1 / 6).scatter(1, labels[:, None], 0.9 + 0.1 / 6)
    expected = -(truth * outputs.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(_make("label-smoothing")(outputs, labels), expected)


def test_focal_is_its_formula_and_cross_entropy_at_gamma_0() -> None:
    outputs, labels = _batch()
    p = outputs.softmax(1).gather(1, labels[:, None])
    expected = -(0.25 * (1 - p) ** 2 * p.log()).mean()
    torch.testing.assert_close(_make("focal", alpha=0.25)(outputs, labels), expected)
    plain = _make("cross-entropy")(outputs, labels)
    torch.testing.assert_close(_make("focal", gamma=0.0)(outputs, labels), plain)
    certain = (50 * torch.eye(6)).requires_grad_()
    _make("focal", gamma=0.5)(certain, torch.arange(6)).backward()
    assert certain.grad is not None and certain.grad.isfinite().all()


@pytest.mark.parametrize("mining", ["hard", "semi-hard"])
def test_triplets_are_mined_as_a_plain_loop_mines_them(mining: str) -> None:
    outputs, labels = _batch(18)
    unit = torch.nn.functional.normalize(outputs.detach(), dim=1)
    d = [[float((a - b).square().sum()) for b in unit] for a in unit]
    every = range(len(labels))
    losses = []
    for a in every:
        positives = [p for p in every if p != a and labels[p] == labels[a]]
        negatives = [n for n in every if labels[n] != labels[a]]
        if mining == "hard":
            losses.append(max(d[a][p] for p in positives) - min(d[a][n] for n in negatives) + 0.3)
            continue
        for p in positives:
            farther = [d[a][n] for n in negatives if d[a][n] > d[a][p]]
            negative = min(farther) if farther else max(d[a][n] for n in negatives)
            losses.append(d[a][p] - negative + 0.3)
    active = [loss for loss in losses if loss > 0]
    found = _make("triplet", mining=mining)(outputs, labels)
    assert found.item() == pytest.approx(sum(active) / len(active), rel=1e-4)


def test_a_random_negative_violates_the_margin() -> None:
    outputs, labels = _batch(18)
    criterion = _make("triplet", mining="random")
    torch.manual_seed(0)
    drawn = {round(criterion(outputs, labels).item(), 6) for _ in range(8)}
    assert len(drawn) > 1
    assert all(0 < loss <= 4.3 for loss in drawn)
    apart = torch.eye(6).repeat(2, 1).requires_grad_()  # every identity in a place of its own
    loss = criterion(apart, torch.arange(12) % 6)
    loss.backward()
    assert loss == 0
    assert apart.grad is not None and not apart.grad.any()


def test_a_batch_of_one_identity_has_no_triplets() -> None:
    for mining in ("hard", "semi-hard", "random"):
        outputs, _ = _batch()
        loss = _make("triplet", mining=mining)(outputs, torch.zeros(12, dtype=torch.long))
        loss.backward()
        assert loss == 0


def test_the_angular_margin_is_added_to_the_angle() -> None:
    outputs, labels = _batch()
    criterion = _make("angular", margin=0.4, scale=16.0, seed=0)
    assert isinstance(criterion, AngularMargin)
    angles = criterion.cosines(outputs).acos()
    assert angles.shape == (12, 6)
    centre = criterion.centres[2] / criterion.centres[2].norm()
    one = outputs[0] / outputs[0].norm()
    torch.testing.assert_close(angles[0, 2], (centre @ one).acos())
    own = torch.nn.functional.one_hot(labels, 6) * 0.4
    assert (angles + own).max() < math.pi  # the margin's plain branch
    expected = torch.nn.functional.cross_entropy(16 * (angles + own).cos(), labels)
    torch.testing.assert_close(criterion(outputs, labels), expected)
    plain = _make("angular", margin=0.0, scale=16.0, seed=0)
    without = torch.nn.functional.cross_entropy(16 * angles.cos(), labels)
    torch.testing.assert_close(plain(outputs, labels), without)


def test_the_angular_margin_is_safe_at_the_ends_and_falls_beyond_them() -> None:
    criterion = _make("angular")
    assert isinstance(criterion, AngularMargin)
    ends = torch.stack([criterion.centres[0], -criterion.centres[0]]).detach().requires_grad_()
    criterion(ends, torch.zeros(2, dtype=torch.long)).backward()
    assert ends.grad is not None and ends.grad.isfinite().all()
    criterion = make_criterion("angular", outputs=6, classes=5)
    assert isinstance(criterion, AngularMargin)
    axes = torch.eye(6)
    with torch.no_grad():
        criterion.centres.copy_(axes[:5])
        losses = [
            float(criterion((angle.cos() * axes[:1] + angle.sin() * axes[5:]), torch.tensor([0])))
            for angle in torch.linspace(0, math.pi, 30)
        ]
    assert losses[0] < 0.01
    assert losses == sorted(losses)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("focal", {"gamma": "x"}, "not a number"),
        ("label-smoothing", {"smoothing": "0.1"}, "not a number"),
        ("triplet", {"mining": 3.0}, "not a name"),
        ("angular", {"seed": 0.5}, "not a whole number"),
        ("angular", {"seed": -2.0}, "out of range"),
    ],
)
def test_options_of_another_type_are_refused(
    name: str, options: dict[str, float | str], words: str
) -> None:
    """A recipe's options may be numbers or names, and each criterion knows which it needs."""
    with pytest.raises(InvalidValueError, match=words):
        make_criterion(name, outputs=6, classes=6, options=options)


def test_the_seed_of_a_training_seeds_the_parameters_of_its_criterion() -> None:
    data = replace(tiny_data(40, classes=6, channels=3), task="face-recognition")
    network: Network = (ConvBlock(3, 8, 3, 2, "relu", 4), Classifier(8, 5, 4))
    centres = []
    for seed in (1, 1, 2):
        recipe = TrainingRecipe(criterion="angular", seed=seed)
        state = from_scratch.begin(network, data, recipe)
        centres.append(state.criterion.state_dict()["centres"])
    assert torch.equal(centres[0], centres[1])
    assert not torch.equal(centres[0], centres[2])


def test_a_whole_number_of_a_recipe_seeds_the_centres() -> None:
    """A recipe reads whole numbers as floats, and generators are seeded by integers alone."""
    read, given = (
        make_criterion("angular", outputs=6, classes=6, options={"seed": seed}) for seed in (3.0, 3)
    )
    assert torch.equal(read.state_dict()["centres"], given.state_dict()["centres"])
