"""Slices of the supernet equal rebuilt networks; channels not in use do not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latbench.blocks import InvertedResidual
from latbench.render.torch import NetworkModule, render_torch
from nas.latency.relaxation import Relaxed, one_hot
from nas.spaces import SearchSpace, make_space
from nas.supernet.candidates import Initial, initialise
from nas.supernet.depthwise import depthwise
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.mixed_operations import Supernet, searchable_supernet, start_widths
from nas.supernet.pointwise import pointwise
from nas.supernet.shuffle import FastShuffle
from nas.training.optimizer import ElasticSGD

WIDEST = [
    InvertedResidual(8, 8, 32, 3, 1, "relu", 6),
    InvertedResidual(8, 12, 32, 5, 2, "swish", 6, se_channels=8),
    InvertedResidual(8, 8, 64, 5, 1, "hswish", 6, se_channels=16),
]


@pytest.mark.parametrize("widest", WIDEST)
@pytest.mark.parametrize("width", [16, 24, 32])
def test_a_slice_equals_the_rebuilt_block(widest: InvertedResidual, width: int) -> None:
    """A width of the supernet's block is the renderer's narrower block with the same weights."""
    torch.manual_seed(0)
    block = ElasticInvertedResidual(widest, width=widest.width)
    block.set_width(width)
    spec = InvertedResidual(
        widest.in_channels,
        widest.out_channels,
        width,
        widest.kernel,
        widest.stride,
        widest.activation,
        widest.input_size,
        widest.se_channels,
    )
    rebuilt = render_torch(spec)
    loaded = rebuilt.load_state_dict(block.slice_parameters(), strict=False)
    assert not loaded.unexpected_keys
    assert all("norm" in name for name in loaded.missing_keys)
    x = torch.randn(4, widest.in_channels, 6, 6)
    assert torch.allclose(block(x), rebuilt.train()(x), atol=1e-5)


def test_a_path_equals_the_network_of_its_blocks(tiny_space: SearchSpace) -> None:
    """Down to the stem and the classifier: one map of parameter names."""
    supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=1)
    rng = np.random.default_rng(3)
    for _ in range(5):
        drawn = tiny_space.random(rng)
        supernet.set_widths(drawn)
        network = NetworkModule(tiny_space.lower(drawn)).train()
        blocks: list[dict[str, torch.Tensor]] = [dict(b.state_dict()) for b in supernet.stem]
        for s, stage in enumerate(drawn.stages):
            for i, choice in enumerate(stage):
                op = tiny_space.stages[s][i].ops.index(choice.op)
                blocks.append(supernet.block(s, i, op).slice_parameters())
        blocks += [dict(b.state_dict()) for b in supernet.tail]
        state = {f"blocks.{i}.{n}": v for i, block in enumerate(blocks) for n, v in block.items()}
        loaded = network.load_state_dict(state, strict=False)
        assert not loaded.unexpected_keys
        x = torch.randn(4, 3, 8, 8)
        expected = network(x)
        got = supernet(x, one_hot(tiny_space, drawn))
        assert torch.allclose(got, expected, atol=1e-4)


def test_a_single_operation_keeps_its_weight(tiny_space: SearchSpace) -> None:
    """Value and gradient are those of a sum in which the other operation has the weight 0."""
    supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=1)
    x, depths = torch.randn(2, 3, 8, 8), ({2: 1.0}, {1: 1.0})
    found = []
    for others in ({}, {3: 0.0}):
        weight = torch.tensor(0.7, requires_grad=True)
        outputs = supernet(x, Relaxed((({2: weight, **others}, {5: 1.0}), ({1: 1.0},)), depths))
        outputs[0, 1].backward()
        found.append((outputs.detach(), weight.grad))
    torch.testing.assert_close(found[0], found[1])
    unweighted = supernet(x, Relaxed((({2: 1.0}, {5: 1.0}), ({1: 1.0},)), depths))
    assert not torch.allclose(found[0][0], unweighted)


def test_sink_connecting_depth_mixes_the_layers_outputs(tiny_space: SearchSpace) -> None:
    """The relaxed stage is the weighted sum of the stage cut at each depth."""
    supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=1)
    x = torch.randn(2, 3, 8, 8)
    x0 = supernet.stem[0](x)
    first = supernet.block(0, 0, 2)(x0)
    second = supernet.block(0, 1, 5)(first)
    mixed = supernet.block(1, 0, 1)(0.3 * first + 0.7 * second)
    for block in supernet.tail:
        mixed = block(mixed)
    relaxed = Relaxed((({2: 1.0}, {5: 1.0}), ({1: 1.0},)), ({1: 0.3, 2: 0.7}, {1: 1.0}))
    assert torch.allclose(supernet(x, relaxed), mixed, atol=1e-6)


def test_a_mixed_layer_is_the_weighted_sum_of_its_operations(tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=1)
    x = torch.randn(2, 3, 8, 8)
    y = supernet.stem[0](x)
    y = 0.25 * supernet.block(0, 0, 0)(y) + 0.75 * supernet.block(0, 0, 7)(y)
    y = supernet.block(1, 0, 3)(y)
    for block in supernet.tail:
        y = block(y)
    relaxed = Relaxed((({0: 0.25, 7: 0.75},), ({3: 1.0},)), ({1: 1.0}, {1: 1.0}))
    assert torch.allclose(supernet(x, relaxed), y, atol=1e-6)


def test_a_new_width_takes_the_strongest_of_all_channels() -> None:
    """The published rule: also those that were not in use, and only if the width changes."""
    torch.manual_seed(2)
    block = ElasticInvertedResidual(WIDEST[0], width=24)
    norms = block.depthwise.weight.detach().abs().sum(dim=(1, 2, 3))

    def in_use() -> list[float]:
        kernels = block.depthwise.weight.detach()[: block.width]
        return sorted(kernels.abs().sum(dim=(1, 2, 3)).tolist())

    before = in_use()
    assert before != sorted(norms.tolist())[-24:]
    assert block.set_width(24) == {}
    assert in_use() == before
    for width in (16, 28, 20):
        block.set_width(width)
        assert in_use() == sorted(norms.tolist())[-width:]


def test_shrinking_keeps_the_strongest_and_growing_keeps_all_in_use() -> None:
    torch.manual_seed(2)
    block = ElasticInvertedResidual(WIDEST[0], width=24)

    def channels() -> list[tuple[float, ...]]:
        """The identity of each channel, in the current order."""
        return [tuple(kernel.flatten().tolist()) for kernel in block.depthwise.weight.detach()]

    def strength(channel: tuple[float, ...]) -> float:
        return sum(map(abs, channel))

    everything, before = set(channels()), set(channels()[:24])
    block.set_width(16, "in-use")
    kept = set(channels()[:16])
    assert kept < before
    assert min(map(strength, kept)) >= max(map(strength, before - kept))
    block.set_width(28, "in-use")
    assert kept < set(channels()[:28])
    assert block.width == 28
    assert set(channels()) == everything


def test_moved_channels_are_the_same_block() -> None:
    """All parameters of a channel move together, and velocities with them."""
    torch.manual_seed(3)
    block = ElasticInvertedResidual(WIDEST[1], width=32)
    optimizer = ElasticSGD(block.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(4, 8, 6, 6)
    block(x).square().sum().backward()
    optimizer.step()
    expected = block(x).detach()
    whole = {p: optimizer.state[p]["momentum_buffer"].clone() for p in block.parameters()}
    moved = block.set_width(16)
    optimizer.move(moved)
    for parameter, (axis, order) in moved.items():
        velocity = optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(velocity, whole[parameter].index_select(axis, order))
    block.set_width(32)
    assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float, torch.double, torch.half])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("groups", [2, 3])
def test_a_shuffle_is_torchs(groups: int, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Values, gradients and layout, bit for bit; numbers that are not finite are copied too."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 5).to(dtype).to(memory_format=layout)
    x[0, 0, 0, 0], x[1, 5, 2, 4] = torch.inf, torch.nan
    weights = torch.randn(2, 6, 3, 5).to(dtype)
    made = []
    for shuffle in (FastShuffle(groups), nn.ChannelShuffle(groups)):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = shuffle(given)
        made.append((y, *torch.autograd.grad((y * weights).nansum(), given)))
    for ours, theirs in zip(*made, strict=True):
        assert torch.equal(ours.nan_to_num(9.0), theirs.nan_to_num(9.0))
    assert made[0][0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16])
def test_convolutions_of_small_maps_are_torchs(kernel: int, stride: int, size: int) -> None:
    """Values and gradients, in double precision."""
    torch.manual_seed(0)
    x = torch.randn(2, 6, size, size, dtype=torch.double, requires_grad=True)
    deep = torch.randn(6, 1, kernel, kernel, dtype=torch.double, requires_grad=True)
    point = torch.randn(4, 6, 1, 1, dtype=torch.double, requires_grad=True)
    bias = torch.randn(4, dtype=torch.double, requires_grad=True)
    ours = pointwise(depthwise(x, deep, stride), point, bias, stride=stride)
    deep_theirs = nn.functional.conv2d(x, deep, stride=stride, padding=kernel // 2, groups=6)
    theirs = nn.functional.conv2d(deep_theirs, point, bias, stride=stride)
    torch.testing.assert_close(ours, theirs)
    inputs = (x, deep, point, bias)
    pairs = zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    )
    for ours_grad, theirs_grad in pairs:
        torch.testing.assert_close(ours_grad, theirs_grad)


def test_channels_out_of_use_get_no_update_decay_or_momentum(tiny_space: SearchSpace) -> None:
    block = ElasticInvertedResidual(WIDEST[2], width=64)
    optimizer = ElasticSGD(block.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(4, 8, 6, 6)

    def step() -> None:
        optimizer.zero_grad()
        block(x).square().sum().backward()
        optimizer.step()

    step()  # gives every channel a velocity
    optimizer.move(block.set_width(40))
    optimizer.select(block.selections())
    snapshots = {
        name: (p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone())
        for name, p in block.named_parameters()
    }
    step()
    step()
    for name, parameter in block.named_parameters():
        if parameter not in block.selections():
            continue
        axis, width = block.selections()[parameter]
        for now, then in zip(
            (parameter.detach(), optimizer.state[parameter]["momentum_buffer"]),
            snapshots[name],
            strict=True,
        ):
            idle = now.shape[axis] - width
            assert torch.equal(now.narrow(axis, width, idle), then.narrow(axis, width, idle))
            assert (now.narrow(axis, 0, width) != then.narrow(axis, 0, width)).any(), name


def test_at_full_width_it_is_torch_sgd() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = [
        ElasticSGD(ours.parameters(), **settings),
        torch.optim.SGD(theirs.parameters(), **settings),
    ]
    for _ in range(5):
        x = torch.randn(8, 4)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def _std(module: nn.Conv2d | nn.Linear, initial: Initial) -> float:
    """The standard deviation that weights are to begin with."""
    fan_in = module.weight[0].numel()
    if initial == "torch":
        return (3 * fan_in) ** -0.5  # uniform, bounded by 1 / sqrt(fan-in)
    if isinstance(module, nn.Linear):
        return 0.01
    return float((2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5)


@pytest.mark.parametrize("initial", ["torch", "he"])
def test_weights_begin_as_asked(initial: Initial, tiny_space: SearchSpace) -> None:
    """Elastic operations, fixed blocks and the classifier; biases begin at zero."""
    supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=0, initial=initial)
    seen = 0
    for module in supernet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.bias is not None:
                assert not module.bias.any()
            if module.weight.numel() >= 500:
                assert float(module.weight.detach().std()) == pytest.approx(
                    _std(module, initial), rel=0.1
                )
                seen += 1
    assert seen > 30


def test_depthwise_weights_of_many_channels_begin_far_apart() -> None:
    """He's fan-out counts all groups: at 1,152 channels it is 14 times smaller than torch's."""
    widest = InvertedResidual(192, 192, 1152, 3, 1, "swish", 4)
    stds = {}
    for initial in ("torch", "he"):
        torch.manual_seed(0)
        block = ElasticInvertedResidual(widest, width=1152)
        block.apply(lambda module, initial=initial: initialise(module, initial))  # type: ignore[misc]
        stds[initial] = float(block.depthwise.weight.detach().std())
    assert stds["torch"] == pytest.approx(27**-0.5, rel=0.03)
    assert stds["torch"] / stds["he"] == pytest.approx(13.86, rel=0.05)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("tfnas", "k3_e3", "k5_e6_se"),
        ("proxylessnas", "k7_e6", "k3_e3"),
        ("fbnet-s", "k3_e6", "k5_e3"),
        ("spos", "shuffle_k3", "shuffle_k7"),
    ],
)
def test_operations_that_start_alike_are_the_same_function(name: str, one: str, other: str) -> None:
    """At correlation 1, whatever kernel, squeeze-excite and integer factor of width."""
    supernet = searchable_supernet(make_space(name, 32, 10), seed=0).train()
    ops = supernet.space.stages[2][0].ops
    blocks = [supernet.block(2, 0, ops.index(op)) for op in (one, other)]
    channels = {"tfnas": 40, "proxylessnas": 40, "fbnet-s": 24, "spos": 160}[name]
    images = torch.randn(8, channels, 8, 8, generator=torch.Generator().manual_seed(1))

    def difference() -> float:
        first, second = (block(images).detach() for block in blocks)
        return float((first - second).abs().mean() / first.std())

    assert difference() > 0.3
    supernet.start_alike(1.0)
    assert difference() < 0.02  # batch norms' epsilon is one for all scales


def test_a_start_alike_keeps_the_spread_and_correlates_the_weights() -> None:
    supernet = searchable_supernet(make_space("proxylessnas", 32, 10), seed=0)
    space = supernet.space

    def weights(op: str) -> torch.Tensor:
        block = supernet.block(4, 1, space.stages[4][1].ops.index(op))
        return block.get_parameter("project.weight").detach().clone()

    model, before = weights("k3_e3"), weights("k7_e3")
    supernet.start_alike(0.5)
    assert torch.equal(weights("k3_e3"), model)
    after = weights("k7_e3")
    torch.testing.assert_close(after.std(), before.std(), rtol=0.02, atol=0)
    found = torch.corrcoef(torch.stack([model.flatten(), after.flatten()]))
    assert float(found[0, 1]) == pytest.approx(0.5, abs=0.02)


def test_operations_of_other_convolutions_are_no_model() -> None:
    """Half as many weights in two groups would leave the others half their rank."""
    for alike in (0.0, 1.0):
        supernet = searchable_supernet(make_space("fbnet-s", 32, 10), seed=0)
        if alike:
            supernet.start_alike(alike)
        for op in range(supernet.space.stages[2][0].ops.index("skip")):
            project = supernet.block(2, 0, op).get_parameter("project.weight")[:, :, 0, 0]
            assert int(torch.linalg.matrix_rank(project)) == min(project.shape)


def test_operations_with_a_shortcut_start_alike_as_the_identity() -> None:
    """Where norms have a scale; elastic operations have none, and start as each other."""
    for name, operations in (("nasbench-macro", 3), ("proxylessnas", 7)):
        supernet = searchable_supernet(make_space(name, 32, 10), seed=0).train()
        supernet.start_alike(0.5)
        x = torch.randn(2, {"nasbench-macro": 128, "proxylessnas": 40}[name], 4, 4)
        for op in range(operations):
            assert torch.equal(supernet.block(1, 1, op)(x), x)
