"""Images a second that the data pipeline gives, without any training."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from nas.data import load_data
from nas.data.augmentation import augment
from nas.data.feed import Batch, feed
from nas.data.images import ImageData, Split, batches, generator
from nas.training.torch_device import TorchDevice, find_torch_device

_WIDTH, _HEIGHT = 500, 375  # about what ImageNet's images have
_CLASSES = 10
_BATCH = 128
_LOOK_EVERY = 20  # batches between waits for the GPU, which otherwise falls behind


def run(conditions: Conditions, record: Record) -> None:
    """JPEGs decoded and cropped at 224 px, then small images that lie in memory."""
    device = find_torch_device(conditions.on)
    count, seconds = (64, 0.5) if conditions.tiny else (2000, 6.0)
    size = write_images(conditions.folder / "images", count)
    data = load_data(
        "imagenet", input_size=224, classes=_CLASSES, data_dir=conditions.folder / "images"
    )
    rate = _rate(data, device, seconds, 32 if conditions.tiny else _BATCH)
    record.add(
        f"JPEGs of {_WIDTH} x {_HEIGHT} ({size / 1024:.0f} KiB each) to crops of 224 px on the "
        f"device: {rate:.0f} images/s",
        jpeg_images_per_s=rate,
    )
    rng = generator(0)
    images = torch.randint(0, 256, (20_000, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.randint(_CLASSES, (len(images),), generator=rng)
    split = Split(images, labels)
    small = ImageData("random", _CLASSES, split, split, 0.5, 0.25, flip=True)
    for jitter in (0.0, 0.4):
        rate = _rate(small, device, seconds / 3, _BATCH, jitter=jitter)
        record.add(
            f"32 px in memory, shifted, mirrored{', colours changed' if jitter else ''}, on the "
            f"device: {rate:.0f} images/s",
            **{f"memory_images_per_s_jitter_{jitter:g}": rate},
        )


def _rate(
    data: ImageData, device: TorchDevice, seconds: float, batch_size: int, *, jitter: float = 0.0
) -> float:
    """Images a second, as they come to a training step."""
    data = data.to(device.device)
    shifts, shown, begin = generator(1), 0, monotonic()
    for number, (raw, _) in enumerate(_endless(data, device, batch_size)):
        changed = augment(raw, shifts, flip=data.flip, shift=4, strength=jitter)
        data.to_input(changed)
        if number == 0:  # what is made for the first batch is not counted
            begin = monotonic()
            continue
        shown += len(raw)
        if number % _LOOK_EVERY == 0 and device.is_gpu:
            torch.cuda.synchronize()
        if monotonic() - begin > seconds:
            break
    return shown / (monotonic() - begin)


def _endless(data: ImageData, device: TorchDevice, batch_size: int) -> Iterator[Batch]:
    """Batches of one epoch after another."""
    for epoch in range(1_000_000):
        yield from feed(batches(data.train, batch_size, generator(epoch)), device.device)


def write_images(folder: Path, count: int) -> float:
    """Write a data set of smooth shapes with noise; return the mean size of a file in bytes."""

    def write(number: int) -> int:
        part = folder / ("val" if number < _CLASSES else "train") / f"class{number % _CLASSES}"
        part.mkdir(parents=True, exist_ok=True)
        raw = encoded(number)
        (part / f"{number}.jpg").write_bytes(raw)
        return len(raw)

    with ThreadPoolExecutor() as pool:
        return float(np.mean(list(pool.map(write, range(count)))))


def encoded(number: int) -> bytes:
    """A JPEG of ellipses and noise, always the same for a number."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, width, height = rng.integers(0, (_WIDTH, _HEIGHT, 250, 250)).tolist()
        draw.ellipse((x, y, x + width, y + height), tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.normal(0, 18, (_HEIGHT, _WIDTH, 1))
    noisy = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()
