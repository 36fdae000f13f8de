"""Reports of searches, trainings, latency tables and generators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from latbench.errors import InvalidValueError
from latbench.lazy import needing
from latbench.report.page.document import Page, Section
from latbench.report.page.page_file import WrittenReport, write_page
from latbench.report.page.table_sections import (
    ReportedTable,
    table_page,
    table_sections,
    table_subtitle,
)
from latbench.report.page.wording import latency
from nas.report.page.budget_answer import Surroundings
from nas.report.page.inputs import Subjects, read_subjects
from nas.report.page.pruning_sections import pruning_sections
from nas.report.page.run_contents import RunContents
from nas.report.page.run_sections import (
    network_names,
    search_sections,
    training_sections,
)


def write_report(
    subjects: str | Path | Sequence[str | Path], output: str | Path, *, form: str = "html"
) -> WrittenReport:
    """Write a report: one page with all results of searches, trainings, tables and generators.

    The page is one file that loads nothing. Give the tables of a search as well: the report then
    shows the latency of each block, and the measurements that the tables hold. A run in progress
    is reported as far as it is.

    Args:
        subjects: Run folders, folders of demos, latency tables and generators; several or one.
        output: File to write; an existing file stays as it is if that fails.
        form: ``html``, or ``md`` for a pull request.

    Raises:
        InvalidFileError: A subject is none of these or is damaged, or the file cannot be written.
        InvalidValueError: There is no subject.
        UnknownNameError: There is no such format.
        MissingExtraError: A package of the extra ``report`` is not installed.
    """
    given = [subjects] if isinstance(subjects, str | Path) else list(subjects)
    if not given:
        raise InvalidValueError("nothing to report: name run folders, latency tables or generators")
    page = report_page(read_subjects([Path(each) for each in given]))
    return write_page(page, Path(output), form)


def report_page(subjects: Subjects) -> Page:
    """The page about some subjects."""
    tables = tuple(ReportedTable.of(table) for table in subjects.tables)
    runs = subjects.runs
    if len(tables) == 1 and not runs and not subjects.generators:
        return replace(table_page(tables[0]), notes=tuple(subjects.notes))
    sections = [
        *_run_sections(runs, tables),
        *_generator_sections(subjects),
        *_all_table_sections(tables, runs),
    ]
    return Page(
        _title(subjects),
        "; ".join(table_subtitle(each.table) for each in tables),
        (*_in_order(sections),),
        tuple(subjects.notes),
    )


def _run_sections(runs: Sequence[RunContents], tables: tuple[ReportedTable, ...]) -> list[Section]:
    trainings = tuple(run for run in runs if run.kind == "train")
    known = Surroundings(tables, trainings)
    searches = [run for run in runs if run.kind == "search"]
    found = {each.architecture for run in searches for each in run.found}
    sections = []
    for run in searches:
        sections += _named(search_sections(run, known), run, len(searches))
    prunings = [run for run in runs if run.kind == "prune"]
    for run in prunings:
        sections += _named(pruning_sections(run), run, len(prunings))
    for run in trainings:
        alone = run.trained not in found
        sections += _named(training_sections(run, known, alone=alone), run, len(trainings))
    return sections


def _named(sections: Iterable[Section], run: RunContents, count: int) -> list[Section]:
    """The sections with the run's folder in their titles, if there are several runs."""
    if count == 1:
        return list(sections)
    return [replace(each, title=f"{each.title}: {run.path.name}") for each in sections]


def _generator_sections(subjects: Subjects) -> list[Section]:
    if not subjects.generators:
        return []
    with needing("nas"):
        from nas.report.page.generator_sections import generator_sections
    tables = subjects.tables
    return [s for path in subjects.generators for s in generator_sections(path, tables)]


def _all_table_sections(
    tables: Sequence[ReportedTable], runs: Sequence[RunContents]
) -> list[Section]:
    names = network_names(runs)
    sections = []
    for each in tables:
        own = table_sections(each, names=names, named="of this search")
        several = len(tables) > 1
        suffix = f": {each.table.device.name}" if several else ""
        sections += [replace(section, title=f"{section.title}{suffix}") for section in own]
    return sections


def _in_order(sections: Sequence[Section]) -> list[Section]:
    """The sections that are not empty; commands come last."""
    kept = [section for section in sections if section]
    return sorted(kept, key=lambda section: section.title.startswith("Commands"))


def _title(subjects: Subjects) -> str:
    searches = [run for run in subjects.runs if run.kind == "search"]
    if len(searches) == 1:
        run = searches[0]
        targets = [latency(each.target_ms) for each in run.found if each.target_ms is not None]
        under = f" under {_listed(targets)}" if targets else ""
        devices = [str(each["device"]) for each in run.config["tables"] if "device" in each]
        on = f" on {_listed(devices)}" if devices else ""
        return f"Networks of {run.config['space']}{under}{on}"
    if len(subjects.runs) == 1:
        run = subjects.runs[0]
        if run.kind == "prune":
            target = latency(run.config["target_ms"])
            return f"A network pruned to {target} on {run.config['device']}"
        return f"Training of a network of {run.trained.space} on {run.config['data']}"
    if not subjects.runs and len(subjects.generators) == 1 and not subjects.tables:
        return f"The generator {subjects.generators[0].name}"
    parts = [
        f"{len(each)} {noun}{'s' if len(each) > 1 else ''}"
        for each, noun in (
            (subjects.runs, "run"),
            (subjects.tables, "table"),
            (subjects.generators, "generator"),
        )
        if each
    ]
    return f"Report of {_listed(parts)}"


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
