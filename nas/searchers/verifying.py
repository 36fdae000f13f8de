"""Verification of what a search proposes: rounds in its run folder, metrics and progress."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from latbench.progress import Phase, Progress
from nas.latency.aimed_proposals import Propose
from nas.latency.correction import Correction, correct_on_device
from nas.latency.measured_rounds import Measure, MeasuredRounds, RecordFile
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit
from nas.spaces import Architecture
from nas.training.run_files import phase_of, rounds_file
from nas.training.run_folder import RunFolder

_MEASURE_S = 60.0  # expected time of the rounds for a target

F = TypeVar("F", bound=Fit)


def measuring_phases(name: str, measure: Measure | None) -> list[Phase]:
    """The phase in which proposals for a target of this name are measured, if they are."""
    return [] if measure is None else [Phase(f"measure {name}", seconds=_MEASURE_S)]


def fixed(architecture: Architecture, latency_ms: float) -> Fit:
    """A proposal whose widths do not change."""
    return Fit(latency_ms, latency_ms, latency_ms, latency_ms, architecture)


def verify_proposals(
    priced: PricedSpace,
    propose: Propose[F],
    target_ms: float,
    *,
    measure: Measure,
    folder: RunFolder,
    score: Callable[[F], float] | None = None,
    progress: Progress,
) -> Correction[F]:
    """Measure what a search proposes, until a network keeps the budget with 95 % confidence.

    Args:
        priced: The space and its prices.
        propose: Proposes architectures for latencies.
        target_ms: The budget.
        measure: Measures networks on the device.
        folder: Folder of the run; it keeps every sweep, so an interrupted search goes on.
        score: Score of an architecture, if the search ranks architectures.
        progress: Callback that reports the progress.
    """
    phase, file = phase_of(target_ms), rounds_file(folder.path, target_ms)
    with folder.metrics() as metrics:
        rounds = MeasuredRounds(
            priced,
            target_ms,
            measure,
            RecordFile(file),
            name=sha256(str(file.resolve()).encode()).hexdigest(),
            log=lambda number, values: metrics.log(f"{phase}-measured", number, values),
            progress=lambda done, words: progress(done, f"{phase}, {words}"),
        )
        return correct_on_device(priced, propose, rounds, score=score)
