"""The pictures of the pages, drawn anew from a demo on this machine.

    python -m docs.pictures [-o runs/demo]

An unfinished demo is finished first, which takes some minutes of a quiet machine. Screenshots need
chromium. What was drawn, on what and when, is printed: it belongs in the commit.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import latbench
from tests.nas.report.browser import CHROMIUM, Theme, browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SCREENSHOTS: dict[str, tuple[int, int, Theme]] = {
    "report-light.png": (1000, 983, "light"),
    "report-phone.png": (390, 1105, "dark"),
}
"""Width and height of the window in pixels, and theme."""


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "runs" / "demo")
    folder: Path = parser.parse_args().output.resolve()
    if CHROMIUM is None:
        sys.exit("screenshots need chromium")
    _latbench("demo", "-o", folder)
    (table,) = folder.glob("*.sqlite")
    _latbench("table", "show", table, "--picture", DOCS / "widths.png")
    draw(folder / "report.html", DOCS)
    print(f"latbench {latbench.__version__}, {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}")


def draw(page: Path, folder: Path) -> None:
    """Write screenshots of the upper part of a page into a folder."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as shown:
        for name, (width, height, theme) in SCREENSHOTS.items():
            shown.open(page, width=width, height=height, theme=theme)
            shown.screenshot(folder / name, whole=False)


def _latbench(*words: object) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, words)]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)  # the command has said why


if __name__ == "__main__":
    main()
