"""The answer of a search for one budget: latencies, verdict, accuracy, size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from latbench.blocks import Network
from latbench.cost import network_cost
from latbench.measure.samples import Interval
from latbench.report.page.document import Tone, Value
from latbench.report.page.table_sections import ReportedTable
from latbench.report.page.wording import latency, percent, span_ms
from nas.latency.verified_rounds import Status, status_of
from nas.report.page.front_figure import FoundPoint
from nas.report.page.run_contents import FoundNetwork, Measured, RunContents, searched_tables
from nas.report.page.scores import ScoreScale
from nas.report.page.search_figures import Latency
from nas.spaces import Architecture, space_of

TONES: Mapping[str, Tone] = {"met": "good", "missed": "bad", "undecided": "open"}


@dataclass(frozen=True)
class Surroundings:
    """What a report knows beside a run.

    Attributes:
        tables: Latency tables with their histories.
        trainings: Trainings, which may be those of the networks of a search.
    """

    tables: tuple[ReportedTable, ...]
    trainings: tuple[RunContents, ...]

    def of(self, run: RunContents) -> Surroundings:
        """The same with the tables of a search only, in its order; all if it had none."""
        own = searched_tables(run.config, [each.table for each in self.tables])
        if not own:
            return self
        in_order = [known for table in own for known in self.tables if known.table is table]
        return replace(self, tables=tuple(in_order))

    def tables_of(self, architecture: Architecture) -> tuple[ReportedTable, ...]:
        """The tables that price an architecture."""
        network = space_of(architecture).lower(architecture)
        return tuple(each for each in self.tables if all(spec in each.table for spec in network))


@dataclass(frozen=True)
class BudgetAnswer:
    """The network of one budget with all that is known of it.

    Attributes:
        found: The network and its rounds.
        tables: Tables that price it; that of the device that is measured comes first.
        training: Its training from scratch; None without one.
    """

    found: FoundNetwork
    tables: tuple[ReportedTable, ...] = ()
    training: RunContents | None = None

    @classmethod
    def of(cls, found: FoundNetwork, known: Surroundings) -> BudgetAnswer:
        made = found.architecture
        if made is None:
            return cls(found)
        trainings = [each for each in known.trainings if each.trained == made]
        return cls(found, known.tables_of(made), trainings[-1] if trainings else None)

    @property
    def table(self) -> ReportedTable | None:
        """The table of the device that is measured."""
        return self.tables[0] if self.tables else None

    @property
    def target_ms(self) -> float | None:
        return self.found.target_ms

    @property
    def name(self) -> str:
        return "the limits" if self.target_ms is None else latency(self.target_ms)

    @property
    def reason(self) -> str:
        """The verdict of the search in words; empty without one."""
        return "" if self.confirmed is None else self.found.rounds.reason

    @property
    def network(self) -> Network | None:
        made = self.found.architecture
        return None if made is None else space_of(made).lower(made)

    @property
    def confirmed(self) -> Measured | None:
        """The last measurement of the network in the rounds of the search."""
        made = self.found.architecture
        measured = [each for each in self.found.rounds.measured if each.architecture == made]
        return measured[-1] if measured else None

    @property
    def latencies(self) -> list[Latency]:
        """Predicted and measured latency, as far as they are known."""
        return [each for each in (self.predicted, self.measured) if each is not None]

    @property
    def predicted(self) -> Latency | None:
        """The prediction of the rounds if it has an interval, the table's, or the logged one."""
        last = self.confirmed
        if last is not None and last.predicted_low_ms is not None:
            ends = (last.predicted_low_ms, last.predicted_high_ms)
            return Latency("predicted", last.predicted_ms, *ends)
        if self.table is not None and self.network is not None:
            found = self.table.table.predict(self.network)
            return Latency("predicted", found.latency_ms, found.low_ms, found.high_ms)
        latency_ms = self.found.latency_ms
        return None if latency_ms is None else Latency("predicted", latency_ms)

    @property
    def measured(self) -> Latency | None:
        """The measurement that decides: the rounds' if they have intervals, or the table's last."""
        last = self.confirmed
        if last is not None and last.measured_low_ms is not None:
            ends = (last.measured_low_ms, last.measured_high_ms)
            return Latency("measured", last.measured_ms, *ends)
        for sweep in reversed(self.table.later if self.table else ()):
            if self.network in sweep.networks:
                found = sweep.networks[self.network]
                return Latency("measured", found.estimate_ms, found.low_ms, found.high_ms)
        return None if last is None else Latency("measured", last.measured_ms)

    @property
    def point(self) -> FoundPoint | None:
        """The network on the front; None without a score or a latency."""
        made, score, latencies = self.found.architecture, self.found.score, self.latencies
        if made is None or score is None or not latencies:
            return None
        return FoundPoint(self.found.phase, made, score, latencies[-1])

    @property
    def status(self) -> Status | None:
        """The verdict of the search, or that of the interval; None without an interval.

        Rounds of another network, which a later run of the search replaced, are no verdict.
        """
        if self.confirmed is not None and self.found.rounds.status is not None:
            return self.found.rounds.status
        found, target_ms = self.measured, self.target_ms
        if found is None or target_ms is None or found.low_ms is None or found.high_ms is None:
            return None
        return status_of(Interval(found.latency_ms, found.low_ms, found.high_ms), target_ms)

    @property
    def _confidence(self) -> str:
        """The confidence that was asked for, in words; empty for none."""
        confidence = self.found.confidence
        return "" if confidence is None else f"asked with a confidence of {confidence:.0%}"

    def values(self) -> tuple[Value, ...]:
        """The answer for this budget."""
        if self.found.architecture is None:
            return (Value("budget", self.name), Value("network", "not found yet", tone="quiet"))
        return tuple(
            value
            for value in (
                Value("budget", self.name, self._confidence),
                self._latency_value(self.predicted, "90 % interval"),
                *self._elsewhere(),
                self._latency_value(self.measured, "95 % interval"),
                self._verdict(),
                self._accuracy(),
                self._size(),
            )
            if value is not None
        )

    def _elsewhere(self) -> list[Value]:
        """Predictions on the other devices of the search."""
        network, values = self.network, []
        if network is None:
            return []
        for each in self.tables[1:]:
            found = each.table.predict(network)
            detail = span_ms(found.low_ms, found.high_ms)
            label = f"predicted on {each.table.device.name}"
            values.append(Value(label, latency(found.latency_ms), detail))
        return values

    def _latency_value(self, found: Latency | None, interval: str) -> Value | None:
        if found is None:
            return None
        span = span_ms(found.low_ms, found.high_ms)
        detail = f"{interval} {span}" if span else ""
        return Value(found.kind, latency(found.latency_ms), detail)

    def _verdict(self) -> Value | None:
        status, found, target_ms = self.status, self.measured, self.target_ms
        if target_ms is None:
            return None
        if status is None or found is None:
            return Value("verdict", "not measured", "latbench verify measures it", "quiet")
        away = found.latency_ms / target_ms - 1
        return Value("verdict", status, distance(away), TONES[status])

    def _accuracy(self) -> Value | None:
        """The test metric of a training of the network, or its score in the supernet."""
        score = self.found.score
        scale = ScoreScale.of(self.found.fitness, () if score is None else (score,))
        shown = "" if score is None else scale.shown(score)
        metrics = self.training.metrics_of_test if self.training else {}
        for name, value in metrics.items():
            supernet = f"{scale.name} of {shown} with the supernet's weights" if shown else ""
            return Value(metric_name(name), percent(value, 2), supernet)
        if score is None:
            return None
        return Value(f"supernet's {scale.name}", shown, "before training from scratch")

    def _size(self) -> Value | None:
        if self.network is None:
            return None
        cost = network_cost(self.network)
        return Value("parameters", f"{cost.params / 1e6:.3g} M", f"{cost.macs / 1e6:.4g} M MACs")


def distance(away: float) -> str:
    """Distance of a latency from its budget: latency / budget - 1, in words."""
    if abs(away) < 0.0005:
        return "at the budget"
    return f"{abs(away):.1%} {'below' if away < 0 else 'above'} the budget"


def metric_name(name: str) -> str:
    """Name of a metric of a training for readers."""
    return {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}.get(name, name)
