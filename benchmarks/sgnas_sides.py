"""Steps of SGNAS on the unified supernet: this project's, and those of a plain implementation.

* supernet step: forward and backward of four paths, the same for both, and one update;
* architecture step: forward and backward of all choices under Gumbel-softmax probabilities (tau 5)
  with the supernet frozen and in evaluation mode, as the generator is trained. The generator's own
  network, some milliseconds on any side, is left out.

The plain implementation does what the published code does: NCHW, a module for every choice of
every sub-block, all sub-blocks computed and concatenated, a skip as a dense convolution times
zero; ``collecting`` has the supernet's weights gather gradients in the architecture step, as
published, ``frozen`` does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data.images import generator
from nas.spaces import SearchSpace
from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS, MixLayer
from nas.supernet.unified_mixture import THRESHOLD
from nas.supernet.unified_supernet import UnifiedSupernet
from nas.training.optimizer import start_velocities
from nas.training.strategies.kernel_paths import FairPaths
from nas.training.torch_device import CPU, TorchDevice
from nas.training.unified_training import UnifiedRecipe, UnifiedTraining

SUPERNET, ARCHITECTURE = "supernet step", "architecture step"
STEPS = {
    SUPERNET: ("ours", "plain"),
    ARCHITECTURE: ("ours", "plain, frozen", "plain, collecting"),
}
"""Whose steps there are of each kind."""

_TAU, _SMOOTHING = 5.0, 0.1

Paths = list[list[list[int]]]


def sgnas_step(
    kind: str,
    whose: str,
    space: SearchSpace,
    batch_size: int,
    *,
    device: TorchDevice = CPU,
    scale: float = 1.0,
    same_paths: bool = False,
) -> Callable[[], object]:
    """One kind of step; the same images, paths and noise whosever it is.

    Args:
        kind: A key of ``STEPS``.
        whose: One of its values.
        space: A space of unified blocks.
        batch_size: Images a step.
        device: Where the step is computed.
        scale: Factor of the images; just off 1 it changes nothing but how numbers are rounded.
        same_paths: Take the same paths in every step, whose shapes a GPU then knows.

    Returns:
        Takes a step; ours returns its loss.
    """
    torch.manual_seed(0)
    place = device.device
    images = torch.randn(batch_size, 3, space.input_size, space.input_size).mul(scale).to(place)
    labels = torch.randint(space.classes, (batch_size,)).to(place)
    model: UnifiedSupernet | PlainSupernet
    if whose == "ours":
        model = device.place(UnifiedSupernet(space, seed=0))
        images = images.contiguous(memory_format=device.memory_format)
    else:
        model = PlainSupernet(space).to(place)
    batch, layers = (images, labels), len(space.layers)
    if kind == SUPERNET:
        return _supernet_step(model, batch, layers, device=device, same_paths=same_paths)
    model.requires_grad_(whose == "plain, collecting")
    return _architecture_step(model, batch, layers, device=device)


def _supernet_step(
    model: UnifiedSupernet | PlainSupernet,
    batch: tuple[Tensor, Tensor],
    layers: int,
    *,
    device: TorchDevice,
    same_paths: bool,
) -> Callable[[], object]:
    """A step that trains the supernet's weights on four fair paths."""
    drawn = FairPaths(layers, np.random.default_rng(0))
    fixed = drawn.step() if same_paths else None
    criterion = nn.CrossEntropyLoss(label_smoothing=_SMOOTHING)
    if isinstance(model, UnifiedSupernet):
        recipe = UnifiedRecipe(lr=0.064, momentum=0.9, weight_decay=4e-4)
        state = UnifiedTraining(model, criterion, recipe, seed=0, torch_device=device)
        start_velocities(state.sgd)
        return lambda: state.train_weights(*batch, fixed or drawn.step())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.064, momentum=0.9, weight_decay=4e-4)

    def step() -> object:
        paths = fixed or drawn.step()
        return plain_step(model, optimizer, *batch, paths, criterion=criterion, device=device)

    return step


def _architecture_step(
    model: UnifiedSupernet | PlainSupernet,
    batch: tuple[Tensor, Tensor],
    layers: int,
    *,
    device: TorchDevice,
) -> Callable[[], object]:
    """A step that trains the logits of all choices; the supernet does not change."""
    images, labels = batch
    model.eval()
    mixture: Callable[[Tensor, Tensor], Tensor] = model
    if isinstance(model, UnifiedSupernet) and device.is_gpu:
        mixture = model.frozen()  # as evaluators do
    place = device.device
    logits = torch.zeros(layers, SUB_BLOCKS, SKIP + 1, device=place, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=1e-3, betas=(0.5, 0.999))
    noise = generator(0)

    def step() -> object:
        gumbel = -torch.empty(logits.shape).exponential_(generator=noise).log()
        probabilities = ((logits + gumbel.to(place)) / _TAU).softmax(-1)
        adam.zero_grad()
        with device.autocast():
            loss = F.cross_entropy(mixture(images, probabilities), labels)
        loss.backward()
        adam.step()
        return loss.detach()

    return step


def plain_step(
    supernet: PlainSupernet,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    paths: Paths,
    *,
    criterion: nn.Module,
    device: TorchDevice,
) -> None:
    """Gradients of the paths, summed, and one update."""
    optimizer.zero_grad()
    for path in paths:
        with device.autocast():
            loss = criterion(supernet(images, path), labels)
        loss.backward()
    optimizer.step()


class PlainSupernet(nn.Module):
    """The unified supernet as one would write it first."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        layers = [layer for layer in space.layers if isinstance(layer, MixLayer)]
        first = layers[0]
        stride = space.input_size // first.input_size
        self.stem = nn.Sequential(
            *_conv(3, 32, 3, stride=stride),
            *_conv(32, 32, 3, groups=32),
            nn.Conv2d(32, first.in_channels, 1, bias=False),
            nn.BatchNorm2d(first.in_channels),
        )
        self.layers = nn.ModuleList(PlainBlock(layer) for layer in layers)
        self.tail = nn.Sequential(
            *_conv(layers[-1].out_channels, 1280, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(1280, space.classes),
        )

    def forward(self, images: Tensor, choices: list[list[int]] | Tensor) -> Tensor:
        """``(N, 3, S, S)`` to logits ``(N, classes)``."""
        x = self.stem(images)
        for layer, chosen in zip(self.layers, choices, strict=True):
            x = layer(x, chosen)
        logits: Tensor = self.tail(x)
        return logits


class PlainBlock(nn.Module):
    """Six sub-blocks of four modules each."""

    def __init__(self, layer: MixLayer) -> None:
        super().__init__()
        channels = layer.in_channels
        wide = SUB_BLOCKS * channels
        self.residual = layer.stride == 1 and channels == layer.out_channels
        self.expand = nn.Sequential(*_conv(channels, wide, 1))
        self.sub_blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    *(
                        nn.Sequential(
                            *_conv(channels, channels, k, stride=layer.stride, groups=channels)
                        )
                        for k in KERNELS
                    ),
                    nn.Conv2d(channels, channels, 1, layer.stride, bias=False),
                ]
            )
            for _ in range(SUB_BLOCKS)
        )
        self.project = nn.Conv2d(wide, layer.out_channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.out_channels) for _ in range(SUB_BLOCKS))

    def forward(self, x: Tensor, choices: list[int] | Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        slices = self.expand(x).chunk(SUB_BLOCKS, dim=1)
        if isinstance(choices, Tensor):
            skips = round(sum(row[SKIP].item() for row in choices))
            outputs = [
                sum(
                    op(part) * (p if c != SKIP else 0)
                    for c, (op, p) in enumerate(zip(ops, row, strict=True))  # type: ignore[call-overload]
                    if p > THRESHOLD
                )
                for part, ops, row in zip(slices, self.sub_blocks, choices, strict=True)
            ]
        else:
            skips = choices.count(SKIP)
            outputs = [
                ops[c](part) * 0 if c == SKIP else ops[c](part)  # type: ignore[index]
                for part, ops, c in zip(slices, self.sub_blocks, choices, strict=True)
            ]
        y = self.norms[skips](self.project(torch.cat(outputs, dim=1)))
        return y + x if self.residual else y


def _conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )
