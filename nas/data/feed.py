"""Copies batches to the device that computes on them, before it needs them.

On a CPU batches are passed on unchanged. For a CUDA GPU a thread draws the next batches, pins their
memory and copies them on a separate stream, while the GPU computes on earlier batches. Batches that
are on the device already are passed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images uint8 ``(B, C, S, S)`` and labels int64 ``(B,)``."""

_AHEAD = 2  # batches on the device in addition to the current one

T = TypeVar("T")
R = TypeVar("R")


def feed(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, one after another, on a device.

    Images are still bytes here; ``augment`` and ``to_input`` follow and work on the device.

    On a CUDA device another thread draws up to two batches ahead. So drawing must not share a
    random generator with the computation. The thread ends when the iterator is exhausted, closed or
    fails. Nothing waits for the device.

    Args:
        batches: Batches to copy; a generator is closed together with the iterator.
        device: Device that computes on them.

    Yields:
        Batches on the device; on a CPU the same objects.

    Raises:
        LatbenchError: An error of drawing a batch, such as InvalidFileError.
    """
    if device.type == "cpu":
        yield from batches
        return
    source = iter(batches)
    try:
        first = next(source, None)
        if first is None:
            return
        placed = _place(first, device)
        yield placed
        if placed[0] is first[0] or device.type != "cuda":  # nothing to copy, or no streams
            for batch in source:
                yield _place(batch, device)
        else:
            yield from _copied_ahead(source, device)
    finally:
        if isinstance(source, Generator):
            source.close()


def _place(batch: Batch, device: torch.device) -> Batch:
    images, labels = batch
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _copied_ahead(source: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches copied on a separate stream; the computing stream waits for the copy."""
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copies):
            pinned = batch[0].pin_memory(), batch[1].pin_memory()
            placed = _place(pinned, device)
            return placed, copies.record_event()

    for placed, copied in ahead(source, copy):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in placed:  # keeps the memory until the computation has used it
            tensor.record_stream(computing)
        yield placed


def ahead(
    source: Iterator[T], prepare: Callable[[T], R], *, count: int = _AHEAD
) -> Generator[R, None, None]:
    """Prepared items in order; one thread prepares up to ``count`` of them ahead.

    Only the thread draws from the source. It ends with the generator, after its current item.
    Errors of source and preparation are raised here, in order.
    """

    def draw() -> tuple[R] | None:
        for item in source:
            return (prepare(item),)
        return None

    waiting: deque[Future[tuple[R] | None]] = deque()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="latbench-feed")
    try:
        waiting.extend(pool.submit(draw) for _ in range(count))
        while (drawn := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(draw))
            yield drawn[0]
            del drawn  # lets the user free the item
    finally:
        pool.shutdown(cancel_futures=True)
