"""Comparisons of networks as JUnit XML, which CI systems read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from latbench.files import write_atomically
from latbench.report.streams import printable
from latbench.units import format_ms
from latbench.workflows.bench import Bench


def write_junit(path: Path, compared: Sequence[Bench]) -> None:
    """Write one test suite per device and one test case per network.

    A network that is slower than the first fails; one whose verdict is UNSURE is skipped.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    root = ElementTree.Element("testsuites")
    for found in compared:
        suite = ElementTree.SubElement(root, "testsuite", name=f"latbench bench {found.device}")
        verdicts = [row.verdict for row in found.rows]
        suite.set("tests", str(len(verdicts)))
        suite.set("failures", str(verdicts.count("SLOWER")))
        suite.set("skipped", str(verdicts.count("UNSURE")))
        for row in found.rows:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=found.device,
                name=row.model,
                time=f"{row.latency_ms / 1e3:.9f}",
            )
            words = (
                f"{format_ms(row.latency_ms)}, {row.ratio:.3f} times {found.rows[0].model} "
                f"({row.ratio_low:.3f} to {row.ratio_high:.3f})"
            )
            if row.verdict == "SLOWER":
                ElementTree.SubElement(case, "failure", message=f"slower: {words}")
            elif row.verdict == "UNSURE":
                ElementTree.SubElement(case, "skipped", message=f"unsure: {words}")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode()
    write_atomically(path, printable(text))  # names may hold what XML does not
