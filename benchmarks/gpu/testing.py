"""The project's tests that need a GPU."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

from benchmarks.gpu.conditions import ROOT, Conditions, environment
from benchmarks.gpu.record import Record
from benchmarks.gpu.running import FAILED

_LISTED = 8  # failures named


def run(conditions: Conditions, record: Record) -> None:
    """Run ``pytest -m gpu``; a warning of another version of a library fails nothing here."""
    report = conditions.folder / "tests.xml"
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default",
        "--continue-on-collection-errors", f"--junitxml={report}", *_files(),
    ]  # fmt: skip
    command += ["--collect-only", "-q"] if conditions.tiny else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=conditions.seconds_left,
        check=False,
    )
    print(done.stdout, done.stderr)
    last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
    record.add(f"exit code {done.returncode}: {''.join(last)}", exit_code=done.returncode)
    if not report.exists():
        return
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    failed += [case for case in cases if case.find("error") is not None]
    skipped = [case.find("skipped") for case in cases if case.find("skipped") is not None]
    record.add(
        f"{len(cases)} tests, {len(failed)} failed, {len(skipped)} skipped",
        tests=len(cases),
        failed=[f"{case.get('classname')}::{case.get('name')}" for case in failed],
    )
    for case in failed[:_LISTED]:
        why = case.find("failure") if case.find("failure") is not None else case.find("error")
        words = (why.get("message") or "").split() if why is not None else []
        record.add(f"{case.get('name')}: {' '.join(words)[:110]}")
    if done.returncode not in (0, 5):
        record.end(FAILED)


def _files() -> list[str]:
    """Test files that name the mark: the others need not be imported."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if "pytest.mark.gpu" in path.read_text()]
    return [str(path.relative_to(ROOT)) for path in marked]
