"""Terminal output of metrics."""

from __future__ import annotations

from collections.abc import Mapping


def metrics_in_words(metrics: Mapping[str, float]) -> str:
    """The final metrics of a network as text; all but thresholds are percentages."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in metrics.items()
    )
