"""Small modules with every kind of group of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 16


def conv(inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1) -> nn.Sequential:
    """A convolution with batch norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """An inverted residual block with a shortcut: its ends are one group, its middle another."""

    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.expand = conv(width, middle)
        self.depthwise = conv(middle, middle, 3, groups=middle)
        self.project = nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class Small(nn.Module):
    """A classifier of images ``(N, 3, 16, 16)``."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv(3, 24, 3)
        self.first = Residual(24, 32)
        self.widen = conv(24, 40, 3)
        self.second = Residual(40, 48)
        self.last = conv(40, 100)
        self.classifier = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.widen(self.first(self.stem(x))))
        found: Tensor = self.classifier(self.last(x).mean((2, 3)))
        return found


def make_small(seed: int = 0, classes: int = 10) -> Small:
    """The classifier with random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    module = Small(classes)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            each.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, 0, 0.2)
    return module.eval()


class Tiny(nn.Module):
    """A classifier with two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 24, 3)
        self.first = Residual(24, 32)
        self.classifier = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.first(self.stem(x)).mean((2, 3)))
        return found


def make_tiny() -> Tiny:
    """The smaller classifier with random weights, in evaluation mode."""
    torch.manual_seed(0)
    return Tiny().eval()


def example() -> Tensor:
    """An input of the classifier."""
    return torch.rand(1, 3, SIZE, SIZE)
