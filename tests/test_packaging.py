"""What a release consists of: files, version, dependencies, images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import latbench

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = "from setuptools import build_meta; build_meta.build_{kind}({folder!r})"


def _copy(folder: Path, *, only: list[str] | None = None) -> Path:
    """The files of the checkout that are under version control, or some of them."""
    kept = [
        "latbench",
        "nas",
        "device_profiles",
        "cli.py",
        "pyproject.toml",
        "README.md",
        "MANIFEST.in",
    ]
    for name in only if only is not None else [*kept, "LICENSE", "tests", "benchmarks", "docs"]:
        source = ROOT / name
        if source.is_dir():
            skip = shutil.ignore_patterns("__pycache__", "*.sqlite")
            shutil.copytree(source, folder / name, ignore=skip)
        else:
            shutil.copy(source, folder / name)
    return folder


def _build(kind: str, source: Path, output: Path) -> Path:
    """A wheel or a source archive of a tree, as pip and `python -m build` make it."""
    output.mkdir()
    code = BUILD.format(kind=kind, folder=str(output))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = output.iterdir()
    return archive


def _names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return _build("wheel", _copy(folder), folder / "dist")


def test_a_wheel_has_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    found = _names(wheel)
    assert {name.split("/")[0] for name in found} == {
        "cli.py",
        "device_profiles",
        "latbench",
        "nas",
    }
    expected = {"cli.py"}
    for package in ("latbench", "nas", "device_profiles"):
        files = (path for path in (ROOT / package).rglob("*") if path.is_file())
        expected |= {path.relative_to(ROOT).as_posix() for path in files}
    assert found == {name for name in expected if "__pycache__" not in name}


def test_a_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    archive = _build("sdist", _copy(tmp_path / "tree"), tmp_path / "dist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "out", filter="data")
    (tree,) = (tmp_path / "out").iterdir()
    assert not (tree / "tests").exists()  # setuptools would add some of them
    assert _names(_build("wheel", tree, tmp_path / "again")) == _names(wheel)


def test_the_images_have_what_a_wheel_needs(wheel: Path, tmp_path: Path) -> None:
    """.dockerignore lets in the packages and nothing large."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    (tmp_path / "tree").mkdir()
    source = _copy(tmp_path / "tree", only=[line.removeprefix("!") for line in lines[1:]])
    assert _names(_build("wheel", source, tmp_path / "dist")) == _names(wheel)


def test_the_version_has_one_place() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited is not None
    assert newest is not None
    assert cited[1].strip("\"'") == newest[1] == latbench.__version__


def test_every_dependency_has_its_reason() -> None:
    """Those of pyproject.toml are those of the page, each in a row."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {re.split(r"[\[<>=!]", each)[0] for each in asked} - {"latbench"}
    page = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9-]+) \| [^|]+ \| [^|]+ \|", page, re.MULTILINE)
    assert sorted(name for name in rows if name not in ("package", "---")) == sorted(names)
