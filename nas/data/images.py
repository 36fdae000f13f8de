"""Data sets, images in memory, and batches.

Small data sets are kept as bytes at the network's input size (``Split``), on the CPU or on the
training device (``ImageData.to``). Images of large ones are decoded when they are drawn
(``nas.data.stored``). Both are a ``Source``. A batch becomes normalised floats when it is drawn.

Every draw comes from a CPU generator that is passed in, so one seed gives the same order and the
same crops on every device. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from latbench.errors import InvalidValueError

_MOST_BYTES = 4 << 30  # of images kept on a device,
_FREE_SHARE = 0.25  # and share of its free memory; dividing the images copies them
WHOLE = slice(None)  # the whole batch
_RESIZE_CHUNK = 4096  # images resized at once; limits the floats in memory


class Source(Protocol):
    """Labelled images, in memory or in files."""

    @property
    def labels(self) -> Tensor:
        """int64 ``(N,)``, from 0."""

    @property
    def input_size(self) -> int:
        """Side S of the images in pixels."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Self:
        """The images of some indices, int64 ``(M,)``."""

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images with these indices, in order.

        Args:
            indices: Indices of each batch, int64 ``(B,)``.
            rng: Generator for the crops of a source that crops at random.

        Yields:
            Images uint8 ``(B, C, S, S)`` and labels ``(B,)``.

        Raises:
            InvalidFileError: An image is missing or damaged.
        """

    def cropped(self, least_area: float) -> Self:
        """The same images with random crops of at least this part of an image's area.

        Sources that do not crop at random are returned as they are.
        """

    def plain(self) -> Self:
        """The same images without random crops, as for testing."""

    def to(self, device: torch.device) -> Self:
        """The same images on a device, where batches are then drawn.

        Sources that do not keep their images in memory are returned as they are.
        """


@dataclass(frozen=True)
class Split:
    """Images in memory, uint8 ``(N, C, S, S)``, and labels int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def input_size(self) -> int:
        return self.images.shape[-1]

    @property
    def image_bytes(self) -> int:
        """Memory that the images take."""
        return self.images.numel() * self.images.element_size()

    def take(self, index: Tensor) -> Split:
        index = index.to(self.images.device)
        return Split(self.images[index], self.labels[index])

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self.images.device.type != "cpu":
            indices = _sent(indices, self.images.device)
        for index in indices:
            yield self.images[index], self.labels[index]

    def cropped(self, least_area: float) -> Split:
        return self

    def plain(self) -> Split:
        return self

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


def _sent(indices: Iterable[Tensor], device: torch.device) -> Iterable[Tensor]:
    """Indices on a device, moved there in one copy."""
    parts = list(indices)
    if not parts:
        return parts
    together = torch.cat(parts).to(device, non_blocking=True)
    return torch.split(together, [len(part) for part in parts])


@dataclass(frozen=True)
class Pairs:
    """Pairs of images for verification: do both show one identity?

    Attributes:
        images: Images of the pairs.
        first: Index of each pair's first image, int64 ``(P,)``.
        second: Index of each pair's second image, int64 ``(P,)``.
        same: Whether both show one identity, bool ``(P,)``.
        fold: Number of the pair's fold in cross-validation, int64 ``(P,)``.
    """

    images: Source
    first: Tensor
    second: Tensor
    same: Tensor
    fold: Tensor


@dataclass(frozen=True, repr=False)
class ImageData:
    """A data set: training images and test images.

    Attributes:
        classes: Number of classes or identities.
        mean: Mean of the training pixels in 0..1, over all channels or for each channel.
        std: Standard deviation of the same pixels.
        flip: Whether a mirrored image shows the same class.
        task: Task of the data set, one of ``nas.tasks.TASKS``.
        pairs: Pairs for verification, if identities are recognised.
        images: Number of training images drawn from the whole data set; None for all of them.
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
    images: int | None = None

    def __repr__(self) -> str:
        return (
            f"ImageData({self.name}: {len(self.train)} images to train on, {len(self.test)} to "
            f"test on, {self.classes} classes)"
        )

    def held_out(self, fraction: float, *, seed: int) -> tuple[Source, Source]:
        """Divide the training images at random into one part and a held-out fraction.

        The held-out images are not cropped at random, like test images.
        """
        order = torch.randperm(len(self.train), generator=generator(seed))
        count = round(len(self.train) * (1 - fraction))
        return self.train.take(order[:count]), self.train.take(order[count:]).plain()

    def subset(self, count: int, *, seed: int) -> ImageData:
        """The same data set with ``count`` training images drawn at random."""
        order = torch.randperm(len(self.train), generator=generator(seed))[:count]
        return replace(self, train=self.train.take(order), images=len(order))

    def to(self, device: torch.device, *, limit_bytes: int | None = None) -> ImageData:
        """The data set with its images on a device, if all fit; call it before dividing them.

        Call ``data = data.to(device)`` at the start of a training. Batches, ``augment`` and
        ``to_input`` then work on the device, and ``feed`` passes the batches on. Sources that do
        not keep their images in memory are not changed.

        Args:
            device: Device of the computation.
            limit_bytes: Largest number of bytes of images to keep there. If None, 4 GiB or a
                quarter of the GPU's free memory, whichever is less.
        """
        parts = [self.train, self.test, *([] if self.pairs is None else [self.pairs.images])]
        distinct = {id(part): part for part in parts}
        size = sum(part.image_bytes for part in distinct.values() if isinstance(part, Split))
        if size > (_room_bytes(device) if limit_bytes is None else limit_bytes):
            return self
        placed = {key: part.to(device) for key, part in distinct.items()}
        return replace(
            self,
            train=placed[id(self.train)],
            test=placed[id(self.test)],
            pairs=self.pairs and replace(self.pairs, images=placed[id(self.pairs.images)]),
        )

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, S, S)`` to normalised float ``(N, 3, S, S)``, channels last.

        The result is on the images' device, and nothing waits for it.
        """
        x = images.float().div_(255)
        if isinstance(self.mean, float) and isinstance(self.std, float):
            x = x.sub_(self.mean).div_(self.std)
        else:
            both = torch.tensor([self.mean, self.std], dtype=x.dtype)  # (2, 3)
            mean, std = both.to(x.device, non_blocking=True)[:, :, None, None]
            x = x.expand(-1, 3, -1, -1).sub(mean).div_(std)
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _room_bytes(device: torch.device) -> int:
    """Bytes of images that a device may keep for a whole training."""
    if device.type == "cuda" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(device)
        return min(_MOST_BYTES, int(free * _FREE_SHARE))
    return _MOST_BYTES


def generator(*seed: int) -> torch.Generator:
    """A random generator that depends only on the given numbers, such as seed and epoch."""
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

    With ``drop_last`` all batches have one size, so none is a single image, for which batch norm
    has no variance. The images left out change from epoch to epoch, with the order.

    Args:
        source: Images to draw.
        batch_size: Images a batch.
        rng: Generator of the order, and of random crops.
        drop_last: Leave out a last batch of fewer images, unless it is the only one.
        share: Part of every batch that is read; the order does not depend on it.
        per_class: Images of each class in a batch, next to each other; 0 draws from all uniformly.
    """
    if per_class:
        labels = source.labels.cpu()  # the order is drawn there
        indices = list(_balanced(labels, batch_size // per_class, per_class, rng))
    else:
        indices = list(torch.split(torch.randperm(len(source), generator=rng), batch_size))
        if drop_last and len(indices) > 1 and len(indices[-1]) < batch_size:
            indices.pop()
    return source.read((index[share] for index in indices), rng)


def batch_count(images: int, batch_size: int) -> int:
    """Number of batches of an epoch, with ``drop_last``."""
    return max(1, images // batch_size)


def endless_batches(
    source: Source, batch_size: int, rng: torch.Generator, *, share: slice, per_class: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled batches, one epoch after another, like ``batches``."""
    while True:
        yield from batches(source, batch_size, rng, share=share, per_class=per_class)


def _balanced(
    labels: Tensor, classes: int, per_class: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Indices of batches of P classes x K images; an epoch has about as many as there are images.

    The classes are shuffled, and so are the images of each class. A class with fewer than K images
    repeats them.

    Raises:
        InvalidValueError: There are fewer classes than a batch needs.
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
    for _ in range(batch_count(len(labels), classes * per_class)):
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
    """Resize both parts, and compute the statistics of the training pixels."""
    train = Split(resize(train.images, input_size), train.labels)
    test = Split(resize(test.images, input_size), test.labels)
    pixels = train.images[:: max(1, len(train) // 5000)].float() / 255
    return ImageData(name, classes, train, test, float(pixels.mean()), float(pixels.std()), flip)
