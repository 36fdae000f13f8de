"""Terminal output of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms, format_span_ms

if TYPE_CHECKING:  # without torch the import fails before a command can name the extra
    from latbench.measure.samples import Interval
    from nas.workflows.pruning import PrunedNetwork
    from nas.workflows.several_trainings import TrainingOutcome
    from nas.workflows.training import TrainedNetwork


def show_training(trained: TrainedNetwork) -> None:
    """Print the test metrics of a trained network, and the folder of its weights."""
    print_lines([f"{_in_words(trained.metrics)}; weights in {trained.output}"])


def show_trainings(trainings: Sequence[TrainingOutcome]) -> None:
    """Print the test metrics of several networks, and the reasons of those that failed."""
    rows = [
        (each.name, _in_words(each.metrics), str(each.output))
        for each in trainings
        if each.metrics is not None
    ]
    if rows:
        print_table(("network", "test", "run"), rows)
    print_lines(f"{each.name} failed: {each.error}" for each in trainings if each.error)


def show_test(tested: TrainedNetwork) -> None:
    """Print the test metrics of a trained network."""
    print_lines([_in_words(tested.metrics)])


def show_pruning(pruned: PrunedNetwork) -> None:
    """Print the latency and the test metrics of a network before and after its pruning."""
    found = pruned.measured
    own, whole = found.measured, found.original
    ratio, low, high = found.ratio
    print_table(
        ("", "before", "after"),
        [
            ("latency", format_ms(whole.estimate_ms), format_ms(own.estimate_ms)),
            ("95 % interval", *map(_interval, (whole, own))),
            ("test", _in_words(pruned.metrics_before), _in_words(pruned.metrics)),
        ],
    )
    print_lines(
        [
            f"target {format_ms(pruned.target_ms)}: {pruned.status}, networks measured: "
            f"{pruned.rounds}; predicted {format_ms(found.predicted_ms)}",
            f"{ratio:.3f} ({low:.3f} to {high:.3f}) of the latency; network in {pruned.path}",
        ]
    )


def _interval(found: Interval) -> str:
    return format_span_ms(found.low_ms, found.high_ms)


def _in_words(metrics: Mapping[str, float]) -> str:
    """The final metrics of a network as text; all but thresholds are percentages."""
    names = {"top1": "top-1", "top5": "top-5"}
    return ", ".join(
        f"{names.get(name, name)} {value:{'.2f' if name == 'threshold' else '.2%'}}"
        for name, value in metrics.items()
    )
