"""Several trainings: each is the one of a single call, whoever computes it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import nas
from latbench.errors import InvalidValueError
from nas.crew.base import WorkersDiedError
from nas.crew.processes import ProcessCrew
from nas.recipes import shipped_recipes
from nas.spaces import Architecture
from nas.training.recipe import TrainingRecipe
from nas.workflows.several_trainings import TrainingOutcome

SPACE = nas.make_space("nasbench-macro", input_size=8, classes=10)
DATA = nas.load_data("digits", input_size=8, classes=10, images=48)
LENGTH: dict[str, Any] = {"epochs": 2, "batch_size": 16}


def drawn(count: int) -> dict[str, Architecture]:
    return {f"network{seed}": SPACE.random(seed=seed) for seed in range(count)}


def weights(outcomes: list[TrainingOutcome]) -> list[bytes]:
    return [(each.output / "weights.safetensors").read_bytes() for each in outcomes]


def test_one_after_the_other_equals_single_trainings(tmp_path: Path) -> None:
    networks = drawn(2)
    found = nas.train_several(networks, DATA, output=tmp_path / "all", **LENGTH)
    alone = [
        nas.train(each, DATA, output=tmp_path / name, **LENGTH) for name, each in networks.items()
    ]
    assert [each.metrics for each in found] == [each.metrics for each in alone]
    assert weights(found) == [each.weights.read_bytes() for each in alone]


def test_the_number_of_workers_changes_nothing_even_if_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = drawn(3)
    one = nas.train_several(networks, DATA, output=tmp_path / "one", workers=1, **LENGTH)
    killed: list[int] = []

    def kill_after_an_epoch(fraction: float, words: str) -> None:
        pools = [crew._pool for crew in crews if crew._pool is not None]
        if fraction > 0 and pools and not killed:
            killed.append(next(iter(pools[0]._processes)))
            os.kill(killed[0], signal.SIGKILL)

    crews: list[ProcessCrew[object, object]] = []
    begin = ProcessCrew.__enter__

    def enter(crew: ProcessCrew[object, object]) -> ProcessCrew[object, object]:
        crews.append(crew)
        return begin(crew)

    monkeypatch.setattr(ProcessCrew, "__enter__", enter)
    two = nas.train_several(
        networks,
        DATA,
        output=tmp_path / "two",
        workers=2,
        progress=kill_after_an_epoch,
        **LENGTH,
    )
    assert killed
    assert [each.metrics for each in two] == [each.metrics for each in one]
    assert weights(two) == weights(one)


def test_a_failure_leaves_the_others_alone(tmp_path: Path) -> None:
    networks = drawn(2)
    (tmp_path / "all" / "network0").mkdir(parents=True)
    (tmp_path / "all" / "network0" / "mine.txt").touch()
    failed, done = nas.train_several(networks, DATA, output=tmp_path / "all", **LENGTH)
    assert failed.error is not None and "holds no run" in failed.error
    assert failed.metrics is None
    assert done.error is None and done.metrics is not None


def test_a_network_that_kills_its_workers_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = drawn(3)
    done = TrainingOutcome("network2", tmp_path, {"top1": 0.5}, None)

    def die(crew: ProcessCrew[Any, Any], tasks: Sequence[Any], **_: Any) -> Iterator[Any]:
        raise WorkersDiedError("3 times a worker died", {2: done})
        yield

    monkeypatch.setattr(ProcessCrew, "map", die)
    found = nas.train_several(networks, DATA, output=tmp_path / "all", workers=2, **LENGTH)
    assert [each.error for each in found] == ["3 times a worker died"] * 2 + [None]
    assert found[2] == done


def test_a_folder_does_not_hide_a_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (recipe, *_) = shipped_recipes(TrainingRecipe)
    asked = {"output": recipe, "recipe": recipe, "epochs": 1, "batch_size": 16}
    first = nas.train_several(drawn(1), DATA, **asked)
    assert first[0].error is None
    assert nas.train_several(drawn(1), DATA, **asked) == first


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "/tmp/absolute"])
def test_names_that_are_no_folders_of_the_output_are_refused(tmp_path: Path, name: str) -> None:
    output = tmp_path / "inner" / "all"
    with pytest.raises(InvalidValueError, match="cannot name an architecture"):
        nas.train_several({name: SPACE.random(seed=0)}, DATA, output=output, **LENGTH)
    assert not list(tmp_path.iterdir())


def test_progress_is_read_from_the_runs(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    nas.train_several(
        drawn(2),
        DATA,
        output=tmp_path,
        workers=2,
        progress=lambda fraction, words: seen.append((fraction, str(words))),
        **LENGTH,
    )
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert any("networks trained" in words for _, words in seen)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for name, each in drawn(2).items():
        made.append(tmp_path / f"{name}.json")
        made[-1].write_text(each.to_json())
    return made


def test_the_command_trains_all_and_fails_if_one_did(
    tmp_path: Path, files: list[Path], run: Any
) -> None:
    length = ["--images", 48, "--epochs", 1, "--batch-size", 16]
    command = ["train", *files, "--data", "digits", *length, "-o", tmp_path / "runs", "--json"]
    code, out, _ = run(*command)
    rows = json.loads(out)["networks"]
    assert code == 0
    assert [row["name"] for row in rows] == ["network0", "network1"]
    assert all(0 <= row["top1"] <= 1 and row["error"] is None for row in rows)
    (tmp_path / "runs" / "network1" / "config.json").write_text("{")
    code, out, _ = run(*command)
    assert code == 1
    assert [row["error"] is None for row in json.loads(out)["networks"]] == [True, False]
    code, out, _ = run(*command[:-1])
    assert "network1 failed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}", "{0}"], "given twice"),
        (["{0}", "--workers", "2"], "several architectures"),
        (["{0}", "{1}", "--ray", "nonsense"], r"ray start --head|latbench\[ray\]"),
        (["{0}", "{1}", "--set", "dropuot=0.1"], "dropout"),
    ],
)
def test_bad_requests_are_one_line(
    tmp_path: Path, files: list[Path], run: Any, arguments: list[str], message: str
) -> None:
    given = [each.format(*files) for each in arguments]
    code, _, err = run("train", *given, "--data", "digits", "-o", tmp_path / "runs", "--quiet")
    assert code == 2
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_torchrun_and_workers_are_not_combined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidValueError, match="torchrun"):
        nas.train_several(drawn(2), DATA, output=tmp_path, workers=2, **LENGTH)
