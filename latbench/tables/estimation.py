"""Estimation: a table's estimates and prices from its visits, and the drift between sweeps.

The machine changes between two sweeps, so their latencies cannot be compared directly. The networks
of the profiling are visited in every sweep. Their latencies now and then give the drift, which
converts the latencies of a later sweep to the time of the profiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latbench.blocks import BlockSpec, Network
from latbench.cost import block_cost, network_cost
from latbench.device import SweepProtocol
from latbench.measure.samples import Interval, Samples
from latbench.measure.statistics import relative_half_width
from latbench.tables.price_model import NetworkSample, PriceModel, fit_price
from latbench.tables.records import LATER_ROLES, Estimate, StoredFit
from latbench.tables.store import TableStore
from latbench.tables.width_curves import Curves

_PROBES_FOR_TWO = 6  # least number of networks for a drift with two coefficients
_WORTH_TWO = 0.8  # two coefficients must reduce the leave-one-out error to this fraction
Floats = NDArray[np.float64]


def can_work_out(store: TableStore) -> bool:
    """Whether a table has visits that prices can be worked out from."""
    profiled, networks = store.profiling(), store.networks("profile")
    return profiled is not None and any(target in networks for target, _ in store.visits(profiled))


def work_out(store: TableStore, protocol: SweepProtocol) -> StoredFit:
    """Estimate every target of a table, fit its prices, and store both.

    Args:
        store: Table with at least one finished pass.
        protocol: Protocol with the quantile of the estimates and the limits for noisy ones.

    Returns:
        The fit that was stored.
    """
    quantile = protocol.quantile
    profiled = store.profiling()
    assert profiled is not None, "the store has a finished pass"
    samples = Samples.of(store.visits(profiled))
    blocks = {id_: spec for id_, spec in store.blocks().items() if id_ in samples.hot_ms}
    held_out = store.blocks("held-out").keys() & blocks.keys()
    networks = store.networks("profile")
    hot = samples.intervals([*blocks, *networks], quantile)
    cold = samples.intervals(blocks, quantile, cold=True)
    estimates = {
        id_: as_estimate(hot[id_], cold.get(id_), visits=len(samples.hot_ms[id_])) for id_ in hot
    }
    transferred = {id_: e for id_, e in store.transferred().items() if id_ not in estimates}
    estimates |= transferred
    blocks |= {id_: spec for id_, spec in store.blocks().items() if id_ in transferred}
    calibration = _calibration_networks(store, estimates, quantile)
    estimates |= calibration
    curves = Curves(
        store.alignment,
        {spec: estimates[id_] for id_, spec in blocks.items() if id_ not in held_out},
    )
    networks |= {id_: n for id_, n in store.networks(*LATER_ROLES).items() if id_ in calibration}
    near_bytes = store.environment.l2_bytes / 2
    price = fit_price(
        [
            _sample(network, curves, near_bytes, estimates[id_].hot_ms)
            for id_, network in networks.items()
            if id_ in estimates
        ],
        least_cold_ms=min(estimates[id_].cold_or_hot_ms for id_ in blocks),
        least_hot_ms=min(estimates[id_].hot_ms for id_ in blocks),
        near_limit_bytes=near_bytes,
    )
    floor = samples.split_half_noise(store.networks("profile"), quantile)
    fit = StoredFit(
        price,
        floor=floor,
        noisy=floor is not None and floor > protocol.floor_tolerance,
        held_out_errors=_held_out_errors(
            price, curves, [(blocks[id_], estimates[id_]) for id_ in sorted(held_out)]
        ),
        calibrated=bool(calibration),
        drifts=_drifts(store, estimates, quantile),
    )
    marked = {id_: _marked(estimate, price, protocol) for id_, estimate in estimates.items()}
    store.set_results(marked, fit)
    return fit


@dataclass(frozen=True)
class Drift:
    """Change of the machine between two sweeps: ``now = scale x then + ms_per_byte x bytes``.

    Another program on the machine takes a share of the processor, which slows every network, and a
    share of the caches and the memory, which slows networks with many weights. A drift therefore
    has two coefficients.

    Attributes:
        ratio: Latency now over then, geometric mean over the probes.
        scale: Factor of the earlier latency.
        ms_per_byte: Added time per byte of the weights.
    """

    ratio: float
    scale: float
    ms_per_byte: float

    @classmethod
    def between(
        cls, then_ms: Sequence[float], now_ms: Sequence[float], weight_bytes: Sequence[float]
    ) -> Drift | None:
        """Estimate the drift from networks that were measured then and now; None without any."""
        if not then_ms:
            return None
        then, now = np.array(then_ms), np.array(now_ms)
        ratio = float(np.exp(np.mean(np.log(now / then))))
        one = cls(ratio, ratio, 0.0)
        if len(then) < _PROBES_FOR_TWO:
            return one
        columns = np.stack([np.ones_like(then), np.array(weight_bytes) / then], axis=1)
        wanted = now / then
        # leave-one-out errors at the probes, with one coefficient and with two
        errors: tuple[list[float], list[float]] = ([], [])
        for i in range(len(then)):
            rest = np.arange(len(then)) != i
            mean = float(np.exp(np.log(wanted[rest]).mean()))
            fitted = float(columns[i] @ _least_squares(columns[rest], wanted[rest]))
            for kept, value in zip(errors, (mean, fitted), strict=True):
                kept.append(abs(value / wanted[i] - 1))
        if np.mean(errors[1]) > _WORTH_TWO * np.mean(errors[0]):
            return one
        scale, slope = _least_squares(columns, wanted)
        return cls(ratio, float(scale), float(slope))

    @classmethod
    def of_probes(
        cls,
        networks: Mapping[int, Network],
        then: Mapping[int, Estimate],
        now: Mapping[int, Interval],
    ) -> Drift | None:
        """The drift that networks show which were measured then and now; None without any.

        Args:
            networks: Networks by id.
            then: Estimates of the profiling.
            now: Latencies of a later sweep.
        """
        probes = [id_ for id_ in networks if id_ in then and id_ in now]
        return cls.between(
            [then[id_].hot_ms for id_ in probes],
            [now[id_].estimate_ms for id_ in probes],
            [network_cost(networks[id_]).weight_bytes for id_ in probes],
        )

    def now_ms(self, then_ms: float, weight_bytes: float) -> float:
        """Latency now of a network that took ``then_ms``."""
        return self.scale * then_ms + self.ms_per_byte * weight_bytes

    def then_ms(self, now_ms: float, weight_bytes: float) -> float:
        """Latency then of a network that takes ``now_ms``."""
        return (now_ms - self.ms_per_byte * weight_bytes) / self.scale


def _least_squares(columns: Floats, wanted: Floats) -> Floats:
    size = np.abs(columns).max(axis=0)  # a byte and a ms differ by many orders of magnitude
    result: Floats = np.linalg.lstsq(columns / size, wanted, rcond=None)[0] / size
    return result


def as_estimate(hot: Interval, cold: Interval | None, *, visits: int) -> Estimate:
    """Estimate from intervals; whether it is noisy is decided later."""
    return Estimate(
        hot.estimate_ms,
        hot.low_ms,
        hot.high_ms,
        cold.estimate_ms if cold else None,
        cold.low_ms if cold else None,
        cold.high_ms if cold else None,
        visits,
        noisy=False,
    )


def _calibration_networks(
    store: TableStore, profiled: Mapping[int, Estimate], quantile: float
) -> dict[int, Estimate]:
    """Estimates of calibration networks, converted to the time of the profiling."""
    found: dict[int, Estimate] = {}
    networks, later = store.networks("profile"), store.networks(*LATER_ROLES)
    calibrations = store.sweeps("calibration")
    for sweep in (*calibrations, *(_last_confirmations(store) if calibrations else ())):
        samples = Samples.of(store.visits(sweep))
        intervals = samples.intervals(list(samples.hot_ms), quantile)
        drift = Drift.of_probes(networks, profiled, intervals)
        for id_ in intervals.keys() & later.keys():
            now = intervals[id_]
            then_ms = now.estimate_ms
            if drift is not None:
                then_ms = drift.then_ms(now.estimate_ms, network_cost(later[id_]).weight_bytes)
            then = now.scaled(then_ms / now.estimate_ms)
            found[id_] = as_estimate(then, None, visits=len(samples.hot_ms[id_]))
    return found


def _drifts(
    store: TableStore, profiled: Mapping[int, Estimate], quantile: float
) -> tuple[float, ...]:
    """Drift of later sweeps that visited networks of the profiling, one for each budget."""
    networks, found = store.networks("profile"), []
    sweeps = (*store.sweeps("calibration"), *store.sweeps("verification"))
    for sweep in sorted((*sweeps, *_last_confirmations(store))):
        samples = Samples.of(store.visits(sweep))
        drift = Drift.of_probes(networks, profiled, samples.intervals(networks, quantile))
        if drift is not None:
            found.append(drift.ratio)
    return tuple(found)


def _last_confirmations(store: TableStore) -> list[int]:
    """The last confirmation for each budget.

    Candidates for one budget are nearly the same network. With several of them in a fit, the error
    at one that is left out would be too small.
    """
    last = {}
    for id_ in store.sweeps("confirmation"):
        loop, _, *budget = store.detail(id_).split(" ")  # older sweeps name no budget
        last[budget[0] if budget else loop] = id_
    return sorted(last.values())


def _sample(
    members: Network, curves: Curves, near_limit_bytes: float, latency_ms: float
) -> NetworkSample:
    estimates = [curves.estimate(spec) for spec in members]
    known = [e for e in estimates if e is not None]
    assert len(known) == len(members), "calibration networks are made of priced blocks"
    return NetworkSample(
        blocks=len(members),
        cold_ms=sum(e.cold_or_hot_ms for e in known),
        hot_ms=sum(e.hot_ms for e in known),
        weight_bytes=sum(block_cost(spec).weight_bytes for spec in members),
        near_bytes=sum(min(block_cost(spec).weight_bytes, near_limit_bytes) for spec in members),
        latency_ms=latency_ms,
    )


def _held_out_errors(
    price: PriceModel, curves: Curves, held_out: Sequence[tuple[BlockSpec, Estimate]]
) -> tuple[float, ...]:
    errors = []
    for spec, measured in held_out:
        between = curves.between(spec)
        if between is None:
            continue
        predicted_ms, measured_ms = (
            price.block_price_ms(e.cold_ms, e.hot_ms, weight_bytes=block_cost(spec).weight_bytes)
            for e in (between, measured)
        )
        if measured_ms > 0:  # else the relative error is undefined; the check of a table reports it
            errors.append(predicted_ms / measured_ms - 1)
    return tuple(errors)


def _marked(estimate: Estimate, price: PriceModel, protocol: SweepProtocol) -> Estimate:
    """Estimate marked noisy if it has too few visits or its price has too wide an interval.

    The sequential design ends when predictions are certain. Blocks that hardly matter to them then
    still have wide intervals, so only the number of visits counts.
    """
    noisy = estimate.visits < protocol.least_visits
    if protocol.design == "uniform":
        noisy = noisy or price_half_width(price, estimate) > protocol.block_tolerance
    return replace(estimate, noisy=noisy)


def price_half_width(price: PriceModel, e: Estimate) -> float:
    """Relative half width of the interval of a block's price, or of a network's latency."""
    hot_ms = (e.hot_ms, e.hot_low_ms, e.hot_high_ms)
    if e.cold_ms is not None and e.cold_low_ms is not None and e.cold_high_ms is not None:
        cold_ms = (e.cold_ms, e.cold_low_ms, e.cold_high_ms)
        priced_ms = [
            price.cold_scale * cold + price.hot_scale * hot
            for cold, hot in zip(cold_ms, hot_ms, strict=True)
        ]
        if priced_ms[0]:
            return relative_half_width(*priced_ms)
    return relative_half_width(*hot_ms)
