"""Reports of tables: with and without sweeps, with networks measured later."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latbench
import nas
from latbench.device import DeviceProfile
from latbench.profilers import make_profiler
from latbench.report.curves import chosen_curves
from latbench.tables import LatencyTable, TableStore
from latbench.tables.network_parts import network_parts
from latbench.tables.price_model import Breakpoint, PriceModel
from latbench.tables.sweep_history import later_sweeps, pass_noise
from latbench.workflows.network_errors import verify
from nas.spaces import SearchSpace
from tests.conftest import profile_space, random_price, write_table

pytest.importorskip("altair", reason="reports need the extra `report`")

from latbench.report.page.table_sections import (
    ReportedTable,
    _quality,
    table_commands,
    table_page,
)


@pytest.fixture
def profiled(
    tmp_path: Path, tiny_space: SearchSpace, quick_profile: DeviceProfile, priced: None
) -> LatencyTable:
    """A profiled table on a runtime that takes the same time at every call."""
    profiler = make_profiler(quick_profile)
    profile_space(profiler, tmp_path / "t.sqlite", tiny_space, time_limit_s=60)
    return LatencyTable.open(tmp_path / "t.sqlite")


def test_a_steady_machine_has_no_noise(profiled: LatencyTable) -> None:
    with TableStore.open(profiled.path) as store:
        sweep = store.profiling()
        assert sweep is not None
        passes = pass_noise(store, 0.05)
        assert len(passes) == store.passes(sweep)
        assert [each.number for each in passes] == [*range(1, len(passes) + 1)]
        numbered = [(target, visit) for _, target, visit in store.numbered_visits(sweep)]
        assert numbered == [*store.visits(sweep)]
    for each in passes:
        assert (each.low, each.middle, each.high) == (0, 0, 0)


def test_networks_measured_later_are_found_with_their_drift(
    profiled: LatencyTable, tiny_space: SearchSpace
) -> None:
    network = tiny_space.lower(tiny_space.random(seed=9))
    verify(make_profiler(profiled.device), profiled, [network])
    with TableStore.open(profiled.path) as store:
        (sweep,) = later_sweeps(store, 0.05)
    assert sweep.purpose == "verification"
    assert sweep.drift == pytest.approx(1)
    (measured,) = sweep.networks.values()
    assert [*sweep.networks] == [network]
    assert measured.estimate_ms == pytest.approx(sum(map(random_price, network)), rel=1e-5)


def test_parts_of_a_network_add_up_to_its_prediction(
    tmp_path: Path, tiny_space: SearchSpace, profile: DeviceProfile
) -> None:
    """Also where its weights exceed the caches: the excess is divided, and no part is negative."""
    model = PriceModel(0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(1e3, 1e-5), Breakpoint(4e3, 1e-4)))
    table = write_table(tmp_path / "t.sqlite", tiny_space, profile, model=model)
    rng = np.random.default_rng(0)
    for _ in range(20):
        network = tiny_space.lower(tiny_space.random(rng))
        parts = network_parts(table, network)
        assert sum(part.latency_ms for part in parts) == pytest.approx(
            table.predict(network).latency_ms, rel=1e-9
        )
        assert [part.block for part in parts] == [*network, None]
        assert all(0 < part.low_ms <= part.latency_ms <= part.high_ms for part in parts)


def test_a_table_without_sweeps_is_reported_as_far_as_it_goes(
    tmp_path: Path, tiny_table: LatencyTable, run: Any
) -> None:
    page = table_page(ReportedTable.of(tiny_table))
    titles = [section.title for section in page.sections if section]
    assert "The machine" not in titles
    assert "Latency over width" in titles
    file = tmp_path / "r.html"
    code, out, _ = run("report", tiny_table.path, "-o", file, "--json")
    found = json.loads(out)
    assert (code, found.keys()) == (0, {"path", "bytes", "figures"})
    assert (found["path"], found["bytes"]) == (str(file), file.stat().st_size)
    assert found["figures"] == len(list(page.figures)) > 0
    assert found["bytes"] < 1_500_000


def test_a_profiled_table_is_reported_with_all_its_figures(
    profiled: LatencyTable, tmp_path: Path
) -> None:
    page = table_page(ReportedTable.of(profiled))
    assert {"The machine", "Predictions of the table"} <= {s.title for s in page.sections if s}
    for figure in page.figures:
        assert figure.data.rows
        assert all(len(row) == len(figure.data.headers) for row in figure.data.rows)
    written = latbench.write_report(profiled, tmp_path / "r.md", form="md")
    assert written.as_dict()["figures"] == len(list(page.figures))
    assert "latbench profile quick tiny --input-size 8" in (tmp_path / "r.md").read_text()


def test_every_width_is_counted_once(profiled: LatencyTable) -> None:
    """A held-out width is measured, but its price lies between those of its neighbours."""
    named = _quality(profiled)[0].detail
    counts = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) \w", named)]
    every = {*profiled.estimates, *profiled.curves.between_specs()}
    assert sum(counts) == len(every)


def test_an_import_in_another_unit_is_repeated_in_it(reference: Path, tmp_path: Path) -> None:
    file, made = reference / "tfnas" / "latency_cpu.pkl", tmp_path / "in-s.sqlite"
    table = nas.import_table(file, made, file_format="tfnas", device="my box", unit="s")
    (line,) = table_commands(table)
    words = shlex.split(line.replace("\\\n", ""))
    assert words[words.index("--unit") + 1] == "s"


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_pictures_are_of_the_kind_that_their_name_says(
    kind: str, tiny_table: LatencyTable, tmp_path: Path, run: Any
) -> None:
    file = tmp_path / f"curves.{kind}"
    assert run("table", "show", tiny_table.path, "--picture", file)[0] == 0
    begin = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}[kind]
    assert file.read_bytes().startswith(begin)
    if kind == "svg":
        drawn, curves = file.read_text(), chosen_curves(tiny_table, 12)
        assert "var(--" not in drawn
        points = drawn.count('aria-roledescription="point"')
        assert points == sum(len(tiny_table.curves.measured[shape]) for shape in curves)
