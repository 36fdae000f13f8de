"""The supernet is its slices; channels out of use wait untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latbench.blocks import InvertedResidual
from latbench.render.torch import NetworkModule, render_torch
from nas.relaxation import Relaxed, one_hot
from nas.spaces import SearchSpace
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.supernet import Supernet, start_widths
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


def test_shrinking_keeps_the_strongest_and_growing_keeps_all() -> None:
    torch.manual_seed(2)
    block = ElasticInvertedResidual(WIDEST[0], width=24)
    before = block.active.clone()
    norms = block.depthwise.weight.detach().abs().sum((1, 2, 3))
    block.set_width(16)
    kept = block.active.clone()
    assert not (kept & ~before).any()
    assert norms[kept].min() >= norms[before & ~kept].max()
    block.set_width(28)
    assert bool((block.active & kept).sum() == 16)
    assert block.width == 28


def test_channels_out_of_use_get_no_update_decay_or_momentum(tiny_space: SearchSpace) -> None:
    block = ElasticInvertedResidual(WIDEST[2], width=64)
    optimizer = ElasticSGD(block.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(4, 8, 6, 6)

    def step() -> None:
        optimizer.zero_grad()
        block(x).square().sum().backward()
        optimizer.step()

    step()  # gives every channel a velocity
    block.set_width(40)
    optimizer.select(block.selections())
    idle = ~block.active
    snapshots = {
        name: (p.detach().clone(), optimizer.state[p]["momentum_buffer"].clone())
        for name, p in block.named_parameters()
    }
    step()
    step()
    for name, parameter in block.named_parameters():
        selection = block.selections().get(parameter)
        if selection is None:
            continue
        waiting = idle.nonzero().flatten()
        for now, then in zip(
            (parameter.detach(), optimizer.state[parameter]["momentum_buffer"]),
            snapshots[name],
            strict=True,
        ):
            axis = selection[0]
            assert torch.equal(now.index_select(axis, waiting), then.index_select(axis, waiting))
            moved = now.index_select(axis, selection[1]) != then.index_select(axis, selection[1])
            assert moved.any(), name


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
