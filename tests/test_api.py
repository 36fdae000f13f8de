"""The Python API: what is public, and that it is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

import latbench
import nas
from latbench.errors import InvalidValueError, LatbenchError, UnknownNameError
from latbench.tables import LatencyTable
from nas.workflows.inputs import as_list

ROOT = Path(__file__).parents[1]
PACKAGES = pytest.mark.parametrize("package", [latbench, nas])
PUBLIC = [(package, name) for package in (latbench, nas) for name in package.__all__]


@pytest.fixture
def table(tmp_path: Path, tfnas_table: bytes) -> LatencyTable:
    path = tmp_path / "t.sqlite"
    path.write_bytes(tfnas_table)
    return LatencyTable.open(path)


def _documented(package: str) -> list[str]:
    """The names in the table of a package in docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text()
    section = text.partition(f"\n## {package}:")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@PACKAGES
def test_the_public_names_are_the_documented_ones(package: ModuleType) -> None:
    assert sorted(_documented(package.__name__)) == sorted(package.__all__) == dir(package)


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_public_name_says_what_it_is(package: ModuleType, name: str) -> None:
    """Functions with all their arguments; what they raise is a part of it."""
    found = getattr(package, name)
    text = inspect.getdoc(found) or ""
    assert text.endswith(".") or "\n" in text
    assert not text.startswith(f"{name}(")  # dataclasses write this themselves
    if inspect.isfunction(found):
        arguments = list(inspect.signature(found).parameters)
        if len(arguments) > 2:
            assert [a for a in arguments if not re.search(rf"^    {a}: ", text, re.M)] == []


@PACKAGES
def test_a_name_that_is_not_public_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="serach"):
        attrgetter("serach")(package)


def test_importing_the_packages_imports_nothing_slow() -> None:
    code = (
        "import sys, latbench, nas; slow = ('torch', 'numpy', 'onnx', 'msgspec', 'click', 'rich');"
        "print(*(name for name in slow if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_a_public_name_that_needs_an_extra_names_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import latbench, nas\n"
        "print(nas.make_space('spos'), nas.predict.__name__)\n"
        "try: nas.search\n"
        "except latbench.LatbenchError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == "SearchSpace(spos, 32 px, 100 classes, 20 layers in 4 stages) predict"
    assert "latbench[nas]" in second


def test_latencies_paths_and_architectures_are_taken_in_all_their_forms(
    tmp_path: Path, table: LatencyTable
) -> None:
    arch = nas.make_space("tfnas", 32, 10).random(seed=1)
    arch.save(str(tmp_path / "a.json"))
    assert nas.load_architecture(tmp_path / "a.json") == arch
    predicted = nas.predict(arch, table)
    for path in (str(tmp_path / "a.json"), tmp_path / "a.json"):
        assert nas.predict(path, str(table.path)) == nas.predict(path, table.path) == predicted
        assert nas.cost(path) == nas.cost(arch)
    target_ms = predicted.latency_ms
    fitted = nas.fit(arch, table, target=target_ms)
    assert nas.fit(arch, table, target=f"{target_ms!r}ms") == fitted
    assert nas.fit(arch, table, target=f"{target_ms * 1e3!r}us").latency_ms <= target_ms * 1.0001
    for wrong in ("15", -1.0, float("nan")):
        with pytest.raises(InvalidValueError, match="is not a latency"):
            nas.fit(arch, table, target=wrong)


def test_one_of_several_needs_no_list(table: LatencyTable) -> None:
    tables = (table, table.path, str(table.path))
    spaces = [nas.choose_space("tfnas", asked) for one in tables for asked in (one, [one])]
    assert spaces == [nas.make_space("tfnas", 32, 10)] * 6
    assert as_list("0.5ms") == ["0.5ms"]
    assert as_list(0.5) == [0.5]
    assert as_list(("0.5ms", 2)) == ["0.5ms", 2]


def test_draws_follow_from_seeds_or_generators() -> None:
    import numpy as np

    space = nas.make_space("spos")
    assert (
        space.random(seed=3)
        == space.random(np.random.default_rng(3))
        == space.draw("random", seed=3)
    )
    assert space.random(seed=3) != space.random(seed=4)
    assert space.draw("smallest") == space.smallest()
    with pytest.raises(UnknownNameError, match="did you mean 'largest'"):
        space.draw("larges")  # type: ignore[arg-type]


def test_results_print_what_a_person_wants_to_read(table: LatencyTable) -> None:
    arch = nas.make_space("tfnas", 32, 10).random(seed=1)
    predicted = nas.predict(arch, table)
    assert repr(predicted) == (
        f"Prediction(latency_ms={predicted.latency_ms:.4g}, low_ms=None, high_ms=None)"
    )
    fitted = nas.fit(arch, table, target=predicted.latency_ms)
    assert "architecture=Architecture(tfnas, 32 px, 10 classes, " in repr(fitted)
    assert "\n" not in repr(fitted)
    html = fitted._repr_html_()
    assert f"<tr><td>latency_ms</td><td>{fitted.latency_ms:.4g}</td></tr>" in html
    assert "tfnas at 32 px and 10 classes on cpu-onnxruntime" in repr(table)


def test_spaces_in_numbers_are_what_the_command_prints() -> None:
    (summary,) = nas.list_spaces(["spos"], input_size=64)
    assert summary.size == nas.make_space("spos").size()
    assert (summary.input_size, summary.classes) == (64, 100)
    assert summary.as_dict()["size"] == str(summary.size)
    with pytest.raises(LatbenchError):
        nas.list_spaces(["spoz"])


def test_a_table_becomes_a_data_frame(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pandas where it is installed, and by what stands for it elsewhere."""
    fake = ModuleType("pandas")
    fake.DataFrame = lambda rows, columns: (rows, columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    rows, columns = table.to_dataframe()
    assert columns[:3] == ["block", "width", "price_ms"]
    assert len(rows) == len(table.estimates)
    assert all(list(row) == columns for row in rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LatbenchError, match=r"latbench\[report\]"):
        table.to_dataframe()


def test_pandas_reads_a_table(table: LatencyTable) -> None:
    pandas = pytest.importorskip("pandas")
    frame = table.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert (frame.price_ms > 0).all()
    assert list(frame.price_ms) == [table.price_ms(spec) for spec in table.estimates]
    assert list(frame.visits) == [estimate.visits for estimate in table.estimates.values()]
    assert len(frame) == len(table.estimates)


def test_a_search_says_of_data_what_its_folder_keeps(tmp_path: Path) -> None:
    """A data set that was loaded before is continued as one that is named, and no other is."""
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    asked = {"searcher": "random", "max_macs": "30M", "epochs": 1, "batch_size": 16}
    few = ["evaluations=2"]
    data = nas.load_data("digits", input_size=8, classes=10, images=40)
    found = nas.search(space, data=data, output=tmp_path / "r", settings=few, **asked)
    again = nas.search(
        space, data="digits", images=40, output=str(tmp_path / "r"), settings=few, **asked
    )
    assert again.as_dict() == found.as_dict()
    assert found.task == "classification"
    with pytest.raises(LatbenchError, match="images"):
        nas.search(
            space, data=data.subset(32, seed=0), output=tmp_path / "r", settings=few, **asked
        )
    assert replace(data, images=None).images is None
