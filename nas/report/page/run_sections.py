"""Sections of a page about searches and trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latbench.blocks import Network
from latbench.report.page.document import Section, Value
from latbench.report.page.wording import percent
from nas.report.page.budget_answer import BudgetAnswer, Surroundings, metric_name
from nas.report.page.front_figure import front_figure
from nas.report.page.run_commands import (
    ARCHITECTURE,
    recipe_file,
    search_command,
    train_command,
)
from nas.report.page.run_contents import RunContents
from nas.report.page.search_figures import (
    architecture_figure,
    budget_figure,
    curve_figures,
    probability_figures,
)
from nas.spaces import Architecture, space_of

_MOST_SEARCHES = 3  # budgets whose probabilities are drawn: pages stay below 1.5 MB


def search_sections(run: RunContents, known: Surroundings) -> list[Section]:
    """Sections about a search: answer, networks, front, training, commands."""
    known = known.of(run)
    budgets = [BudgetAnswer.of(found, known) for found in run.found]
    table = next((each.table.table for each in budgets if each.table), None)
    latencies = {
        budget.target_ms: budget.latencies
        for budget in budgets
        if budget.target_ms is not None and budget.found.architecture is not None
    }
    strip = budget_figure(latencies)
    networks = [
        architecture_figure(
            budget.found.architecture,
            budget.table.table if budget.table else None,
            title=f"Network for {budget.name}",
        )
        for budget in budgets
        if budget.found.architecture is not None
    ]
    front = front_figure(run, table, [point for each in budgets if (point := each.point)])
    probabilities = [
        figure
        for found in run.found[:_MOST_SEARCHES]
        for figure in probability_figures(run, found.phase)
    ]
    more = bool(probabilities) and len(run.found) > _MOST_SEARCHES
    command = search_command(run, [each.table for each in known.tables])
    return [
        Section(
            "The answer",
            answers=tuple(budget.values() for budget in budgets),
            lines=tuple(f"{each.name}: {each.reason}." for each in budgets if each.reason),
            figures=(strip,) if strip else (),
        ),
        Section("The network, block by block", figures=tuple(networks)),
        Section("The front", figures=(front,) if front else ()),
        Section(
            "The search",
            lines=(f"Probabilities are shown for the first {_MOST_SEARCHES} budgets.",) * more,
            figures=(*curve_figures(run), *probabilities),
        ),
        Section(
            "Commands that repeat this search",
            commands=(command,),
            files=recipe_file(run),
        ),
    ]


def training_sections(run: RunContents, known: Surroundings, *, alone: bool) -> list[Section]:
    """Sections about a training.

    Args:
        run: The training.
        known: Tables and other trainings.
        alone: Whether no search of the page shows the network.
    """
    made = run.trained
    title = f"Training on {run.config['data']}"
    values = tuple(
        Value(metric_name(name), f"{value:.2f}" if name == "threshold" else percent(value, 2))
        for name, value in run.metrics_of_test.items()
    )
    tables = [each.table for each in known.tables_of(made)]
    drawn = architecture_figure(made, tables[0] if tables else None, title="Trained network")
    found = _file_of(made, run)
    described = () if found else ((ARCHITECTURE, made.to_json().rstrip()),)
    return [
        Section(title, answers=(values,) if values else (), figures=tuple(curve_figures(run))),
        Section("The network, block by block", figures=(drawn,) if alone else ()),
        Section(
            "Commands that repeat this training",
            commands=(train_command(run, found),),
            files=(*recipe_file(run), *described),
        ),
    ]


def _file_of(architecture: Architecture, run: RunContents) -> Path | None:
    """The file of the trained architecture in the search of the same demo; None elsewhere."""
    folder = run.path.parent / "search" / "architectures"
    for file in sorted(folder.glob("*.json")):
        if file.read_text(encoding="utf-8") == architecture.to_json():
            return file
    return None


def network_names(runs: Sequence[RunContents]) -> dict[Network, str]:
    """Names of the networks that searches found or measured, by network."""
    names: dict[Network, str] = {}
    for run in runs:
        for found in run.found if run.kind == "search" else ():
            tried = [each.architecture for each in found.rounds.measured]
            for number, each in enumerate(dict.fromkeys(tried), start=1):
                names[space_of(each).lower(each)] = f"tried for {found.phase}, {number}"
            if found.architecture is not None:
                made = found.architecture
                names[space_of(made).lower(made)] = f"found for {found.phase}"
    return names
