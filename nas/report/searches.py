"""Terminal output of searches, generators and the demo."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from latbench.report.terminal import print_lines, print_table
from latbench.units import format_ms, format_span_ms
from nas.report.networks import verdict_line
from nas.training.run_files import phase_of

if TYPE_CHECKING:
    from latbench.cost import Cost
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
        print_lines([f"any budget: latbench generate {quote(str(found.generator))} ..."])


def _show_found(found: SearchResults) -> None:
    from nas.tasks import TASKS

    task = TASKS[found.task]
    rows = [_row(result) for result in found]
    for row, result, cost in zip(rows, found, found.costs, strict=True):
        if found.limited:
            row.update(_counts(cost))
        row[f"supernet's {task.fitness_name}"] = task.shown(result.score)
        if any(each.argmax for each in found):
            row["argmax"] = _ms(result.argmax.latency_ms if result.argmax else None)
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    corrections = [result.correction for result in found if result.correction]
    print_lines([verdict_line(each) for each in corrections])
    if found.is_front:
        pairs = zip(found, found.dominated, strict=True)
        beaten = [phase_of(result.target_ms) for result, is_beaten in pairs if is_beaten]
        print_lines([f"dominated by another target: {', '.join(beaten) or 'none'}"])
    files = [quote(str(file)) for file in found.files]
    print_lines([f"next: latbench train {file} --data {found.data} -o RUN" for file in files])


def _row(result: SearchResult) -> dict[str, str]:
    """Latencies of a result by the titles of their columns."""
    row: dict[str, str] = {}
    if result.latency_ms is not None:
        row |= {"target": _ms(result.target_ms), "predicted": _ms(result.latency_ms)}
    if result.confidence is not None:
        row[f"at {result.confidence:g}"] = _ms(result.upper_ms)
    if result.correction is not None:
        row["measured"] = format_ms(result.correction.measured_ms)
        row["rounds"] = str(result.correction.rounds)
    if result.latency_ms is not None:
        left = ""
        if result.target_ms is not None and result.unused_ms is not None:
            left = f"{result.unused_ms / result.target_ms:.2%}"
        if result.confidence is None:
            row["below target"] = left
        else:
            row["unused"] = f"{_ms(result.unused_ms)}, {left}"
    return row


def _counts(cost: Cost) -> dict[str, str]:
    """What limits may hold for, by the titles of their columns."""
    amounts = {"MACs, M": cost.macs, "params, M": cost.params, "MB": cost.peak_bytes}
    return {title: f"{amount / 1e6:.4g}" for title, amount in amounts.items()}


def _ms(latency_ms: float | None) -> str:
    return "" if latency_ms is None else format_ms(latency_ms)


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
    found = result.correction
    ends = format_span_ms(found.measured_low_ms, found.measured_high_ms)
    print_table(
        ("", ""),
        [
            ("target", format_ms(result.target_ms)),
            ("predicted", format_ms(result.predicted_ms)),
            ("measured", f"{format_ms(result.measured_ms)}, 95 % interval {ends}"),
            ("verdict", found.status),
            ("top-1 on digits", f"{result.top1:.1%}"),
        ],
    )
    if found.reason:
        print_lines([found.reason])
    print_lines([f"everything is in {output}"])
