"""New components: they pass every check as they are written, and nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import cli
from latbench.errors import InvalidFileError, InvalidValueError
from nas.scaffold import KINDS, find_checkout, new_component, new_package

ROOT = Path(__file__).parents[2]
TREE = ("latbench", "nas", "tests", "device_profiles", "cli.py", "pyproject.toml")

QUICK_DEVICE = """
name = "quick"
runtime = "onnxruntime"
[sweep]
warmup_calls = 1
hot_calls = 1
cold_calls = 1
block_dwell_ms = 0
network_dwell_ms = 0
min_passes = 2
max_passes = 2
networks = 6
network_visits = 1
"""
# all processes of a checkout share what the first one compiles, whatever this process does
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": ""}
COMMANDS = """
import json, sys
import cli

for command in json.loads(sys.argv[1]):
    sys.argv = ["latbench", *command, "--json"]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


def _copy_tree(to: Path) -> Path:
    left_out = shutil.ignore_patterns("__pycache__", Path(__file__).name)
    for name in TREE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a new component of every kind."""
    made = _copy_tree(tmp_path_factory.mktemp("checkout"))
    for kind in KINDS:
        new_component(kind, f"sprouted-{kind}", root=made)
    return made


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A package of every kind, with what an installer would make of its ``pyproject.toml``."""
    parent = tmp_path_factory.mktemp("outside")
    made = []
    for kind in KINDS:
        root = new_package(kind, f"potted-{kind}", parent=parent).root
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        info = root / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        lines = [
            line
            for group, points in project["entry-points"].items()
            for line in (f"[{group}]", *(f"{name} = {place}" for name, place in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        made.append(root)
    return made


def _run(*args: object, folder: Path, path: list[Path]) -> str:
    """What Python prints, in a folder and with a path of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _new_of_every_kind(root: Path, name: str) -> None:
    """Components of a name, or of its longest beginning that is not too long for the kind."""
    for kind in KINDS:
        for length in range(len(name), 0, -1):
            with contextlib.suppress(InvalidValueError):
                new_component(kind, name[:length], root=root)
                break


def test_new_components_are_linted_and_formatted_whatever_their_names(tmp_path: Path) -> None:
    made = _copy_tree(tmp_path)
    _new_of_every_kind(made, "q")
    _new_of_every_kind(made, 40 * "n")
    for command in (["check"], ["format", "--check"]):
        _run("-m", "ruff", *command, "--no-cache", ".", folder=made, path=[made])


def test_new_components_pass_their_own_tests(tree: Path, packages: list[Path]) -> None:
    """In the checkout as in packages of their own."""
    _run(
        *("-m", "pytest", "-x", "-p", "no:cacheprovider", "-c", tree / "pyproject.toml"),
        *(*tree.glob("tests/*/test_*_sprouted_*.py"), *packages),
        folder=tree,
        path=[tree, *packages],
    )


def test_new_components_search_together(tree: Path, tmp_path: Path) -> None:
    """Space, searcher, strategy and data set, by the command and with nothing else changed."""
    (tmp_path / "quick.toml").write_text(QUICK_DEVICE)
    ends = ("smallest", "largest")
    measured = _latbench(
        ["profile", "quick.toml", "sprouted-space", "-o", "t.sqlite", "--time-limit", "20s"],
        *(["spaces", "sprouted-space", "--draw", end, "-o", end] for end in ends),
        *(["predict", end, "--table", "t.sqlite"] for end in ends),
        tree=tree,
        folder=tmp_path,
    )
    target_ms = sum(predicted["latency_ms"] for predicted in measured[-2:]) / 2
    (found,) = _latbench(
        [
            *("search", "sprouted-space", "--searcher", "sprouted-searcher"),
            *("--data", "sprouted-dataset", "--images", "64", "--epochs", "1"),
            *("--set", "strategy=sprouted-strategy", "--set", "evaluations=6"),
            *("--table", "t.sqlite", "--target", f"{target_ms:.9f}ms", "-o", "run"),
        ],
        tree=tree,
        folder=tmp_path,
    )
    (result,) = found["results"]
    assert result["architecture"]["space"] == "sprouted-space"
    assert result["latency_ms"] <= result["target_ms"]
    evaluated = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert len(evaluated) == 6


def _latbench(*commands: list[str], tree: Path, folder: Path) -> list[dict[str, Any]]:
    """The results of commands, all in one process of a checkout."""
    printed = _run("-c", COMMANDS, json.dumps(commands), folder=folder, path=[tree])
    return [json.loads(line) for line in printed.splitlines()]


def test_the_registration_is_one_line_in_its_place(tree: Path) -> None:
    for family in KINDS.values():
        registry = Path(family.folder) / "__init__.py"
        before, after = ((root / registry).read_text().splitlines() for root in (ROOT, tree))
        added = [line for line in after if line not in before]
        assert len(added) == 1
        assert "sprouted-" in added[0]
        assert [line for line in after if line != added[0]] == before


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("space", "My Space", "cannot name a search space.*such as 'my-own'"),
        ("space", "my_space", "cannot name"),
        ("dataset", "list", "cannot name a data set"),
        ("space", "class", "cannot name"),
        ("block", "none", "cannot name a kind of block"),
        ("criterion", "warning", "cannot name a criterion"),
        ("space", "7up", "cannot name"),
        ("space", "../evil", "cannot name"),
        ("space", "tfnas", "search space 'tfnas' already.*not among.*nasbench-macro"),
        ("runtime", "openvino", "runtime 'openvino' already"),
        ("dataset", "image-data", "would be image_data in the code"),
        ("block", "graph-builder", "would be GraphBuilder in the code"),
        ("space", "a" + 40 * "-long", "too long a name"),
    ],
)
def test_names_that_cannot_be_used_are_refused(kind: str, name: str, why: str, tree: Path) -> None:
    before = _contents(tree)
    with pytest.raises(InvalidValueError, match=why):
        new_component(kind, name, root=tree)
    assert _contents(tree) == before


def test_nothing_is_overwritten(tree: Path, tmp_path: Path) -> None:
    before = _contents(tree)
    with pytest.raises(InvalidFileError, match=r"nas/spaces/space\.py exists and is kept"):
        new_component("space", "space", root=tree)
    with pytest.raises(InvalidValueError, match="already"):
        new_component("space", "sprouted-space", root=tree)
    with pytest.raises(InvalidFileError, match="no checkout"):
        new_component("space", "another", root=tmp_path)
    assert _contents(tree) == before
    new_package("space", "mine", parent=tmp_path)
    with pytest.raises(InvalidFileError, match="latbench-mine exists and is kept"):
        new_package("runtime", "mine", parent=tmp_path)
    with pytest.raises(InvalidValueError, match="already"):
        new_package("space", "tfnas", parent=tmp_path)


def test_the_checkout_is_the_one_around_the_current_folder(tree: Path, tmp_path: Path) -> None:
    assert find_checkout(tree / "nas" / "spaces") == tree
    assert find_checkout(tmp_path) is None


@pytest.mark.parametrize("installed", ["", ".venv/site-packages"])
def test_a_checkout_is_installed_first_unless_its_own_code_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    """A copy in an environment inside the checkout does not follow the checkout's changes."""
    tree = _copy_tree(tmp_path)
    source = tree / installed
    monkeypatch.setattr("nas.scaffold._source", lambda folder: source / folder / "__init__.py")
    made = new_component("block", "mine", root=tree)
    assert ("pip install -e" in made.next_step) == bool(installed)
    assert made.next_step.endswith("python -m pytest tests/latbench/test_block_mine.py")


def test_the_command_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for args, code in ((["block", "mine"], 0), (["blok", "mine"], 2), (["block", "conv"], 2)):
        monkeypatch.setattr(sys, "argv", ["latbench", "new", *args, "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
    made, unknown, taken = map(json.loads, capsys.readouterr().out.splitlines())
    root = tmp_path / "latbench-mine"
    assert made["root"] == str(root)
    assert all((root / file).is_file() for file in made["files"])
    assert made["next"] == f"pip install pytest -e {root} && python -m pytest {root}"
    assert "did you mean 'block'" in unknown["error"]["message"]
    assert unknown["error"]["choices"] == list(KINDS)
    assert taken["error"]["kind"] == "invalid-value"
    assert [path.name for path in tmp_path.iterdir()] == ["latbench-mine"]
