"""What tests of trainings and searches share: learnable images, runs cut short, torchrun."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nas.data.images import ImageData, Split, image_data

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def tiny_data(
    count: int = 96, *, classes: int = 10, channels: int = 1, step: int = 20
) -> ImageData:
    """Images whose class is the brightness of their left half: learnable, and made in no time.

    Args:
        count: Images; those to test on are the same.
        classes: How many.
        channels: Of the images.
        step: By how much one class is brighter than the one before.
    """
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=rng)
    images = torch.randint(0, 20, (count, channels, 8, 8), generator=rng)
    images[..., :4] += labels[:, None, None, None] * step
    split = Split(images.to(torch.uint8), labels)
    return image_data("tiny", train=split, test=split, classes=classes, input_size=8, flip=False)


class Stop(Exception):
    """Raised in the middle of an epoch, as a kill would end it."""


def stopping_after(calls: int | None) -> Callable[[float, str], None]:
    """Progress that raises ``Stop`` when it is told so often; None never does."""
    told = 0

    def progress(fraction: float, words: str) -> None:
        nonlocal told
        told += 1
        if told == calls:
            raise Stop

    return progress
