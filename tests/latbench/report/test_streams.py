# ruff: noqa: RUF001 - the text holds what an encoding may lack
"""Output that cannot be written: closed, full, left by its reader, of few characters."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from latbench.report.streams import NEAREST, prepare_streams
from latbench.units import format_ms

ROOT = Path(__file__).parents[3]
LATBENCH = f"{shlex.quote(sys.executable)} -m cli"
FULL = Path("/dev/full")


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a shell's command line."""
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )
    out, err = (raw.decode("utf-8", "backslashreplace") for raw in (done.stdout, done.stderr))
    return done.returncode, out, err


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["--help", "--version", "spaces spos", "spaces spos --json"])
def test_a_result_that_is_lost_is_an_error_in_one_line(command: str) -> None:
    code, _, err = shell(f"{LATBENCH} {command} >/dev/full")
    assert code == 2
    assert err == "latbench: cannot write to standard output: No space left on device\n"
    code, _, err = shell(f"{LATBENCH} {command} >&-")
    assert code == 2
    assert err.startswith("latbench: standard output is closed")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "cases"),
    [
        ("spaces spos", ["2>&-", "<&-", "2>&- <&-", "2>/dev/full"]),
        ("spaces spos --json", ["2>&- <&-"]),
        ("spaces nowhere --json", ["2>&- <&-"]),
    ],
)
def test_without_standard_error_or_input_a_command_goes_on(command: str, cases: list[str]) -> None:
    expected = shell(f"{LATBENCH} {command}")
    for closed in cases:
        assert shell(f"{LATBENCH} {command} {closed}") == expected


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    for command in ("spaces", "spaces --json", "--help"):
        left = f"{LATBENCH} {command} | sleep 0; exit ${{PIPESTATUS[0]}}"
        assert shell(left) == (0, "", "")


def test_errors_are_reported_where_they_can_be() -> None:
    """The error of a command under --json goes to standard output, else to standard error."""
    code, out, err = shell(f"{LATBENCH} spaces nowhere --json")
    assert (code, json.loads(out)["error"]["kind"], err) == (2, "unknown-name", "")
    code, out, err = shell(f"{LATBENCH} spaces nowhere --json >/dev/full")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "unknown search space" in err


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
)
def test_no_command_dies_of_a_locale(environment: dict[str, str], tmp_path: Path) -> None:
    """A file's name comes back byte by byte, whatever the locale makes of it."""
    drawn = tmp_path / "Größe µ.json"
    code, out, err = shell(f"{LATBENCH} spaces spos --draw smallest -o '{drawn}'", **environment)
    assert (code, err) == (0, "")
    assert drawn.is_file()
    assert "wrote" in out
    code, out, _ = shell(f"{LATBENCH} cost '{drawn}' --json", **environment)
    assert code == 0
    assert json.loads(out)["macs_m"] > 0
    code, out, err = shell(f"{LATBENCH} devices --check '{drawn}' --json", **environment)
    assert (code, err) == (2, "")
    assert out.isascii()
    assert "Größe µ.json is not a device profile" in json.loads(out)["error"]["message"]
    code, _, err = shell(f"{LATBENCH} devices --check '{drawn}'", **environment)
    assert (code, err.count("\n")) == (2, 1)


def test_characters_that_an_encoding_lacks_are_replaced_by_the_nearest() -> None:
    prepare_streams()
    text = f"{format_ms(0.05)} ±1 % × 2 – “Größe” ▁▄█ → 漢 \N{ANGSTROM SIGN}"
    assert text.encode("ascii", NEAREST) == b'50 us +-1 % x 2 - "Grosse" _-# -> ? A'
    assert "50 µs ±1".encode("latin-1", NEAREST) == b"50 \xb5s \xb11"
    assert "a\udcc3\udcb6b".encode("ascii", NEAREST) == "aöb".encode()
    assert "a\udcc3\udcb6b".encode("utf-8", NEAREST) == "aöb".encode()
