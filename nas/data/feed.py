"""Batches brought to the device that computes on them, before it needs them.

A CPU gets the batches as they are. For a CUDA GPU a thread draws the next batches, pins their
memory and copies them on a stream of its own, while the GPU computes on the batches before. Batches
that lie on the device already are passed on.
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

_AHEAD = 2  # batches on the device beside the one that is computed on

T = TypeVar("T")
R = TypeVar("R")


def feed(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, one after another, on a device.

    Fed are images as they are drawn, bytes; ``augment`` and ``to_input`` come after it and work on
    the device.

    On a CUDA device batches are drawn up to two ahead, in another thread: what draws them must not
    share a generator with what computes on them. The thread ends with the iterator, when it is
    exhausted, closed or fails. Nothing waits for the device.

    Args:
        batches: Closed with the iterator, if it is a generator.
        device: Where they are computed on.

    Yields:
        On a CPU the very same batches.

    Raises:
        LatbenchError: What drawing a batch raises, such as InvalidFileError.
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
    """Batches copied on a stream of their own; the stream that computes waits for the copy."""
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copies):
            pinned = batch[0].pin_memory(), batch[1].pin_memory()
            placed = _place(pinned, device)
            return placed, copies.record_event()

    for placed, copied in ahead(source, copy):
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in placed:  # their memory is free once the computation is done with them
            tensor.record_stream(computing)
        yield placed


def ahead(
    source: Iterator[T], prepare: Callable[[T], R], *, count: int = _AHEAD
) -> Generator[R, None, None]:
    """Prepared items in their order, up to ``count`` of them ahead, by one thread.

    The thread alone draws from the source until the generator ends. It ends with the generator,
    after the item that it is at. Errors of source and preparation are raised here, in their place.
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
            del drawn  # an item lives no longer than its user wants it
    finally:
        pool.shutdown(cancel_futures=True)
