"""What the source says of itself: imports run downwards, JSON is strict.

Imports: cli -> nas -> latbench, and along the floors inside each.
"""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# a module may import from its own line and from the lines above it
FLOORS = {
    "latbench": [
        ("errors", "units", "files", "progress", "result", "lazy", "json_lines"),
        ("registry",),
        ("blocks", "device", "environment", "conditions"),
        ("device_files",),
        ("cost", "peak_memory", "render"),
        ("models",),
        ("profilers",),
        ("measure",),
        ("tables",),
        ("workflows",),
        ("report", "serve"),
        ("commands",),
    ],
    "nas": [
        ("spaces", "recipes"),
        ("latency",),
        ("optimize", "data", "criteria", "pruning"),
        ("generator",),
        ("supernet", "tasks"),
        ("crew",),
        ("training",),
        ("evaluators",),
        ("searchers",),
        ("workflows", "scaffold"),
        ("report",),
        ("commands",),
    ],
}
HEAVY = {"torch", "torchvision", "sklearn", "scipy", "openvino", "tensorrt"}
HEAVY |= {"altair", "jinja2", "vl_convert"}
# the only modules of latbench that may import something heavy, and what
HEAVY_ROOMS = {
    "latbench/render/torch.py": {"torch"},
    "latbench/models/torch_modules.py": {"torch"},
    "latbench/profilers/pytorch.py": {"torch"},
    "latbench/profilers/pytorch_cuda.py": {"torch"},
    "latbench/profilers/openvino.py": {"openvino"},
    "latbench/profilers/tensorrt.py": {"tensorrt"},
    "latbench/profilers/tensorrt_engines.py": {"tensorrt"},
    "latbench/report/page/chart_parts.py": {"altair"},
    "latbench/report/page/charts.py": {"altair"},
    "latbench/report/page/latency_charts.py": {"altair"},
    "latbench/report/page/html.py": {"jinja2", "vl_convert"},
    "latbench/report/pictures.py": {"vl_convert"},
}


def _modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports hide which floor they come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imports(path: Path) -> Iterator[str]:
    return _names(ast.walk(ast.parse(path.read_text())))


def _top_level_imports(path: Path) -> Iterator[str]:
    return _names(ast.parse(path.read_text()).body)


def _floor(package: str, room: str) -> int:
    for number, rooms in enumerate(FLOORS[package]):
        if room in rooms:
            return number
    raise AssertionError(f"{package}.{room} is on no floor: add it to FLOORS and ARCHITECTURE.md")


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down_the_floors(package: str) -> None:
    for path in _modules(package):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts == [package]:  # its public names reach down to all floors
                assert room == "commands", f"{path} imports {name}"
            elif parts[0] == package and parts[1] != "__version__":
                assert _floor(package, parts[1]) <= _floor(package, room), f"{path} imports {name}"


def test_latbench_knows_nothing_of_nas_or_the_command_line() -> None:
    for path in _modules("latbench"):
        assert not {"nas", "cli"} & {name.split(".")[0] for name in _imports(path)}, path


def test_nas_does_not_import_the_command_line() -> None:
    for path in _modules("nas"):
        assert "cli" not in {name.split(".")[0] for name in _imports(path)}, path


def test_spaces_prices_and_scaling_need_no_torch() -> None:
    for room in ("spaces", "latency", "recipes"):
        for path in (ROOT / "nas" / room).rglob("*.py"):
            assert not HEAVY & {name.split(".")[0] for name in _imports(path)}, path


def test_heavy_imports_of_latbench_stand_in_their_rooms() -> None:
    for path in _modules("latbench"):
        allowed = HEAVY_ROOMS.get(path.relative_to(ROOT).as_posix(), set())
        assert not (HEAVY - allowed) & {name.split(".")[0] for name in _imports(path)}, path


def test_profilers_can_be_imported_without_their_runtimes() -> None:
    """All but ONNX Runtime, which every install has."""
    for path in (ROOT / "latbench" / "profilers").glob("*.py"):
        assert not HEAVY & {name.split(".")[0] for name in _top_level_imports(path)}, path


def test_the_command_line_imports_nothing_slow_before_a_command_runs() -> None:
    slow = HEAVY | {"numpy", "onnx", "onnxruntime", "rich", "msgspec"}
    assert not slow & {name.split(".")[0] for name in _top_level_imports(ROOT / "cli.py")}


def test_black_box_searchers_and_benchmarks_of_them_need_no_torch() -> None:
    paths = [*(ROOT / "nas" / "optimize").rglob("*.py")]
    paths += [ROOT / "nas" / "evaluators" / f"{name}.py" for name in ("base", "journal", "tabular")]
    for path in paths:
        assert "torch" not in {name.split(".")[0] for name in _imports(path)}, path


def test_the_page_of_modules_is_up_to_date() -> None:
    written = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / ".ci" / "modules.py"))["page"]() == written


def test_json_is_written_for_strict_readers() -> None:
    """NaN and Infinity are no JSON, and by default Python's writer makes them."""
    for path in [*_modules("latbench"), *_modules("nas"), ROOT / "cli.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                strict = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert strict.get("allow_nan") == "False", f"{path}:{node.lineno}"
