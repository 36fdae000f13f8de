"""Random colour changes of images: brightness, contrast, saturation and hue, in this order.

Every image has its own factors. They are drawn on the CPU; the images may be on any device. On a
CPU torchvision changes one image after another. On other devices all images are changed at once by
the same formulas, which differ from torchvision's in the rounding of a product and a sum: in each
of the four steps, by at most one level of 255.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BRIGHTEST = 255
_LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in grey, as in torchvision


def draw_changes(count: int, rng: torch.Generator, *, strength: float, hue: float) -> Tensor:
    """Factors of brightness, contrast and saturation, and the rotation of the hue: ``(N, 4)``.

    Args:
        count: Number of images.
        rng: Generator of the draws.
        strength: Factors lie between 1 - strength and 1 + strength.
        hue: Largest rotation of the hue, as a fraction of the circle.
    """
    factors = 1 + strength * (2 * torch.rand(count, 3, generator=rng) - 1)
    turns = hue * (2 * torch.rand(count, generator=rng) - 1)
    return torch.cat([factors, turns[:, None]], dim=1)


def change_colours(images: Tensor, changes: Tensor) -> Tensor:
    """Images with changed colours, uint8 ``(N, C, S, S)``.

    Args:
        images: uint8 ``(N, C, S, S)``, C 1 or 3. A grey image has no saturation and no hue.
        changes: Changes of each image, ``(N, 4)`` from ``draw_changes``; on the images' device.
    """
    one_by_one = images.device.type == "cpu"
    return _one_by_one(images, changes) if one_by_one else all_at_once(images, changes)


def _one_by_one(images: Tensor, changes: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    made = []
    for image, (brightness, contrast, saturation, turn) in zip(
        images, changes.tolist(), strict=True
    ):
        changed = functional.adjust_brightness(image, brightness)
        changed = functional.adjust_contrast(changed, contrast)
        if len(image) == 3:
            changed = functional.adjust_saturation(changed, saturation)
            changed = functional.adjust_hue(changed, turn) if turn else changed
        made.append(changed)
    return torch.stack(made)


def all_at_once(images: Tensor, changes: Tensor) -> Tensor:
    """Like ``change_colours``, for all images at once; waits for no device."""
    brightness, contrast, saturation, turn = (c[:, None, None, None] for c in changes.unbind(1))
    x = _levels(images.float() * brightness)
    mean = _grey(x).mean(dim=(1, 2, 3), keepdim=True)
    x = _blend(x, mean, contrast)
    if images.shape[1] == 3:
        x = _blend(x, _grey(x), saturation)
        x = _turned(x, turn)
    return x.to(torch.uint8)


def _levels(x: Tensor) -> Tensor:
    """Values rounded down to the 256 whole levels, as in torchvision."""
    return x.clamp_(0, _BRIGHTEST).floor_()


def _grey(x: Tensor) -> Tensor:
    """Levels of grey, ``(N, 1, S, S)``."""
    if x.shape[1] == 1:
        return x
    red, green, blue = torch.split(x, 1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2]).floor_()


def _blend(x: Tensor, other: Tensor, part: Tensor) -> Tensor:
    """A blend: ``part`` of one image and the rest of another; parts above 1 extrapolate."""
    return _levels(torch.addcmul(x * part, other, 1 - part))


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Levels with the hue rotated by a fraction of the circle.

    A channel is the value minus the chroma times the distance of the hue from the channel's own
    third of the circle, in sixths and clamped to 0..1 (the closed form of HSV).
    """
    low, value = x.aminmax(dim=1, keepdim=True)
    chroma = value - low
    red, green, blue = torch.split(x, 1, dim=1)
    scale = chroma.clamp(min=1)  # in whole levels, a chroma below 1 is 0, which has no hue
    sixths = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, 2 + (blue - red) / scale, 4 + (red - green) / scale),
    )
    sixths = sixths + 6 * turn
    channels = []
    for own in (5, 3, 1):
        k = (sixths + own).remainder_(6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    # torchvision makes levels of floats by x * (256 - 1e-3), rounded down
    turned = torch.cat(channels, dim=1).mul_((_BRIGHTEST + 1 - 1e-3) / _BRIGHTEST)
    return turned.clamp_(0, _BRIGHTEST).floor_()
