"""Reports of searches, trainings and generators, also of runs in progress."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import nas
from latbench.errors import MissingExtraError
from latbench.tables import LatencyTable
from nas.spaces import make_space
from nas.training.choice_probabilities import FILE, read_probabilities
from tests.conftest import write_table
from tests.nas.report.conftest import SPACE

pytest.importorskip("altair", reason="reports need the extra `report`")

from latbench.report.page.document import Page, Value
from nas.report.page.inputs import read_subjects
from nas.report.page.report import report_page
from nas.report.page.run_commands import search_command
from nas.report.page.run_contents import RunContents


@pytest.fixture
def copied(demo: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo, tmp_path / "demo")
    return tmp_path / "demo"


def _page(*paths: Path) -> Page:
    return report_page(read_subjects(paths))


def _answer(page: Page) -> Sequence[Sequence[Value]]:
    return next(section.answers for section in page.sections if section.title == "The answer")


def _texts(row: Sequence[Value]) -> dict[str, str]:
    return {value.label: value.text for value in row}


def test_the_answer_comes_first_and_is_that_of_the_run(demo: Path) -> None:
    page = _page(demo)
    assert page.sections[0].title == "The answer"
    assert not page.notes
    first, second = map(_texts, _answer(page))
    run = RunContents.of(demo / "search")
    assert first["verdict"] == second["verdict"] == "not measured"
    (top1,) = [line["top1"] for line in RunContents.of(demo / "train").metrics if "top1" in line]
    assert first["top-1 accuracy"] == f"{top1:.2%}"
    assert second["supernet's accuracy"] == f"{run.found[1].score:.1%}"
    table = LatencyTable.open(demo / "table.sqlite")
    for found, row in zip(run.found, (first, second), strict=True):
        assert found.architecture is not None
        predicted = nas.predict(found.architecture, table).latency_ms
        assert row["predicted"] == f"{predicted:.4g}\N{NO-BREAK SPACE}ms"


def test_every_figure_has_its_numbers(demo: Path) -> None:
    figures = list(_page(demo).figures)
    titles = [figure.title for figure in figures]
    assert len(set(titles)) == len(titles)
    assert {"Loss of the search", "Loss of the training", "Accuracy and latency"} <= set(titles)
    assert sum(title.startswith("Network for ") for title in titles) == 2
    assert sum(title.startswith("Operations ") for title in titles) == 4
    assert "Latencies and budgets" not in titles  # nothing was measured
    for figure in figures:
        assert figure.data.rows
        assert all(len(row) == len(figure.data.headers) for row in figure.data.rows)


def test_the_command_writes_one_file_and_says_which(demo: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "r.html"
    code, out, _ = run("report", demo, "-o", file, "--json")
    assert (code, json.loads(out).keys()) == (0, {"path", "bytes", "figures"})
    assert json.loads(out)["bytes"] == file.stat().st_size < 1_500_000
    code, out, _ = run("report", demo / "search", "--format", "md", "-o", tmp_path / "r.md")
    assert (code, out.count("\n")) == (0, 1)
    assert (tmp_path / "r.md").read_text().startswith("# Networks of nasbench-macro under ")


def test_without_a_table_the_network_is_drawn_by_its_macs(demo: Path) -> None:
    page = _page(demo / "search")
    drawn = next(f for f in page.figures if f.title.startswith("Network for "))
    assert "million MACs" in drawn.data.headers
    assert "latbench report RUN TABLE" in drawn.caption


def test_a_run_in_progress_is_reported_and_says_so(copied: Path) -> None:
    """The second network is missing, as if its search went on."""
    search = copied / "search"
    gone = RunContents.of(search).found[1].phase
    (search / "architectures" / f"{gone}.json").unlink()
    shutil.rmtree(copied / "train")
    with (search / "metrics.jsonl").open("ab") as file:
        file.write(b'{"phase": "0.')  # a process was killed while it wrote this line
    page = _page(copied)
    assert [note.partition(":")[0] for note in page.notes] == ["Not finished"] * 2
    assert gone in page.notes[0]
    first, second = map(_texts, _answer(page))
    assert first["supernet's accuracy"]
    assert second["network"] == "not found yet"


@pytest.mark.parametrize(
    ("fitness", "name", "text"),
    [("loss", "loss", "53.245"), ("fitness", "fitness", "-53.245"), (None, "score", "-53.245")],
)
def test_scores_are_named_and_shown_as_in_the_terminal(
    fitness: str | None, name: str, text: str, copied: Path
) -> None:
    """Minus a loss is no fraction; a run of an older version does not say what its score is."""
    search = copied / "search"
    config = json.loads((search / "config.json").read_text())
    (search / "config.json").write_text(json.dumps(config | {"fitness": fitness}))
    lines = [json.loads(line) for line in (search / "metrics.jsonl").read_text().splitlines()]
    scored = [json.dumps(line | ({"score": -53.245} if "score" in line else {})) for line in lines]
    (search / "metrics.jsonl").write_text("\n".join(scored) + "\n")
    page = _page(copied)
    trained, found = _answer(page)
    assert _texts(found)[f"supernet's {name}"] == text
    assert (
        f"{name} of {text} with the"
        in {each.label: each for each in trained}["top-1 accuracy"].detail
    )
    (front,) = [each for each in page.figures if each.title == f"{name.capitalize()} and latency"]
    assert front.data.headers[5] == name
    assert {row[5] for row in front.data.rows} == {text}


def test_a_run_that_has_just_begun_is_reported(copied: Path) -> None:
    for name in ("architectures", "argmax"):
        shutil.rmtree(copied / "search" / name)
    for name in ("metrics.jsonl", FILE):
        (copied / "search" / name).unlink()
    page = _page(copied / "search")
    assert not list(page.figures)
    assert page.notes


@pytest.mark.parametrize(
    ("status", "low", "high", "tone"),
    [("met", 0.97, 0.99, "good"), ("missed", 1.01, 1.03, "bad"), ("undecided", 0.98, 1.02, "open")],
)
def test_the_verdict_of_measured_rounds_is_shown(
    status: str, low: float, high: float, tone: str, copied: Path
) -> None:
    """Rounds with intervals, as a search with verdicts writes them."""
    run = RunContents.of(copied / "search")
    found = run.found[0]
    assert found.architecture is not None
    assert found.target_ms is not None
    measured = {
        "architecture": found.architecture.as_dict(),
        "predicted_ms": found.target_ms,
        "predicted_low_ms": None,
        "predicted_high_ms": None,
        "measured_ms": found.target_ms * (low + high) / 2,
        "measured_low_ms": found.target_ms * low,
        "measured_high_ms": found.target_ms * high,
        "status": status,
    }
    rounds = {
        "target_ms": found.target_ms,
        "rounds": [{"candidates": [measured], "confirmations": [measured], "sweeps": []}],
        "status": status,
        "reason": "in words",
    }
    folder = copied / "search" / "measured"
    folder.mkdir()
    (folder / f"{found.phase}.json").write_text(json.dumps(rounds))
    page = _page(copied)
    verdict = next(value for value in _answer(page)[0] if value.label == "verdict")
    assert (verdict.text, verdict.tone) == (status, tone)
    (line,) = page.sections[0].lines
    assert line.endswith(": in words.")
    rounds["status"] = None
    (folder / f"{found.phase}.json").write_text(json.dumps(rounds))
    verdict = next(value for value in _answer(_page(copied))[0] if value.label == "verdict")
    assert verdict.text == status  # the interval says the same
    (folder / f"{found.phase}.json").write_text(json.dumps([{**measured, "measured_low_ms": None}]))
    verdict = next(value for value in _answer(_page(copied))[0] if value.label == "verdict")
    assert verdict.text == "not measured"


def test_another_devices_table_is_not_taken_for_that_of_the_search(
    copied: Path, tmp_path: Path
) -> None:
    """It prices the same blocks, and is named first."""
    own = copied / "table.sqlite"
    other = tmp_path / "other.sqlite"
    table = LatencyTable.open(own)
    device = msgspec.structs.replace(table.device, name="another")
    write_table(other, make_space(SPACE, 16, 10), device, prices=lambda spec: 1.0)
    expected = _answer(_page(copied / "search", own))
    page = _page(copied / "search", other, own)
    assert _answer(page) == expected
    commands = next(
        s.commands for s in page.sections if s.title == "Commands that repeat this search"
    )
    assert str(own) in commands[0] and str(other) not in commands[0]


def test_a_verdict_on_another_network_is_none(copied: Path) -> None:
    """As after a search that was repeated without measurements."""
    found = RunContents.of(copied / "search").found
    first, second = found[0].architecture, found[1].architecture
    assert first is not None and second is not None
    other = make_space(SPACE, 16, 10).random(seed=5)
    assert other not in (first, second)
    measured = {"architecture": other.as_dict(), "predicted_ms": 1.0, "measured_ms": 1.0}
    rounds = {"rounds": [{"candidates": [measured]}], "status": "met", "reason": "in words"}
    folder = copied / "search" / "measured"
    folder.mkdir()
    (folder / f"{found[0].phase}.json").write_text(json.dumps(rounds))
    page = _page(copied)
    verdict = next(value for value in _answer(page)[0] if value.label == "verdict")
    assert verdict.text == "not measured"
    assert not page.sections[0].lines


def test_probabilities_of_every_epoch_are_logged_and_add_up(demo: Path) -> None:
    run = RunContents.of(demo / "search")
    space = make_space(SPACE, 16, 10)
    for found in run.found:
        epochs = [each for each in run.probabilities if each.phase == found.phase]
        assert [each.epoch for each in epochs] == [1, 2]  # the first one is the warm-up
        for each in epochs:
            rows = [row for layers in each.ops for row in layers]
            assert [tuple(row) for row in rows] == [layer.ops for layer in space.layers]
            assert all(sum(row.values()) == pytest.approx(1, abs=1e-4) for row in rows)
            assert all(sum(row.values()) == pytest.approx(1, abs=1e-4) for row in each.depths)


def test_an_epoch_that_was_trained_again_counts_once(copied: Path) -> None:
    file = copied / "search" / FILE
    known = read_probabilities(copied / "search")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines) + lines[-1][:40] + b"\n" + lines[-1])
    assert read_probabilities(copied / "search") == known
    assert not read_probabilities(copied)


def test_the_command_to_repeat_a_search_is_accepted_and_finds_the_same(
    demo: Path, copied: Path, run: Any
) -> None:
    contents = RunContents.of(copied / "search")
    table = LatencyTable.open(copied / "table.sqlite")
    page = _page(copied)
    (name, recipe), *_ = next(section.files for section in page.sections if section.files)
    assert name == "recipe.toml"
    (copied / name).write_text(recipe)
    words = shlex.split(search_command(contents, [table]).replace("\\\n", ""))[1:]
    words = [str(copied / word) if word == "recipe.toml" else word for word in words]
    code, out, _ = run(*words, "--json")
    assert code == 0, out
    architectures = [each["architecture"] for each in json.loads(out)["results"]]
    found = [each.architecture for each in contents.found]
    assert architectures == [each.as_dict() for each in found if each is not None]


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, demo: Path, run: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("a text")
    (tmp_path / "none").write_bytes(b"")
    output = tmp_path / "r.html"
    cases = (tmp_path / "empty", tmp_path / "text", tmp_path / "none", tmp_path / "absent")
    for given in (*cases, demo / "search" / "config.json"):
        code, out, err = run("report", given, "-o", output)
        assert (code, out, err.count("\n")) == (2, "", 1), given
        assert "latency table" in err
        assert "generator" in err
    code, out, err = run("report", "-o", output)
    assert (code, out) == (2, "")
    table = demo / "table.sqlite"
    assert run("report", table, "-o", table)[0] == 2
    assert not output.exists()


def test_a_damaged_run_names_the_file_and_the_line(copied: Path, run: Any) -> None:
    file = copied / "search" / "metrics.jsonl"
    file.write_bytes(b"{]\n" + file.read_bytes())
    code, _, err = run("report", copied, "-o", copied / "r.html")
    assert (code, err.count("\n")) == (2, 1)
    assert "metrics.jsonl is damaged in line 1" in err


def test_a_generator_is_reported_with_answers_within_their_budgets(
    tmp_path: Path, run: Any
) -> None:
    """Budgets of MACs need no table; a generator of latencies says which table it needs."""
    nas.search(
        "nasbench-macro",
        data="digits",
        input_size=16,
        classes=10,
        images=96,
        max_macs="30M",
        searcher="sgnas",
        settings=[
            "epochs=1",
            "generator_epochs=1",
            "batch_size=16",
            "budgets=3",
            "priors=2",
            "prior_candidates=2",
            "selected_on=2",
        ],
        output=tmp_path / "run",
    )
    file = tmp_path / "run" / "generator.safetensors"
    page = _page(file)
    assert page.title == "The generator generator.safetensors"
    answers = [figure for figure in page.figures if "MACs" in figure.title]
    assert len(answers) == 1
    assert len(answers[0].data.rows) == 16
    assert all(float(row[1]) <= float(row[0]) for row in answers[0].data.rows)
    code, out, _ = run("report", file, tmp_path / "run", "-o", tmp_path / "r.html", "--json")
    assert (code, json.loads(out)["figures"] > len(answers)) == (0, True)


def _search(output: Path, *options: object) -> list[object]:
    asked = ["search", SPACE, "--searcher", "random", "--input-size", 16, "--classes", 10]
    small = ["--data", "digits", "--images", 48, "--epochs", 1, "--set", "evaluations=2"]
    return [*asked, *small, "--max-macs", "30M", "-o", output, *options]


def test_a_search_ends_with_a_report_or_says_why_not(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(*_search(tmp_path / "a"))
    file = tmp_path / "a" / "report.html"
    assert (code, out.splitlines()[-1]) == (0, f"report: {file}"), err
    assert file.stat().st_size < 1_500_000

    def missing(*subjects: object) -> None:
        raise MissingExtraError("altair", "report")

    monkeypatch.setattr("nas.report.page.folder_report.write_report", missing)
    code, out, err = run(*_search(tmp_path / "b", "--json"))
    assert (code, json.loads(out).keys()) == (0, {"results"})
    assert err.splitlines()[-1] == (
        "no report: altair is not installed: run `pip install 'latbench[report]'`"
    )
    assert not (tmp_path / "b" / "report.html").exists()


def test_a_demo_ends_with_a_report(copied: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own work is done: only its end is tested."""
    result = SimpleNamespace(as_dict=lambda: {"target_ms": 1.0})
    monkeypatch.setattr("nas.workflows.demo.run_demo", lambda output, *stage, **progress: result)
    code, out, _ = run("demo", "-o", copied, "--json")
    file = copied / "report.html"
    assert (code, json.loads(out)) == (0, {"target_ms": 1.0, "report": str(file)})
    assert file.exists()


def _pruning(folder: Path) -> Path:
    """The folder of a pruning, with two rounds and a finished fine-tuning."""

    def interval(estimate_ms: float) -> dict[str, float]:
        ends = {"low_ms": 0.99 * estimate_ms, "high_ms": 1.01 * estimate_ms}
        return {"estimate_ms": estimate_ms, **ends}

    rounds = [
        {
            "removed": {"conv1": [0, 3]},
            "predicted_ms": measured_ms,
            "measured": interval(measured_ms),
            "original": interval(2.0),
            "ratio": [0.5, 0.4, 0.6],
        }
        for measured_ms in (1.05, 0.98)
    ]
    config = {"command": "prune", "device": "cpu-onnxruntime", "target_ms": 1.0, "data": "digits"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "recipe": {"epochs": 2}}))
    (folder / "rounds.json").write_text(json.dumps({"rounds": rounds, "finished": True}))
    lines = [{"phase": "train", "epoch": epoch, "loss": 2.0 - epoch} for epoch in (0, 1)]
    lines.append({"phase": "test", "epoch": 2, "top1": 0.9})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_a_pruning_is_reported_by_its_best_round(tmp_path: Path) -> None:
    page = _page(_pruning(tmp_path / "p"))
    (row,) = _answer(page)
    found = {label: text.replace("\N{NO-BREAK SPACE}", " ") for label, text in _texts(row).items()}
    assert found["original"] == "2 ms"
    assert found["measured"] == "0.98 ms"
    assert (found["verdict"], found["top-1 accuracy"]) == ("met", "90.00%")
    assert {figure.title for figure in page.figures} >= {"Loss of the fine-tuning"}
    (tmp_path / "p" / "rounds.json").unlink()
    (row,) = _answer(_page(tmp_path / "p"))
    assert _texts(row).keys() == {"budget", "top-1 accuracy"}


@pytest.mark.parametrize("command", ["search", "train", "prune"])
def test_a_damaged_configuration_is_refused_in_one_line(
    command: str, tmp_path: Path, run: Any
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"command": command, "data": ["digits"]}))
    code, out, err = run("report", tmp_path, "-o", tmp_path / "r.html")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "config.json is damaged" in err
