"""Searches, trainings and exports as functions that take each other's results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import nas
from latbench.device import DeviceProfile
from latbench.errors import InvalidFileError, InvalidValueError, MismatchError
from nas.data.images import ImageData, Split
from nas.spaces import nasbench_macro
from nas.training.run_config import LABELS, LATENCIES, STRUCTURE
from tests.conftest import make_small_space, random_price, write_table
from tests.nas.runs import tiny_data


def _found(
    space: nas.SearchSpace | str, data: ImageData, folder: Path, **asked: Any
) -> nas.SearchResults:
    """A random search of seconds."""
    return nas.search(
        space,
        data=data,
        searcher="random",
        epochs=1,
        batch_size=16,
        settings=["evaluations=2"],
        output=folder,
        **asked,
    )


def test_what_is_searched_is_trained_tested_and_exported(tmp_path: Path) -> None:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    data = nas.load_data("digits", input_size=8, classes=10, images=48)
    found = _found(space, data, tmp_path / "search", max_params=5e6)
    assert len(found) == 1
    assert found[0] is found[:1][0] is next(iter(found))
    assert found.files[0].exists()
    assert found.as_dict()["results"][0]["params_m"] <= 5
    trained = nas.train(found[0].architecture, data, output=str(tmp_path / "train"), epochs=1)
    tested = nas.evaluate(tmp_path / "train", data)
    assert tested == trained
    assert tested.as_dict() == trained.metrics
    model = nas.export(trained, tmp_path / "model.onnx")
    other = nas.export(
        trained.architecture, str(tmp_path / "other.onnx"), weights=str(trained.weights)
    )
    assert model.path.read_bytes() == other.path.read_bytes()
    assert model.deviation < 1e-4
    fresh = nas.export(found.files[0], tmp_path / "fresh.onnx")
    assert fresh.path.read_bytes() != model.path.read_bytes()
    with pytest.raises(InvalidFileError, match="not a training"):
        nas.evaluate(tmp_path / "search", data)


def test_tables_say_which_space_is_searched(tmp_path: Path, profile: DeviceProfile) -> None:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    table = write_table(tmp_path / "t.sqlite", space, profile)
    assert nas.choose_space("nasbench-macro", [table.path]) == space
    assert nas.choose_space("nasbench-macro").input_size == 32
    with pytest.raises(MismatchError, match="--input-size 9"):
        nas.choose_space("nasbench-macro", [table], input_size=9)
    with pytest.raises(MismatchError, match="not spos"):
        nas.choose_space("spos", [table])


def test_a_space_without_a_registered_name_is_searched_with_several_tables(
    tmp_path: Path, profile: DeviceProfile
) -> None:
    space, data = make_small_space(), tiny_data(48)
    other = msgspec.structs.replace(profile, name="other")
    tables = [write_table(tmp_path / each.name, space, each) for each in (profile, other)]
    found = _found(space, data, tmp_path / "run", tables=tables, max_macs="1G")
    assert len(found) == 1


def test_the_name_of_a_searched_space_is_completed_by_arguments(tmp_path: Path) -> None:
    data = nas.load_data("digits", input_size=8, classes=10, images=48)

    def search(space: nas.SearchSpace | str, input_size: int | None) -> nas.SearchResults:
        return _found(space, data, tmp_path / "r", max_macs="5M", input_size=input_size)

    found = search("nasbench-macro", 8)
    assert found[0].architecture.input_size == 8
    whole = nas.make_space("nasbench-macro", input_size=8, classes=10)
    assert list(search(whole, None)) == list(found)
    with pytest.raises(InvalidValueError, match="leave out input_size"):
        search(whole, 8)


def test_a_search_that_measures_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="on which device"):
        nas.search(
            "nasbench-macro",
            data="digits",
            searcher="random",
            max_macs="30M",
            measured=True,
            output=tmp_path / "r",
        )
    assert not (tmp_path / "r").exists()


def _train(data: ImageData, folder: Path) -> dict[str, float]:
    architecture = nas.make_space("nasbench-macro", 8, 10).smallest()
    return nas.train(architecture, data, output=folder, epochs=1, batch_size=16).metrics


def _search(data: ImageData, folder: Path) -> list[float]:
    found = _found(nas.make_space("nasbench-macro", 8, 10), data, folder, max_params=5e6)
    return [result.score for result in found]


@pytest.mark.parametrize("run", [_train, _search])
def test_a_run_is_resumed_with_its_own_data_only(
    run: Callable[[ImageData, Path], object], tmp_path: Path
) -> None:
    """A folder of an older version, which says nothing about labels, is resumed."""
    data = tiny_data(48)
    assert isinstance(data.train, Split)
    other = replace(data, train=Split(data.train.images, data.train.labels.flip(0)))
    first, config = run(data, tmp_path / "run"), tmp_path / "run" / "config.json"
    assert run(data, tmp_path / "run") == first
    with pytest.raises(MismatchError, match=r"holds another run \(labels is"):
        run(other, tmp_path / "run")
    older = {key: value for key, value in json.loads(config.read_text()).items() if key != LABELS}
    config.write_text(json.dumps(older))
    assert run(data, tmp_path / "run") == first


def test_a_search_is_resumed_with_its_own_prices_only(
    tmp_path: Path, profile: DeviceProfile
) -> None:
    """Tables of one device, space and price model; a folder of an older version is resumed."""
    space, data = nas.make_space("nasbench-macro", 8, 10), tiny_data(48)
    first = write_table(tmp_path / "first", space, profile)
    other = write_table(
        tmp_path / "other", space, profile, prices=lambda spec: 2 * random_price(spec)
    )
    copied = write_table(tmp_path / "copied", space, profile)

    def search(table: nas.LatencyTable) -> list[nas.SearchResult]:
        return list(_found(space, data, tmp_path / "run", tables=table, max_macs="5M"))

    found = search(first)
    assert search(copied) == found
    with pytest.raises(MismatchError, match=r"holds another run \(latencies is"):
        search(other)
    config = tmp_path / "run" / "config.json"
    older = json.loads(config.read_text())
    del older[LATENCIES]
    config.write_text(json.dumps(older))
    assert search(first) == found


def test_a_run_is_resumed_with_its_own_blocks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space that was edited has its old name, and may have weights of the same shapes."""
    space, data = nas.make_space("nasbench-macro", 8, 10), tiny_data(48)
    stem = tuple(msgspec.structs.replace(block, activation="hswish") for block in space.stem)
    edited = replace(space, stem=stem)
    found = _search(data, tmp_path / "search")
    trained = _train(data, tmp_path / "train")
    monkeypatch.setattr(nasbench_macro, "nasbench_macro", lambda *size: edited)
    for run in (_search, _train):
        with pytest.raises(MismatchError, match=r"holds another run \(structure is"):
            run(data, tmp_path / run.__name__[1:])
    with pytest.raises(MismatchError, match="has other blocks now"):
        nas.evaluate(tmp_path / "train", data)
    monkeypatch.undo()
    for run, first in ((_search, found), (_train, trained)):
        config = tmp_path / run.__name__[1:] / "config.json"
        older = json.loads(config.read_text())
        del older[STRUCTURE]
        config.write_text(json.dumps(older))
        assert run(data, tmp_path / run.__name__[1:]) == first
    assert nas.evaluate(tmp_path / "train", data).metrics == trained


@pytest.mark.parametrize(("run", "setting"), [(_train, "weight_decay"), (_search, "alike")])
def test_a_run_of_an_older_version_had_the_defaults_of_settings_that_it_lacks(
    run: Callable[[ImageData, Path], object], setting: str, tmp_path: Path
) -> None:
    """It is resumed with that default, and with no other value."""
    data, config = tiny_data(48), tmp_path / "run" / "config.json"
    first = run(data, tmp_path / "run")
    older = json.loads(config.read_text())
    del older["recipe"][setting]
    config.write_text(json.dumps(older))
    assert run(data, tmp_path / "run") == first
    older["recipe"][setting] = 0.5
    config.write_text(json.dumps(older))
    with pytest.raises(MismatchError, match=rf"holds another run \(recipe.{setting} is"):
        run(data, tmp_path / "run")


def test_data_that_does_not_fit_the_networks_is_refused_before_a_run(tmp_path: Path) -> None:
    data = tiny_data(48)
    _train(data, tmp_path / "run")
    larger = nas.load_data("digits", input_size=16, classes=10, images=48)
    assert isinstance(data.test, Split)
    untested = replace(data, test=Split(data.test.images[:0], data.test.labels[:0]))
    for given, words in (
        (larger, "16 px.*take 8 px"),
        (replace(data, classes=9), "9 classes"),
        (untested, "no test images"),
    ):
        for run in (_train, _search):
            with pytest.raises((MismatchError, InvalidValueError), match=words):
                run(given, tmp_path / "refused")
        with pytest.raises((MismatchError, InvalidValueError), match=words):
            nas.evaluate(tmp_path / "run", given)
    assert not (tmp_path / "refused").exists()
