"""Results print themselves; public names and extras are found at their first use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from latbench.errors import InvalidValueError, MissingExtraError
from latbench.lazy import needing, public
from latbench.result import Result
from latbench.units import as_count, as_duration_s, as_latency_ms, as_millions


@dataclass(frozen=True, repr=False)
class _Row(Result):
    name: str
    error: float


@dataclass(frozen=True, repr=False)
class _Found(Result):
    latency_ms: float
    low_ms: float | None
    rows: tuple[_Row, ...]


FOUND = _Found(7.58912, None, (_Row("a<b", 0.012345), _Row("c", -2.0)))


def test_a_result_is_one_line_of_rounded_numbers() -> None:
    assert repr(FOUND.rows[1]) == "_Row(name='c', error=-2)"
    assert repr(FOUND).startswith("_Found(latency_ms=7.589, low_ms=None, rows=[_Row(name='a<b', ")
    many = _Found(1.0, 2.0, FOUND.rows * 2)
    assert repr(many) == "_Found(latency_ms=1, low_ms=2, rows=[4 items])"


def test_a_result_is_plain_values_for_programs() -> None:
    rows = ({"name": "a<b", "error": 0.012345}, {"name": "c", "error": -2.0})
    assert FOUND.as_dict() == {"latency_ms": 7.58912, "low_ms": None, "rows": rows}


def test_a_result_prints_as_values_and_tables() -> None:
    assert str(FOUND).splitlines() == [
        "latency_ms  7.589",
        "low_ms",
        "",
        "rows",
        "name  error",
        "a<b   0.01235",
        "c     -2",
    ]
    long = str(_Found(1.0, None, FOUND.rows * 100)).splitlines()
    assert long[-1] == "and 150 more"
    assert len(long) < 60


def test_a_result_is_tables_in_a_notebook() -> None:
    """Single values, then rows; text of a file cannot bring markup of its own."""
    html = FOUND._repr_html_()
    assert "<tr><td>latency_ms</td><td>7.589</td></tr>" in html
    assert "<tr><th>name</th><th>error</th></tr><tr><td>a&lt;b</td><td>0.01235</td></tr>" in html
    long = _Found(1.0, None, FOUND.rows * 100)._repr_html_()
    assert "and 150 more" in long
    assert long.count("<tr>") < 60


def test_public_names_are_imported_when_they_are_used() -> None:
    get, names = public("here", {"join": "os.path", "absent": "no_such_module"}, extra="nas")
    import os.path

    assert get("join") is os.path.join
    assert names() == ["absent", "join"]
    with pytest.raises(AttributeError, match="'here' has no attribute 'joint'"):
        get("joint")
    with pytest.raises(MissingExtraError, match=r"no_such_module.*latbench\[nas\]"):
        get("absent")


def test_other_failures_of_an_import_are_not_a_missing_extra() -> None:
    with pytest.raises(ZeroDivisionError), needing("nas"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("read", "text", "number"),
    [
        (as_latency_ms, "0.5ms", 0.5),
        (as_latency_ms, "2s", 2000),
        (as_duration_s, "8min", 480),
        (as_count, "30M", 30e6),
        (as_millions, "500K", 0.5),
    ],
)
def test_amounts_are_text_with_a_unit_or_numbers(read: Any, text: str, number: float) -> None:
    assert read(text) == read(number) == number
    for wrong in (0, -1.0, float("inf"), float("nan"), "-1", "x"):
        with pytest.raises(InvalidValueError):
            read(wrong)
