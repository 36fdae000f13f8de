"""Pointwise convolutions of channels-last maps, computed as matrix products where that is faster.

``pointwise`` is for small maps on a CPU, where it avoids oneDNN's overhead for convolutions of few
pixels. ``product`` is for half precision on a GPU. In single precision a GPU uses the library's
convolution, which is a matrix product already. It follows torch's precision setting for
convolutions, which allows TF32 where the setting for matrix products does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.supernet.precision import in_one_type

# Pixels a side of the output, up to which a matrix product is faster. Alone it is at 8 px too, but
# within a step of nasbench-macro it is slower there: 88 to 96 instead of 84 to 89 ms (10 rounds in
# turn, three times).
_SMALL = 4
_SMALL_GRADIENT = 8  # the same limit for the gradient by the weight
_GPU_TYPES = (torch.bfloat16, torch.half)  # in which products of matrices are fastest on a GPU


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
    """1 x 1 convolution: ``(N, C, H, W)`` and ``(D, C, 1, 1)`` to ``(N, D, H, W)``.

    With a stride, the output has every ``stride``-th pixel. The product then takes the pixels that
    count: 128 to 256 channels from 8 to 4 px 4.6 instead of 7.7 ms, forward and backward.
    """
    if x.device.type != "cpu" or -(-x.shape[-1] // stride) > _SMALL:
        return F.conv2d(x, weight, bias, stride)
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


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


def matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution as a matrix product; shapes as in ``product``."""
    turned = weight.flatten(1).t()
    flat = rows(x) @ turned if bias is None else torch.addmm(bias, rows(x), turned)
    return flat.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``pointwise`` by input and weight, each in the type of its tensor.

    Where the weight gradient is a matrix product, separate calls are faster than a joint one: at 8
    x 8 pixels the product takes three quarters of the time of oneDNN's own.
    """
    types = x.dtype, weight.dtype
    grad, x, weight = in_one_type(grad, x, weight)
    small = x.device.type == "cpu" and x.shape[-1] <= _SMALL_GRADIENT
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, not small, False]
    )
    if small:
        by_weight = (rows(grad).t() @ rows(x))[:, :, None, None]
    return by_x.to(types[0]), by_weight.to(types[1])


def rows(x: Tensor) -> Tensor:
    """``(N, C, H, W)``, channels last, to ``(N H W, C)``."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
