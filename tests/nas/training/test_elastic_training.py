"""Supernets of elastic widths trained by paths: the widths drawn, and what waits untouched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from nas.latency.relaxation import Relaxed
from nas.spaces import Architecture, Choice, SearchSpace, aligned_widths
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.mixed_operations import Supernet, searchable_supernet
from nas.training.bilevel import Bilevel
from nas.training.strategies import STRATEGIES, Strategy
from nas.training.strategies.base import Relaxation
from nas.training.strategies.sandwich import SandwichRule
from nas.training.strategies.widths import RandomWidths
from nas.training.supernet_training import SupernetRecipe, supernet_state
from tests.conftest import make_tiny_space

RECIPE = SupernetRecipe(lr=0.1, momentum=0.9, weight_decay=0.1)
SAMPLERS = [n for n in STRATEGIES if not isinstance(STRATEGIES[n](make_tiny_space()), Relaxation)]


def _batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 8, 8, generator=rng).to(memory_format=torch.channels_last)
    return x, torch.randint(0, 10, (6,), generator=rng)


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _path_of(space: SearchSpace, path: Relaxed) -> Architecture:
    """The architecture that a path of one operation a layer stands for."""
    stages = []
    for s, (rows, depths) in enumerate(zip(path.ops, path.depths, strict=True)):
        (depth,) = depths
        stage = []
        for i, row in enumerate(rows[:depth]):
            (op,) = row
            name = space.stages[s][i].ops[op]
            stage.append(Choice(name, path.widths[s, i, op]))
        stages.append(stage)
    return space.architecture(stages)


def test_the_sandwich_has_the_smallest_and_the_largest_widths() -> None:
    """And two paths of random widths, in the same step and of the same operations."""
    space = make_tiny_space()
    strategy = RandomWidths(SandwichRule(space), aligned_widths)
    middle = set()
    for seed in range(20):
        drawn = strategy.draw(_rng(seed), 0.0)
        ends = [_path_of(space, path) for path in drawn[:2]]
        assert ends == [space.largest(), space.smallest()]
        for path in drawn[2:]:
            assert set(path.computed()) <= set(path.widths)
            middle.add(tuple(path.widths.items()))
    assert len(middle) == 40


def test_the_ends_of_the_sandwich_are_the_nearest_widths_that_are_allowed() -> None:
    space = make_tiny_space()
    strategy = RandomWidths(SandwichRule(space), lambda layer, op: aligned_widths(layer, op)[1:-1])
    largest, smallest, *_ = strategy.draw(_rng(), 0.0)
    for path, end in ((largest, -1), (smallest, 0)):
        for s, i, op in path.computed():
            layer = space.stages[s][i]
            assert path.widths[s, i, op] == aligned_widths(layer, layer.ops[op])[1:-1][end]


def test_a_path_computes_the_network_of_its_widths() -> None:
    space, (x, _) = make_tiny_space(), _batch()
    supernet = searchable_supernet(space, seed=3).train()
    before = supernet.widths()
    for path in RandomWidths(SandwichRule(space), aligned_widths).draw(_rng(), 0.0):
        network = supernet.cut(_path_of(space, path)).train()
        with torch.no_grad():
            assert torch.allclose(supernet(x, path), network(x), atol=1e-4)
    assert supernet.widths() == before


class _Recorded(Strategy):
    """Draws what another strategy draws, and keeps it."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner.space)
        self.inner = inner
        self.drawn: list[Sequence[Relaxed]] = []

    def draw(self, rng: torch.Generator, progress: float) -> Sequence[Relaxed]:
        self.drawn.append(self.inner.draw(rng, progress))
        return self.drawn[-1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_channels_that_no_path_of_a_step_computes_wait_as_they_are(name: str) -> None:
    """No gradient, no decay, no momentum; channels of the widest path do move."""
    space, (x, labels) = make_tiny_space(), _batch()
    strategy = _Recorded(RandomWidths(STRATEGIES[name](space), aligned_widths))
    supernet = searchable_supernet(space, seed=3)
    state = supernet_state(supernet, strategy, nn.CrossEntropyLoss(), RECIPE)
    rng, waited = _rng(), 0
    for _ in range(8):
        before = _snapshot(state)
        state.weight_step(x, labels, rng=rng)
        widest: dict[nn.Module, int] = {}
        for path in strategy.drawn[-1]:
            for place in path.computed():
                block = supernet.block(*place)
                widest[block] = max(path.widths[place], widest.get(block, 0))
        waited += _assert_waited(supernet, state, before, widest)
    assert waited > 0


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_a_mixture_at_the_widths_of_the_start_leaves_the_channels_beyond(name: str) -> None:
    space, (x, labels) = make_tiny_space(), _batch()
    supernet = searchable_supernet(space, seed=3)
    for module in supernet.modules():
        if isinstance(module, ElasticInvertedResidual):
            module.use_first(module.spec.width // 2)
    state = supernet_state(supernet, STRATEGIES[name](space), nn.CrossEntropyLoss(), RECIPE)
    before, rng = _snapshot(state), _rng()
    for _ in range(3):
        state.weight_step(x, labels, rng=rng)
    widths = {
        module: module.width
        for module in supernet.modules()
        if isinstance(module, ElasticInvertedResidual)
    }
    assert _assert_waited(supernet, state, before, dict(widths)) == len(widths)


State = dict[nn.Parameter, tuple[Tensor, Tensor]]


def _snapshot(state: Bilevel) -> State:
    """Every weight and its velocity."""
    return {p: (p.detach().clone(), _velocity(state, p).clone()) for p in state.parameters}


def _velocity(state: Bilevel, parameter: nn.Parameter) -> Tensor:
    found: Tensor | None = state.sgd.state[parameter].get("momentum_buffer")
    return torch.zeros_like(parameter) if found is None else found


def _assert_waited(
    supernet: Supernet, state: Bilevel, before: State, widest: dict[nn.Module, int]
) -> int:
    """How many operations had channels that waited."""
    waited = 0
    for module in supernet.modules():
        if not isinstance(module, ElasticInvertedResidual):
            continue
        width, full = widest.get(module, 0), module.spec.width
        for parameter, (axis, _) in module.selections(1).items():
            for now, then in zip(
                (parameter.detach(), _velocity(state, parameter)), before[parameter], strict=True
            ):
                idle = (axis, width, full - width)
                assert torch.equal(now.narrow(*idle), then.narrow(*idle))
        if width:
            moved = module.expand.weight.detach() != before[module.expand.weight][0]
            assert moved[:width].flatten(1).any(1).all()
        waited += width < full
    return waited
