"""Functions with gradients of their own under autocast, on processors of both kinds.

Some processors compute convolutions of two types and others refuse them; which one runs the tests
must not matter. So the tests also watch that no convolution and no product is given two types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latbench.blocks.graph import NORM_EPSILON
from nas.spaces.sgnas import SKIP, SUB_BLOCKS
from nas.supernet import frozen_functions, fused
from nas.supernet.depthwise import depthwise, input_gradient, weight_gradient
from nas.supernet.frozen_functions import frozen_expand, frozen_mix
from nas.supernet.fused import (
    MOMENTUM,
    expand_depthwise,
    moments,
    norm_project,
    norm_relu6,
    relu6,
)
from nas.supernet.pointwise import gradients, matrix_product, pointwise
from tests.nas.supernet.test_unified_blocks import PATHS, make_supernet

PRODUCTS = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "linear")
TYPES = (torch.float, torch.bfloat16)


class OneType(TorchDispatchMode):
    """Refuses products of two types, which only some processors compute."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.overloadpacket.__name__ in PRODUCTS:
            found = {value.dtype for value in args if isinstance(value, Tensor)}
            assert len(found) == 1, f"{func} of {found}"
        return func(*args, **(kwargs or {}))


@contextmanager
def processor(*, units: bool) -> Iterator[None]:
    """Convolutions by oneDNN, or by the code for processors that it has no bfloat16 for."""
    before = torch.backends.mkldnn.set_flags(units)[0]
    try:
        with OneType():
            yield
    finally:
        torch.backends.mkldnn.set_flags(before)


def _conv(x: Tensor, weight: Tensor, stride: int = 1, bias: Tensor | None = None) -> Tensor:
    groups = len(weight) if weight.shape[1] == 1 else 1
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, 1, groups)


def _plain_moments(x: Tensor) -> Tensor:
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    mean = flat.mean(0)
    return torch.cat([mean[None], flat.t() @ flat / len(flat) - torch.outer(mean, mean)])


def _our_moments(x: Tensor) -> Tensor:
    mean, covariance = moments(x)
    return torch.cat([mean[None], covariance])


def _running() -> tuple[Tensor, Tensor]:
    return torch.zeros(6), torch.ones(6)


def _plain_norm_project(x: Tensor, gain: Tensor, bias: Tensor, projection: Tensor) -> Tensor:
    y = F.batch_norm(x, *_running(), gain, bias, True, MOMENTUM, NORM_EPSILON)
    return _conv(F.relu6(y), projection)


def _plain_mix(x: Tensor, weight: Tensor, kernel: Tensor, bias: Tensor, last: Tensor) -> Tensor:
    y = F.relu6(_conv(x, kernel, 1, bias)) * weight[:, None, None]
    return _conv(y, last)


X, KERNEL, POINT, VECTOR = (2, 6, 6, 6), (6, 1, 5, 5), (6, 6, 1, 1), (6,)
Function = Callable[..., Tensor]
# ours, the plain operations, shapes of the arguments, how many of them have gradients
FUNCTIONS: dict[str, tuple[Function, Function, tuple[tuple[int, ...], ...], int]] = {
    "depthwise": (lambda x, w: depthwise(x, w, 1), _conv, (X, KERNEL), 2),
    "depthwise-stride": (
        lambda x, w: depthwise(x, w, 2),
        lambda x, w: _conv(x, w, 2),
        (X, KERNEL),
        2,
    ),
    "depthwise-3": (lambda x, w: depthwise(x, w, 1), _conv, (X, (6, 1, 3, 3)), 2),
    "depthwise-pixel": (lambda x, w: depthwise(x, w, 1), _conv, ((2, 6, 1, 1), KERNEL), 2),
    "pointwise": (pointwise, lambda x, w, b: _conv(x, w, 1, b), (X, POINT, VECTOR), 3),
    "pointwise-small": (
        pointwise,
        lambda x, w, b: _conv(x, w, 1, b),
        ((2, 6, 2, 2), POINT, VECTOR),
        3,
    ),
    "moments": (_our_moments, _plain_moments, (X,), 1),
    "relu6": (lambda x: relu6(x * 4), lambda x: F.relu6(x * 4), (X,), 1),
    "expand_depthwise": (
        lambda x, w, b, k: expand_depthwise(x, w, b, k, 1),
        lambda x, w, b, k: _conv(F.relu6(_conv(x, w, 1, b)), k),
        (X, POINT, VECTOR, KERNEL),
        4,
    ),
    "expand_depthwise-anew": (  # the map between is not kept
        lambda x, w, b, k: expand_depthwise(x, w, b, k, 2),
        lambda x, w, b, k: _conv(F.relu6(_conv(x, w, 1, b)), k, 2),
        ((2, 6, 10, 10), POINT, VECTOR, KERNEL),
        4,
    ),
    "norm_project": (
        lambda x, g, b, p: norm_project(x, *_running(), g, b, p),
        _plain_norm_project,
        (X, VECTOR, VECTOR, POINT),
        4,
    ),
    "norm_relu6": (
        lambda x, g, b: norm_relu6(x, g.float(), b.float())[0],
        lambda x, g, b: F.relu6(F.batch_norm(x, None, None, g, b, True, 0.0, NORM_EPSILON)),
        (X, VECTOR, VECTOR),
        3,
    ),
    "frozen_expand": (
        lambda x, w, b: frozen_expand(x, w, b, torch.tensor([False])),
        lambda x, w, b: F.relu6(_conv(x, w, 1, b)),
        (X, POINT, VECTOR),
        1,
    ),
    "frozen_mix": (
        lambda x, w, k, b, p: frozen_mix(x, [k], [b], [w], p, 1),
        _plain_mix,
        (X, VECTOR, KERNEL, VECTOR, POINT),
        2,
    ),
}
CASES = [
    pytest.param(name, types, id=" ".join([name, *(str(t).removeprefix("torch.") for t in types)]))
    for name, (_, _, shapes, _) in FUNCTIONS.items()
    for types in product(TYPES, repeat=len(shapes))
]


def _values(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Numbers that both types hold, so that results differ by the arithmetic alone."""
    rng = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=rng) / 2 for shape in shapes]
    return [
        value.to(torch.bfloat16).float().contiguous(memory_format=torch.channels_last)
        if value.dim() == 4
        else value.to(torch.bfloat16).float()
        for value in found
    ]


def _close(ours: Tensor, theirs: Tensor) -> None:
    """Within what bfloat16's eight bits leave of sums whose terms cancel."""
    ours, theirs = ours.detach(), theirs.detach()
    scale = float(theirs.abs().max())
    torch.testing.assert_close(ours.float(), theirs, rtol=0.04, atol=0.04 * scale)


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize(("name", "types"), CASES)
def test_gradients_under_autocast_are_those_of_the_plain_operations(
    name: str, types: tuple[torch.dtype, ...], backward_inside: bool, units: bool
) -> None:
    """For every argument single or bfloat16, each gradient has the type of its argument."""
    ours, plain, shapes, counted = FUNCTIONS[name]
    values = _values(shapes)
    exact = [value.clone().requires_grad_(i < counted) for i, value in enumerate(values)]
    expected = plain(*exact)
    upstream = _values((tuple(expected.shape),))[0]
    wanted = torch.autograd.grad(expected, exact[:counted], upstream)

    given = [
        value.clone().to(dtype).requires_grad_(i < counted)
        for i, (value, dtype) in enumerate(zip(values, types, strict=True))
    ]
    with processor(units=units):
        with torch.autocast("cpu", torch.bfloat16):
            found = ours(*given)
            if backward_inside:
                found.backward(upstream.to(found.dtype))
        if not backward_inside:
            found.backward(upstream.to(found.dtype))
    _close(found, expected)
    for argument, grad in zip(given[:counted], wanted, strict=True):
        assert argument.grad is not None
        assert argument.grad.dtype == argument.dtype
        _close(argument.grad, grad)


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("types", list(product(TYPES, repeat=3)))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_hand_written_gradients_have_the_types_of_their_tensors(
    kernel: int, stride: int, types: tuple[torch.dtype, ...], autocast: bool, units: bool
) -> None:
    groups = 1 if kernel == 1 else 6
    x, weight = _values((X, (6, 6 // groups, kernel, kernel)))
    exact = [x.requires_grad_(), weight.requires_grad_()]
    stride = 1 if kernel == 1 else stride
    y = F.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
    (upstream,) = _values((tuple(y.shape),))
    wanted = torch.autograd.grad(y, exact, upstream)
    grad, x, weight = (
        value.detach().to(dtype) for value, dtype in zip((upstream, *exact), types, strict=True)
    )
    with processor(units=units), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if kernel == 1:
            found = gradients(grad, x, weight)
        else:
            found = (
                input_gradient(grad, x, weight, stride),
                weight_gradient(grad, x, weight, stride),
            )
    for value, argument, expected in zip(found, (x, weight), wanted, strict=True):
        assert value.dtype == argument.dtype
        _close(value, expected)


GPU_FORMS = ("expand_depthwise-anew", "norm_project", "frozen_expand", "frozen_mix")


@pytest.mark.parametrize("types", [(torch.float,) * 5, (torch.bfloat16, *(torch.float,) * 4)])
@pytest.mark.parametrize("name", GPU_FORMS)
def test_forms_for_a_gpu_are_those_of_the_plain_operations(
    name: str, types: tuple[torch.dtype, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps that are kept, and products of matrices in the place of convolutions."""
    for module in (fused, frozen_functions):
        monkeypatch.setattr(module, "keeps_maps", lambda x: True)
        monkeypatch.setattr(module, "product", matrix_product)
    test_gradients_under_autocast_are_those_of_the_plain_operations(
        name, types[: len(FUNCTIONS[name][2])], backward_inside=False, units=True
    )


@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize("form", ["path", "probabilities", "frozen"])
def test_the_unified_supernet_trains_under_autocast(form: str, units: bool) -> None:
    """Gradients have their parameters' types, and the loss is near the one without autocast."""
    supernet = make_supernet().train(form != "frozen").requires_grad_(form != "frozen")
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 8, 8, generator=rng).to(memory_format=torch.channels_last)
    path = PATHS[1]
    logits = torch.randn(len(path), SUB_BLOCKS, SKIP + 1, generator=rng)
    probabilities = logits.softmax(-1).requires_grad_()
    found = []
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    for enabled in (False, True):
        supernet.load_state_dict(state)
        supernet.zero_grad()
        probabilities.grad = None
        with processor(units=units):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                output = supernet(images, path if form == "path" else probabilities)
                loss = F.cross_entropy(output, torch.arange(8) % 5)
            loss.backward()
        leaves = [p for p in supernet.parameters() if p.grad is not None]
        leaves += [probabilities] if form != "path" else []
        assert leaves
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in leaves)
        assert all(value.isfinite().all() for value in supernet.state_dict().values())
        found.append(float(loss.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.05)
