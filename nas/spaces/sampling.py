"""Random networks of a space: distinct ones to verify with, evenly spread ones to fit prices on."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import msgspec
import numpy as np

from latbench.blocks import Network
from latbench.cost import network_cost
from nas.spaces.architecture import Architecture, Choice
from nas.spaces.layer import WIDTH_STEP, Layer, WidthsOf, aligned_widths, candidates, macs_at
from nas.spaces.space import SearchSpace

_UNALIGNED = (3, 6)  # indices of the networks of every eight that may have any width
_DRAWN_FOR_ONE = 8  # networks drawn for each that is kept: enough for very small and large ones
_REPEATS = 2_000  # known networks in a row after which drawing stops: there are probably no more
_SPREAD_STREAM = 1  # separates these draws from those of `random` under the same seed


def distinct_random(
    space: SearchSpace,
    count: int,
    rng: np.random.Generator,
    widths: WidthsOf = aligned_widths,
    *,
    without: Collection[Network] = (),
) -> list[Architecture]:
    """Random architectures of distinct networks, which also differ from given networks.

    Drawing stops early if ``_REPEATS`` draws in a row find nothing new: a small space may have
    fewer networks than asked for.

    Args:
        space: Space to draw from.
        count: Number of architectures.
        rng: Draws depths, operations and widths uniformly.
        widths: Gives the widths that may be drawn.
        without: Networks to leave out.
    """
    known, repeats = set(without), 0
    found: list[Architecture] = []
    while len(found) < count and repeats < _REPEATS:
        drawn = space.random(rng, widths)
        network = space.lower(drawn)
        repeats = repeats + 1 if network in known else 0
        if network not in known:
            known.add(network)
            found.append(drawn)
    return found


def spread_networks(space: SearchSpace, count: int, *, seed: int) -> list[Network]:
    """Random networks spread evenly over the sizes that random networks have.

    Prices are fitted on these networks, so they should cover all networks that will be priced.
    Searches find networks with one block a stage as well as the deepest ones, and uniform draws are
    neither. So each network is drawn with a random preference for shallow or deep, and for narrow
    or wide (cheap or costly, if operations have no widths). The draws are sorted by parameters and
    split into ``count`` equal parts. The parts give in turn their shallowest and their deepest
    network. Two in eight networks have arbitrary widths, because runtimes compute misaligned
    widths with other kernels.
    """
    rng = np.random.default_rng([seed, _SPREAD_STREAM])
    drawn = [_leaning(space, rng) for _ in range(_DRAWN_FOR_ONE * count)]
    drawn.sort(key=lambda architecture: network_cost(space.lower(architecture)).params)
    parts = [drawn[i : i + _DRAWN_FOR_ONE] for i in range(0, len(drawn), _DRAWN_FOR_ONE)]
    found = []
    for i, part in enumerate(parts):
        kept = (min if i % 2 else max)(
            part, key=lambda architecture: len(space.lower(architecture))
        )
        found.append(space.lower(_unaligned(space, kept, rng) if i % 8 in _UNALIGNED else kept))
    return found


def _leaning(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """A random architecture, with random preferences for depth and width."""
    depth_leaning, width_leaning = rng.uniform(size=2)
    stages = []
    for index, layers in enumerate(space.stages):
        depths = space.depths(index)
        depth = depths[int(rng.binomial(len(depths) - 1, depth_leaning))]
        stage = []
        for layer in layers[:depth]:
            options = _by_cost(layer, rng)
            stage.append(options[int(rng.binomial(len(options) - 1, width_leaning))])
        stages.append(stage)
    return space.architecture(stages)


def _by_cost(layer: Layer, rng: np.random.Generator) -> list[Choice]:
    """Choices of a layer by ascending cost; only of one operation, if operations have widths."""
    if any(layer.widths(op) for op in layer.ops):
        return layer.choices(layer.ops[int(rng.integers(len(layer.ops)))], aligned_widths)
    return sorted(candidates(layer, aligned_widths), key=partial(macs_at, layer))


def _unaligned(
    space: SearchSpace, architecture: Architecture, rng: np.random.Generator
) -> Architecture:
    """The same architecture, with a random width within half a step of every width."""
    stages = []
    for stage, layers in zip(architecture.stages, space.stages, strict=True):
        moved = []
        for choice, layer in zip(stage, layers, strict=False):
            width = choice.width
            if width is not None:
                allowed = layer.widths(choice.op)
                width += int(rng.integers(-WIDTH_STEP // 2, WIDTH_STEP // 2))
                width = min(max(width, allowed[0]), allowed[-1])
            moved.append(msgspec.structs.replace(choice, width=width))
        stages.append(moved)
    return space.architecture(stages)
