"""The loop that all trainings share: what is counted, written and resumed, and who writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from latbench.errors import DivergedError, InvalidFileError, InvalidValueError, MismatchError
from nas.data.augmentation import augment
from nas.data.images import Split, batches, generator
from nas.training.distributed import Workers
from nas.training.epochs import Resumable, Values, resume, run_epochs
from nas.training.run_folder import RunFolder
from nas.training.steps import Report, TrainingImages
from tests.nas.runs import tiny_data


class _Counter(Resumable):
    """Counts its epochs in a weight too."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1)
        nn.init.zeros_(self.module.weight)
        super().__init__(module=self.module, adam=None)

    def train_epoch(self, report: Report) -> Values:
        with torch.no_grad():
            self.module.weight += 1
        report(1.0, 0.5)
        return {"count": float(self.module.weight.detach())}


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_training_goes_on_under_the_first_checkpoint_that_there_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    state = _Counter()
    assert not resume(state, folder, "search", "warmup")
    run_epochs(state, 2, state.train_epoch, folder, phase="warmup")
    for epochs in (5, 5):  # the second time nothing is left to do
        state, reported = _Counter(), list[float]()
        assert resume(state, folder, "search", "warmup")
        run_epochs(
            state,
            epochs,
            state.train_epoch,
            folder,
            phase="search",
            progress=lambda fraction, words, reported=reported: reported.append(fraction),
        )
        assert (state.epoch, float(state.module.weight.detach())) == (5, 5.0)
    assert reported == []
    lines = _lines(tmp_path)
    assert [(line["phase"], line["epoch"], line["count"]) for line in lines] == [
        *(("warmup", epoch, epoch + 1) for epoch in range(2)),
        *(("search", epoch, epoch + 1) for epoch in range(2, 5)),
    ]


def _strict(text: str) -> list[dict[str, object]]:
    """Lines of JSON as a reader takes them that knows no NaN and no Infinity."""

    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_training(loss: float, tmp_path: Path) -> None:
    """It says where and what to do; the last checkpoint can be loaded, and no epoch is made up."""

    class Diverging(_Counter):
        def train_epoch(self, report: Report) -> Values:
            report(0.5, 1.0)
            if self.epoch == 2:
                report(1.0, loss)
            return super().train_epoch(report)

    state, folder = Diverging(), RunFolder(tmp_path, {})
    words = "epoch 3 of 5.*step 2; the checkpoint of epoch 2 is as it was.*lower learning rate"
    with pytest.raises(DivergedError, match=words):
        run_epochs(state, 5, state.train_epoch, folder, phase="x")
    assert len(_strict((tmp_path / "metrics.jsonl").read_text())) == 2
    again = _Counter()
    assert resume(again, folder, "x")
    assert (again.epoch, float(again.module.weight.detach())) == (2, 2.0)


def test_weights_that_are_no_numbers_after_an_epoch_are_not_kept(tmp_path: Path) -> None:
    """Its last step may spoil them, whose loss was still finite."""

    class Diverging(_Counter):
        def train_epoch(self, report: Report) -> Values:
            values = super().train_epoch(report)
            with torch.no_grad():
                self.module.bias.fill_(math.inf)
            return values

    state, folder = Diverging(), RunFolder(tmp_path, {})
    with pytest.raises(DivergedError, match="weights are not finite; no epoch was finished"):
        run_epochs(state, 2, state.train_epoch, folder, phase="x")
    assert not (tmp_path / "checkpoint").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    folder.save_checkpoint("x", state.save())
    with pytest.raises(InvalidFileError, match="not finite: start again in another folder"):
        resume(_Counter(), folder, "x")


def test_a_full_device_is_not_taken_for_another_network(tmp_path: Path) -> None:
    class Full(_Counter):
        def load(self, saved: Any) -> None:
            raise torch.OutOfMemoryError

    folder = RunFolder(tmp_path, {})
    folder.save_checkpoint("x", _Counter().save())
    with pytest.raises(torch.OutOfMemoryError):
        resume(Full(), folder, "x")


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path: Path) -> None:
    state, folder = _Counter(), RunFolder(tmp_path, {})
    run_epochs(state, 1, state.train_epoch, folder, phase="x")
    wider = _Counter()
    wider.module.weight = nn.Parameter(torch.zeros(1, 2))
    for other in (wider, Resumable(module=state.module, new=nn.Linear(1, 1))):
        with pytest.raises(MismatchError, match=r"the checkpoint x in .* is of another network"):
            resume(other, folder, "x")


def test_what_is_undefined_is_null_in_the_metrics(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}).metrics() as metrics:
        metrics.log("x", 0, {"a": math.nan, "b": -math.inf, "c": None, "d": 1.5})
    (line,) = _strict((tmp_path / "metrics.jsonl").read_text())
    assert (line["a"], line["b"], line["c"], line["d"]) == (None, None, None, 1.5)


def test_a_setting_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="not a finite number"):
        RunFolder(tmp_path / "run", {"recipe": {"lr": math.inf}})
    assert not (tmp_path / "run").exists()


def test_only_the_process_that_leads_writes(tmp_path: Path) -> None:
    class Follower(Workers):
        def wait(self) -> None:
            pass

    state = _Counter()
    folder = RunFolder(tmp_path, {})
    run_epochs(state, 1, state.train_epoch, folder, phase="x", workers=Follower(1, 2))
    assert state.epoch == 1
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    run_epochs(state, 2, state.train_epoch, None, phase="x")
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_training_images_are_cropped_and_their_colours_changed_as_asked() -> None:
    """As in trainings from scratch: the source crops, then all is one call of ``augment``."""
    asked: list[float] = []

    class Cropping(Split):
        def cropped(self, least_area: float) -> Split:
            asked.append(least_area)
            return self

    data = tiny_data(40)
    assert isinstance(data.train, Split)
    source = Cropping(data.train.images, data.train.labels)
    shown: list[torch.Tensor] = []

    def step(number: int, x: torch.Tensor, labels: torch.Tensor) -> float:
        shown.append(x)
        return 0.0

    images = TrainingImages(data, source, 16, 1, least_area=0.08, jitter=0.4, hue=0.2)
    images.show(step, lambda done, loss: None, order=generator(0), shifts=generator(1))
    assert asked == [0.08]
    rng = generator(1)
    for x, (raw, _) in zip(shown, batches(source, 16, generator(0)), strict=True):
        changed = augment(raw, rng, flip=data.flip, shift=1, strength=0.4, hue=0.2)
        assert torch.equal(x, data.to_input(changed))
        plain = augment(raw, generator(1), flip=data.flip, shift=1)
        assert not torch.equal(changed, plain)


class _Half(Workers):
    """One of two processes; the other one has the same losses."""

    def sum(self, values: Sequence[float]) -> list[float]:
        return [2 * value for value in values]


@pytest.mark.parametrize("per_class", [0, 2])
def test_a_process_reads_its_share_of_a_batch_alone(per_class: int) -> None:
    """And shows what a single process shows there; held-out images too."""

    class Counting(Split):
        def read(
            self, indices: Iterable[torch.Tensor], rng: torch.Generator
        ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for images, labels in super().read(indices, rng):
                read.append(len(images))
                yield images, labels

    data = tiny_data(40)
    assert isinstance(data.train, Split)
    source = Counting(data.train.images, data.train.labels)
    found = []
    for workers in (Workers(), _Half(0, 2), _Half(1, 2)):
        read, shown = list[int](), list[torch.Tensor]()

        def step(
            _: int, x: torch.Tensor, labels: torch.Tensor, shown: list[torch.Tensor] = shown
        ) -> float:
            shown.append(x)
            return 0.0

        images = TrainingImages(
            data, source, 16, 1, workers, per_class=per_class, jitter=0.4, hue=0.2
        )
        images.show(step, lambda *_: None, order=generator(0), shifts=generator(1))
        shown += [x for x, _ in islice(images.unaugmented(source, generator(2)), 3)]
        found.append(shown)
        assert set(read) == {16 // workers.count}
    for whole, *halves in zip(*found, strict=True):
        assert torch.equal(whole, torch.cat(halves))


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_show_their_shares_of_the_same_batches(rank: int) -> None:
    data = tiny_data(40)
    seen: list[tuple[list[torch.Tensor], list[int], float]] = []
    for workers in (Workers(), _Half(rank, 2)):
        images = TrainingImages(data, data.train, 16, 1, workers)
        shown, numbers = [], []

        def step(
            number: int,
            x: torch.Tensor,
            labels: torch.Tensor,
            shown: list[torch.Tensor] = shown,
            numbers: list[int] = numbers,
        ) -> float:
            shown.append(x)
            numbers.append(number)
            return float(number)

        mean = images.show(step, lambda done, loss: None, order=generator(0), shifts=generator(1))
        seen.append((shown, numbers, mean))
    (whole, *first), (halves, *second) = seen
    assert first == second == [[0, 1], 0.5]
    for batch, half in zip(whole, halves, strict=True):
        assert torch.equal(batch[8 * rank : 8 * rank + 8], half)


def test_metrics_of_a_killed_run_go_on_without_half_lines_and_repeats(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", {})
    with folder.metrics() as metrics:
        metrics.log("train", 0, {"loss": 1.5, "seconds": 3.0})
        metrics.log("train", 1, {"loss": 1.0, "seconds": 3.0})
    file = folder.path / "metrics.jsonl"
    with file.open("a") as written:
        written.write('{"phase": "train", "epo')
    with folder.metrics() as metrics:
        metrics.log(
            "train", 1, {"loss": 1.0, "seconds": 2.0}
        )  # trained again, with the same values
        metrics.log("train", 1, {"loss": 0.9, "seconds": 2.0})  # other values are news
        metrics.log("train", 1, {"loss": 1.0, "seconds": 2.0})  # so are old ones that hold again
        metrics.log("train", 2, {"loss": 0.8, "seconds": 2.0})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [
        (0, 1.5),
        (1, 1.0),
        (1, 0.9),
        (1, 1.0),
        (2, 0.8),
    ]
    file.write_text("no JSON\n" + file.read_text())
    with pytest.raises(InvalidFileError, match="line 1"), folder.metrics():
        pass
