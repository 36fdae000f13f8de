"""Results of searches, and what a run folder keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latbench.files import write_atomically
from latbench.result import Result
from nas.latency.correction import Correction
from nas.latency.feasible_range import unused
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import Status
from nas.latency.width_scaling import Fit
from nas.spaces import Architecture
from nas.training.distributed import ALONE, Workers
from nas.training.run_files import architecture_file, phase_of
from nas.training.run_folder import RunFolder


@dataclass(frozen=True)
class Argmax:
    """The most probable architecture of a relaxed search, without regard to budgets."""

    latency_ms: float
    architecture: Architecture


@dataclass(frozen=True, repr=False)
class SearchResult(Result):
    """The architecture found for one target.

    Attributes:
        target_ms: Latency that was asked for; None if there were only limits.
        latency_ms: Predicted latency; None without a table.
        score: Fitness on held-out training images with the supernet's weights. The task defines
            the fitness; for classification it is the accuracy, a fraction.
        architecture: The architecture.
        argmax: The most probable architecture without regard to its latency; None if the searcher
            has no probabilities.
        correction: Measured latency and verdict of ``until_verified``; None without it.
        confidence: Probability with which the target is kept; None if none was asked for.
        upper_ms: Upper end of the predicted latency for that confidence.
    """

    target_ms: float | None
    latency_ms: float | None
    score: float
    architecture: Architecture
    argmax: Argmax | None = None
    correction: Correction[Fit] | None = None
    confidence: float | None = None
    upper_ms: float | None = None

    @property
    def reached_ms(self) -> float | None:
        """Measured latency if there is one, otherwise the predicted latency."""
        return self.correction.measured_ms if self.correction else self.latency_ms

    @property
    def unused_ms(self) -> float | None:
        """Part of the target that the reached latency leaves, in ms."""
        if self.target_ms is None or self.reached_ms is None:
            return None
        return self.target_ms - self.reached_ms

    @property
    def status(self) -> Status | None:
        """Verdict on the measured latency; None if nothing was measured."""
        return self.correction.status if self.correction else None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        plain: dict[str, Any] = {
            "target_ms": self.target_ms,
            "latency_ms": self.latency_ms,
            "score": self.score,
            "architecture": self.architecture.as_dict(),
        }
        if self.correction is not None:
            plain |= self.correction.as_dict()
        reached_ms = self.reached_ms
        if self.confidence is not None and self.target_ms is not None and reached_ms is not None:
            plain |= {"confidence": self.confidence, "upper_ms": self.upper_ms}
            plain |= unused(self.target_ms, reached_ms)
        if self.argmax is not None:
            plain["argmax"] = {
                "latency_ms": self.argmax.latency_ms,
                "architecture": self.argmax.architecture.as_dict(),
            }
        return plain


def kept(
    result: SearchResult,
    folder: RunFolder,
    devices: Sequence[PricedSpace],
    *,
    step: int,
    workers: Workers = ALONE,
) -> SearchResult:
    """The result, after the first process has written it into the run folder.

    Its architectures become files. Its predicted latency and its score become metrics.

    Args:
        result: The result.
        folder: Folder of the run.
        devices: Devices that the result's latency holds on.
        step: Step of the metrics: the last epoch, or the number of evaluations.
        workers: The processes that searched together.
    """
    if not workers.leads:
        return result
    file = architecture_file(folder.path, result.target_ms)
    write_atomically(file, result.architecture.to_json())
    if result.argmax is not None:
        argmax_file = folder.path / "argmax" / file.name
        write_atomically(argmax_file, result.argmax.architecture.to_json())
    latency_ms = result.latency_ms
    if any(each.margin for each in devices):  # the search used upper ends
        latency_ms = max(each.predicted_ms(result.architecture) for each in devices)
    with folder.metrics() as metrics:
        values = {"derived_ms": latency_ms, "score": result.score}
        metrics.log(phase_of(result.target_ms), step, values)
    return result
