"""The commands that train: recipes, image folders, faces, several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.nas.data.test_data import write_identities, write_imagenet, write_pairs
from tests.nas.runs import run_by_torchrun
from tests.test_cli import ROOT, _json

SMALL = ("--input-size", 32)


def _draw(run: Any, path: Path, space: str, *options: object) -> Path:
    assert run("spaces", space, "--draw", "smallest", *options, "-o", path)[0] == 0
    return path


def test_images_are_packed_trained_on_and_tested(tmp_path: Path, run: Any) -> None:
    write_imagenet(tmp_path / "images", classes=2, each=6)
    packed = tmp_path / "packed"
    code, counts = _json(run, "pack", tmp_path / "images", "-o", packed)
    assert (code, counts) == (0, {"train": 12, "val": 12})
    assert _json(run, "pack", tmp_path / "images", "-o", packed) == (0, counts)
    file = _draw(run, tmp_path / "a.json", "tfnas", *SMALL, "--classes", 2)
    settings = ("--recipe", "tfnas-imagenet", "--epochs", 1, "--batch-size", 6)
    scores = []
    for name, folder in (("a", packed), ("b", tmp_path / "images")):
        data = ("--data", "imagenet", "--data-dir", folder)
        code, score = _json(run, "train", file, *data, *settings, "-o", tmp_path / name)
        assert code == 0
        assert score.keys() == {"top1", "top5"}
        assert _json(run, "evaluate", tmp_path / name, *data) == (0, score)
        scores.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert scores[0] == scores[1]
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["recipe"]["drop_connect"] == 0.2
    assert config["recipe"]["epochs"] == 1


def test_faces_are_trained_and_verified_by_name(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "faces"
    write_identities(folder / "train", identities=4, each=4)
    write_identities(folder / "test", identities=4, each=3)
    write_pairs(folder / "pairs.txt", folds=5, each=2)
    file = _draw(run, tmp_path / "a.json", "mobilefacenet", *SMALL, "--classes", 16)
    data = ("--data", "faces", "--data-dir", folder)
    settings = ("--recipe", "osnaslib-faces", "--epochs", 1, "--batch-size", 8)
    code, score = _json(run, "train", file, *data, *settings, "-o", tmp_path / "r")
    assert code == 0
    assert score.keys() == {"accuracy", "threshold"}
    assert _json(run, "evaluate", tmp_path / "r", *data) == (0, score)
    assert "accuracy" in run("evaluate", tmp_path / "r", *data)[1]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (["--recipe", "tfnas-imagnet"], "unknown-name", "tfnas-imagenet"),
        (["--set", "epochs=0"], "invalid-value", "epochs"),
        (["--set", "dropuot=0.1"], "unknown-name", "dropout"),
        (["--set", "criterion=foacl"], "unknown-name", "focal"),
        (["--set", "options.smooth=0.1"], "unknown-name", "setting"),
        (["--torch-device", "cuda:99"], "invalid-value", "choose one of auto, cpu"),
        (["--torch-device", "gpu"], "invalid-value", "choose one of auto, cpu"),
        (["--torch-device", "cpu", "--set", "precision=tf32"], "invalid-value", "tf32 is for CUDA"),
        (["--set", "precision=half"], "invalid-value", "precision"),
    ],
)
def test_wrong_recipes_are_refused(
    tmp_path: Path, run: Any, options: list[str], kind: str, words: str
) -> None:
    file = _draw(run, tmp_path / "a.json", "tfnas", *SMALL, "--classes", 10)
    code, result = _json(
        run, "train", file, "--data", "digits", "--images", 8, *options, "-o", tmp_path / "r"
    )
    assert code == 2
    assert result["error"]["kind"] == kind
    assert words in result["error"]["message"]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("setting", ["lr_per_256=1e30", "lr_per_256=inf"])
def test_a_training_that_diverges_says_so_in_one_line(
    tmp_path: Path, run: Any, setting: str
) -> None:
    file = _draw(run, tmp_path / "a.json", "tfnas", *SMALL, "--classes", 10)
    options = ("--data", "digits", "--images", 48, "--epochs", 2, "--batch-size", 16)
    settings = ("--set", setting, "--set", "warmup=0.0", "--set", "clip=0.0")
    code, out, err = run("train", file, *options, *settings, "-o", tmp_path / "r")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "learning rate" in err or "finite" in err
    if not setting.endswith("inf"):
        assert "diverged in epoch 1 of 2" in err
        assert "NaN" not in (tmp_path / "r" / "metrics.jsonl").read_text()
        assert not (tmp_path / "r" / "weights.safetensors").exists()


def test_two_processes_train_by_torchrun_and_print_once(tmp_path: Path, run: Any) -> None:
    file = _draw(run, tmp_path / "a.json", "tfnas", *SMALL, "--classes", 10)
    printed = tmp_path / "printed"
    options = [
        "--data",
        "digits",
        "--images",
        32,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--json",
        "-q",
    ]
    launch = ["--standalone", "--nproc-per-node=2", ROOT / "cli.py"]
    asked = [*launch, "train", file, *options, "-o", tmp_path / "r"]
    assert run_by_torchrun(printed, asked) == [0], printed.read_text()
    score = json.loads(printed.read_text())
    assert score.keys() == {"top1", "top5"}
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["train", "test"]
    assert _json(run, "evaluate", tmp_path / "r", "--data", "digits") == (0, score)
