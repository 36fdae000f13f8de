"""How tables and journals grow: time to open, to predict and to resume, by the number of entries.

    python benchmarks/growth.py [--most 1000000] [-o growth.png]

Tables have synthetic entries: all widths of made-up shapes of inverted residuals, at latencies
from a formula. A prediction is of a network of 20 blocks: the first one after opening, and a later
one of other blocks. A journal has synthetic architectures and scores. Each figure is the median of
three repetitions, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from cells import heading

import nas
from latbench.blocks import InvertedResidual, Network
from latbench.device import IMPORTED, DeviceProfile
from latbench.environment import unknown_environment
from latbench.report.terminal import print_lines, print_table
from latbench.tables import Estimate, LatencyTable, StoredFit, TableStore
from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.price_model import PriceModel
from latbench.tables.records import SpaceLabel
from latbench.workflows.footprint import peak_bytes
from nas.evaluators.base import Evaluator
from nas.evaluators.journal import Journaled
from nas.spaces import Architecture

WIDTHS = 500
REPETITIONS = 3
BLOCKS = 20


def main() -> None:
    """Measure sizes up to the largest, and print a table; draw it if a file is given."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--most", type=int, default=1_000_000)
    arguments.add_argument("-o", "--output", type=Path)
    arguments.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.part:
        kind, path = asked.part
        print(json.dumps(_PARTS[kind](Path(path))))
        return
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000, 10_000_000) if n <= asked.most]
    rows, found = [], {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            table, journal = Path(folder) / "t.sqlite", Path(folder) / "j.jsonl"
            write_table(table, size)
            write_journal(journal, size)
            found[size] = _measured("table", table) | _measured("journal", journal)
            megabytes = (table.stat().st_size / 1e6, journal.stat().st_size / 1e6)
        own = found[size]
        rows.append(
            (
                f"{size:,}",
                f"{megabytes[0]:.1f} MB",
                *(f"{own[name] * 1e3:.1f} ms" for name in ("open", "first", "later")),
                f"{megabytes[1]:.1f} MB",
                f"{own['journal']:.2f} s",
                f"{own['memory']:.0f} MB",
            )
        )
    print_lines(heading({"numpy": np.__version__}))
    columns = ("entries", "table", "open", "first prediction", "later", "journal", "read", "memory")
    print_table(columns, rows)
    if asked.output:
        _draw(found, asked.output)


def shapes(count: int) -> list[InvertedResidual]:
    """Made-up shapes, all different."""
    made = []
    for number in range(count):
        channels, size = 8 + number % 1000, 7 * (1 + number // 1000)
        made.append(InvertedResidual(channels, channels, 0, 3, 1, "relu", size))
    return made


def write_table(path: Path, entries: int) -> None:
    """A table with every width of some shapes."""
    device = DeviceProfile("synthetic", IMPORTED)
    space = SpaceLabel("synthetic", 224, 1000)
    with TableStore.create(
        path, device=device, space=space, environment=unknown_environment("synthetic")
    ) as store:
        widths = range(1, min(WIDTHS, entries) + 1)
        for shape in shapes(-(-entries // len(widths))):
            store.add_blocks(_at(shape, width) for width in widths)
        store.record_alignment(Alignment((WidthClass(8, 8), WidthClass(1, 1))))
        estimates = {}
        for id_, spec in store.blocks().items():
            ms = 1e-5 * spec.width + 1e-4  # type: ignore[attr-defined]
            estimates[id_] = Estimate(ms, ms, ms, ms, ms, ms, 20, noisy=False)
        store.set_results(estimates, StoredFit(PriceModel(0.5, 0.5, 0.0, 0.1)))
    path.with_suffix(".entries").write_text(str(entries))


def write_journal(path: Path, entries: int) -> None:
    """A journal of different architectures."""
    space, rng = nas.make_space("tfnas", 32, 10), np.random.default_rng(0)
    text = json.dumps(space.random(rng).as_dict(), separators=(",", ":"))
    head, tail = text.split('"width":', 1)
    width, tail = tail.split("}", 1)
    with path.open("w") as file:
        for number in range(entries):
            own = f'{head}"width":{int(width) + number}}}{tail}'
            file.write(f'{{"architecture":{own},"score":{rng.random():.6f}}}\n')


def _measured(kind: str, path: Path) -> dict[str, float]:
    """Medians over processes."""
    command = [sys.executable, __file__, "--part", kind, str(path)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(REPETITIONS)
    ]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _table(path: Path) -> dict[str, float]:
    begin = perf_counter()
    table = LatencyTable.open(path)
    opened = perf_counter()
    networks = _networks(int(path.with_suffix(".entries").read_text()))
    times = []
    for network in networks:
        start = perf_counter()
        table.predict(network)
        times.append(perf_counter() - start)
    return {"open": opened - begin, "first": times[0], "later": times[1]}


def _networks(entries: int) -> list[Network]:
    """Two networks of different blocks that a table of so many entries has."""
    found = shapes(-(-entries // WIDTHS))
    chosen = [found[n % len(found)] for n in range(2 * BLOCKS)]
    specs = [_at(shape, 2 + n) for n, shape in enumerate(chosen)]
    return [tuple(specs[:BLOCKS]), tuple(specs[BLOCKS:])]


def _at(shape: InvertedResidual, width: int) -> InvertedResidual:
    return InvertedResidual(
        shape.in_channels, shape.out_channels, width, 3, 1, "relu", shape.input_size
    )


class _Nothing(Evaluator):
    def _score(self, architecture: Architecture) -> float:
        raise AssertionError("the journal has all scores")


def _journal(path: Path) -> dict[str, float]:
    begin = perf_counter()
    Journaled(_Nothing(), path)
    taken = perf_counter() - begin
    return {"journal": taken, "memory": peak_bytes() / 1e6}


_PARTS = {"table": _table, "journal": _journal}


def _draw(found: dict[int, dict[str, float]], path: Path) -> None:
    """Lines of all times over the number of entries, both axes logarithmic."""
    import altair as alt
    import vl_convert

    names = {
        "open": "open a table",
        "first": "first prediction",
        "later": "later prediction",
        "journal": "read a journal",
    }
    rows = [
        {"entries": size, "seconds": own[name], "what": words}
        for size, own in found.items()
        for name, words in names.items()
    ]
    chart = (
        alt.Chart(alt.Data(values=rows), width=460, height=260)
        .mark_line(point=True)
        .encode(
            x=alt.X("entries:Q", scale=alt.Scale(type="log"), title="entries"),
            y=alt.Y("seconds:Q", scale=alt.Scale(type="log"), title="time in s"),
            color=alt.Color("what:N", title=None),
        )
    )
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))


if __name__ == "__main__":
    main()
