"""Terminal output of searches, generators and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms

if TYPE_CHECKING:
    from nas.generator import Generator
    from nas.searchers import SearchResult
    from nas.workflows.demo import DemoResult
    from nas.workflows.generation import GeneratedArchitectures
    from nas.workflows.search import SearchResults


def show_search(found: SearchResults) -> None:
    """Print one row per target, and the next command to type."""
    if found:
        _show_found(found)
    if found.generator is not None:
        print_lines([f"any budget: latbench generate {found.generator} ..."])


def _show_found(found: SearchResults) -> None:
    from nas.tasks import TASKS

    priced = found[0].latency_ms is not None
    measured = found[0].correction is not None
    task = TASKS[found.task]
    has_argmax = any(result.argmax for result in found)
    print_table(
        (
            *(["target", "predicted"] if priced else []),
            *(["measured", "rounds"] if measured else []),
            *(["below target"] if priced else []),
            *(["MACs, M", "params, M"] if found.limited else []),
            f"supernet's {task.fitness_name}",
            *(["argmax"] if has_argmax else []),
        ),
        [
            (
                *([_ms(result.target_ms), _ms(result.latency_ms)] if priced else []),
                *(
                    [format_ms(result.correction.measured_ms), str(result.correction.rounds)]
                    if result.correction
                    else []
                ),
                *([_below(result)] if priced else []),
                *([f"{cost.macs / 1e6:.4g}", f"{cost.params / 1e6:.4g}"] if found.limited else []),
                task.shown(result.score),
                *([_ms(result.argmax.latency_ms if result.argmax else None)] if has_argmax else []),
            )
            for result, cost in zip(found, found.costs, strict=True)
        ],
    )
    print_lines([f"next: latbench train {file} --data {found.data} -o RUN" for file in found.files])


def _ms(latency_ms: float | None) -> str:
    return "" if latency_ms is None else format_ms(latency_ms)


def _below(result: SearchResult) -> str:
    """Distance of a result below its target, as a percentage."""
    if result.target_ms is None or result.reached_ms is None:
        return ""
    return f"{1 - result.reached_ms / result.target_ms:.2%}"


def show_generated(found: GeneratedArchitectures, output: Path | None) -> None:
    """Print generated architectures: budget, cost, and number of changes that meet the budget."""
    units = {"latency": "ms", "macs": "M MACs", "params": "M parameters"}
    rows = []
    for answer in found:
        millions = answer.cost.in_millions()
        rows.append(
            (
                ", ".join(f"{amount:g} {units[kind]}" for kind, amount in answer.targets.items()),
                f"{millions['conv_macs_m']:.1f} M",
                f"{millions['params_m']:.2f} M",
                "" if answer.latency_ms is None else format_ms(answer.latency_ms),
                "cheapest" if answer.changes is None else str(answer.changes),
            )
        )
    print_table(("budget", "conv MACs", "parameters", "latency", "changes"), rows)
    print_lines(
        [f"wrote them to {output}" if output else "their architectures: --json, or -o FOLDER"]
    )


def show_generator(generator: Generator, path: Path) -> None:
    """Print the space, budgets and devices of a generator."""
    label = generator.label
    unit = " M conv MACs" if label.form == "published" else " of the feasible range"
    print_lines(
        [
            f"{path}: a {label.form} generator of {label.space}; it chooses {label.plane}",
            f"budgets: {', '.join(label.kinds)}; trained on {label.low:g} to {label.high:g}{unit}",
            *(f"device: {device}" for device in label.devices),
        ]
    )


def show_demo(result: DemoResult, output: Path) -> None:
    """Print target, latency and accuracy of the demo's network."""
    away = result.measured_ms / result.target_ms - 1
    print_table(
        ("", ""),
        [
            ("target", format_ms(result.target_ms)),
            ("predicted", format_ms(result.predicted_ms)),
            ("measured", f"{format_ms(result.measured_ms)} ({away:+.1%} of the target)"),
            ("top-1 on digits", f"{result.top1:.1%}"),
        ],
    )
    print_lines([f"everything is in {output}"])
