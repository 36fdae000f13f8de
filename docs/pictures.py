"""The pictures of the pages, drawn anew from a demo on this machine.

    python docs/pictures.py [-o runs/demo]

An unfinished demo is finished first, which takes some minutes of a quiet machine. Screenshots need
chromium. What was drawn, on what and when, is printed: it belongs in the commit.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import latbench

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BROWSER = ("chromium", "chromium-browser", "google-chrome")
DRAWN_MS = 4000  # until all charts of a report are drawn


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "runs" / "demo")
    folder: Path = parser.parse_args().output.resolve()
    _latbench("demo", "-o", folder)
    (table,) = folder.glob("*.sqlite")
    _latbench("table", "show", table, "--picture", DOCS / "widths.png")
    screenshot(folder / "report.html", DOCS / "report-light.png", width=1000, height=983)
    screenshot(folder / "report.html", DOCS / "report-phone.png", width=390, height=1105, dark=True)
    print(f"latbench {latbench.__version__}, {platform.machine()}, {datetime.now(UTC):%Y-%m-%d}")


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> None:
    """The upper part of a page as chromium draws it, in the light or the dark theme.

    Args:
        page: HTML file.
        picture: PNG file to write.
        width: Width of the window, in pixels.
        height: Height of the window, in pixels.
        dark: Whether the reader prefers the dark theme.
    """
    browser = next(filter(None, map(shutil.which, BROWSER)), None)
    if browser is None:
        sys.exit(f"screenshots need one of {', '.join(BROWSER)}")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--disable-background-networking", "--no-first-run", "--disable-quic"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        command += [f"--virtual-time-budget={DRAWN_MS}", f"--screenshot={picture}"]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def _latbench(*words: object) -> None:
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, words)], check=True)


if __name__ == "__main__":
    main()
