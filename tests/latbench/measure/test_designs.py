"""Designs: who is visited in which pass, and when a profiling has enough."""

from __future__ import annotations

import numpy as np
import pytest

from latbench.blocks import Network
from latbench.device import SweepProtocol
from latbench.measure.designs import MOST_STRIDE, Design, SequentialDesign, UniformDesign
from latbench.measure.samples import Samples
from latbench.measure.visiting import Target, block_target, network_target
from tests.conftest import make_tiny_space

PROTOCOL = SweepProtocol(networks=6, design="sequential")
BLOCKS, NETWORKS = 40, 6


def _targets() -> list[Target]:
    space = make_tiny_space()
    specs = space.blocks()[:BLOCKS]
    rng = np.random.default_rng(0)
    drawn: list[Network] = [space.lower(space.random(rng)) for _ in range(NETWORKS)]
    return [
        *(block_target(i, (spec,), PROTOCOL) for i, spec in enumerate(specs)),
        *(network_target(100 + i, n, PROTOCOL, visits=3) for i, n in enumerate(drawn)),
    ]


def _visit(samples: Samples, targets: list[Target], noise: dict[int, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for target in targets:
        for _ in range(target.visits):
            size = 1.0 if target.cold else 10.0
            samples.hot_ms[target.id].append(size * (1 + rng.exponential(noise[target.id])))
            if target.cold:
                samples.cold_ms[target.id].append(1.2 * (1 + rng.exponential(noise[target.id])))


def _profiled(design: Design, passes: int, noise: dict[int, float]) -> list[set[int]]:
    """Ids of the targets of each pass."""
    targets, samples, visited = _targets(), Samples(), []
    for number in range(passes):
        chosen = design.chosen(targets, samples, number=number)
        _visit(samples, chosen, noise, seed=number)
        visited.append({target.id for target in chosen})
    return visited


@pytest.fixture
def noise() -> dict[int, float]:
    """The first ten blocks are noisy."""
    return {target.id: 0.3 if target.id < 10 else 0.01 for target in _targets()}


def test_the_uniform_design_visits_everything(noise: dict[int, float]) -> None:
    everything = {target.id for target in _targets()}
    assert _profiled(UniformDesign(PROTOCOL), 5, noise) == [everything] * 5


def test_networks_are_in_every_pass_and_no_block_is_left_out_for_good(
    noise: dict[int, float],
) -> None:
    leverage = {i: 0.003 if i < 30 else 0.0 for i in range(BLOCKS)}
    visited = _profiled(SequentialDesign(PROTOCOL, leverage, open_ms=1.0), 48, noise)
    least = PROTOCOL.least_visits
    everything = {target.id for target in _targets()}
    assert visited[:least] == [everything] * least
    assert any(len(each) < len(everything) for each in visited[least:])
    for begin in range(len(visited) - MOST_STRIDE + 1):
        assert set().union(*visited[begin : begin + MOST_STRIDE]) == everything
    assert all({100 + i for i in range(NETWORKS)} <= each for each in visited)


def test_blocks_of_noise_and_leverage_are_visited_more_often(noise: dict[int, float]) -> None:
    leverage = {i: 0.003 if i < 30 else 0.0 for i in range(BLOCKS)}
    visited = _profiled(SequentialDesign(PROTOCOL, leverage, open_ms=1.0), 48, noise)
    counts = np.array([sum(i in each for each in visited) for i in range(BLOCKS)])
    noisy, quiet, idle = counts[:10].mean(), counts[10:30].mean(), counts[30:].mean()
    assert noisy > quiet >= idle
    assert idle == pytest.approx(8 + 40 / MOST_STRIDE)


def test_only_blocks_that_matter_keep_a_profiling_going(noise: dict[int, float]) -> None:
    """One block has far too wide an interval; networks are certain."""
    targets, samples = _targets(), Samples()
    loud = {id_: 2.0 if id_ == 3 else 1e-4 for id_ in noise}
    for number in range(20):
        _visit(samples, targets, loud, seed=number)
    assert not UniformDesign(PROTOCOL).is_converged(targets, samples)
    rare, frequent = ({**dict.fromkeys(range(BLOCKS), 1e-3), 3: last} for last in (1e-8, 0.5))
    assert SequentialDesign(PROTOCOL, rare, open_ms=1.0).is_converged(targets, samples)
    assert not SequentialDesign(PROTOCOL, frequent, open_ms=1.0).is_converged(targets, samples)


def test_the_expected_time_of_later_passes_is_what_they_take(noise: dict[int, float]) -> None:
    design = SequentialDesign(PROTOCOL, {}, open_ms=1.0)  # all blocks end at the longest stride
    targets, samples = _targets(), Samples()
    _visit(samples, targets, noise, seed=0)
    visits_ms = {t.id: t.visits * design._visit_ms(t, samples) for t in targets}
    now = design.chosen(targets, samples, number=1)
    passes = 30
    expected = design.later_share(targets, now, samples, passes=passes)
    now_ms = sum(visits_ms[target.id] for target in now)
    later_ms = 0.0
    for number in range(1, passes + 2):
        chosen = design.chosen(targets, samples, number=number)
        later_ms += sum(visits_ms[target.id] for target in chosen) if number > 1 else 0.0
        _visit(samples, chosen, noise, seed=number)
    assert expected == pytest.approx(later_ms / passes / now_ms, rel=0.05)


def test_a_uniform_profiling_goes_on_until_every_target_was_visited(
    noise: dict[int, float],
) -> None:
    targets, samples = _targets(), Samples()
    quiet = dict.fromkeys(noise, 1e-4)
    for number in range(20):
        _visit(samples, targets[1:], quiet, seed=number)
    assert not UniformDesign(PROTOCOL).is_converged(targets, samples)
    assert UniformDesign(PROTOCOL).is_converged(targets[1:], samples)


def test_a_uniform_profiling_goes_on_while_networks_are_uncertain(
    noise: dict[int, float],
) -> None:
    targets, quiet, loud = _targets(), Samples(), Samples()
    certain = dict.fromkeys(noise, 1e-4)
    for number in range(20):
        _visit(quiet, targets, certain, seed=number)
        _visit(
            loud, targets, {**certain, **{t.id: 2.0 for t in targets if not t.cold}}, seed=number
        )
    assert UniformDesign(PROTOCOL).is_converged(targets, quiet)
    assert not UniformDesign(PROTOCOL).is_converged(targets, loud)


def test_what_every_visit_costs_beside_its_calls_makes_visits_to_blocks_rarer(
    noise: dict[int, float],
) -> None:
    targets, samples = _targets(), Samples()
    for number in range(20):
        _visit(samples, targets, noise, seed=number)
    leverage = dict.fromkeys(range(BLOCKS), 3e-3)
    cheap, dear = (
        SequentialDesign(PROTOCOL, leverage, open_ms=1.0, other_ms=other_ms).strides(
            targets, samples
        )
        for other_ms in (0.0, 20.0)
    )
    assert all(cheap[id_] <= dear[id_] for id_ in cheap)
    assert cheap != dear


def test_blocks_that_were_added_late_are_visited_as_often_as_the_others(
    noise: dict[int, float],
) -> None:
    """Else they would be marked noisy in a table that says that it has converged."""
    uniform = SweepProtocol(networks=6)
    targets, samples = _targets(), Samples()
    quiet = dict.fromkeys(noise, 1e-4)
    for number in range(uniform.min_passes + 6):
        assert not UniformDesign(uniform).is_converged(targets, samples)
        _visit(samples, targets if number >= 6 else targets[1:], quiet, seed=number)
    assert UniformDesign(uniform).is_converged(targets, samples)
