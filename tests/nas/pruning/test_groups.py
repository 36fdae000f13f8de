"""Groups of channels: what is removed, and how important it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.errors import InvalidValueError
from latbench.models.channels.groups import find_channels
from latbench.models.torch_modules import read_module
from nas.pruning.groups import PrunableModule, removed_channels
from tests.nas.pruning.small import Small, conv, example, make_small


def prunable(module: nn.Module) -> PrunableModule:
    return PrunableModule(module, example(), find_channels(read_module(module, example())))


@pytest.fixture(scope="module")
def small() -> PrunableModule:
    return prunable(make_small())


def test_groups_are_those_of_shortcuts_and_depthwise_convolutions(small: PrunableModule) -> None:
    found = {group.layers: group.width for group in small.groups}
    assert found == {
        ("stem.0", "first.project"): 24,
        ("first.expand.0",): 32,
        ("widen.0", "second.project"): 40,
        ("second.expand.0",): 48,
        ("last.0",): 100,
    }


def test_a_large_constant_of_all_outputs_keeps_no_channels() -> None:
    module = make_small()
    with torch.no_grad():
        module.classifier.bias += 1000
    assert len(prunable(module).groups) == 5


def test_the_module_itself_is_not_changed() -> None:
    module = make_small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    frozen = module.stem[0].weight.requires_grad_(False)
    pruning = prunable(module)
    pruning.pruned({pruning.groups[0]: [0, 1]})
    assert not frozen.requires_grad
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_removed_channels_that_nothing_reads_change_no_output() -> None:
    module = make_small()
    with torch.no_grad():  # channels 3 and 7 of the first middle reach no output
        module.first.project.weight[:, [3, 7]] = 0.0
    pruning = prunable(module)
    group = next(group for group in pruning.groups if group.layers == ("first.expand.0",))
    x = example()
    with torch.no_grad():
        difference = (pruning.pruned({group: [3, 7]})(x) - module(x)).abs().max()
    assert difference < 1e-5
    assert pruning.pruned({group: [3, 7]}).first.expand[0].out_channels == 30


def test_a_channel_without_influence_has_no_importance() -> None:
    module = make_small()
    with torch.no_grad():
        module.classifier.weight[:, 5] = 0.0
    pruning = prunable(module)
    importances = pruning.importances(losses(pruning.module, 2))
    last = next(group for group in pruning.groups if group.layers == ("last.0",))
    assert importances[last][5] == 0
    assert (np.delete(importances[last], 5) > 0).any() and (importances[last] >= 0).all()


def losses(module: nn.Module, count: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(count, 4, 3, 16, 16, generator=rng)
    return [F.cross_entropy(module(each), torch.arange(4)) for each in images]


def test_importance_is_the_mean_product_of_weight_and_gradient_of_its_layers() -> None:
    pruning = prunable(make_small())
    importances = pruning.importances(losses(pruning.module, 3))
    module = make_small()
    wanted = np.zeros(100)
    for loss in losses(module, 3):
        module.zero_grad()
        loss.backward()
        made, read = module.last[0], module.classifier
        products = [
            (made.weight * made.weight.grad).sum((1, 2, 3)),
            (read.weight * read.weight.grad).sum(0),
        ]
        wanted += (torch.stack(products).abs().mean(0) ** 2).detach().double().numpy()
    last = next(group for group in pruning.groups if group.layers == ("last.0",))
    np.testing.assert_allclose(importances[last], wanted, rtol=1e-4)


def test_the_least_important_channels_are_removed() -> None:
    assert removed_channels(np.array([3.0, 1.0, 2.0, 0.5]), 2) == [1, 3]
    assert removed_channels(np.array([3.0, 1.0]), 2) == []


def test_a_module_without_such_channels_is_refused() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(3, 6, 3, groups=3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.grouped(x)
            return found

    with pytest.raises(InvalidValueError, match="no channels that can be removed"):
        prunable(Grouped())


def test_the_classes_stay(small: PrunableModule) -> None:
    layers = {layer for group in small.groups for layer in group.layers}
    assert "classifier" not in layers
    assert isinstance(small.module, Small)


class Between(nn.Module):
    """A classifier with something between its two convolutions."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.stem, self.between, self.last = conv(3, 32, 3), between, conv(32, 40)
        self.classifier = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.last(self.between(self.stem(x))).mean((2, 3)))
        return found


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(1, 32, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize("bias", [0.0, 100.0])
@pytest.mark.parametrize("between", [nn.ChannelShuffle(2), Scaled()])
def test_channels_that_torch_pruning_follows_wrongly_stay(between: nn.Module, bias: float) -> None:
    """Also where a constant is the most of all outputs."""
    module = Between(between).eval()
    with torch.no_grad():
        module.classifier.bias += bias
    found = prunable(module)
    assert [group.layers for group in found.groups] == [("last.0",)]


def _raises(fits: bool) -> None:
    if not fits:
        raise ValueError("32 channels, please")


def _asserts(fits: bool) -> None:
    assert fits


class Checked(nn.Module):
    def __init__(self, check: Callable[[bool], None]) -> None:
        super().__init__()
        self.check = check

    def forward(self, x: Tensor) -> Tensor:
        self.check(x.shape[1] == 32)
        return x


@pytest.mark.parametrize(
    "check", [_asserts, _raises, lambda fits: torch._assert(fits, "32 channels, please")]
)
def test_channels_whose_number_the_module_checks_stay(check: Callable[[bool], None]) -> None:
    found = prunable(Between(Checked(check)).eval())
    assert [group.layers for group in found.groups] == [("last.0",)]


class Twice(nn.Module):
    """A classifier whose layer ``shared`` makes two groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = conv(3, 16, 3), conv(16, 24)
        self.middle, self.classifier = conv(16, 16, 3), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        ends = [self.shared(x), self.shared(self.middle(x) + x)]
        found: Tensor = self.classifier(torch.cat(ends, 1).mean((2, 3)))
        return found


def test_a_layer_that_makes_two_groups_keeps_its_channels() -> None:
    found = prunable(Twice().eval())
    assert [group.layers for group in found.groups] == [("stem.0", "middle.0")]
