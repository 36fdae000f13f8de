"""How well networks do, as a person reads it in the terminal."""

from __future__ import annotations

from collections.abc import Mapping


def metrics_in_words(metrics: Mapping[str, float]) -> str:
    """The final metrics of a network; all but thresholds are fractions."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in metrics.items()
    )
