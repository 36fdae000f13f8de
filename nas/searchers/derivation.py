"""From relaxed choices to one architecture under a hard budget.

The most probable architecture may lie out of reach of the target, whatever its widths. Dynamic
programming over operations and depths finds, for every latency at the present widths, the most
probable architecture of that latency; of these the most probable one whose widths can be scaled
to just below the target is taken.

How probable is counted against the best choice of each layer. The plain product of probabilities
would have every further layer cost its operation's probability, an eighth while nothing is
decided, and end with one layer a stage whatever the betas say: an architecture of more layers is
one of more alternatives, not a worse one. Counted so, the argmax of each choice is the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latbench.errors import BudgetError
from latbench.units import format_ms
from nas.priced import PricedSpace
from nas.relaxation import Places, Widths
from nas.scaling import Fit, fit_exact
from nas.spaces import Architecture, Choice, SearchSpace

Floats = NDArray[np.float64]

CLOSE_ENOUGH = 0.005  # a fit within this fraction below the target ends the search
_BINS = 2_000  # latencies told apart by the dynamic programme
_CANDIDATES = 40  # architectures within reach of the target that are tried


@dataclass(frozen=True)
class LogProbabilities:
    """Log probabilities of all choices.

    Attributes:
        ops: By stage and layer: of every operation.
        depths: By stage: of depth 1, 2, ...
        skips: By stage and layer: of leaving the layer out, where layers can be; the layers after
            it move up.
    """

    ops: Sequence[Sequence[Sequence[float]]]
    depths: Sequence[Sequence[float]]
    skips: Sequence[Sequence[float]] = ()

    def skip(self, stage: int, layer: int) -> float:
        return self.skips[stage][layer] if self.skips else -np.inf

    def choice(self, stage: int, layer: int) -> list[float]:
        """Of every operation and of leaving the layer out, less that of the best of them."""
        row = [*self.ops[stage][layer], self.skip(stage, layer)]
        return [value - max(row) for value in row]


@dataclass(frozen=True)
class Derived(Fit):
    """An architecture under a target, and which layers of the space it stands on."""

    places: Places


def derive(
    priced: PricedSpace,
    log: LogProbabilities,
    *,
    widths: Widths,
    target_ms: float,
    elastic: bool = True,
) -> Derived:
    """The most probable architecture that can be brought to just below the target.

    Args:
        priced: The space and its prices.
        log: Log probabilities of all choices.
        widths: Present width of every operation.
        target_ms: Never exceeded.
        elastic: Whether widths may be changed; else the most probable architecture below the
            target at the present widths.

    Raises:
        BudgetError: No architecture reaches the target.
    """
    best: Derived | None = None
    refusal: BudgetError | None = None
    tried = 0
    for places, architecture in _by_probability(priced, log, widths):
        try:
            fitted = (fit_exact if elastic else _as_it_is)(priced, architecture, target_ms)
        except BudgetError as error:
            refusal = refusal or error
            continue
        tried += 1
        if best is None or fitted.latency_ms > best.latency_ms:
            best = Derived(**vars(fitted), places=places)
        close = best.latency_ms >= target_ms * (1 - CLOSE_ENOUGH)
        if close or tried == _CANDIDATES or not elastic:
            return best
    if best is not None:
        return best
    assert refusal is not None
    raise refusal


def most_probable(log: LogProbabilities) -> Places:
    """The operations and depths of largest probability, whatever their latency."""
    places = []
    for s, rows in enumerate(log.ops):
        depth = int(np.argmax(log.depths[s])) + 1
        stage: list[int | None] = [None] * len(rows)
        for i, row in enumerate(rows[:depth]):
            op = int(np.argmax(row))
            stage[i] = op if row[op] >= log.skip(s, i) else None
        places.append(tuple(stage))
    return tuple(places)


def architecture_at(space: SearchSpace, places: Places, widths: Widths) -> Architecture:
    """The architecture that is left when what is left out is gone."""
    return space.architecture(
        [
            [
                Choice(layer.ops[op], widths[s][i][layer.ops[op]])
                for i, (layer, op) in enumerate(zip(space.stages[s], stage, strict=True))
                if op is not None
            ]
            for s, stage in enumerate(places)
        ]
    )


def _as_it_is(priced: PricedSpace, architecture: Architecture, target_ms: float) -> Fit:
    """An architecture whose widths stay.

    Raises:
        BudgetError: It is above the target.
    """
    latency_ms = priced.latency_ms(architecture)
    if latency_ms > target_ms:
        raise BudgetError(
            f"this architecture takes {format_ms(latency_ms)}, more than {format_ms(target_ms)}",
            nearest_ms=latency_ms,
        )
    return Fit(target_ms, latency_ms, latency_ms, latency_ms, architecture)


@dataclass
class _Stage:
    """Back pointers of one stage: by layer and bin the operation, by bin the depth.

    The index after the last operation stands for leaving the layer out.
    """

    ops: list[NDArray[np.int64]]
    costs: list[list[int]]
    depths: NDArray[np.int64]


def _by_probability(
    priced: PricedSpace, log: LogProbabilities, widths: Widths
) -> Iterator[tuple[Places, Architecture]]:
    """The most probable architecture, then the best of every latency, most probable first.

    The fastest and the slowest of the space come last: some architecture reaches any latency
    that the space does.
    """
    space = priced.space
    places = most_probable(log)
    yield places, architecture_at(space, places, widths)
    unit_ms = _widest_sum_ms(priced, widths) / _BINS
    score = np.full(_BINS + 1, -np.inf)
    score[0] = 0.0
    trail: list[_Stage] = []
    for s, layers in enumerate(space.stages):
        total, back = score, _Stage([], [], np.zeros(_BINS + 1, dtype=np.int64))
        ended = np.full(_BINS + 1, -np.inf)
        for i, layer in enumerate(layers):
            prices = [
                float(priced.addend_ms(layer, Choice(op, widths[s][i][op])).max())
                for op in layer.ops
            ]
            costs = [max(0, int(price / unit_ms)) for price in prices] + [0]
            logs = log.choice(s, i)
            shifted = np.stack(
                [_shift(total, cost) + lp for cost, lp in zip(costs, logs, strict=True)]
            )  # (operations + 1, bins)
            back.ops.append(shifted.argmax(axis=0))
            back.costs.append(costs)
            total = shifted.max(axis=0)
            ending = total + log.depths[s][i]
            back.depths[ending > ended] = i + 1
            ended = np.maximum(ended, ending)
        trail.append(back)
        score = ended
    for end in np.argsort(-score, kind="stable"):
        if np.isneginf(score[end]):
            break
        places = _trace(priced, trail, int(end))
        yield places, architecture_at(space, places, widths)
    for architecture in priced.extremes():
        yield places_of(space, architecture), architecture


def places_of(space: SearchSpace, architecture: Architecture) -> Places:
    """An architecture on the first layers of every stage."""
    return tuple(
        tuple(
            layers[i].ops.index(stage[i].op) if i < len(stage) else None for i in range(len(layers))
        )
        for layers, stage in zip(space.stages, architecture.stages, strict=True)
    )


def _widest_sum_ms(priced: PricedSpace, widths: Widths) -> float:
    """The sum of the costliest choices of all layers: no path costs more."""
    return sum(
        max(float(priced.addend_ms(layer, Choice(op, widths[s][i][op])).max()) for op in layer.ops)
        for s, layers in enumerate(priced.space.stages)
        for i, layer in enumerate(layers)
    )


def _shift(values: Floats, by: int) -> Floats:
    moved = np.full_like(values, -np.inf)
    if by < len(values):
        moved[by:] = values[: len(values) - by]
    return moved


def _trace(priced: PricedSpace, trail: Sequence[_Stage], end: int) -> Places:
    """The path that ends at a latency, read backwards."""
    stages: list[tuple[int | None, ...]] = []
    for back, layers in zip(reversed(trail), reversed(priced.space.stages), strict=True):
        stage: list[int | None] = [None] * len(layers)
        for i in range(int(back.depths[end]) - 1, -1, -1):
            op = int(back.ops[i][end])
            stage[i] = op if op < len(layers[i].ops) else None
            end -= back.costs[i][op]
        stages.append(tuple(stage))
    return tuple(stages[::-1])
