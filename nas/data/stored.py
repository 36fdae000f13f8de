"""Images that stay in their files and are decoded when a batch is drawn, by many threads.

Decoders let go of Python's lock, so threads serve and nothing has to be sent between processes.
What is random about an image follows from the epoch's generator and the image's number alone:
neither the number of threads nor which process reads it matters, and a resumed training sees the
same crops.
"""

from __future__ import annotations

import io
import math
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latbench.errors import InvalidFileError

_AHEAD = 3  # batches under way while one is trained on
_LARGEST_ASPECT = 4 / 3  # of random crops, and 3 / 4 (Szegedy et al. 2015)
_TRIES = 10  # random crops drawn until one fits into the image


class Store(Protocol):
    """Encoded images by number."""

    def name(self, number: int) -> str:
        """What an error calls an image."""

    def read(self, number: int) -> bytes:
        """The image as it was encoded."""


@dataclass(frozen=True)
class FileStore:
    """One file an image, relative to a folder."""

    root: Path
    paths: tuple[str, ...]

    def name(self, number: int) -> str:
        return str(self.root / self.paths[number])

    def read(self, number: int) -> bytes:
        return (self.root / self.paths[number]).read_bytes()


@dataclass(frozen=True)
class StoredSplit:
    """Labelled images in a store, RGB, brought to the input size when they are read.

    Attributes:
        store: Where they are.
        numbers: Which of the store's images, int64 ``(N,)``.
        labels: int64 ``(N,)``.
        input_size: Side of the square images in pixels.
        margin: A plain image is resized to ``input_size + margin`` on its shorter side, and its
            centre cut out.
        least_area: An image drawn for training is a random crop of at least this part of the
            area, of an aspect from 3/4 to 4/3; plain where None.
    """

    store: Store
    numbers: Tensor
    labels: Tensor
    input_size: int
    margin: int
    least_area: float | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> StoredSplit:
        return replace(self, numbers=self.numbers[index], labels=self.labels[index])

    def cropped(self, least_area: float) -> StoredSplit:
        return self if self.least_area is None else replace(self, least_area=least_area)

    def plain(self) -> StoredSplit:
        return replace(self, least_area=None)

    def to(self, device: torch.device) -> StoredSplit:
        return self

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        key = int(torch.randint(1 << 62, (1,), generator=rng))
        waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
        try:
            for index in indices:
                jobs = [pool.submit(self._image, int(n), key) for n in self.numbers[index]]
                waiting.append((index, jobs))
                if len(waiting) > _AHEAD:
                    yield self._gather(*waiting.popleft())
            while waiting:
                yield self._gather(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _gather(self, index: Tensor, jobs: list[Future[Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([job.result() for job in jobs]), self.labels[index]

    def _image(self, number: int, key: int) -> Tensor:
        """uint8 ``(3, S, S)``."""
        try:
            raw = self.store.read(number)
            if self.least_area is None:
                return decode_centre(raw, self.input_size, margin=self.margin)
            rng = random.Random(f"{key} {number}")
            return decode_crop(raw, self.input_size, rng, least_area=self.least_area)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            # all that Pillow raises of files that are missing, damaged or no images
            raise InvalidFileError(
                f"cannot read {self.store.name(number)}: {error}; replace or remove it, and "
                "repeat the command to go on"
            ) from error


def decode_centre(raw: bytes, size: int, *, margin: int) -> Tensor:
    """The centre of an image whose shorter side is resized to ``size + margin``: ``(3, S, S)``."""
    image = _open(raw).convert("RGB")
    full = size + margin
    width, height = image.size
    if width <= height:
        resized = (full, int(full * height / width))
    else:
        resized = (int(full * width / height), full)
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return _tensor(image.crop((left, top, left + size, top + size)))


def decode_crop(raw: bytes, size: int, rng: random.Random, *, least_area: float) -> Tensor:
    """A random crop of an image, resized to ``(3, S, S)``.

    A JPEG that is far larger than needed is decoded at a half, a quarter or an eighth of its
    size, which its format allows for and which is several times as fast.
    """
    image = _open(raw)
    width, height = image.size
    left, top, crop_width, crop_height = random_crop(width, height, rng, least_area=least_area)
    image.draft(
        "RGB", (math.ceil(width * size / crop_width), math.ceil(height * size / crop_height))
    )
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, (left + crop_width) * x, (top + crop_height) * y)
    return _tensor(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box))


def random_crop(
    width: int, height: int, rng: random.Random, *, least_area: float
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a crop: area and logarithm of the aspect are uniform.

    Szegedy et al. 2015. Where no try fits, the largest centred crop of an allowed aspect.
    """
    limit = math.log(_LARGEST_ASPECT)
    for _ in range(_TRIES):
        area = width * height * rng.uniform(least_area, 1)
        aspect = math.exp(rng.uniform(-limit, limit))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w), rng.randint(0, height - h), w, h
    w = min(width, round(height * _LARGEST_ASPECT))
    h = min(height, round(width * _LARGEST_ASPECT))
    return (width - w) // 2, (height - h) // 2, w, h


def _open(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
