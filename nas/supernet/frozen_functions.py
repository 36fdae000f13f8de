"""Parts of a unified block with frozen weights, as functions with hand-written gradients.

Architecture steps need gradients by the input and by the probabilities of choices, and none by the
weights. These functions compute no others, and keep few maps for the backward pass. Types under
autocast are those of ``nas.supernet.fused``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas.supernet.depthwise import input_gradient
from nas.supernet.fused import keeps_maps
from nas.supernet.pointwise import product
from nas.supernet.precision import in_one_type, without_autocast


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
