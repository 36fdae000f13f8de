"""Cells of benchmarks: done once, in turn or side by side, until the time is up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = """
import os
import sys
sys.path.insert(0, {folder!r})
from cells import Clock, parser, results, run_cells

apart = {apart}
asked = parser("Test.", one_target=False, side_by_side=not apart, apart=apart).parse_args()


def work(name, seed, run, tick):
    if name == "bad" and not (asked.output / "mended").exists():
        raise SystemExit(3)
    with open(asked.output / "done.txt", "a") as file:
        file.write(f"{{name}}-{{seed}}\\n")
    return {{"square": seed * seed, "process": os.getpid()}}


cells = [("a", 0), ("bad", 1), ("a", 2), ("a", 3)]
run_cells(asked.output, cells, work, Clock.of(asked), asked=asked)
if asked.only is None:
    print(sorted(cell["square"] for cell in results(asked.output, "a").values()))
"""


def _run(folder: Path, *options: str, hours: str = "1", apart: bool = False) -> tuple[int, str]:
    script = folder / "benchmark.py"
    script.write_text(SCRIPT.format(folder=str(BENCHMARKS), apart=apart))
    command = [sys.executable, script, "--hours", hours, "-o", folder / "out", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return done.returncode, done.stdout


def test_cells_side_by_side_are_those_done_in_turn(tmp_path: Path) -> None:
    """A cell that fails leaves the others alone, and only what is missing is done again."""
    out = tmp_path / "out"
    out.mkdir()
    code, printed = _run(tmp_path, "--workers", "2")
    assert code == 0
    assert "bad-1 ended with exit code 3" in printed
    assert "[0, 4, 9]" in printed
    (out / "mended").touch()
    assert _run(tmp_path)[0] == 0
    assert sorted((out / "done.txt").read_text().split()) == ["a-0", "a-2", "a-3", "bad-1"]
    assert json.loads((out / "cells" / "bad-1.json").read_text())["square"] == 1


def test_cells_apart_have_a_process_each_and_stop_at_a_failure(tmp_path: Path) -> None:
    """A cell may need those before it, so none begins after one that failed."""
    out = tmp_path / "out"
    out.mkdir()
    assert _run(tmp_path, apart=True)[0] == 1
    assert (out / "done.txt").read_text().split() == ["a-0"]
    (out / "mended").touch()
    code, printed = _run(tmp_path, apart=True)
    assert code == 0
    assert "[0, 4, 9]" in printed
    assert (out / "done.txt").read_text().split() == ["a-0", "bad-1", "a-2", "a-3"]
    cells = [json.loads(file.read_text()) for file in (out / "cells").iterdir()]
    assert len({cell["process"] for cell in cells}) == len(cells) == 4


def test_a_lost_supernet_can_be_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cells import copy_supernet

    shared, own = tmp_path / "runs" / "supernet-0", tmp_path / "runs" / "random-0"
    own.mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"delete .*cells/supernet-0\.json"):
        copy_supernet(shared, own)
    (shared / "checkpoint").mkdir(parents=True)
    (shared / "checkpoint" / "supernet.pt").write_bytes(b"weights")
    copy_supernet(shared, own)
    assert (own / "checkpoint" / "supernet.pt").read_bytes() == b"weights"


def test_no_workers_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    script = tmp_path / "benchmark.py"
    script.write_text(SCRIPT.format(folder=str(BENCHMARKS), apart=False))
    command = [sys.executable, script, "--hours", "1", "-o", tmp_path / "out", "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 2
    assert "give 1 or more" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_no_cell_begins_when_the_time_is_up(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "out").mkdir()
    code, printed = _run(tmp_path, *options, hours="0")
    assert code == 0
    assert "the time is up" in printed
    assert "exit code" not in printed
    assert not list((tmp_path / "out").iterdir())
