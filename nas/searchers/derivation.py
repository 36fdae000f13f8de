"""From relaxed choices to one architecture under a hard budget.

The most probable architecture may lie out of reach of the target, whatever its widths. Dynamic
programming over operations and depths finds, for every latency at the present widths, the most
probable architecture of that latency; of these the most probable one whose widths can be scaled
to just below the target is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latbench.errors import BudgetError
from nas.priced import PricedSpace
from nas.relaxation import Widths
from nas.scaling import Fit, fit_exact
from nas.spaces import Architecture, Choice

Floats = NDArray[np.float64]
LogProbabilities = Sequence[Sequence[Sequence[float]]]
"""Log probability of every operation: by stage, by layer, by index."""

CLOSE_ENOUGH = 0.005  # a fit within this fraction below the target ends the search
_BINS = 2_000  # latencies told apart by the dynamic programme
_CANDIDATES = 40  # architectures within reach of the target that are tried


def derive(
    priced: PricedSpace,
    *,
    log_ops: LogProbabilities,
    log_depths: Sequence[Sequence[float]],
    widths: Widths,
    target_ms: float,
) -> Fit:
    """The most probable architecture that can be brought to just below the target.

    Args:
        priced: The space and its prices.
        log_ops: Log probabilities of operations.
        log_depths: By stage, log probability of depth 1, 2, ...
        widths: Present width of every operation.
        target_ms: Never exceeded.

    Raises:
        BudgetError: No architecture reaches the target.
    """
    best: Fit | None = None
    refusal: BudgetError | None = None
    tried = 0
    for architecture in _by_probability(priced, log_ops, log_depths, widths):
        try:
            fitted = fit_exact(priced, architecture, target_ms)
        except BudgetError as error:
            refusal = refusal or error
            continue
        tried += 1
        if best is None or fitted.latency_ms > best.latency_ms:
            best = fitted
        if best.latency_ms >= target_ms * (1 - CLOSE_ENOUGH) or tried == _CANDIDATES:
            return best
    if best is not None:
        return best
    assert refusal is not None
    raise refusal


def most_probable(
    priced: PricedSpace,
    log_ops: LogProbabilities,
    log_depths: Sequence[Sequence[float]],
    widths: Widths,
) -> Architecture:
    """The architecture of largest probability, whatever its latency."""
    stages = []
    for s, layers in enumerate(priced.space.stages):
        depth = int(np.argmax(log_depths[s])) + 1
        ops = [int(np.argmax(row)) for row in log_ops[s][:depth]]
        stages.append(
            [
                Choice(layer.ops[op], widths[s][i][layer.ops[op]])
                for i, (layer, op) in enumerate(zip(layers, ops, strict=False))
            ]
        )
    return priced.space.architecture(stages)


@dataclass
class _Stage:
    """Back pointers of one stage: the operation by layer and bin, the depth by bin."""

    ops: list[NDArray[np.int64]]
    costs: list[list[int]]
    depths: NDArray[np.int64]


def _by_probability(
    priced: PricedSpace,
    log_ops: LogProbabilities,
    log_depths: Sequence[Sequence[float]],
    widths: Widths,
) -> Iterator[Architecture]:
    """The most probable architecture, then the best of every latency, most probable first.

    The fastest and the slowest of the space come last: some architecture reaches any latency
    that the space does.
    """
    yield most_probable(priced, log_ops, log_depths, widths)
    unit_ms = _widest_sum_ms(priced, widths) / _BINS
    score = np.full(_BINS + 1, -np.inf)
    score[0] = 0.0
    trail: list[_Stage] = []
    for s, layers in enumerate(priced.space.stages):
        total, back = score, _Stage([], [], np.zeros(_BINS + 1, dtype=np.int64))
        ended = np.full(_BINS + 1, -np.inf)
        for i, layer in enumerate(layers):
            prices = [
                float(priced.addend_ms(layer, Choice(op, widths[s][i][op])).max())
                for op in layer.ops
            ]
            costs = [max(0, int(price / unit_ms)) for price in prices]
            shifted = np.stack(
                [_shift(total, cost) + lp for cost, lp in zip(costs, log_ops[s][i], strict=True)]
            )  # (operations, bins)
            back.ops.append(shifted.argmax(axis=0))
            back.costs.append(costs)
            total = shifted.max(axis=0)
            ending = total + log_depths[s][i]
            back.depths[ending > ended] = i + 1
            ended = np.maximum(ended, ending)
        trail.append(back)
        score = ended
    for end in np.argsort(-score, kind="stable"):
        if np.isneginf(score[end]):
            break
        yield _trace(priced, trail, widths, int(end))
    yield from priced.extremes()


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


def _trace(priced: PricedSpace, trail: Sequence[_Stage], widths: Widths, end: int) -> Architecture:
    stages: list[list[Choice]] = []
    for s in range(len(trail) - 1, -1, -1):
        back, stage = trail[s], []
        for i in range(int(back.depths[end]) - 1, -1, -1):
            op = int(back.ops[i][end])
            name = priced.space.stages[s][i].ops[op]
            stage.append(Choice(name, widths[s][i][name]))
            end -= back.costs[i][op]
        stages.append(stage[::-1])
    return priced.space.architecture(stages[::-1])
