"""Progress where there is no terminal."""

from __future__ import annotations

import pytest

from latbench.report import terminal


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
