"""Random shifts, mirrors and colour changes of a batch of training images.

Every draw comes from a CPU generator that is passed in, so one seed gives the same images on every
device. Images are changed on their device. The draws of a batch are copied there in one small copy,
and nothing waits for the device.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.colours import change_colours, draw_changes
from nas.data.images import WHOLE


def augment(
    images: Tensor,
    rng: torch.Generator,
    *,
    flip: bool,
    shift: int,
    fill: Literal["edge", "black"] = "edge",
    strength: float = 0.0,
    hue: float = 0.0,
    whole: int | None = None,
    share: slice = WHOLE,
) -> Tensor:
    """Shift each image by up to ``shift`` pixels, mirror half of them, change colours.

    Args:
        images: uint8 ``(N, C, S, S)``.
        rng: Generator of shifts, mirrors and colours.
        flip: Whether to mirror images.
        shift: Largest shift in pixels.
        fill: Fill of the border; black is the published crop of CIFAR with padding 4.
        strength: Brightness, contrast and saturation are multiplied by 1 - strength to
            1 + strength, in this order.
        hue: Largest rotation of the hue, as a fraction of the circle. Colours do not change if both
            are 0.
        whole: Number of images in the batch; None if these are the whole batch. Changes are drawn
            for all of them, so processes that share a batch change it as one process would.
        share: Which part of the batch these images are.
    """
    count = len(images) if whole is None else whole
    offsets = torch.randint(-shift, shift + 1, (2, count), generator=rng)
    mirrored = (torch.rand(count, generator=rng) if flip else torch.ones(count)) < 0.5
    draws = [offsets.T, mirrored[:, None]]
    if strength or hue:
        draws.append(draw_changes(count, rng, strength=strength, hue=hue))
    drawn = torch.cat(draws, dim=1)[share]  # whole numbers as float
    drawn = drawn.to(images.device, non_blocking=True)
    moved = _moved(images, drawn[:, :3].long(), shift=shift, fill=fill)
    return change_colours(moved, drawn[:, 3:]) if strength or hue else moved


def _moved(images: Tensor, moves: Tensor, *, shift: int, fill: Literal["edge", "black"]) -> Tensor:
    """Images shifted and mirrored.

    Args:
        images: uint8 ``(N, C, S, S)``.
        moves: Shift of rows and of columns, from -shift to shift, and whether an image is mirrored,
            int64 ``(N, 3)``; on the images' device.
        shift: Largest shift.
        fill: Fill of the border.
    """
    count, _, size, _ = images.shape
    down, across, mirrored = moves[:, :, None].unbind(1)  # (N, 1) each
    steps = torch.arange(size, device=images.device)
    rows, columns = down + steps, across + torch.where(mirrored > 0, size - 1 - steps, steps)
    if fill == "edge":
        rows, columns = rows.clamp_(0, size - 1), columns.clamp_(0, size - 1)
    else:
        images = F.pad(images, [shift] * 4)
        rows, columns = rows + shift, columns + shift
    which = torch.arange(count, device=images.device)[:, None, None]
    # advanced indices around a slice put the channels last: (N, S, S, C)
    return images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
