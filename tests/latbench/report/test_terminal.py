"""Progress in a terminal and where there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from latbench.progress import PhaseText
from latbench.report import terminal


@pytest.fixture(autouse=True)
def timed_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LOG_EVERY_S", 10.0)


def test_time_left_is_counted_from_where_a_run_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier run had done was not done in this one's time."""
    clock = iter((0.0, 1.0, 61.0, 101.0))
    monkeypatch.setattr(terminal, "monotonic", lambda: next(clock))
    with terminal.progress_bar("training") as show:
        for fraction in (0.5, 0.5, 0.6):
            show(fraction, "epoch")
    assert capsys.readouterr().err.splitlines() == [
        "training: 50% (epoch)",
        "training: 60%, 6 min 40 s left (epoch)",
    ]


def test_lines_name_the_phase_and_never_say_that_all_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every 10 s there is one; work that goes on is never at 100 % or without time."""
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(terminal, "monotonic", lambda: float(next(clock)))
    with terminal.progress_bar("demo") as show:
        show(0.2, PhaseText("search, epoch 1 of 5", "search", 0.5, 100.0))
        show(0.9, PhaseText("search, epoch 5 of 5", "search", 1.0, 0.1))
        show(0.95, PhaseText("pass 1", "verify", 0.0, None))
        show(0.95, PhaseText("pass 2", "verify", 0.0, None))
        show(1.0, "done")
        show(1.0, "done")
    assert capsys.readouterr().err.splitlines() == [
        "demo: search 99%, 1 s left (epoch 5 of 5)",
        "demo: verify 0% (pass 2)",
    ]


def test_names_of_others_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "pi\x1b]0;x\x07\x1b[2J\u202e"
    terminal.print_lines([name])
    terminal.print_table([name], [[name]])
    terminal.say(name)
    out, err = capsys.readouterr()
    written = r"pi\x1b]0;x\x07\x1b[2J\u202e"
    assert (out, err) == (f"{written}\n" * 3, f"{written}\n")


def test_a_terminal_gets_one_bar_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    clock = iter(range(1000))
    monkeypatch.setattr(terminal, "monotonic", lambda: float(next(clock)))
    bars = terminal._PhaseBars("demo", Console(file=shown, force_terminal=True, width=120))
    bars(0.0, PhaseText("starting", "", 0.0, None))
    bars(0.1, PhaseText("pass 1", "profile", 0.5, 300.0))
    bars(0.5, PhaseText("epoch 1 [of 5]", "search", 1.0, 0.2))
    bars(1.0, "done")
    last = _lines(shown.getvalue())[-2:]
    bars.close()
    assert [line.split()[:2] for line in last] == [["demo:", "profile"], ["demo:", "search"]]
    assert "done" in last[0]
    assert last[1].split()[-8:] == ["99%", "1", "s", "left", "epoch", "1", "[of", "5]"]
    assert "100%" not in shown.getvalue()


def _lines(text: str) -> list[str]:
    """Visible lines of terminal output, without control sequences and blank lines."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    return [line for line in plain.splitlines() if line.strip()]


def test_parts_that_run_at_once_have_a_bar_each(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    clock = iter(range(1000))
    monkeypatch.setattr(terminal, "monotonic", lambda: float(next(clock)))
    bars = terminal._JointBars(
        "profiling", ["a", "b"], Console(file=shown, force_terminal=True, width=120)
    )
    with bars:
        first, second = bars.of("a"), bars.of("b")
        first(0.5, PhaseText("pass 1", "profile", 0.5, 300.0))
        second(1.0, "done")
        last = _lines(shown.getvalue())[-2:]
    assert [line.split()[:2] for line in last] == [["profiling:", "a"], ["profiling:", "b"]]
    assert "50%" in last[0]
    assert "done" in last[1]


def test_lines_about_parts_name_the_slowest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(terminal, "monotonic", lambda: float(next(clock)))
    with terminal.progress_bars("profiling", ["a", "b", "c"]) as of:
        of("a")(1.0, "done")
        of("b")(0.5, "pass 3")
        of("c")(0.25, "pass 2")
        of("c")(0.3, "pass 2")
    assert capsys.readouterr().err.splitlines() == [
        "profiling: 1 of 3 finished; c 25% (pass 2)",
    ]


@pytest.mark.parametrize(("columns", "lines"), [(None, 2), ("60", 3)])
def test_a_row_is_one_line_of_a_pipe_unless_its_width_is_given(
    columns: str | None,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    terminal.print_table(("name", "value"), [("n" * 70, "v" * 20)])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert "".join(line.split(" ")[0] for line in printed[1:]) == "n" * 70


def test_names_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("net[int8].onnx", "net[fp16].onnx", "a[/b]", ":smile:")
    terminal.print_table(("[cpu]", "latency"), [(name, "1 ms") for name in names])
    out = capsys.readouterr().out
    assert all(name in out for name in ("[cpu]", *names))
