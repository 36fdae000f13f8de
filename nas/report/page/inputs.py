"""What a report is about: run folders, demo folders, latency tables and generators, by content."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latbench.errors import InvalidFileError
from latbench.files import require_file
from latbench.tables import LatencyTable
from nas.report.page.run_contents import RunContents

_SQLITE = b"SQLite format 3\0"
_DEMO_PARTS = ("search", "train")  # run folders inside a demo's folder
_DEMO_TABLE = "table.sqlite"
_EXPECTED = "give run folders, latency tables and generators"


@dataclass
class Subjects:
    """What a report is about.

    Attributes:
        runs: Searches and trainings.
        tables: Latency tables with prices.
        generators: Files of generators.
        notes: What is not there yet, in sentences.
    """

    runs: list[RunContents] = field(default_factory=list)
    tables: list[LatencyTable] = field(default_factory=list)
    generators: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_subjects(paths: Sequence[Path]) -> Subjects:
    """Recognise and read what the paths name.

    Raises:
        InvalidFileError: A path is none of these, or is damaged.
    """
    found = Subjects()
    for path in dict.fromkeys(paths):
        if path.is_dir():
            _add_folder(found, path)
        else:
            _add_file(found, path)
    return found


def _add_folder(found: Subjects, path: Path) -> None:
    """Add a run folder, or the folder of a demo."""
    if (path / "config.json").exists():
        _add_run(found, path)
        return
    table = path / _DEMO_TABLE
    parts = [path / name for name in _DEMO_PARTS if (path / name / "config.json").exists()]
    if not table.exists() and not parts:
        raise InvalidFileError(f"{path} holds no run: {_EXPECTED}")
    if table.exists():
        try:
            found.tables.append(LatencyTable.open(table))
        except InvalidFileError as error:
            found.notes.append(f"Not finished: {error.message}.")
    for part in parts:
        _add_run(found, part)
    for name in _DEMO_PARTS:
        if path / name not in parts:
            found.notes.append(f"Not finished: the demo has not begun to {name}.")


def _add_run(found: Subjects, path: Path) -> None:
    run = RunContents.of(path)
    found.runs.append(run)
    if run.missing:
        found.notes.append(
            f"Not finished: {run.missing} in {path}. The report shows what there is."
        )


def _add_file(found: Subjects, path: Path) -> None:
    require_file(path, what="a run folder, a latency table or a generator")
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror}; {_EXPECTED}") from error
    if begin == _SQLITE:
        try:
            found.tables.append(LatencyTable.open(path))
        except sqlite3.Error as error:
            raise InvalidFileError(f"{path} is damaged: {error}") from error
    elif begin[8:9] == b"{":  # safetensors: the length of a JSON object, then the object
        found.generators.append(path)
    else:
        raise InvalidFileError(f"{path} is neither a latency table nor a generator: {_EXPECTED}")
