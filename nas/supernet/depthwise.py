"""Depthwise convolutions that train fast on a CPU.

oneDNN computes the weight gradient of kernels above 3x3 several times slower than their forward
pass. That gradient is itself a depthwise convolution: the input is convolved with the output's
gradient. Every pair of image and channel is a channel, and the kernel has the size of the map.
Computed this way, it takes a third to a tenth of the time, except for maps of one or two pixels.
For 3x3 kernels oneDNN is as fast, except where two or three pixels become two: there it takes ten
times as long (320 channels of 2 x 2 pixels for 64 images 12.3 instead of 1.2 ms on one core).

At stride 1, the gradient by the input is the convolution of the output's gradient with the kernels
rotated by 180 degrees. This takes two thirds of the time of oneDNN's own.

Kernel weights that only ever multiply padding are not computed: a 5 x 5 kernel on a single pixel
keeps one weight. Forward and backward of 1,152 such maps for 32 images took 44 ms on one core, and
now take 0.1 ms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas.supernet.precision import in_one_type, without_autocast

_FAST_KERNEL = 3  # up to here oneDNN's own gradient is fast
_FAST_SIZE = 4  # pixels a side, from which on it is fast for a kernel of 3
_CALL_VALUES = 3 << 15  # values per call: they fit into the cache, and calls stay few


def depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution with padding ``kernel // 2``.

    Args:
        x: ``(N, C, H, W)``, channels last.
        weight: ``(C, 1, kernel, kernel)``.
        stride: Stride along both axes.

    Returns:
        ``(N, C, H / stride, W / stride)``, rounded up.
    """
    x, weight = in_one_type(x, reaching(weight, x))
    if weight.shape[2] == 1:
        return x[:, :, ::stride, ::stride] * weight[:, 0]
    if x.device.type == "cpu" and weight.requires_grad and _is_own(x, weight.shape[2], stride):
        return _Depthwise.apply(x, weight, stride)  # type: ignore[no-any-return]
    return F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, len(weight))


def _is_own(x: Tensor, kernel: int, stride: int) -> bool:
    """Whether the weight's gradient is computed here and not by oneDNN."""
    if kernel != _FAST_KERNEL:
        return kernel > _FAST_KERNEL
    return max(x.shape[2:]) < _FAST_SIZE and -(-max(x.shape[2:]) // stride) == 2


def reaching(weight: Tensor, x: Tensor) -> Tensor:
    """The weights of depthwise kernels that multiply more than padding, ``(C, 1, k, k)``."""
    middle = weight.shape[2] // 2
    reach = min(middle, max(x.shape[2:]) - 1)
    taps = slice(middle - reach, middle + reach + 1)
    return weight[:, :, taps, taps]


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient by the input of ``depthwise``, in its type; needs only shape and layout of ``x``."""
    given = x.dtype
    grad, x, weight = in_one_type(grad, x, weight)
    if x.device.type == "cpu" and stride == 1:
        turned = weight.flip(2, 3)
        by_input = F.conv2d(grad, turned, padding=weight.shape[2] // 2, groups=len(weight))
    else:
        by_input, _ = _gradients(grad, x, weight, stride, wanted=(True, False))
    return by_input.to(given)


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient by the weight of ``depthwise``, in its type; needs only the shape of ``weight``."""
    given, kernel = weight.dtype, weight.shape[2]
    grad, x, weight = in_one_type(grad, x, weight)
    enough = stride if kernel > _FAST_KERNEL else 1
    is_own = _is_own(x, kernel, stride) and min(grad.shape[2:]) > enough
    if x.device.type == "cpu" and is_own:
        by_weight = _by_convolution(grad, x, kernel, stride)
    else:
        _, by_weight = _gradients(grad, x, weight, stride, wanted=(False, True))
    return by_weight.to(given)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, *, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The library's gradients by input and by weight; those that are not requested are None."""
    padding = weight.shape[2] // 2
    by_input, by_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        len(weight),
        [*wanted, False],
    )
    return by_input, by_weight


def _by_convolution(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    """The weight's gradient, ``(C, 1, kernel, kernel)``, as a convolution by the gradient.

    ``dw[c, i, j]`` sums ``x[n, c, s y + i - p, s x + j - p] grad[n, c, y, x]`` over images and
    pixels: a convolution of x with the gradient as its kernel, dilated by the stride s.
    """
    channels = grad.shape[1]
    together = max(1, _CALL_VALUES // grad[0].numel())
    total = grad.new_zeros(channels, kernel, kernel)
    for images, grads in zip(torch.split(x, together), torch.split(grad, together), strict=True):
        count = len(images)
        sums = F.conv2d(
            _side_by_side(images),
            _side_by_side(grads).permute(1, 0, 2, 3),
            padding=kernel // 2,
            dilation=stride,
            groups=count * channels,
        )
        sums = sums[:, :, :kernel, :kernel]  # an even map gives one row too many at stride 2
        total += sums.reshape(count, channels, kernel, kernel).sum(0)
    return total.unsqueeze(1)


def _side_by_side(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(1, N * C, H, W)``, channels last."""
    if len(x) == 1:
        return x
    images, channels, height, width = x.shape
    flat = x.permute(2, 3, 0, 1).reshape(1, height, width, images * channels)
    return flat.permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, len(weight))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        by_input = by_weight = None
        if ctx.needs_input_grad[0]:
            by_input = input_gradient(grad, x, weight, ctx.stride)
        if ctx.needs_input_grad[1]:
            by_weight = weight_gradient(grad, x, weight, ctx.stride)
        return by_input, by_weight, None
