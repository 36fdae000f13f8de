"""Several batch norms, concatenated into one norm of all their channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from latbench.blocks.graph import NORM_EPSILON
from nas.supernet.fused import MOMENTUM, norm_relu6


def side_by_side(norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Running mean, running variance (copies), gain and bias of the concatenated norms."""
    return (
        torch.cat([cast(Tensor, norm.running_mean) for norm in norms]),
        torch.cat([cast(Tensor, norm.running_var) for norm in norms]),
        torch.cat([norm.weight for norm in norms]),
        torch.cat([norm.bias for norm in norms]),
    )


class RunningStatistics:
    """Batch norms in training on a GPU; their running statistics are updated all at once.

    Separate updates would take as many calls as the norms themselves.
    """

    def __init__(self) -> None:
        self._norms: list[nn.BatchNorm2d] = []
        self._means: list[Tensor] = []
        self._inverse_stds: list[Tensor] = []
        self._unbiased: list[float] = []

    def norm_relu6(self, x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
        """Batch norm by the batch's statistics and ReLU6, ``(N, K, H, W)``.

        Args:
            x: Channels last.
            norms: Norms to concatenate, K channels in all.
        """
        y, mean, inverse_std = norm_relu6(
            x, cat([norm.weight for norm in norms]), cat([norm.bias for norm in norms])
        )
        count = x.numel() // x.shape[1]
        self._norms += norms
        self._means.append(mean)
        self._inverse_stds.append(inverse_std)
        self._unbiased += [count / max(1, count - 1)] * len(norms)
        return y

    @torch.no_grad()
    def update(self) -> None:
        """Update the norms' running statistics from the batches seen, and clear these."""
        if not self._norms:
            return
        widths = [norm.num_features for norm in self._norms]
        mean = torch.cat(self._means)
        variance = torch.cat(self._inverse_stds).pow(-2).sub_(NORM_EPSILON)
        means, variances = (list(torch.split(v, widths)) for v in (mean, variance))
        torch._foreach_mul_(variances, self._unbiased)
        running_means = [cast(Tensor, norm.running_mean) for norm in self._norms]
        running_variances = [cast(Tensor, norm.running_var) for norm in self._norms]
        torch._foreach_lerp_(running_means, means, MOMENTUM)
        torch._foreach_lerp_(running_variances, variances, MOMENTUM)
        for gathered in (self._norms, self._means, self._inverse_stds, self._unbiased):
            gathered.clear()


def remember(norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor) -> None:
    """Write running statistics back to the concatenated norms."""
    kept = [cast(Tensor, norm.running_mean) for norm in norms]
    kept += [cast(Tensor, norm.running_var) for norm in norms]
    # one call for all of them, which a GPU runs as one kernel
    torch._foreach_copy_(kept, [*mean.chunk(len(norms)), *variance.chunk(len(norms))])


def folded(kernel: Tensor, norms: Sequence[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """A convolution's weight and a bias that include the running statistics of its norms.

    Args:
        kernel: ``(K, C, k, k)``.
        norms: Norms to concatenate, K channels in all.
    """
    mean, variance, gain, bias = side_by_side(norms)
    scale = gain * (variance + NORM_EPSILON).rsqrt()
    return kernel * scale[:, None, None, None], bias - mean * scale


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenated tensors; a single tensor is returned unchanged."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)
