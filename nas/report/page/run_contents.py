"""Contents of a run folder, as a report needs them; also those of a run in progress.

Everything is read from the files of the folder, without torch and without the data set. Files of
another version may have more fields, which are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from latbench.errors import InvalidFileError, offence
from latbench.json_lines import read_json_lines
from latbench.tables import LatencyTable
from nas.latency.verified_rounds import Status
from nas.spaces import Architecture
from nas.spaces.architecture import parse_architecture, read_architecture
from nas.training.choice_probabilities import ChoiceProbabilities, read_probabilities
from nas.training.run_config import FITNESS, read_config
from nas.training.run_files import (
    architecture_file,
    evaluations_file,
    generator_file,
    metrics_file,
    phase_of,
    rounds_file,
)

Kind = Literal["search", "train", "prune"]
"""Command that a run belongs to."""


class Measured(msgspec.Struct, frozen=True):
    """A network of a round of an on-device correction, predicted and measured.

    Attributes:
        measured_low_ms: Lower end of the interval; None if the round recorded none.
        measured_high_ms: Upper end of the interval.
    """

    architecture: Architecture
    predicted_ms: float
    measured_ms: float
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    measured_low_ms: float | None = None
    measured_high_ms: float | None = None


class _Round(msgspec.Struct, frozen=True):
    candidates: tuple[Measured, ...]
    confirmations: tuple[Measured, ...] = ()


class Rounds(msgspec.Struct, frozen=True):
    """Rounds of a correction for one target.

    Attributes:
        verdicts: Whether these rounds end with a verdict.
        status: Verdict of the search; None while rounds go on, and for runs without verdicts.
        reason: The verdict in words.
    """

    rounds: tuple[_Round, ...] = ()
    verdicts: bool = True
    status: Status | None = None
    reason: str = ""

    @property
    def measured(self) -> list[Measured]:
        """All measurements; those that decide come last."""
        each = [measured for one in self.rounds for measured in one.candidates]
        return each + [measured for one in self.rounds for measured in one.confirmations]


@dataclass(frozen=True)
class FoundNetwork:
    """The network of one budget.

    Attributes:
        phase: Name of the budget in files and metrics, such as ``0.5ms``.
        target_ms: The latency target; None if there are limits only.
        architecture: The network; None before it is found.
        latency_ms: Predicted latency; None without a table.
        score: Its score with the supernet's weights; None if it was not logged.
        rounds: Measurements on the device.
        confidence: Probability with which the prediction had to keep the target; None for none.
        fitness: Name of the score; None if the run does not say it.
    """

    phase: str
    target_ms: float | None
    architecture: Architecture | None
    latency_ms: float | None
    score: float | None
    rounds: Rounds
    confidence: float | None = None
    fitness: str | None = None


@dataclass(frozen=True)
class RunContents:
    """A search, a training or a pruning.

    Attributes:
        path: The run folder.
        config: Its configuration.
        metrics: Lines of the metrics log, in order.
        probabilities: Probabilities of choices after each epoch of a relaxed search.
        evaluations: Architectures that the supernet scored, with their scores.
    """

    path: Path
    config: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    probabilities: tuple[ChoiceProbabilities, ...]
    evaluations: tuple[tuple[Architecture, float], ...]

    @classmethod
    def of(cls, path: Path) -> RunContents:
        """Read a run folder.

        Raises:
            InvalidFileError: The folder holds no run, or one of its files is damaged.
        """
        config = read_config(path)
        kind = _CONFIGS.get(str(config.get("command")))
        if kind is None:
            raise InvalidFileError(
                f"{path} holds no search, training or pruning: name the folder of one"
            )
        try:
            msgspec.convert(config, type=kind)
        except msgspec.ValidationError as error:
            raise InvalidFileError(
                f"{path}/config.json is damaged: {error}", path=offence(str(error))
            ) from error
        lines = read_json_lines(evaluations_file(path), _Evaluation)
        return cls(
            path,
            config,
            tuple(_metrics(metrics_file(path))),
            tuple(read_probabilities(path)),
            tuple((line.architecture, line.score) for line in lines),
        )

    @property
    def kind(self) -> Kind:
        kind: Kind = self.config["command"]
        return kind

    @property
    def trained(self) -> Architecture:
        """The architecture of a training."""
        text = msgspec.json.encode(self.config["architecture"])
        return parse_architecture(text, source=f"{self.path}/config.json")

    @property
    def generator(self) -> Path | None:
        """File of the generator that the search has trained; None without one."""
        file = generator_file(self.path)
        return file if file.exists() else None

    @cached_property
    def found(self) -> tuple[FoundNetwork, ...]:
        """The networks of a search, in the order of its targets."""
        targets: Sequence[float | None] = self.config.get("targets_ms") or ()
        limited = any(self.config.get(f"max_{name}") for name in ("macs", "params", "memory"))
        if not targets and limited:
            targets = (None,)
        return tuple(self._found(target_ms) for target_ms in targets)

    def _found(self, target_ms: float | None) -> FoundNetwork:
        phase, file = phase_of(target_ms), architecture_file(self.path, target_ms)
        return FoundNetwork(
            phase,
            target_ms,
            read_architecture(file) if file.exists() else None,
            self.last(phase, "derived_ms"),
            self.last(phase, "score"),
            _rounds(rounds_file(self.path, target_ms)),
            self.config.get("confidence"),
            self.config.get(FITNESS),
        )

    def last(self, phase: str, name: str) -> float | None:
        """The last value of a metric; None if it was not logged."""
        values = [line[name] for line in self.metrics if line["phase"] == phase and name in line]
        return values[-1] if values else None

    def series(self, name: str) -> dict[str, list[tuple[int, float]]]:
        """Epochs, from 1, and values of a metric by phase; of an epoch, the last value."""
        found: dict[str, dict[int, float]] = {}
        for line in self.metrics:
            if name in line:
                found.setdefault(line["phase"], {})[line["epoch"] + 1] = line[name]
        return {phase: sorted(values.items()) for phase, values in found.items()}

    @property
    def metrics_of_test(self) -> dict[str, float]:
        """Test metrics of a finished training; empty before."""
        tests = [line for line in self.metrics if line["phase"] == "test"]
        other = ("phase", "epoch", "time_s")
        return {name: v for name, v in tests[-1].items() if name not in other} if tests else {}

    @property
    def missing(self) -> str:
        """What is not there yet, in words; empty for a finished run."""
        if self.kind != "search":
            done = max((line["epoch"] + 1 for line in self.metrics), default=0)
            of = self.config["recipe"]["epochs"]
            return "" if self.metrics_of_test else f"{done} of {of} epochs are trained"
        absent = [each.phase for each in self.found if each.architecture is None]
        if absent:
            return f"there is no network yet for {', '.join(absent)}"
        if not self.found and self.generator is None:
            return "there is no generator yet"
        return ""


def searched_tables(
    config: Mapping[str, Any], tables: Sequence[LatencyTable]
) -> list[LatencyTable | None]:
    """The tables of a search in its order, by device and space; None for one that is not there."""
    left, found = list(tables), []
    for entry in config["tables"]:
        if "device" in entry:  # a search without tables has its space alone
            named = (entry["device"], entry["space"])
            one = next((t for t in left if (t.device.name, str(t.space)) == named), None)
            found.append(one)
            left = [each for each in left if each is not one]
    return found


class _Search(msgspec.Struct):
    """What a report reads in the configuration of a search."""

    space: str
    searcher: str
    tables: list[dict[str, Any]]
    prices: list[Any]
    targets_ms: list[float]
    widths: str
    data: str
    recipe: dict[str, Any] | None
    confidence: float | None = None
    fitness: str | None = None


class _Epochs(msgspec.Struct):
    epochs: int


class _Training(msgspec.Struct):
    """The same of a training."""

    architecture: Architecture
    data: str
    recipe: _Epochs


class _Pruning(msgspec.Struct):
    """The same of a pruning."""

    device: str
    target_ms: float
    data: str
    recipe: _Epochs


_CONFIGS: dict[str, type[Any]] = {"search": _Search, "train": _Training, "prune": _Pruning}


class _Evaluation(msgspec.Struct, frozen=True):
    architecture: Architecture
    score: float


def _rounds(file: Path) -> Rounds:
    """Rounds of a target: a list of networks, or rounds of several networks with a verdict."""
    if not file.exists():
        return Rounds()
    try:
        plain = msgspec.json.decode(file.read_bytes())
        if isinstance(plain, list):
            plain = {"rounds": [{"candidates": [each]} for each in plain], "verdicts": False}
        return msgspec.convert(plain, type=Rounds)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"{file} is damaged: {error}") from error


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics log: the phase, the epoch, and everything that is a number."""
    found = []
    for line in read_json_lines(path, dict[str, Any]):
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        if isinstance(line.get("phase"), str) and isinstance(line.get("epoch"), int):
            found.append({**numbers, "phase": line["phase"]})
    return found
