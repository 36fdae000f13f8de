"""Verified budgets: propose networks and measure them, until one keeps the budget.

A table's prediction is off by a few percent, and the speed of a machine drifts by a few more within
hours. Where that is too much, networks are measured. A round proposes several candidates around the
latency that should be right, and measures them in one sweep together with reference networks. The
most promising one is measured again in a sweep of its own, the **confirmation**. Its interval alone
decides, because the best of several measurements is too good on average. What the round has
measured corrects the aims of the next one (``nas.latency.budget_aims``).

The verdict of all rounds:

    met        The upper end of the confirmation's 95 % interval is at most the budget, and the
               latency is at least 97 % of it. Less is enough if there is nothing to propose
               between the network and its budget.
    missed     Even the closest network is above the budget with 95 % confidence, or the rounds
               ended at a network that leaves more of the budget unused.
    undecided  The machine is too noisy: the budget lies inside the interval, or no latency is
               certain to be both below the budget and near it.

A round changes only widths if widths suffice for its aims. Otherwise it asks the proposer of the
first architecture for other operations and depths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from latbench.blocks import Network
from latbench.measure.samples import Interval
from latbench.measure.swept_networks import SweptNetworks
from latbench.profilers import profiler_of_table
from latbench.progress import Progress
from latbench.tables import LatencyTable
from latbench.workflows.network_sweep import require_device
from latbench.workflows.verdict_sweep import SweepRule, sweep_apart
from nas.latency.aimed_proposals import NearestArchitectures, Propose
from nas.latency.budget_aims import LEAST, Learned, learn
from nas.latency.measured_rounds import ROUNDS, Measure, MeasuredRounds
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import Candidate, Status, VerifiedRounds, status_of
from nas.latency.width_scaling import Fit, Method, fit_exact
from nas.spaces import Architecture

_FIRST_ERROR = 0.05  # assumed relative error of a table that states none
_LEAST_ERROR = 0.02  # a table does not know the present drift of its machine
_NOISY_ROUNDS = 2  # successive rounds with intervals too wide for any verdict, after which it ends
_COARSE = (1 - LEAST) / 2  # tolerance at which few latencies are both below and near a budget
_LOWER = 1 - 1e-4  # factor below the prediction of a network that is known to be too slow
_FAR = 0.95  # part of the lowest aim below which a further candidate is of no use
_TRIES = 8  # proposals that are known and too slow, for one aim
_LAST_CONFIRMATIONS = 2

F = TypeVar("F", bound=Fit)
F_co = TypeVar("F_co", bound=Fit, covariant=True)


@dataclass(frozen=True)
class Correction(Generic[F_co]):
    """The architecture of the verdict.

    Attributes:
        target_ms: The budget.
        fit: The architecture and its predicted latency.
        measured_ms: Measured latency of ``fit.architecture``.
        measured_low_ms: Lower end of its 95 % interval.
        measured_high_ms: Upper end of its 95 % interval.
        rounds: Number of rounds.
        status: The verdict.
        reason: The verdict in words.
        tolerance: Relative difference between latencies that this machine could tell apart.
        history: All that was proposed and measured.
    """

    target_ms: float
    fit: F_co
    measured_ms: float
    measured_low_ms: float
    measured_high_ms: float
    rounds: int
    status: Status
    reason: str
    tolerance: float
    history: VerifiedRounds = field(repr=False)

    @property
    def error(self) -> float:
        """Relative error: measured / target - 1."""
        return self.measured_ms / self.target_ms - 1

    def as_dict(self) -> dict[str, Any]:
        """Measurement and verdict as plain JSON values."""
        names = ("status", "reason", "measured_ms", "measured_low_ms", "measured_high_ms")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"rounds": self.rounds, "tolerance": self.tolerance}


def correct_on_device(
    priced: PricedSpace,
    propose: Propose[F],
    rounds: MeasuredRounds,
    *,
    scale: Method = fit_exact,
    score: Callable[[F], float] | None = None,
) -> Correction[F]:
    """Propose and measure architectures until one keeps the budget with 95 % confidence.

    Args:
        priced: The space and its prices.
        propose: Proposes the first architecture, and another one whenever widths do not suffice.
            The range that it gets includes all aims so far.
        rounds: Measures the candidates; it holds the budget, and what was measured before.
        scale: Method that scales widths to a predicted latency.
        score: How good an architecture is, where the proposer ranks architectures. Then the best
            one below the budget is taken, otherwise the closest one.

    Returns:
        The network of the verdict: one that keeps the budget with 95 % confidence, if there is any.

    Raises:
        BudgetError: There is no architecture to propose for the budget. Nothing was measured.
    """
    return _Correction(priced, propose, rounds, scale, score).run()


def measurer(table: LatencyTable) -> Measure:
    """A function that measures networks on a table's device, in a process of its own.

    Raises:
        MismatchError: The table belongs to another device or machine.
        MissingExtraError: The runtime of the table is not installed.
    """
    require_device(profiler_of_table(table.device), table)

    def measure(networks: Sequence[Network], rule: SweepRule, progress: Progress) -> SweptNetworks:
        return sweep_apart(table.path, networks, rule, progress=progress)

    return measure


@dataclass(frozen=True)
class _Measured(Generic[F]):
    """An architecture with its latest measurement."""

    fit: F
    interval: Interval
    confirmed: bool


class _Correction(Generic[F]):
    """One correction: its proposals so far, and what was measured of them."""

    def __init__(
        self,
        priced: PricedSpace,
        propose: Propose[F],
        rounds: MeasuredRounds,
        scale: Method,
        score: Callable[[F], float] | None,
    ) -> None:
        self.near = NearestArchitectures(priced, propose, rounds.target_ms, scale=scale)
        self.priced = priced
        self.rounds = rounds
        self.score = score
        self.target_ms = rounds.target_ms
        self.measured: dict[Architecture, _Measured[F]] = {}
        half_width = priced.table.price_model.half_width()  # of a 90 % interval
        error = _FIRST_ERROR if half_width is None else half_width / 1.645
        self.prior = max(_LEAST_ERROR, error)

    def run(self) -> Correction[F]:
        noisy = 0
        for _ in range(ROUNDS):
            new = self._candidates()
            if new:
                swept = self.rounds.select([each.architecture for each in new])
                for fitted, candidate in zip(new, swept, strict=True):
                    self._note(fitted, candidate, confirmed=False)
            chosen = self._promising()
            if not new and chosen is None:
                return self._verdict("there is nothing else to propose", exhausted=True)
            if chosen is not None:
                confirmed = self._confirm(chosen)
                near = confirmed.interval.estimate_ms >= LEAST * self.target_ms
                if near and self._below(confirmed.interval):
                    return self._result(confirmed, "met", "")
            noisy = noisy + 1 if self._learned.half_width > 1 - LEAST else 0
            if noisy == _NOISY_ROUNDS:
                return self._verdict("the machine is too noisy", noisy=True)
        return self._verdict(f"the {ROUNDS} rounds ended")

    @property
    def _learned(self) -> Learned:
        # with a confidence, the first round aims below the budget by the margin of the prices
        return learn(self.rounds.record.rounds, self.prior, first=1 + self.priced.margin)

    def _candidates(self) -> list[F]:
        """New architectures around the latency that should be right."""
        priced_as = 1 + self.priced.margin
        aims_ms = [priced_as * aim for aim in self._learned.aims_ms(self.target_ms)]
        found: dict[Architecture, F] = {}
        for aim_ms in aims_ms:
            fitted = self._new(aim_ms, found, min(aims_ms))
            if fitted is not None:
                found[fitted.architecture] = fitted
        return list(found.values())

    def _new(self, aim_ms: float, taken: dict[Architecture, F], lowest_ms: float) -> F | None:
        """An unmeasured architecture at or below an aim that may become the result, or None."""
        for _ in range(_TRIES):
            fitted = self.near.at(aim_ms)
            architecture = fitted.architecture
            if architecture in taken:  # the next one below, unless it is far from the budget
                aim_ms = fitted.latency_ms * _LOWER
                if aim_ms < _FAR * lowest_ms:
                    return None
                continue
            known = self.measured.get(architecture)
            if known is None:
                return None if self._worse(fitted) else fitted
            if not self._too_slow(known):
                return None
            aim_ms = fitted.latency_ms * _LOWER
        return None

    def _too_slow(self, known: _Measured[F]) -> bool:
        """Whether a measured architecture cannot become the result."""
        if known.confirmed:
            return not self._below(known.interval)
        return known.interval.estimate_ms > self.target_ms * self._learned.highest

    def _worse(self, fitted: F) -> bool:
        """Whether a network with a better score keeps the budget with 95 % confidence."""
        if self.score is None:
            return False
        safe = [m for m in self.measured.values() if m.confirmed and self._below(m.interval)]
        return any(self.score(each.fit) >= self.score(fitted) for each in safe)

    def _note(self, fitted: F, candidate: Candidate, *, confirmed: bool) -> None:
        ends = (candidate.measured_ms, candidate.measured_low_ms, candidate.measured_high_ms)
        self.measured[fitted.architecture] = _Measured(fitted, Interval(*ends), confirmed)

    def _below(self, found: Interval) -> bool:
        return found.high_ms <= self.target_ms

    def _promising(self) -> F | None:
        """The architecture most likely to be met by a confirmation, or None."""
        learned = self._learned
        least = 0.0 if self.score is not None else learned.lowest
        plausible = [
            each
            for each in self.measured.values()
            if not each.confirmed
            and not self._worse(each.fit)
            and least <= each.interval.estimate_ms / self.target_ms <= learned.highest
        ]
        return max(plausible, key=self._merit).fit if plausible else None

    def _merit(self, each: _Measured[F]) -> float:
        """Score of an architecture below the budget, or nearness to the goal without scores."""
        if self.score is not None:
            return self.score(each.fit)
        return -abs(each.interval.estimate_ms / self.target_ms - self._learned.goal)

    def _confirm(self, fitted: F) -> _Measured[F]:
        self._note(fitted, self.rounds.confirm(fitted.architecture), confirmed=True)
        return self.measured[fitted.architecture]

    def _best(self, measured: Sequence[_Measured[F]]) -> _Measured[F]:
        """The best one: certainly below the budget, else the closest below, else above it."""

        def order(each: _Measured[F]) -> tuple[int, float]:
            off = each.interval.estimate_ms / self.target_ms - 1
            if self._below(each.interval):
                return 2, off if self.score is None else self.score(each.fit)
            return int(off <= 0), -abs(off)

        return max(measured, key=order)

    def _verdict(
        self, ended: str, *, exhausted: bool = False, noisy: bool = False
    ) -> Correction[F]:
        """The verdict on the best network, after a confirmation of it if there was none.

        Args:
            ended: Why there are no more rounds, for a budget that is not met.
            exhausted: Whether there is nothing to propose between the network and the budget.
            noisy: Whether the machine is too noisy.
        """
        for _ in range(_LAST_CONFIRMATIONS):
            best = self._best(list(self.measured.values()))
            if best.confirmed or best.interval.low_ms > self.target_ms:
                break
            self._confirm(best.fit)
        confirmed = [each for each in self.measured.values() if each.confirmed]
        best = self._best(confirmed or list(self.measured.values()))
        tolerance = self._tolerance(best)
        status = status_of(best.interval, self.target_ms)
        far = best.interval.estimate_ms < LEAST * self.target_ms and not exhausted
        if noisy or (far and tolerance > _COARSE):
            status = "undecided"
        elif status == "met" and far:
            status = "missed"
        unused = 1 - best.interval.estimate_ms / self.target_ms
        reason = _in_words(status, ended, unused=unused, tolerance=tolerance)
        return self._result(best, status, reason)

    def _tolerance(self, found: _Measured[F]) -> float:
        return max(self._learned.half_width, found.interval.half_width)

    def _result(self, found: _Measured[F], status: Status, reason: str) -> Correction[F]:
        record = self.rounds.finish(status, reason)
        return Correction(
            self.target_ms,
            found.fit,
            found.interval.estimate_ms,
            found.interval.low_ms,
            found.interval.high_ms,
            len(record.rounds),
            status,
            reason,
            self._tolerance(found),
            record,
        )


def _in_words(status: Status, ended: str, *, unused: float, tolerance: float) -> str:
    """The verdict in words.

    Args:
        status: The verdict.
        ended: Why there were no more rounds.
        unused: Part of the budget that the network leaves, negative above the budget.
        tolerance: Relative difference between latencies that the machine can tell apart.
    """
    if status == "met":
        near = unused <= 1 - LEAST
        return "" if near else f"{unused:.1%} of the budget is left, and {ended}"
    if status == "undecided":
        kept = "the budget is kept, but " if unused > tolerance else ""
        return (
            f"{kept}this machine can tell latencies apart to {tolerance:.1%} now, too coarse: "
            "repeat the command at a quieter time"
        )
    if unused > 0:
        return f"the budget is kept, but {unused:.1%} of it is left: {ended}"
    return f"the closest network is {-unused:.1%} above the budget: {ended}"
