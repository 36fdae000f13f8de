"""Reports in a real browser: nothing is loaded, every chart is drawn, in both themes and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import nas
from latbench.device import DeviceProfile
from latbench.profilers import make_profiler
from latbench.tables import LatencyTable
from latbench.workflows.network_errors import verify
from nas.spaces import SearchSpace
from tests.conftest import profile_space
from tests.latbench.report.page.test_page import HOSTILE, make_page
from tests.nas.report.browser import CHROMIUM, Browser, Theme, browser

pytest.importorskip("altair", reason="reports need the extra `report`")
if CHROMIUM is None:
    pytest.skip(
        "there is no chromium: reports are not tested in a browser", allow_module_level=True
    )

from latbench.report.page.page_file import write_page
from latbench.report.page.palette import DARK, LIGHT

WIDTHS = (390, 1400)
THEMES: tuple[Theme, ...] = ("light", "dark")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(browser(tmp_path_factory.mktemp("chromium")))
        except (OSError, TimeoutError) as error:  # some sandboxes allow no browser
            pytest.skip(f"chromium does not start ({error}): reports are not tested in a browser")
        yield opened


@pytest.fixture(scope="module")
def report(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a demo."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    nas.write_report(demo, file)
    return file


def _shape(opened: Browser) -> dict[str, Any]:
    """What a page measures and holds."""
    found: dict[str, Any] = opened.evaluate(
        """({
            beyond: document.documentElement.scrollWidth - document.documentElement.clientWidth,
            figures: document.querySelectorAll("figure").length,
            drawn: [...document.querySelectorAll(".chart")].filter(
                (chart) => chart.querySelector("svg [role^=graphics]")
            ).length,
            described: document.querySelectorAll(".chart [aria-label]").length,
            tables: document.querySelectorAll("figure details table").length,
            paper: getComputedStyle(document.body).backgroundColor,
            scripts: document.scripts.length,
        })"""
    )
    return found


def _rgb(colour: str) -> str:
    parts = (str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
    return f"rgb({', '.join(parts)})"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_a_report_is_whole_in_every_width_and_theme(
    width: int, theme: Theme, report: Path, chromium: Browser, tmp_path: Path
) -> None:
    chromium.console.clear()
    chromium.requested.clear()
    chromium.open(report, width=width, theme=theme)
    found = _shape(chromium)
    assert found["figures"] == found["drawn"] == found["tables"] >= 10
    assert found["described"] > found["figures"]
    assert found["beyond"] <= 0
    assert found["paper"] == _rgb((DARK if theme == "dark" else LIGHT)["paper"])
    chromium.screenshot(tmp_path / f"report-{width}-{theme}.png")
    assert (tmp_path / f"report-{width}-{theme}.png").stat().st_size > 10_000
    assert chromium.console == []
    assert chromium.requested == [report.resolve().as_uri()]


def test_a_change_of_theme_colours_what_is_drawn(report: Path, chromium: Browser) -> None:
    """Bars take the new theme's colour without a new drawing."""
    chromium.open(report, width=1400)
    bar = 'getComputedStyle(document.querySelector(".mark-rect path[fill]")).fill'
    before = chromium.evaluate(bar)
    chromium.emulate("dark")
    assert chromium.evaluate(bar) != before
    assert before in {_rgb(colour) for colour in LIGHT.values()}


def test_a_printed_report_is_light_and_fits(report: Path, chromium: Browser) -> None:
    chromium.open(report, width=1400)
    chromium.emulate("dark", media="print")
    found = _shape(chromium)
    assert found["paper"] == _rgb(LIGHT["paper"])
    assert found["beyond"] <= 0
    chromium.emulate("light")


def test_the_mouse_shows_the_numbers_of_a_mark(report: Path, chromium: Browser) -> None:
    chromium.open(report, width=1400, height=3000)
    x, y = chromium.evaluate(
        """(() => {
            const box = document.querySelector(".mark-rect path").getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        })()"""
    )
    hidden = 'document.getElementById("tip").hidden'
    assert chromium.evaluate(hidden)
    chromium.move_to(x, y)
    assert not chromium.evaluate(hidden)
    assert "share" in chromium.evaluate('document.getElementById("tip").textContent')
    chromium.move_to(2, 2)
    assert chromium.evaluate(hidden)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_runs_nothing_and_keeps_the_layout(
    text: str, chromium: Browser, tmp_path: Path
) -> None:
    write_page(make_page(text), tmp_path / "r.html")
    for width in WIDTHS:
        chromium.console.clear()
        chromium.requested.clear()
        chromium.open(tmp_path / "r.html", width=width)
        found = _shape(chromium)
        assert found["beyond"] <= 0
        assert found["drawn"] == found["figures"] == 1
        assert found["scripts"] == 3  # two programs and the data of a chart
        assert chromium.console == []
        assert chromium.requested == [(tmp_path / "r.html").resolve().as_uri()]


def test_the_report_of_a_profiled_table_is_drawn(
    chromium: Browser,
    tmp_path: Path,
    tiny_space: SearchSpace,
    quick_profile: DeviceProfile,
    priced: None,
) -> None:
    """With sweeps: noise, predictions against measurements, width curves."""
    profiler, path = make_profiler(quick_profile), tmp_path / "t.sqlite"
    profile_space(profiler, path, tiny_space, time_limit_s=60)
    table = LatencyTable.open(path)
    verify(profiler, table, [tiny_space.lower(tiny_space.random(seed=9))])
    written = nas.write_report(path, tmp_path / "r.html")
    chromium.console.clear()
    chromium.open(tmp_path / "r.html", width=390)
    found = _shape(chromium)
    assert found["drawn"] == written.figures >= 4
    assert found["beyond"] <= 0
    assert chromium.console == []
