"""Images a second of the loader alone, by threads, by processes and by torchvision's decoder.

    python benchmarks/loader.py [--images N] [--workers N] [--repetitions N] [--device NAME]

JPEGs of 500 x 375 px, written here, become batches of 224 px on a device: random crops as for
training and centres as for tests. Nothing is trained. All ways are repeated in turn. Beside its
images a second each way shows how many small operations of torch the main thread starts while
images are decoded, as a part of those that it starts alone: a thread that gives a GPU its work is
held up as much.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from latbench.environment import current_environment
from latbench.report.terminal import print_lines, print_table
from nas.data.decoders import Decoders, DecodingProcesses, DecodingThreads, available_cores
from nas.data.decoding import Job, Pixels, random_crop
from nas.data.feed import feed
from nas.data.images import batches, generator
from nas.data.stored import StoredSplit
from nas.data.stores import FileStore
from nas.training.torch_device import find_torch_device

SIZE, MARGIN, LEAST_AREA = 224, 32, 0.08
WIDTH, HEIGHT = 500, 375  # near the mean of ImageNet
FILES = 64  # read over and over: the disk is not measured
BATCH = 64
OPERATIONS = 50  # between two looks at the clock
KINDS = ("training", "test")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Images a second of the loader alone.")
    parser.add_argument("--images", type=int, default=512, help="for one value (default 512)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: the cores")
    parser.add_argument("--repetitions", type=int, default=5, help="default 5")
    parser.add_argument("--device", default="auto", help="where batches go (default auto)")
    asked = parser.parse_args()
    device = find_torch_device(asked.device).device
    torch.set_num_threads(1)  # torchvision's resampling would use all cores an image
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            Path(folder),
            device,
            workers=asked.workers,
            images=asked.images,
            repetitions=asked.repetitions,
        )
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
    }
    environment = current_environment(versions)
    print_lines(
        [
            f"{environment.cpu}, {environment.cores} cores, {environment.system}; to {device}",
            "  ".join(f"{name} {version}" for name, version in environment.versions.items()),
            f"{environment.taken_at}; command: python benchmarks/loader.py --images {asked.images} "
            f"--workers {asked.workers} --repetitions {asked.repetitions} --device {asked.device}",
            "",
        ]
    )
    print_table(
        ("images", "decoded by", "images/s", "lowest", "highest", "a worker", "operations"),
        [
            (
                figures.kind,
                figures.way,
                f"{median(figures.images_per_s):.0f}",
                f"{min(figures.images_per_s):.0f}",
                f"{max(figures.images_per_s):.0f}",
                f"{median(figures.images_per_s) / asked.workers:.0f}",
                f"{median(figures.operations):.0%}",
            )
            for figures in found
        ],
    )


class TorchvisionThreads:
    """Threads that decode by torchvision; its resampling gives slightly other pixels."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)

    def submit(self, job: Job, into: Pixels) -> Future[None]:
        return self._pool.submit(_decode_by_torchvision, job, into)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _decode_by_torchvision(job: Job, into: Pixels) -> None:
    size = [job.framing.size] * 2
    for number, place in zip(job.numbers, torch.from_numpy(into), strict=True):
        raw = torch.frombuffer(bytearray(job.store.read(number)), dtype=torch.uint8)
        image = decode_jpeg(raw, mode=ImageReadMode.RGB)
        if job.framing.least_area is None:
            image = functional.resize(image, [size[0] + job.framing.margin], antialias=True)
            image = functional.center_crop(image, size)
        else:
            height, width = image.shape[-2:]
            rng = random.Random(f"{job.key} {number}")
            crop = random_crop(width, height, rng, least_area=job.framing.least_area)
            left, top, width, height = crop
            image = functional.resized_crop(image, top, left, height, width, size, antialias=True)
        place.copy_(image.permute(1, 2, 0))


WAYS: dict[str, Callable[[int], Decoders]] = {
    "threads": DecodingThreads,
    "processes": DecodingProcesses,
    "torchvision, threads": TorchvisionThreads,
}


@dataclass(frozen=True)
class Figures:
    """What one way gave, a value a repetition.

    Attributes:
        way: Of ``WAYS``.
        kind: Of ``KINDS``: random crops, or centres.
        images_per_s: Images that came as fast as they could.
        operations: Small operations that the main thread started meanwhile, over those it starts
            alone.
    """

    way: str
    kind: str
    images_per_s: list[float]
    operations: list[float]


def measure(
    folder: Path,
    device: torch.device,
    *,
    workers: int,
    images: int = 512,
    repetitions: int = 5,
    ways: tuple[str, ...] = tuple(WAYS),
    kinds: tuple[str, ...] = KINDS,
    count_s: float = 1.0,
) -> list[Figures]:
    """Measure ways of decoding in turn, after one untimed round of each.

    Args:
        folder: Where the JPEGs are written, 8 MB.
        device: Where the batches go.
        workers: Threads or processes that decode.
        images: Read for one value.
        repetitions: Values of each way.
        ways: Of ``WAYS``.
        kinds: Of ``KINDS``.
        count_s: How long operations are counted for one value, in seconds.
    """
    store = write_images(folder)
    decoders = {way: WAYS[way](workers) for way in ways}
    found = {(way, kind): Figures(way, kind, [], []) for way in ways for kind in kinds}
    rng = random.Random(0)
    try:
        for repetition in range(repetitions + 1):
            alone = _operations_per_s(count_s)
            for way, kind in rng.sample(list(found), len(found)):
                split = _split(store, images, decoders[way], crops=kind == "training")
                rate = _rate(split, device)
                with _reading(split, device):
                    busy = _operations_per_s(count_s)
                if repetition:  # the first starts processes and fills caches
                    found[way, kind].images_per_s.append(rate)
                    found[way, kind].operations.append(busy / alone)
    finally:
        for decoder in decoders.values():
            decoder.close()
    return list(found.values())


def _split(store: FileStore, images: int, decoders: Decoders, *, crops: bool) -> StoredSplit:
    numbers = torch.arange(images) % FILES
    labels = torch.zeros(images, dtype=torch.int64)
    least_area = LEAST_AREA if crops else None
    split = StoredSplit(store, numbers, labels, SIZE, MARGIN, least_area, decoders)
    return split.to(torch.device("cuda"))  # by the decoders given, wherever the batches go


def _rate(split: StoredSplit, device: torch.device) -> float:
    """Images a second of one epoch."""
    begin = perf_counter()
    for _ in feed(batches(split, BATCH, generator(0), drop_last=False), device):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return len(split) / (perf_counter() - begin)


@contextmanager
def _reading(split: StoredSplit, device: torch.device) -> Iterator[None]:
    """Read images in another thread, without end."""
    enough, begun = Event(), Event()

    def read() -> None:
        while not enough.is_set():
            for _ in feed(batches(split, BATCH, generator(0)), device):
                begun.set()
                if enough.is_set():
                    break

    thread = Thread(target=read)
    thread.start()
    try:
        begun.wait()
        yield
    finally:
        enough.set()
        thread.join()


def _operations_per_s(seconds: float) -> float:
    """Small operations of torch that this thread starts in a second."""
    x = torch.zeros(1)
    begin, count = perf_counter(), 0
    while True:
        for _ in range(OPERATIONS):
            x.add_(1)
        count += OPERATIONS
        taken_s = perf_counter() - begin
        if taken_s >= seconds:
            return count / taken_s


def write_images(folder: Path) -> FileStore:
    """Write the JPEGs, about 115 KB each: noise whose spectrum falls as that of photographs."""
    paths = tuple(f"{number}.jpg" for number in range(FILES))
    for number, path in enumerate(paths):
        _picture(number).save(folder / path, quality=90)
    return FileStore(folder, paths)


def _picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    amplitude = 1 / np.maximum(frequency, 1 / WIDTH)
    planes = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * rng.random(amplitude.shape))
        planes.append(np.fft.irfft2(amplitude * phases, (HEIGHT, WIDTH)))
    grey, red, blue = planes
    colours = np.stack([grey + 0.3 * red, grey, grey + 0.3 * blue], axis=-1)
    levels = 120 + 55 * (colours - colours.mean()) / colours.std()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
