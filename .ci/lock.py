"""Writes the lock: exact versions, with hashes, of all that `make` installs.

    python .ci/lock.py LOCK            resolve anew and write the lock
    python .ci/lock.py LOCK --compare  only say what differs from the newest versions

pip resolves what pyproject.toml asks for; nothing is installed. Hashes are those of all files of a
release as PyPI publishes them, so that one lock serves all platforms. A package that others ask for
on some platforms alone has that condition as its marker. Run it with the oldest Python that the
project supports: later ones can install what that one can.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
PROJECT = "latbench"
EXTRAS = ("nas", "openvino", "report", "ray", "docs", "dev")
BUILD = ("pip", "setuptools", "wheel")  # what installs, and what builds the project
INDEX = "https://pypi.org/simple"
TIMEOUT_S = 60
HEADER = """\
# Exact versions of all that `make` installs, with hashes of all their files; made by `make lock`.
# A requirements file, as every pip reads it: pylock.toml needs a pip newer than the one that comes
# with Python 3.11, and `pip lock` writes for one platform only.
"""

Package = dict[str, Any]


def main() -> None:
    """Write the lock, or compare it."""
    lock, *options = sys.argv[1:]
    packages = resolved()
    found = {n: p["metadata"]["version"] for n, p in packages.items() if n != PROJECT}
    if options == ["--compare"]:
        known = locked(Path(lock).read_text())
        names = sorted(known.keys() | found.keys())
        changed = [n for n in names if known.get(n) != found.get(n)]
        print(", ".join(f"{n} {found.get(n, 'gone')}" for n in changed))
        return
    wanted = markers(packages)
    entries = [entry(n, found[n], wanted[n]) for n in sorted(found)]
    Path(lock).write_text(HEADER + "\n".join(entries) + "\n")


def resolved() -> dict[str, Package]:
    """What pip would install into an empty environment, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += ["--use-feature=fast-deps", "--retries", "2", "--report", str(report)]
        subprocess.run([*command, f"{ROOT}[{','.join(EXTRAS)}]", *BUILD], check=True)
        installs = json.loads(report.read_text())["install"]
    return {canonicalize_name(package["metadata"]["name"]): package for package in installs}


def locked(text: str) -> dict[str, str]:
    """The versions in a lock, by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", text, re.MULTILINE))


def markers(packages: dict[str, Package]) -> dict[str, str]:
    """On which platforms each package is needed, as a marker; empty for all."""
    conditions: dict[str, set[frozenset[str]]] = {}  # alternatives, each a conjunction
    todo = [(PROJECT, frozenset(EXTRAS), frozenset[str]())]
    todo += [(name, frozenset[str](), frozenset[str]()) for name in BUILD]
    seen = set()
    while todo:
        name, extras, condition = todo.pop()
        if (name, extras, condition) in seen or name not in packages:
            continue
        seen.add((name, extras, condition))
        conditions.setdefault(name, set()).add(condition)
        for text in packages[name]["metadata"].get("requires_dist", []):
            needed = Requirement(text)
            added = condition
            if needed.marker is not None:
                if not any(needed.marker.evaluate({"extra": e}) for e in ("", *extras)):
                    continue
                if "extra" not in str(needed.marker):  # an extra is asked for on all platforms
                    added = condition | {str(needed.marker)}
            todo.append((canonicalize_name(needed.name), frozenset(needed.extras), added))
    return {name: _marker(found) for name, found in conditions.items()}


def _marker(alternatives: set[frozenset[str]]) -> str:
    if frozenset() in alternatives:
        return ""
    least = [a for a in alternatives if not any(b < a for b in alternatives)]
    joined = sorted(" and ".join(f"({part})" for part in sorted(a)) for a in least)
    return joined[0] if len(joined) == 1 else " or ".join(f"({part})" for part in joined)


def entry(name: str, version: str, marker: str) -> str:
    """The lines of one package."""
    condition = f" ; {marker}" if marker else ""
    hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in published(name, version))
    return f"{name}=={version}{condition}{hashes}"


def published(name: str, version: str) -> list[str]:
    """The SHA-256 of all files of a release on PyPI."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    request = urllib.request.Request(f"{INDEX}/{name}/", headers=accept)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        files = json.load(answer)["files"]
    wanted = Version(version)
    found = sorted(f["hashes"]["sha256"] for f in files if _version(f["filename"]) == wanted)
    if not found:
        sys.exit(f"{name} {version} is not on PyPI: it came from an index of this machine")
    return found


def _version(filename: str) -> Version | None:
    """The version that a file is of; None where its name is none of today's."""
    try:
        if filename.endswith(".whl"):
            return parse_wheel_filename(filename)[1]
        return parse_sdist_filename(filename)[1]
    except (InvalidSdistFilename, InvalidWheelFilename, InvalidVersion):
        return None


if __name__ == "__main__":
    main()
