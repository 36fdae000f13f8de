"""Terminal output of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from latbench.report.terminal import print_lines

if TYPE_CHECKING:  # without torch the import fails before a command can name the extra
    from nas.workflows.training import TrainedNetwork


def show_training(trained: TrainedNetwork) -> None:
    """Print the test metrics of a trained network, and the folder of its weights."""
    print_lines([f"{_in_words(trained.metrics)}; weights in {trained.output}"])


def show_test(tested: TrainedNetwork) -> None:
    """Print the test metrics of a trained network."""
    print_lines([_in_words(tested.metrics)])


def _in_words(metrics: Mapping[str, float]) -> str:
    """The final metrics of a network as text; all but thresholds are percentages."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in metrics.items()
    )
