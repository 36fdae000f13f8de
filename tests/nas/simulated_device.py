"""Verifications on devices whose latencies are known: exact, or with noise, drift and a load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from latbench.blocks import Network
from latbench.measure.swept_networks import SweptNetwork, SweptNetworks
from latbench.progress import Progress
from latbench.workflows.verdict_sweep import Narrowing, SweepRule
from nas.latency.aimed_proposals import Propose
from nas.latency.correction import Correction, correct_on_device
from nas.latency.measured_rounds import Measure, MeasuredRounds
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import VerifiedRounds
from nas.latency.width_scaling import Fit

_REFERENCES = 5
_VISIT_S = 0.05
_QUANTILE = 0.05


class Forgetful:
    """A record that keeps nothing."""

    def load(self) -> VerifiedRounds | None:
        return None

    def save(self, rounds: VerifiedRounds) -> None:
        return


def correct(
    priced: PricedSpace, propose: Propose[Fit], target_ms: float, measure: Measure
) -> Correction[Fit]:
    """A correction whose record is not kept."""
    rounds = MeasuredRounds(priced, target_ms, measure, Forgetful(), name="test")
    return correct_on_device(priced, propose, rounds)


def slower_by(priced: PricedSpace, factor: float) -> Measure:
    """An exact device on which networks take so many times their predictions."""
    return exactly(lambda network: factor * priced.table.predict(network).latency_ms)


def exactly(latency_ms: Callable[[Network], float]) -> Measure:
    """A device without noise."""

    def measure(networks: Sequence[Network], rule: SweepRule, progress: Progress) -> SweptNetworks:
        progress(0.5, "pass 1")
        found = [latency_ms(network) for network in networks]
        swept = tuple(SweptNetwork(ms, ms, ms, (ms,) * 4) for ms in found)
        return SweptNetworks(swept, (), (), passes=32, seconds=1.0, finished_s=0.0)

    return measure


@dataclass
class NoisyDevice:
    """A device that is sometimes interrupted and slowly changes its speed.

    Attributes:
        latency_ms: Latency of a network without noise.
        seed: Seed of noise and drift.
        noise: Mean time that interruptions add to a call, relative.
        drift: Standard deviation of the slow change of the speed, relative.
        own_drift: The same for the part that every network has of its own.
        slow_s: Time in which the speed changes.
        load_at_s: Time from which another program takes a share of the machine.
        load: Slowdown by that program.
        fails_at: Number of the sweep at which the device disappears.
    """

    latency_ms: Callable[[Network], float]
    seed: int
    noise: float = 0.02
    drift: float = 0.005
    own_drift: float = 0.003
    slow_s: float = 20.0
    load_at_s: float = np.inf
    load: float = 0.2
    fails_at: int | None = None
    error: Exception = field(default_factory=KeyboardInterrupt)
    sweeps: int = 0
    now_s: float = 0.0
    last_under_load: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.level = self.rng.normal() * self.drift
        self.own: dict[object, float] = {}

    @property
    def quiet(self) -> float:
        """Low quantile of a visit's time over the latency without noise."""
        return float(1 - self.noise * np.log(1 - _QUANTILE))

    def __call__(
        self, networks: Sequence[Network], rule: SweepRule, progress: Progress
    ) -> SweptNetworks:
        if self.sweeps == self.fails_at:
            raise self.error
        self.sweeps += 1
        keys: list[object] = [*networks, *range(_REFERENCES)]
        true_ms = np.array([*map(self.latency_ms, networks), *[rule.budget_ms] * _REFERENCES])
        rows: list[np.ndarray] = []
        narrowing = Narrowing(rule)
        begin_s = self.now_s
        while True:
            rows.append(true_ms * self._pass(keys))
            if not narrowing.is_due(len(rows), self.now_s - begin_s):
                continue
            found = SweptNetwork.of(np.array(rows).T, _QUANTILE)
            count = len(networks)
            swept = SweptNetworks(
                tuple(found[:count]),
                tuple(found[count:]),
                (rule.budget_ms,) * _REFERENCES,
                passes=len(rows),
                seconds=self.now_s - begin_s,
                finished_s=self.now_s,
            )
            if not narrowing.goes_on(swept):
                self.last_under_load = begin_s > self.load_at_s
                self.now_s += 2.0
                return swept

    def _pass(self, keys: Sequence[object]) -> np.ndarray:
        """Time of one visit to each network, relative to its latency without noise."""
        taken_s = _VISIT_S * len(keys)
        self.now_s += taken_s
        kept = np.exp(-taken_s / self.slow_s)
        fresh = np.sqrt(1 - kept**2)
        self.level = kept * self.level + fresh * self.drift * self.rng.normal()
        for key in keys:
            own = self.own.get(key, self.own_drift * self.rng.normal())
            self.own[key] = kept * own + fresh * self.own_drift * self.rng.normal()
        loaded = 1 + (self.load if self.now_s > self.load_at_s else 0.0)
        own_levels = np.array([self.own[key] for key in keys])
        added = self.rng.exponential(self.noise, len(keys))
        return loaded * np.exp(self.level + own_levels) * (1 + added)
