"""Images that stay in their files and are decoded when a batch is drawn, several batches ahead.

Threads decode for a CPU, processes for a GPU (``nas.data.decoders``). All random choices of an
image follow from the epoch's generator and the image's number. They do not depend on the decoding
worker or the training process, and a resumed training sees the same crops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nas.data.decoders import Decoders, DecodingProcesses, DecodingThreads
from nas.data.decoding import Framing, Job
from nas.data.stores import Store

_AHEAD = 3  # batches decoded in advance while one is trained on
_MOST_IMAGES = 8  # per job: few, so that all workers share a batch; enough to be worth sending


@dataclass(frozen=True)
class StoredSplit:
    """Labelled RGB images in a store, resized to the input size when they are read.

    Attributes:
        store: Store of the images.
        numbers: Numbers of the images in the store, int64 ``(N,)``.
        labels: Labels, int64 ``(N,)``.
        input_size: Side of the square images in pixels.
        margin: Pixels added in a plain image: its shorter side is resized to ``input_size +
            margin``, and the centre is cut out.
        least_area: Smallest part of the area that a random training crop shows; its aspect is
            between 3/4 and 4/3. None gives plain images.
        gpu_decoders: Decoders for training on a GPU; several splits may share them.
        for_gpu: Whether ``gpu_decoders`` decode instead of threads.
    """

    store: Store
    numbers: Tensor
    labels: Tensor
    input_size: int
    margin: int
    least_area: float | None = None
    gpu_decoders: Decoders = field(default_factory=DecodingProcesses, repr=False, compare=False)
    for_gpu: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> StoredSplit:
        return replace(self, numbers=self.numbers[index], labels=self.labels[index])

    def cropped(self, least_area: float) -> StoredSplit:
        return self if self.least_area is None else replace(self, least_area=least_area)

    def plain(self) -> StoredSplit:
        return replace(self, least_area=None)

    def to(self, device: torch.device) -> StoredSplit:
        return replace(self, for_gpu=device.type != "cpu")

    def read(
        self, indices: Iterable[Tensor], rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        key = int(torch.randint(1 << 62, (1,), generator=rng))
        if self.for_gpu:
            yield from self._read(indices, key, self.gpu_decoders)
            return
        threads = DecodingThreads()
        try:
            yield from self._read(indices, key, threads)
        finally:
            threads.close()

    def _read(
        self, indices: Iterable[Tensor], key: int, decoders: Decoders
    ) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: deque[_Batch] = deque()
        try:
            for index in indices:
                waiting.append(self._batch(index, key, decoders))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for batch in waiting:
                batch.cancel()

    def _batch(self, index: Tensor, key: int, decoders: Decoders) -> _Batch:
        framing = Framing(self.input_size, self.margin, self.least_area)
        numbers = self.numbers[index].tolist()
        size = (len(numbers), self.input_size, self.input_size, 3)
        images = torch.empty(size, dtype=torch.uint8)
        pixels = images.numpy()
        each = min(_MOST_IMAGES, -(-len(numbers) // decoders.count))
        futures = []
        for begin in range(0, len(numbers), each):
            part = slice(begin, begin + each)
            job = Job(self.store, tuple(numbers[part]), framing, key)
            futures.append(decoders.submit(job, pixels[part]))
        return _Batch(images, self.labels[index], futures)


@dataclass(frozen=True)
class _Batch:
    """A batch that is being decoded.

    Attributes:
        images: Pixels, uint8 ``(B, S, S, 3)``, complete when all jobs are done.
        labels: Labels, int64 ``(B,)``.
        jobs: Futures of the jobs that decode the images.
    """

    images: Tensor
    labels: Tensor
    jobs: list[Future[None]]

    def result(self) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, S, S)``, channels last, and labels.

        Raises:
            InvalidFileError: An image is missing or damaged.
        """
        try:
            for job in self.jobs:
                job.result()
        finally:
            self.cancel()
        return self.images.permute(0, 3, 1, 2), self.labels

    def cancel(self) -> None:
        """Cancel the jobs that have not started."""
        for job in self.jobs:
            job.cancel()
