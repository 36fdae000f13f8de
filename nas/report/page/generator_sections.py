"""Sections of a page about an architecture generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latbench.errors import BudgetError, MismatchError
from latbench.report.page.document import Figure, Grid, Section, Value
from latbench.report.page.latency_charts import agreement_chart
from latbench.report.page.wording import percent
from latbench.tables import LatencyTable
from nas.generator import (
    Generator,
    Kind,
    answering_space,
    count_costs,
    device_of,
    latency_costs,
    load_generator,
)
from nas.latency.priced_space import PricedSpace
from nas.workflows.generation import GeneratedArchitecture, generate

_ENDS = ("predicted_low", "predicted_high", "measured_low", "measured_high")  # answers have none
_BUDGETS = 16  # asked for, spread over the trained range
_UNITS: dict[Kind, str] = {"latency": "ms", "macs": "M MACs", "params": "M parameters"}
_WORDS: dict[Kind, str] = {"latency": "latency", "macs": "MACs", "params": "parameters"}


def generator_sections(path: Path, tables: Sequence[LatencyTable]) -> list[Section]:
    """Sections about a generator: what it was trained on, and its answers over that range.

    Args:
        path: File of the generator.
        tables: Latency tables; answers to latency budgets need that of the device.

    Raises:
        InvalidFileError: The file is damaged, or no generator.
    """
    generator = load_generator(path)
    label = generator.label
    known = {device_of(table): table for table in tables if _fits(generator, table)}
    unit = "M MACs" if label.form == "published" else "of the feasible range"
    values = (
        Value("space", str(label.space), f"it chooses {label.plane}"),
        Value("budgets", ", ".join(_WORDS[kind] for kind in label.kinds)),
        Value("trained on", f"{label.low:g} to {label.high:g}", unit),
        Value("priors", str(len(label.priors))),
    )
    lines = [f"Device: {device}." for device in label.devices]
    figures = []
    for kind in label.kinds:
        if kind != "latency":
            figures += _figures(generator, kind, None)
        for device in label.devices if kind == "latency" else ():
            if device in known:
                figures += _figures(generator, kind, known[device])
            else:
                lines.append(f"Answers in ms on {device} need its latency table beside it.")
    title = f"The generator {path.name}"
    return [Section(title, answers=(values,), lines=tuple(lines), figures=tuple(figures))]


def _fits(generator: Generator, table: LatencyTable) -> bool:
    """Whether a table prices the generator's space."""
    try:
        answering_space(generator, table)
    except MismatchError:
        return False
    return True


def _figures(generator: Generator, kind: Kind, table: LatencyTable | None) -> list[Figure]:
    """Answers over the trained range; nothing if no architecture is within it."""
    budgets = _budgets(generator, kind, table)
    asked = {
        "latency": {"targets": budgets},
        "macs": {"target_macs": budgets},
        "params": {"target_params": budgets},
    }[kind]
    try:
        found = generate(generator, table=table, **asked)  # type: ignore[arg-type]
    except BudgetError:
        return []
    unit, what = _UNITS[kind], _WORDS[kind]
    reached = [_reached(answer, kind) for answer in found]
    rows = [
        {
            "kind": "answer",
            "network": f"{budget:.4g} {unit}",
            "predicted": budget,
            "measured": amount,
            "error": amount / budget - 1,
            **dict.fromkeys(_ENDS),
        }
        for budget, amount in zip(budgets, reached, strict=True)
    ]
    cells = tuple(
        (
            f"{budget:.4g}",
            f"{amount:.4g}",
            percent(amount / budget - 1, signed=True),
            "" if answer.changes is None else str(answer.changes),
        )
        for budget, amount, answer in zip(budgets, reached, found, strict=True)
    )
    x, y, error = f"budget, {unit}", f"answer, {unit}", "answer / budget - 1"
    on = "" if table is None else f" on {table.device.name}"
    return [
        Figure(
            f"Answers to budgets of {what}{on}",
            "The dashed line is the budget; no answer is above it. Changes are decisions of the "
            "network that were repaired for that.",
            agreement_chart(rows, x=x, y=y, error=error),
            Grid((x, y, error, "changes"), cells, labels=0),
        )
    ]


def _budgets(generator: Generator, kind: Kind, table: LatencyTable | None) -> list[float]:
    """Budgets over the trained range, in ms or in millions."""
    label = generator.label
    low, high = label.low, label.high
    if label.form == "conditioned":
        space = answering_space(generator, table)
        if kind == "latency":
            assert table is not None  # latencies are asked with a table only
            costs = latency_costs(PricedSpace(space, table))
        else:
            costs = count_costs(space, kind)
        least, most = costs.feasible_range
        low, high = (least * (1 - share) + most * share for share in (low, high))
    return [float(budget) for budget in np.linspace(low, high, _BUDGETS)]


def _reached(answer: GeneratedArchitecture, kind: Kind) -> float:
    millions = answer.cost.in_millions()
    if kind == "latency":
        assert answer.latency_ms is not None  # the table was given
        return answer.latency_ms
    return millions["conv_macs_m"] if kind == "macs" else millions["params_m"]
