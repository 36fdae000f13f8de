"""Parts of a unified block as functions with hand-written gradients.

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

from collections.abc import Sequence
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from latbench.blocks.graph import NORM_EPSILON
from nas.supernet.depthwise import input_gradient, weight_gradient
from nas.supernet.pointwise import gradients, rows
from nas.supernet.precision import in_one_type, without_autocast

MOMENTUM = 0.1  # share of a batch in the running statistics
_KEPT_PIXELS = 8  # maps of at most this side are kept for the backward pass, on a CPU
_GPU_TYPES = (torch.bfloat16, torch.half)  # in which products of matrices are fastest on a GPU


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

    On a CPU, an intermediate map of more than ``_KEPT_PIXELS`` a side is not kept. The backward
    pass recomputes it: such maps come from few channels and take most of the memory.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor, stride: int
    ) -> Tensor:
        wide = product(x, weight, bias).clamp_(0, 6)
        kept = wide if keeps_maps(x) or x.shape[2] <= _KEPT_PIXELS else None
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


class _FrozenExpand(torch.autograd.Function):
    """1x1 convolution and ReLU6, or the input itself, differentiable only by the input."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bare: Tensor) -> Tensor:
        wide = product(x, weight, bias).clamp_(0, 6)
        first = wide[:, : x.shape[1]]
        first.copy_(torch.where(bare, x, first))
        ctx.save_for_backward(wide, weight, bare)
        return wide

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, weight, bare = ctx.saved_tensors
        by_wide = torch.ops.aten.hardtanh_backward(grad, wide, 0, 6)
        by_x = product(by_wide, weight.transpose(0, 1))
        return torch.where(bare, grad[:, : weight.shape[1]], by_x), None, None, None


def frozen_expand(x: Tensor, weight: Tensor, bias: Tensor, bare: Tensor) -> Tensor:
    """Expansion of all sub-blocks of a layer, or of none.

    Args:
        x: ``(N, C, H, W)``, channels last.
        weight: ``(K, C, 1, 1)``, norms folded in.
        bias: ``(K,)``.
        bare: Bool ``(1,)``: whether there is no expansion. The first C channels of the result are
            then ``x``, and the other channels must not be used.

    Returns:
        ``(N, K, H, W)``, differentiable by ``x``.
    """
    return cast(Tensor, _FrozenExpand.apply(*in_one_type(x, weight, bias), bare))


class _FrozenMix(torch.autograd.Function):
    """Weighted depthwise choices and projection, differentiable by input and weights alone.

    It computes ``P sum_k p_k r_k`` with ``r_k = relu6(depthwise(x, kernel_k) + bias_k)``. It keeps
    the r_k and nothing else of their size.
    """

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, x: Tensor, stride: int, projection: Tensor, count: int, *rest: Tensor
    ) -> Tensor:
        weights, kernels, biases = rest[:count], rest[count : 2 * count], rest[2 * count :]
        outputs = []
        for kernel, bias in zip(kernels, biases, strict=True):
            r = F.conv2d(x, kernel, bias, stride, kernel.shape[2] // 2, 1, len(kernel))
            outputs.append(r.clamp_(0, 6))
        ctx.stride, ctx.count = stride, count
        ctx.save_for_backward(x, projection, *weights, *kernels, *outputs)
        if keeps_maps(x):  # scale weights and sum narrow maps, so that the wide maps are read once
            parts = [
                product(r, projection * weight.to(x.dtype)[:, None, None])
                for r, weight in zip(outputs, weights, strict=True)
            ]
            return reduce(Tensor.add_, parts)
        total: Tensor | None = None
        for r, weight in zip(outputs, weights, strict=True):
            p = weight.to(x.dtype)[:, None, None]
            total = r * p if total is None else total.addcmul_(r, p)
        assert total is not None
        return F.conv2d(total, projection)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, projection, *rest = ctx.saved_tensors
        count = ctx.count
        weights, kernels, outputs = rest[:count], rest[count : 2 * count], rest[2 * count :]
        # grad by the weighted sum: the transposed projection
        wide = product(grad, projection.transpose(0, 1).contiguous())
        by_x: Tensor | None = None
        by_weights = []
        for weight, kernel, r in zip(weights, kernels, outputs, strict=True):
            by_weights.append(_channel_products(wide, r).to(weight.dtype))
            if ctx.needs_input_grad[0]:
                inside = torch.ops.aten.hardtanh_backward(wide, r, 0, 6)
                scaled = kernel * weight.to(x.dtype)[:, None, None, None]
                part = input_gradient(inside, x, scaled, ctx.stride)
                by_x = part if by_x is None else by_x.add_(part)
        return (by_x, None, None, None, *by_weights, *[None] * (2 * count))


def frozen_mix(
    x: Tensor,
    kernels: Sequence[Tensor],
    biases: Sequence[Tensor],
    weights: Sequence[Tensor],
    projection: Tensor,
    stride: int,
) -> Tensor:
    """Weighted depthwise choices and their projection, differentiable by x and weights alone.

    Args:
        x: ``(N, K, H, W)``, channels last.
        kernels: A kernel for each choice, ``(K, 1, kernel, kernel)``, norms folded in.
        biases: A bias for each choice, ``(K,)``.
        weights: Weights of the channels for each choice, ``(K,)``; gradients have the same type.
        projection: ``(D, K, 1, 1)``.
        stride: Stride of the depthwise convolutions.
    """
    x, projection, *parts = in_one_type(x, projection, *kernels, *biases)
    return cast(Tensor, _FrozenMix.apply(x, stride, projection, len(kernels), *weights, *parts))


def _channel_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a x b over images and pixels, by channel: ``(C,)``.

    A batch norm with mean 0 and variance 1 computes the same as the gradient of its gain. It reads
    each map once, whereas a product and a sum read and write three maps.
    """
    if a.device.type not in ("cpu", "cuda"):
        return (a * b).sum((0, 2, 3))
    # CUDA's norms require statistics in single precision, whatever the type of the maps
    kept = a.dtype if a.device.type == "cpu" else torch.promote_types(a.dtype, torch.float)
    zeros, ones = a.new_zeros(a.shape[1], dtype=kept), a.new_ones(a.shape[1], dtype=kept)
    found: Tensor = torch.ops.aten.native_batch_norm_backward(
        a, b, ones, zeros, ones, zeros, ones, False, 0.0, [False, True, False]
    )[1]
    return found


def keeps_maps(x: Tensor) -> bool:
    """Whether maps that could be recomputed are kept for the backward pass: True on a GPU."""
    return x.device.type != "cpu"


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution, ``(N, C, H, W)`` by ``(D, C, 1, 1)`` to ``(N, D, H, W)``.

    In half precision on a GPU this is a matrix product. A matrix product adds the bias as it
    writes, whereas a convolution adds it in a separate pass, and it needs no cuDNN plan for every
    number of channels. In single precision, convolutions are faster on a GPU, because they may use
    TensorFloat-32.
    """
    if x.device.type == "cuda" and x.dtype in _GPU_TYPES:
        return matrix_product(x, weight, bias)
    return F.conv2d(x, weight, bias)


def matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``product`` as a matrix product, on any device and in any precision."""
    turned = weight.flatten(1).t()
    flat = rows(x) @ turned if bias is None else torch.addmm(bias, rows(x), turned)
    return flat.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
