"""Pages: hostile texts stay texts, nothing is loaded, every figure has its numbers."""

from __future__ import annotations

import errno
import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.errors import InvalidFileError, UnknownNameError

pytest.importorskip("altair", reason="reports need the extra `report`")
pytest.importorskip("vl_convert", reason="reports need the extra `report`")

from latbench.report.page.charts import heat_chart, line_chart
from latbench.report.page.document import Figure, Grid, Page, Section, Value
from latbench.report.page.html import json_for_html, to_html
from latbench.report.page.markdown import to_markdown
from latbench.report.page.page_file import write_page
from latbench.report.page.palette import DARK, LIGHT, concrete
from tests.latbench.report.page.parsed import Parsed

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=http://a.b/c onerror=alert(1)>",
    "a & b &lt; c",
    "{{ 7 * 7 }} ${x} `rm` | cell",
    "\u202eright to left\u202c \u05d0\u05d1\u05d2",
    "n" * 300,
    "\u2028line\u2029",
    "var(--ink)",
)


def make_page(text: str) -> Page:
    """A page with this text at every place that a name can reach."""
    figure = Figure(
        text,
        text,
        line_chart([{"at": 1, "value": 2.0, "series": text}], x="epoch", y="loss"),
        Grid((text, "loss"), ((text, "2.0"),)),
    )
    section = Section(
        text,
        answers=((Value(text, text, text, "good"),),),
        lines=(text,),
        tables=(Grid((text, text), ((text, text),), labels=2, caption=text),),
        figures=(figure,),
        commands=(text,),
    )
    return Page(text, text, (section,), notes=(text,))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_a_text_at_every_place(text: str) -> None:
    """Tags are those of a harmless page, and every place shows the name as it is."""
    harmless, found = (Parsed(to_html(make_page(t)).decode()) for t in ("harmless", text))
    assert found.tags == harmless.tags
    assert len(found.programs) == 2
    places = harmless.texts.count("harmless")
    assert places == 19
    assert found.texts.count(text.strip()) == places
    (chart,) = found.charts
    (rows,) = json.loads(chart)["datasets"].values()
    assert [row["series"] for row in rows] == [text]


TREES = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(TREES)
def test_json_in_a_page_holds_no_tag_and_is_the_same_value(value: Any) -> None:
    text = json_for_html(value)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_a_page_loads_nothing_and_runs_only_its_own_programs() -> None:
    html = to_html(make_page("a")).decode()
    found = Parsed(html)
    assert not {name for name, _ in found.attributes} & {"src", "href", "srcset", "action", "style"}
    assert not found.tags.keys() & {"link", "img", "iframe", "object", "form", "a", "base"}
    assert "@import" not in html
    assert "url(" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    hashes = {b64encode(sha256(p.encode()).digest()).decode() for p in found.programs}
    assert set(re.findall(r"'sha256-(.*?)'", found.policy)) == hashes
    assert found.policy.startswith("default-src 'none'; ")


def test_a_figure_has_a_title_a_caption_its_numbers_and_both_themes() -> None:
    cells = [{"at": 1, "of": "k3", "p": 0.5}]
    numbers = Grid(("op",), (("k3",),))
    figure = Figure("Ops", "What one sees.", heat_chart(cells, x="epoch", y=""), numbers)
    page = Page("a", "b", (Section("c", figures=(figure, figure)), Section("empty")))
    found = Parsed(to_html(page).decode())
    assert found.tags["figure"] == found.tags["details"] == found.tags["table"] == 2
    assert found.texts.count("Ops") == found.texts.count("What one sees.") == 2
    assert "empty" not in found.texts
    assert json.loads(found.charts[0])["description"] == "Ops. What one sees."
    assert [v for n, v in found.attributes if n == "id"] == ["figure-1", "figure-2", "tip"]
    style = to_html(page).decode().partition("<style>")[2].partition("</style>")[0]
    assert all(f"--paper: {theme['paper']};" in style for theme in (LIGHT, DARK))
    assert LIGHT.keys() == DARK.keys()


def test_colours_of_a_picture_are_those_of_the_light_theme_and_data_stay() -> None:
    rows = [{"at": 1, "value": 2.0, "series": "var(--ink)"}, {"at": 2, "value": 1.0, "series": "b"}]
    spec = line_chart(rows, x="epoch", y="loss", limit=1.5)
    assert "var(--" in json.dumps(spec["config"])
    found = concrete(spec)
    assert "var(--" not in json.dumps(found["config"])
    assert found["datasets"] == spec["datasets"]
    line = found["layer"][1]["encoding"]["color"]["scale"]
    assert line == {"domain": ["var(--ink)", "b"], "range": [LIGHT["blue"], LIGHT["orange"]]}


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_keeps_hostile_names_in_their_cells(text: str) -> None:
    found = to_markdown(make_page(text)).decode()
    fences = re.sub(r"(?ms)^(`{3,})sh\n.*?^\1$", "", found)
    rows = [line for line in fences.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert cells == [1] * 3 + [2] * 6
    assert "<script" not in fences
    assert "<img" not in fences


def test_markdown_leaves_names_in_html_as_they_are() -> None:
    """Markdown is not read there, so a backslash would be shown."""
    figure = Figure("width @32px of a_b", "caption", {}, Grid(("x",), (("1",),)))
    text = to_markdown(Page("t", "s", (Section("a", figures=(figure,)),))).decode()
    assert "<summary>width @32px of a_b</summary>" in text


def test_markdown_cuts_long_tables_of_figures_and_says_so() -> None:
    rows = tuple((str(number), "x") for number in range(100))
    figure = Figure("F", "C", {}, Grid(("n", "x"), rows))
    found = to_markdown(Page("t", "s", (Section("s", figures=(figure,)),))).decode()
    assert found.count("\n| ") == 2 + 40
    assert "and 60 more rows" in found


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "r.html"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latbench.files.os.fsync", full)
    with pytest.raises(InvalidFileError, match="No space left"):
        write_page(make_page("a"), file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="html, md"):
        write_page(make_page("a"), tmp_path / "r.pdf", "pdf")
    assert not list(tmp_path.iterdir())


def test_vega_is_bundled_once_and_a_damaged_copy_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latbench.report.page import html

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[str] = []

    def bundle(snippet: str) -> str:
        calls.append(snippet)
        return "window.vega = 1;</script>"

    monkeypatch.setattr(html.vl_convert, "javascript_bundle", bundle)
    texts = []
    for _ in range(2):
        html._vega.cache_clear()
        texts.append(html._vega())
    assert len(calls) == 1
    (kept,) = (tmp_path / "latbench").iterdir()
    kept.write_text(kept.read_text().replace("1", "2"))
    html._vega.cache_clear()
    texts.append(html._vega())
    html._vega.cache_clear()
    assert len(calls) == 2
    assert set(texts) == {"window.vega = 1;<\\/script>"}
