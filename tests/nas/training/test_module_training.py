"""Training of any module: what it learns from labels and from a teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.training.distributed import ALONE
from nas.training.module_training import WEIGHTS, Distillation, TrainingState, train
from nas.training.recipe import FineTuningRecipe
from nas.training.run_folder import RunFolder
from tests.nas.training.test_from_scratch import make_data

RECIPE = FineTuningRecipe(epochs=1, batch_size=8, shift=0)


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 8, 8, generator=rng), torch.arange(8)


def made(seed: int) -> nn.Sequential:
    module = linear(seed)
    module(batch()[0])  # the lazy layer gets its weights
    return module


def test_the_divergence_is_that_of_the_softened_distributions() -> None:
    images, _ = batch()
    student, teacher = made(0)(images), made(1)
    soft = [(x / 3).softmax(1) for x in (student, teacher(images))]
    wanted = (soft[1] * (soft[1].log() - soft[0].log())).sum(1).mean() * 9
    assert Distillation(teacher, 0.5, 3.0).loss(student, images).item() == pytest.approx(
        wanted.item(), rel=1e-5
    )


def test_a_network_learns_nothing_from_itself_and_the_teacher_stays() -> None:
    images, labels = batch()
    module = made(0)
    teacher = copy.deepcopy(module)
    state = TrainingState(
        module, nn.CrossEntropyLoss(), RECIPE, distillation=Distillation(teacher, 1.0, 2.0)
    )
    before = copy.deepcopy(module.state_dict())
    assert state.step(images, labels, RECIPE, ALONE).item() == pytest.approx(0.0, abs=1e-6)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_loss_is_shared_between_labels_and_teacher() -> None:
    images, labels = batch()
    learnt = Distillation(made(1), 0.25, 2.0)
    found = TrainingState(made(0), nn.CrossEntropyLoss(), RECIPE, distillation=learnt).step(
        images, labels, RECIPE, ALONE
    )
    outputs = made(0)(images)
    wanted = 0.75 * F.cross_entropy(outputs, labels) + 0.25 * learnt.loss(outputs, images)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_module_of_the_users_own_is_trained(tmp_path: Path) -> None:
    data = make_data()
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, data.classes))
    state = TrainingState(module, nn.CrossEntropyLoss(), RECIPE)
    before = copy.deepcopy(module.state_dict())
    metrics = train(state, data, RECIPE, RunFolder(tmp_path / "run", {}))
    assert 0 <= metrics["top1"] <= 1
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert (tmp_path / "run" / "weights.safetensors").exists()


class Aliased(nn.Sequential):
    """A module that holds its last layer under two names, as some published networks do."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
        self.register_module("head", self[-1])

    def forward(self, x: Tensor) -> Tensor:
        for number in range(4):
            x = self[number](x)
        return x


def test_a_layer_with_two_names_is_averaged_and_saved_like_one_with_one_name(
    tmp_path: Path,
) -> None:
    recipe = FineTuningRecipe(epochs=2, batch_size=8, shift=0, ema=0.5, distillation=0)
    torch.manual_seed(0)
    aliased = Aliased()
    plain = nn.Sequential(*(copy.deepcopy(aliased[number]) for number in range(4)))
    saved = []
    for name, module in (("aliased", aliased), ("plain", plain)):
        state = TrainingState(module, nn.CrossEntropyLoss(), recipe)
        train(state, make_data(), recipe, RunFolder(tmp_path / name, {}))
        saved.append(load_file(tmp_path / name / WEIGHTS))
    for name, value in saved[1].items():
        assert torch.equal(saved[0][name], value)
    loaded = Aliased()
    loaded.load_state_dict(saved[0])
    assert torch.equal(loaded[3].weight, saved[1]["3.weight"])
    assert loaded.get_submodule("head") is loaded[3]
