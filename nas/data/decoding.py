"""Decoding of images to pixels at the input size, with Pillow.

All random choices of an image follow from a key, such as one per epoch, and the image's number.
This module does not import torch: without it, decoding processes start faster and use less memory.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latbench.errors import InvalidFileError
from nas.data.stores import Store

_LARGEST_ASPECT = 4 / 3  # of random crops; the smallest is 3 / 4 (Szegedy et al. 2015)
_MOST_GREY = 65535  # white in 16 bits; the mode in Pillow is I;16 or I, depending on the format
_TRIES = 10  # largest number of crops drawn until one fits into the image

Pixels = NDArray[np.uint8]
"""RGB pixels, uint8 ``(S, S, 3)``; ``(N, S, S, 3)`` for several images."""


@dataclass(frozen=True)
class Framing:
    """The part of an image that is shown, and its size.

    Attributes:
        size: Side of the square result in pixels.
        margin: Pixels added in a plain image: its shorter side is resized to ``size + margin``, and
            the centre is cut out.
        least_area: Smallest part of the area that a random training crop shows; its aspect is
            between 3/4 and 4/3. None gives plain images.
    """

    size: int
    margin: int
    least_area: float | None = None


@dataclass(frozen=True)
class Job:
    """Images to decode.

    Attributes:
        store: Store of the images.
        numbers: Numbers of the images in the store.
        framing: The part of each image that is shown.
        key: Key of random crops.
    """

    store: Store
    numbers: tuple[int, ...]
    framing: Framing
    key: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the pixels: ``(N, S, S, 3)``."""
        return len(self.numbers), self.framing.size, self.framing.size, 3


def decode(job: Job, into: Pixels) -> None:
    """Decode the images of a job into an array of the job's shape.

    Raises:
        InvalidFileError: An image is missing or damaged.
    """
    for number, place in zip(job.numbers, into, strict=True):
        try:
            place[:] = _decoded(job, number)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            # all exceptions of Pillow for files that are missing, damaged or no images
            raise InvalidFileError(
                f"cannot read {job.store.name(number)}: {error}; replace or remove it, and "
                "repeat the command to resume"
            ) from error


def _decoded(job: Job, number: int) -> Pixels:
    raw, framing = job.store.read(number), job.framing
    if framing.least_area is None:
        return decode_centre(raw, framing.size, margin=framing.margin)
    rng = random.Random(f"{job.key} {number}")
    return decode_crop(raw, framing.size, rng, least_area=framing.least_area)


def decode_centre(raw: bytes, size: int, *, margin: int) -> Pixels:
    """The centre of an image whose shorter side is resized to ``size + margin``."""
    image = _rgb(_open(raw))
    full = size + margin
    width, height = image.size
    if width <= height:
        resized = (full, int(full * height / width))
    else:
        resized = (int(full * width / height), full)
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def decode_crop(raw: bytes, size: int, rng: random.Random, *, least_area: float) -> Pixels:
    """A random crop of an image, resized.

    A JPEG that is far larger than needed is decoded at a half, a quarter or an eighth of its size.
    The format supports this, and it is several times as fast.
    """
    image = _open(raw)
    width, height = image.size
    left, top, crop_width, crop_height = random_crop(width, height, rng, least_area=least_area)
    image.draft(
        "RGB", (math.ceil(width * size / crop_width), math.ceil(height * size / crop_height))
    )
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, (left + crop_width) * x, (top + crop_height) * y)
    image = _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def random_crop(
    width: int, height: int, rng: random.Random, *, least_area: float
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a crop: area and logarithm of the aspect are uniform.

    This follows Szegedy et al. 2015. If no try fits, it is the largest centred crop of an allowed
    aspect.
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


def _rgb(image: Image.Image) -> Image.Image:
    """The image in RGB. Grey values of 16 bits are scaled to 8 bits; Pillow would clip them."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.int64).clip(0, _MOST_GREY)
        image = Image.fromarray(((grey * 255 + _MOST_GREY // 2) // _MOST_GREY).astype(np.uint8))
    return image.convert("RGB")
