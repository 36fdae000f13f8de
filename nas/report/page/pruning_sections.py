"""Sections of a page about a pruning."""

from __future__ import annotations

from latbench.report.page.document import Grid, Section, Value
from latbench.report.page.wording import latency, percent, span_ms
from nas.pruning.rounds import Round, best_round, read_rounds, rounds_file
from nas.report.page.budget_answer import TONES, distance, metric_name
from nas.report.page.run_commands import recipe_file
from nas.report.page.run_contents import RunContents
from nas.report.page.search_figures import Latency, budget_figure, curve_figures


def pruning_sections(run: RunContents) -> list[Section]:
    """Sections about a pruning: answer, removed channels, fine-tuning, settings.

    Raises:
        InvalidFileError: The file of the rounds is damaged.
    """
    target_ms: float = run.config["target_ms"]
    rounds = read_rounds(rounds_file(run.path)).rounds
    values = [Value("budget", latency(target_ms))]
    figure = removed = None
    if rounds:
        best = best_round(rounds, target_ms)
        values += _latencies(best, target_ms)
        measured, ends = best.measured, (best.measured.low_ms, best.measured.high_ms)
        figure = budget_figure(
            {
                target_ms: [
                    Latency("predicted", best.predicted_ms),
                    Latency("measured", measured.estimate_ms, *ends),
                ]
            }
        )
        removed = Grid(
            ("group of channels", "removed"),
            tuple((name, str(len(channels))) for name, channels in best.removed.items()),
            caption="Removed channels, by the first layer that makes them",
        )
    tested = run.metrics_of_test.items()
    values += [Value(metric_name(name), percent(value, 2)) for name, value in tested]
    return [
        Section("The answer", answers=(tuple(values),), figures=(figure,) if figure else ()),
        Section("The network", tables=(removed,) if removed and removed.rows else ()),
        Section("The fine-tuning", figures=tuple(curve_figures(run))),
        Section("Settings of the pruning", files=recipe_file(run)),
    ]


def _latencies(best: Round, target_ms: float) -> list[Value]:
    """Latencies of the original and the pruned network, and the verdict."""
    measured, original = best.measured, best.original
    status = best.status(target_ms)
    away = measured.estimate_ms / target_ms - 1
    return [
        Value(
            "original", latency(original.estimate_ms), span_ms(original.low_ms, original.high_ms)
        ),
        Value("predicted", latency(best.predicted_ms)),
        Value(
            "measured",
            latency(measured.estimate_ms),
            f"95 % interval {span_ms(measured.low_ms, measured.high_ms)}",
        ),
        Value("verdict", status, distance(away), TONES[status]),
    ]
