"""Names of the files in a run folder; needs no torch, so that reports can find them."""

from __future__ import annotations

from pathlib import Path


def phase_of(target_ms: float | None) -> str:
    """Name of a target in files and metrics, such as ``0.5ms``."""
    return "limits" if target_ms is None else f"{target_ms:.6g}ms"


def architecture_file(run: Path, target_ms: float | None) -> Path:
    """File of the architecture that a run found for a target."""
    return run / "architectures" / f"{phase_of(target_ms)}.json"


def rounds_file(run: Path, target_ms: float | None) -> Path:
    """File of a run's measurements for a target."""
    return run / "measured" / f"{phase_of(target_ms)}.json"


def generator_file(run: Path) -> Path:
    """File of a run's generator, if its searcher trains one."""
    return run / "generator.safetensors"


def evaluations_file(run: Path) -> Path:
    """File of the scores of a run's architectures, if its searcher asks for scores."""
    return run / "evaluations.jsonl"


def metrics_file(run: Path) -> Path:
    """File of a run's metrics."""
    return run / "metrics.jsonl"
