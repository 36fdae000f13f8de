"""Designs: which targets each pass of a profiling visits.

Visits are spent where they make predictions better. The uniform design visits every target in every
pass. The sequential design visits a block every second or fourth pass once a further visit to it
improves predictions less than the same time spent on the calibration networks does. No block is
left out for good: blocks take turns, so the visits of each one are spread over the whole profiling
and see the same states of the machine, the same drift and the same quiet moments.

Glossary, for a block b:

    v_b    variance of the estimate from a single visit, relative to the square of the estimate;
           that of n visits is v_b / n
    L_b    leverage: mean square, over networks like those that will be predicted, of the share of
           the block's estimate in the latency
    c_b    time of a visit
    T      time of a pass's visits to the calibration networks
    V      variance that one pass of them leaves in a prediction: that of their summed latency, and
           by the fit of the prices that of a network, times coefficients over networks

Independent errors of blocks add ``sum_b L_b v_b / n_b`` to the relative variance of a prediction,
and the networks ``V / n`` after n passes. For a given time the sum of both is least if every
stratum is sampled in proportion to its deviation over the root of its cost (Neyman 1934, with the
costs of Cochran, Sampling Techniques, 1977, section 5.5). Networks are in every pass, so block b
should be visited in ``sqrt((L_b v_b / c_b) / (V / T))`` of all passes.

Every choice follows from the finished passes. So a profiling that was killed and resumed chooses
what an uninterrupted one would have chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import log2, sqrt

import numpy as np

from latbench.device import SweepProtocol
from latbench.measure.samples import Samples
from latbench.measure.visiting import Target

MOST_STRIDE = 4  # 8 was no better in simulations; with 4, 60 passes make 20 visits to each block
_EXPECTED = MOST_STRIDE  # stride that is expected of a block without visits
_COEFFICIENTS = 4  # number of coefficients of a fitted price that are not at their bounds
_NORMAL = 1.96  # half width of a 95 % interval, in standard deviations


class Design(ABC):
    """Chooses the targets of each pass, and says when there have been enough passes.

    Args:
        protocol: Protocol of the visits, with their least number and the tolerances.
    """

    def __init__(self, protocol: SweepProtocol) -> None:
        self.protocol = protocol

    @abstractmethod
    def is_converged(self, targets: Sequence[Target], samples: Samples) -> bool:
        """Whether the visits so far make all estimates certain enough.

        Args:
            targets: All targets of the profiling.
            samples: The visits so far.
        """

    @abstractmethod
    def strides(self, targets: Sequence[Target], samples: Samples) -> dict[int, int]:
        """Every how many passes each target is visited from now on, by id.

        Args:
            targets: All targets of the profiling.
            samples: The visits so far.
        """

    def chosen(self, targets: Sequence[Target], samples: Samples, *, number: int) -> list[Target]:
        """Targets of the next pass.

        Args:
            targets: All targets of the profiling.
            samples: The visits so far.
            number: Number of complete passes over the networks so far. A pass that the time limit
                ended early does not count, so the next one visits the same blocks.
        """
        strides = self.strides(targets, samples)
        return [each for each in targets if (number + each.id) % strides[each.id] == 0]

    def later_share(
        self, targets: Sequence[Target], now: Sequence[Target], samples: Samples, *, passes: int
    ) -> float:
        """Expected mean time of the passes after the next one, relative to that of the next one.

        Args:
            targets: All targets of the profiling.
            now: Targets of the next pass.
            samples: The visits so far.
            passes: Number of passes after the next one.
        """
        return 1.0

    def _has_least_visits(self, targets: Sequence[Target], samples: Samples) -> bool:
        """Whether each block has its least number of visits; some are added after early passes."""
        least = self.protocol.least_visits
        blocks = [target.id for target in targets if target.cold]
        return all(len(samples.hot_ms.get(id_, ())) >= least for id_ in blocks)


class UniformDesign(Design):
    """Every target is visited in every pass, until every interval is narrow enough."""

    def is_converged(self, targets: Sequence[Target], samples: Samples) -> bool:
        networks = [target.id for target in targets if not target.cold]
        if not all(samples.hot_ms.get(id_) for id_ in networks):
            return False
        if not self._has_least_visits(targets, samples):
            return False
        p = self.protocol
        joint = samples.joint_half_width(networks, p.quantile, by_pass=p.network_visits)
        if joint > p.network_tolerance:
            return False
        blocks = [target.id for target in targets if target.cold]
        return all(
            interval.half_width <= p.block_tolerance
            for cold in (False, True)
            for interval in samples.intervals(blocks, p.quantile, cold=cold).values()
        )

    def strides(self, targets: Sequence[Target], samples: Samples) -> dict[int, int]:
        return {target.id: 1 for target in targets}


class SequentialDesign(Design):
    """Well-known blocks and those of little leverage are visited in some of the passes only.

    The profiling has converged when the interval of a typical prediction is narrow enough, as far
    as visits can make it so. Blocks that hardly occur may then still have wide intervals.

    Args:
        protocol: Protocol of the visits, with their least number and the tolerances.
        leverage: Leverage of each block, by id; 0 for blocks that are not named.
        open_ms: Time to open and close a session, in ms for each block of its network.
        other_ms: Time of a visit outside opening and calls, such as for evictions, in ms.
    """

    def __init__(
        self,
        protocol: SweepProtocol,
        leverage: Mapping[int, float],
        *,
        open_ms: float,
        other_ms: float = 0.0,
    ) -> None:
        super().__init__(protocol)
        self.leverage, self.open_ms, self.other_ms = leverage, open_ms, other_ms

    def is_converged(self, targets: Sequence[Target], samples: Samples) -> bool:
        if not self._has_least_visits(targets, samples):
            return False
        blocks = [target.id for target in targets if target.cold]
        quantile = self.protocol.quantile
        single = _single_variances(blocks, samples, quantile)
        by_blocks = sum(
            self.leverage.get(id_, 0.0) * variance / len(samples.hot_ms[id_])
            for id_, variance in single.items()
        )
        networks = [target for target in targets if not target.cold]
        by_networks = self._network_variance(networks, samples) / _passes(networks, samples)
        half_width = _NORMAL * sqrt(by_blocks + by_networks)
        return half_width <= self.protocol.network_tolerance

    def strides(self, targets: Sequence[Target], samples: Samples) -> dict[int, int]:
        settled, least = self._settled(targets, samples), self.protocol.least_visits
        return {
            each.id: settled.get(each.id, 1) if len(samples.hot_ms.get(each.id, ())) >= least else 1
            for each in targets
        }

    def later_share(
        self, targets: Sequence[Target], now: Sequence[Target], samples: Samples, *, passes: int
    ) -> float:
        if passes < 1:
            return 1.0
        settled = self._settled(targets, samples)
        visited = {target.id for target in now}
        now_ms = later_ms = 0.0
        for target in targets:
            known = len(samples.hot_ms.get(target.id, ()))
            visit_ms = target.visits * (self._visit_ms(target, samples) if known else 1.0)
            lacking = self.protocol.least_visits - known - (target.id in visited)
            every = min(passes, max(0, lacking)) if target.cold else passes
            later_ms += visit_ms * (every + (passes - every) / settled.get(target.id, _EXPECTED))
            now_ms += visit_ms * (target.id in visited)
        return later_ms / passes / now_ms if now_ms else 1.0

    def _settled(self, targets: Sequence[Target], samples: Samples) -> dict[int, int]:
        """Strides of blocks as if each had been visited often enough, by id."""
        networks = [target for target in targets if not target.cold]
        if any(len(samples.hot_ms.get(each.id, ())) < 2 for each in networks) or not networks:
            return {}
        shares = self._shares([each for each in targets if each.cold], networks, samples)
        return {
            id_: 2 ** round(log2(1 / min(1.0, max(share, 1 / MOST_STRIDE))))
            for id_, share in shares.items()
        }

    def _shares(
        self, blocks: Sequence[Target], networks: Sequence[Target], samples: Samples
    ) -> dict[int, float]:
        """Share of the passes in which each block with two visits or more should be visited.

        The variance from eight visits is itself uncertain. So each one is moved half of the way, by
        its logarithm, to the median of all blocks.
        """
        networks_ms = sum(each.visits * self._visit_ms(each, samples) for each in networks)
        by_networks = self._network_variance(networks, samples) / networks_ms  # V / T
        ids = [target.id for target in blocks]
        single = _single_variances(ids, samples, self.protocol.quantile)
        middle = float(np.median(list(single.values()))) if single else 0.0
        found = {}
        for block in blocks:
            if block.id in single:
                worth = self.leverage.get(block.id, 0.0) * sqrt(single[block.id] * middle)
                worth /= self._visit_ms(block, samples)
                found[block.id] = sqrt(worth / by_networks) if by_networks else float(worth > 0)
        return found

    def _network_variance(self, networks: Sequence[Target], samples: Samples) -> float:
        """V, the variance that one pass of the networks leaves in a prediction."""
        ids, quantile = [target.id for target in networks], self.protocol.quantile
        visits = self.protocol.network_visits
        joint = (samples.joint_half_width(ids, quantile, by_pass=visits) / _NORMAL) ** 2
        own = list(samples.relative_variances(ids, quantile).values())
        by_fit = sum(own) / len(own) * min(1.0, _COEFFICIENTS / len(own))
        return (joint + by_fit) * _passes(networks, samples)

    def _visit_ms(self, target: Target, samples: Samples) -> float:
        """Time of a visit: opening, untimed calls, hot calls, cold calls, and the rest."""
        protocol = self.protocol
        hot_ms = min(samples.hot_ms[target.id])
        calls_ms = untimed_ms(protocol, hot_ms)
        calls_ms += max(protocol.hot_calls * hot_ms, target.dwell_ms)
        if target.cold and samples.cold_ms.get(target.id):
            calls_ms += protocol.cold_calls * min(samples.cold_ms[target.id])
        return calls_ms + self.open_ms * opened_blocks(target) + self.other_ms


def _passes(networks: Sequence[Target], samples: Samples) -> float:
    """Number of passes that have visited the networks."""
    return min(len(samples.hot_ms[each.id]) / each.visits for each in networks)


def untimed_ms(protocol: SweepProtocol, hot_ms: float) -> float:
    """Time of the untimed calls of a visit to a target that takes ``hot_ms`` a call."""
    return max(protocol.warmup_calls * hot_ms, protocol.warmup_ms)


def opened_blocks(target: Target) -> int:
    """Number of blocks that a visit opens; a model counts as one."""
    return len(target.network) if isinstance(target.network, tuple) else 1


def _single_variances(blocks: Sequence[int], samples: Samples, quantile: float) -> dict[int, float]:
    """Relative variance of each block's estimate from one visit, the mean of hot and cold."""
    hot = samples.relative_variances(blocks, quantile)
    cold = samples.relative_variances(blocks, quantile, cold=True)
    return {
        id_: len(samples.hot_ms[id_]) * (value + cold.get(id_, value)) / 2
        for id_, value in hot.items()
    }
