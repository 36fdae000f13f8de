"""Image data in memory: what a data set is, batches and augmentation.

Images are kept as bytes at the network's input size; a batch is made float and normalised when
it is drawn. Every draw comes from a generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_RESIZE_CHUNK = 4096  # images resized at once: bounds the floats in memory


@dataclass(frozen=True)
class Split:
    """Images uint8 ``(N, C, S, S)`` and labels int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class ImageData:
    """A data set for classification.

    Attributes:
        mean: Of training pixels in 0..1, over all channels.
        std: Their standard deviation.
        flip: Whether a mirrored image shows the same class.
    """

    name: str
    classes: int
    train: Split
    test: Split
    mean: float
    std: float
    flip: bool

    def held_out(self, fraction: float, *, seed: int) -> tuple[Split, Split]:
        """Divide the training images at random into one part and a held-out fraction."""
        order = torch.randperm(len(self.train), generator=generator(seed))
        count = round(len(self.train) * (1 - fraction))
        return self.train.take(order[:count]), self.train.take(order[count:])

    def subset(self, count: int, *, seed: int) -> ImageData:
        """The same with ``count`` training images drawn at random."""
        order = torch.randperm(len(self.train), generator=generator(seed))[:count]
        return ImageData(
            self.name,
            self.classes,
            self.train.take(order),
            self.test,
            self.mean,
            self.std,
            self.flip,
        )

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, S, S)`` to normalised float ``(N, 3, S, S)``, channels last."""
        x = images.float().div_(255).sub_(self.mean).div_(self.std)
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def generator(*seed: int) -> torch.Generator:
    """A generator that depends on nothing but the numbers given, such as seed and epoch."""
    mixed = 0
    for number in seed:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(mixed)


def batches(
    split: Split, batch_size: int, rng: torch.Generator, *, drop_last: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch: images uint8 ``(B, C, S, S)``, labels ``(B,)``."""
    order = torch.randperm(len(split), generator=rng)
    for index in torch.split(order, batch_size):
        if drop_last and len(index) < batch_size and len(split) >= batch_size:
            return
        yield split.images[index], split.labels[index]


def augment(images: Tensor, rng: torch.Generator, *, flip: bool, shift: int) -> Tensor:
    """Shift each image by up to ``shift`` pixels either way, and mirror half of them.

    Args:
        images: uint8 ``(N, C, S, S)``.
        rng: Draws shifts and mirrors.
        flip: Whether to mirror.
        shift: Largest shift in pixels; the border is filled with the edge.
    """
    count, _, size, _ = images.shape
    padded = F.pad(images.float(), [shift] * 4, mode="replicate").to(torch.uint8)
    offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=rng)
    steps = torch.arange(size)
    rows, columns = offsets[0] + steps, offsets[1] + steps  # (N, S)
    if flip:
        mirrored = torch.rand(count, 1, generator=rng) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    # advanced indices around a slice put the channels last: (N, S, S, C)
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resize(images: Tensor, input_size: int) -> Tensor:
    """uint8 ``(N, C, H, W)`` to ``(N, C, input_size, input_size)``, bilinear."""
    if images.shape[-2:] == (input_size, input_size):
        return images
    parts = [
        F.interpolate(part.float(), size=(input_size, input_size), mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        for part in torch.split(images, _RESIZE_CHUNK)
    ]
    return torch.cat(parts)


def image_data(
    name: str, *, train: Split, test: Split, classes: int, input_size: int, flip: bool
) -> ImageData:
    """Resize both parts and take the statistics of the training pixels."""
    train = Split(resize(train.images, input_size), train.labels)
    test = Split(resize(test.images, input_size), test.labels)
    pixels = train.images[:: max(1, len(train) // 5000)].float() / 255
    return ImageData(name, classes, train, test, float(pixels.mean()), float(pixels.std()), flip)
