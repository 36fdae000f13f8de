"""Parts of a unified block in training, as functions with hand-written gradients.

``nas.supernet.frozen_functions`` has those for frozen weights.

With plain autograd, tensors kept for the backward pass take most of a supernet's memory, and the
backward pass most of its time. These functions keep small tensors, recompute cheap ones, and skip
gradients that nobody needs.

Under autocast they return the same types as the plain operations, except that statistics stay in
single precision at least.

The best choice depends on the device. A CPU has little memory bandwidth, and a step of small images
fits into its caches, so maps are recomputed. A GPU spends its time on passes over maps, so it keeps
them. That is still less than half of the memory that autograd would keep.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from latbench.blocks.graph import NORM_EPSILON
from nas.supernet.depthwise import input_gradient, weight_gradient
from nas.supernet.pointwise import gradients, product, rows
from nas.supernet.precision import in_one_type, without_autocast

MOMENTUM = 0.1  # share of a batch in the running statistics
KEPT_PIXELS = 8  # maps of at most this side are kept for the backward pass, on a CPU


def keeps_maps(x: Tensor) -> bool:
    """Whether maps that could be recomputed are kept for the backward pass: True on a GPU."""
    return x.device.type != "cpu"


class _Moments(torch.autograd.Function):
    """Mean ``(C,)`` and second moments ``(C, C)`` of channels over images and pixels."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float))
        flat = rows(wide)
        if x.device.type == "cpu":
            return flat.mean(0), (flat.t() @ flat) / len(flat)
        # One product of few channels and a million rows would leave most of a GPU idle, so each
        # image has its own product, and these are summed
        images = flat.view(len(x), -1, x.shape[1])
        return flat.mean(0), torch.bmm(images.transpose(1, 2), images).sum(0) / len(flat)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, by_mean: Tensor, by_second: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        wide = x.to(by_mean.dtype)
        weight = (by_second + by_second.t()) / count
        return F.conv2d(wide, weight[:, :, None, None], by_mean / count).to(x.dtype)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(C,)`` and covariance ``(C, C)`` of channels over images and pixels.

    They are computed in single precision at least: the covariance is a difference of nearly equal
    numbers.
    """
    mean, second = cast(tuple[Tensor, Tensor], _Moments.apply(x))
    return mean, second - torch.outer(mean, mean)


class _ReLU6(torch.autograd.Function):
    """ReLU6 in place, differentiable from its output: torch's own keeps a copy of its input."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0, 6)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return cast(Tensor, torch.ops.aten.hardtanh_backward(grad, y, 0, 6))


def relu6(x: Tensor) -> Tensor:
    """ReLU6 in place."""
    return cast(Tensor, _ReLU6.apply(x))


class _ExpandDepthwise(torch.autograd.Function):
    """1x1 convolution, ReLU6 and depthwise convolution.

    On a CPU, an intermediate map of more than ``KEPT_PIXELS`` a side is not kept. The backward
    pass recomputes it: such maps come from few channels and take most of the memory.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor, stride: int
    ) -> Tensor:
        wide = product(x, weight, bias).clamp_(0, 6)
        kept = wide if keeps_maps(x) or x.shape[2] <= KEPT_PIXELS else None
        ctx.save_for_backward(x, weight, bias, kernel, kept)
        ctx.stride = stride
        return F.conv2d(wide, kernel, None, stride, kernel.shape[2] // 2, 1, len(kernel))

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, kernel, wide = ctx.saved_tensors
        aten = torch.ops.aten
        if wide is None:
            wide = F.conv2d(x, weight, bias).clamp_(0, 6)
        by_kernel = weight_gradient(grad, wide, kernel, ctx.stride)
        by_wide = input_gradient(grad, wide, kernel, ctx.stride)
        aten.hardtanh_backward.grad_input(by_wide, wide, 0, 6, grad_input=by_wide)
        del wide
        by_x, by_weight = gradients(by_wide, x, weight)
        return by_x, by_weight, by_wide.sum((0, 2, 3)), by_kernel, None


def expand_depthwise(
    x: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor, stride: int
) -> Tensor:
    """1x1 convolution, ReLU6 and depthwise convolution.

    Args:
        x: ``(N, C, H, W)``, channels last.
        weight: ``(K, C, 1, 1)``.
        bias: ``(K,)``.
        kernel: ``(K, 1, kernel, kernel)``.
        stride: Stride of the depthwise convolution.
    """
    return cast(Tensor, _ExpandDepthwise.apply(*in_one_type(x, weight, bias, kernel), stride))


class _NormProject(torch.autograd.Function):
    """Batch norm by the batch's statistics, ReLU6 and a 1x1 convolution.

    On a CPU only the input is kept. The backward pass recomputes the intermediate map, which takes
    a twentieth of the block's time and saves a third of its memory.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        gain: Tensor,
        bias: Tensor,
        projection: Tensor,
    ) -> Tensor:
        y, mean, inverse_std = torch.native_batch_norm(
            x, gain, bias, running_mean, running_var, True, MOMENTUM, NORM_EPSILON
        )
        y.clamp_(0, 6)
        kept = y if keeps_maps(x) else None
        ctx.save_for_backward(x, gain, bias, mean, inverse_std, projection, kept)
        return product(y, projection)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, mean, inverse_std, projection, y = ctx.saved_tensors
        aten = torch.ops.aten
        if y is None:
            variance = inverse_std.pow(-2) - NORM_EPSILON
            y = F.batch_norm(x, mean, variance, gain, bias, False, 0.0, NORM_EPSILON).clamp_(0, 6)
        by_y, by_projection = gradients(grad, y, projection)
        aten.hardtanh_backward.grad_input(by_y, y, 0, 6, grad_input=by_y)
        del y  # frees its memory for the next tensors
        by_x, by_gain, by_bias = aten.native_batch_norm_backward(
            by_y, x, gain, None, None, mean, inverse_std, True, NORM_EPSILON, [True, True, True]
        )
        return by_x, None, None, by_gain, by_bias, by_projection


def norm_project(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    gain: Tensor,
    bias: Tensor,
    projection: Tensor,
) -> Tensor:
    """Batch norm in training mode, ReLU6 and a 1x1 convolution; updates the running statistics.

    Args:
        x: ``(N, K, H, W)``, channels last.
        running_mean: ``(K,)``, as the three after it.
        running_var: Changed in place.
        gain: Scale of the norm.
        bias: Shift of the norm.
        projection: ``(D, K, 1, 1)``.
    """
    x, projection = in_one_type(x, projection)
    gain, bias = gain.to(running_mean.dtype), bias.to(running_mean.dtype)
    return cast(Tensor, _NormProject.apply(x, running_mean, running_var, gain, bias, projection))


class _NormReLU6(torch.autograd.Function):
    """Batch norm by the batch's statistics and ReLU6, with mean and 1 / standard deviation.

    A step calls it some hundred times. It does not switch autocast off, because autocast casts none
    of these operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # outputs without a gradient pass None
        y, mean, inverse_std = torch.native_batch_norm(
            x, gain, bias, None, None, True, MOMENTUM, NORM_EPSILON
        )
        y.clamp_(0, 6)
        ctx.save_for_backward(x, gain, y, mean, inverse_std)
        ctx.mark_non_differentiable(mean, inverse_std)
        return y, mean, inverse_std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, gain, y, mean, inverse_std = ctx.saved_tensors
        aten = torch.ops.aten
        by_norm = aten.hardtanh_backward(grad, y, 0, 6)
        found: tuple[Tensor, ...] = aten.native_batch_norm_backward(
            by_norm, x, gain, None, None, mean, inverse_std, True, NORM_EPSILON, [True, True, True]
        )
        return found


def norm_relu6(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm by the batch's statistics, and ReLU6.

    Args:
        x: ``(N, K, H, W)``, channels last.
        gain: ``(K,)``, in single precision at least.
        bias: ``(K,)``.

    Returns:
        ``(N, K, H, W)``, and the batch's statistics: mean and 1 / standard deviation, ``(K,)``,
        without gradient.
    """
    return cast(tuple[Tensor, Tensor, Tensor], _NormReLU6.apply(x, gain, bias))
