"""What a data set is; images in memory, batches and augmentation.

Small sets are kept as bytes at the network's input size (``Split``); large ones are decoded when
they are drawn (``nas.data.stored``). Both are a ``Source``. A batch is made float and normalised
when it is drawn. Every draw comes from a generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from latbench.errors import InvalidValueError

FEWEST_IMAGES = 8  # in each part of divided images: batch norm needs a batch
_RESIZE_CHUNK = 4096  # images resized at once: bounds the floats in memory


class Source(Protocol):
    """Labelled images, wherever they are kept."""

    @property
    def labels(self) -> Tensor:
        """int64 ``(N,)``, from 0."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Self:
        """The images of some indices, int64 ``(M,)``."""

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images of these indices, in their order.

        Args:
            indices: int64 ``(B,)`` each.
            rng: Draws the crops of a source that crops at random.

        Yields:
            Images uint8 ``(B, C, S, S)`` and labels ``(B,)``.

        Raises:
            InvalidFileError: An image is missing or damaged.
        """

    def cropped(self, least_area: float) -> Self:
        """The same, with random crops of at least this part of an image's area.

        Sources that do not crop at random are returned as they are.
        """

    def plain(self) -> Self:
        """The same as test images are: nothing about them is random."""


@dataclass(frozen=True)
class Split:
    """Images in memory, uint8 ``(N, C, S, S)``, and labels int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for index in indices:
            yield self.images[index], self.labels[index]

    def cropped(self, least_area: float) -> Split:
        return self

    def plain(self) -> Split:
        return self


@dataclass(frozen=True)
class Pairs:
    """Pairs of images to verify: do both show one identity?

    Attributes:
        images: What the pairs are of.
        first: Index of each pair's first image, int64 ``(P,)``.
        second: Index of its second.
        same: Whether they show one identity, bool ``(P,)``.
        fold: Number of the pair's part in cross-validation, int64 ``(P,)``.
    """

    images: Source
    first: Tensor
    second: Tensor
    same: Tensor
    fold: Tensor


@dataclass(frozen=True)
class ImageData:
    """A data set: images to train on and images to test on.

    Attributes:
        classes: Or identities.
        mean: Of training pixels in 0..1, over all channels or one a channel.
        std: Their standard deviation.
        flip: Whether a mirrored image shows the same class.
        task: What it is a data set for, one of ``nas.tasks.TASKS``.
        pairs: To verify, where identities are recognised.
    """

    name: str
    classes: int
    train: Source
    test: Source
    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]
    flip: bool
    task: str = "classification"
    pairs: Pairs | None = None

    def held_out(self, fraction: float, *, seed: int) -> tuple[Source, Source]:
        """Divide the training images at random into one part and a held-out fraction.

        The held-out images are as test images: not cropped at random.
        """
        order = torch.randperm(len(self.train), generator=generator(seed))
        count = round(len(self.train) * (1 - fraction))
        return self.train.take(order[:count]), self.train.take(order[count:]).plain()

    def subset(self, count: int, *, seed: int) -> ImageData:
        """The same with ``count`` training images drawn at random."""
        order = torch.randperm(len(self.train), generator=generator(seed))[:count]
        return replace(self, train=self.train.take(order))

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, S, S)`` to normalised float ``(N, 3, S, S)``, channels last."""
        x = images.float().div_(255)
        if isinstance(self.mean, float) and isinstance(self.std, float):
            x = x.sub_(self.mean).div_(self.std)
        else:  # (3,) each
            mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
            x = x.expand(-1, 3, -1, -1).sub(mean[:, None, None]).div_(std[:, None, None])
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def require_images(data: ImageData, *parts: Source) -> None:
    """Refuse parts of the training images that are too small to train or to judge on.

    Raises:
        InvalidValueError: A part has fewer than ``FEWEST_IMAGES``.
    """
    if min(map(len, parts)) < FEWEST_IMAGES:
        raise InvalidValueError(
            f"{len(data.train)} training images are too few to search on: they are divided into "
            f"{len(parts)} parts, and each part needs {FEWEST_IMAGES}"
        )


WHOLE = slice(None)
"""All of a batch."""


def generator(*seed: int) -> torch.Generator:
    """A generator that depends on nothing but the numbers given, such as seed and epoch."""
    mixed = 0
    for number in seed:
        mixed = (mixed * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(mixed)


def batches(
    source: Source,
    batch_size: int,
    rng: torch.Generator,
    *,
    drop_last: bool = True,
    share: slice = WHOLE,
    per_class: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch: images uint8 ``(B, C, S, S)``, labels ``(B,)``.

    With ``drop_last`` no batch is smaller than the others, so that none is a single image, whose
    batch norm would have no variance. What is left out changes with the order, epoch by epoch.

    Args:
        source: The images.
        batch_size: Images a batch.
        rng: Draws the order, and the crops of a source that crops at random.
        drop_last: Leave out a last batch of fewer images, unless it is the only one.
        share: Which part of every batch is read; the order does not depend on it.
        per_class: Images of each class in a batch, side by side; 0 draws from all alike.
    """
    if per_class:
        indices = list(_balanced(source.labels, batch_size // per_class, per_class, rng))
    else:
        indices = list(torch.split(torch.randperm(len(source), generator=rng), batch_size))
        if drop_last and len(indices) > 1 and len(indices[-1]) < batch_size:
            indices.pop()
    return source.read((index[share] for index in indices), rng)


def endless_batches(
    source: Source, batch_size: int, rng: torch.Generator, *, per_class: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch after another, as ``batches``."""
    while True:
        yield from batches(source, batch_size, rng, per_class=per_class)


def _balanced(
    labels: Tensor, classes: int, per_class: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Indices of batches of P classes x K images: an epoch shows about as many images as there are.

    Classes come in shuffled order, and so do the images of each; a class of fewer images than K
    repeats them.

    Raises:
        InvalidValueError: There are fewer classes than a batch takes.
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    parts = torch.split(order, counts.tolist())
    members = {label: part for label, part in enumerate(parts) if len(part)}
    known = list(members)
    if not 2 <= classes <= len(known):
        raise InvalidValueError(
            f"batches of {classes} classes x {per_class} images need 2 to {len(known)} classes, "
            f"which is what the training images have: choose a batch of "
            f"{2 * per_class} to {len(known) * per_class} images"
        )
    waiting: list[int] = []
    for _ in range(max(1, len(labels) // (classes * per_class))):
        if len(waiting) < classes:
            fresh = [known[i] for i in torch.randperm(len(known), generator=rng).tolist()]
            waiting += [label for label in fresh if label not in waiting]
        taken, waiting = waiting[:classes], waiting[classes:]
        batch = []
        for label in taken:
            mine = members[label]
            shuffled = mine[torch.randperm(len(mine), generator=rng)]
            batch.append(shuffled.repeat(-(-per_class // len(mine)))[:per_class])
        yield torch.cat(batch)


def augment(
    images: Tensor,
    rng: torch.Generator,
    *,
    flip: bool,
    shift: int,
    fill: Literal["edge", "black"] = "edge",
    strength: float = 0.0,
    hue: float = 0.0,
) -> Tensor:
    """Shift each image by up to ``shift`` pixels either way, mirror half of them, change colours.

    Args:
        images: uint8 ``(N, C, S, S)``.
        rng: Draws shifts, mirrors and colours.
        flip: Whether to mirror.
        shift: Largest shift in pixels.
        fill: What fills the border; black is the published crop of CIFAR with padding 4.
        strength: As for ``jitter``.
        hue: As for ``jitter``; colours stay if both are 0.
    """
    count, _, size, _ = images.shape
    if fill == "edge":
        padded = F.pad(images.float(), [shift] * 4, mode="replicate").to(torch.uint8)
    else:
        padded = F.pad(images, [shift] * 4)
    offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=rng)
    steps = torch.arange(size)
    rows, columns = offsets[0] + steps, offsets[1] + steps  # (N, S)
    if flip:
        mirrored = torch.rand(count, 1, generator=rng) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    which = torch.arange(count)[:, None, None]
    # advanced indices around a slice put the channels last: (N, S, S, C)
    moved = padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return jitter(moved, rng, strength=strength, hue=hue) if strength or hue else moved


def jitter(images: Tensor, rng: torch.Generator, *, strength: float, hue: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image at random.

    Args:
        images: uint8 ``(N, C, S, S)``.
        rng: Draws the factors.
        strength: Brightness, contrast and saturation are multiplied by 1 - strength to
            1 + strength, in this order.
        hue: Largest turn of the hue, as a part of the circle.
    """
    from torchvision.transforms.v2 import functional

    factors = 1 + strength * (2 * torch.rand(len(images), 3, generator=rng) - 1)
    turns = hue * (2 * torch.rand(len(images), generator=rng) - 1)
    made = []
    for image, (brightness, contrast, saturation), turn in zip(
        images, factors.tolist(), turns.tolist(), strict=True
    ):
        changed = functional.adjust_brightness(image, brightness)
        changed = functional.adjust_contrast(changed, contrast)
        if len(image) == 3:  # a grey image has no saturation and no hue
            changed = functional.adjust_saturation(changed, saturation)
            changed = functional.adjust_hue(changed, turn) if hue else changed
        made.append(changed)
    return torch.stack(made)


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
