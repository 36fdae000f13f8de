"""Processes that score architectures: neither their number nor their deaths change the answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from latbench.device_files import load_device
from latbench.errors import InvalidValueError, RuntimeFailure
from nas.crew.base import CrewSettings, WorkersDiedError
from nas.crew.processes import ProcessCrew
from nas.evaluators.base import Evaluator
from nas.evaluators.crew import Crewed, crewed, require_several
from nas.evaluators.journal import Journaled
from nas.latency.priced_space import PricedSpace
from nas.searchers import SEARCHERS
from nas.searchers.base import SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import Architecture, SearchSpace
from nas.training.run_files import evaluations_file
from nas.training.run_folder import RunFolder
from tests.conftest import make_mix_space, make_small_space, write_table
from tests.nas.runs import tiny_data

SPACE = make_small_space()


class Slow(Evaluator):
    """Scores by the number of layers and the process; dies while a file says so."""

    def __init__(self, folder: Path, deaths: int = 0) -> None:
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def _score(self, architecture: Architecture) -> float:
        if self.deaths:
            for number in range(self.deaths):
                try:
                    (self.folder / f"death{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        sleep(0.02)
        (self.folder / f"process{os.getpid()}").touch()
        return len(architecture.to_json()) / 1000


class Refusing(Evaluator):
    def _score(self, architecture: Architecture) -> float:
        raise InvalidValueError("it scores nothing")


def drawn(count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [SPACE.random(rng) for _ in range(count)]


@pytest.mark.parametrize("deaths", [0, 2])
def test_scores_come_in_order_whoever_dies(tmp_path: Path, deaths: int) -> None:
    asked = drawn(12)
    expected = [Slow(tmp_path).score(each) for each in asked]
    with ProcessCrew(Slow(tmp_path, deaths).score, 3) as crew:
        assert list(crew.map(asked[:8])) == expected[:8]
        assert list(crew.map(asked[8:])) == expected[8:]
        assert Crewed(crew).score(asked[0]) == expected[0]
    assert len(list(tmp_path.glob("process*"))) >= 2, "this process and another one"
    assert len(list(tmp_path.glob("death*"))) == deaths


def test_a_built_in_function_is_work_too() -> None:
    with ProcessCrew(abs, 2) as crew:
        assert list(crew.map([-1, 2, -3])) == [1, 2, 3]


def test_a_process_that_always_dies_is_given_up(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeFailure, match="use fewer --workers"),
        ProcessCrew(Slow(tmp_path, deaths=100).score, 2) as crew,
    ):
        list(crew.map(drawn(4)))


def _fatal_for_zero(number: int) -> int:
    if number == 0:
        sleep(0.3)  # the others are done before
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


def test_answers_that_there_are_outlive_a_fatal_task() -> None:
    with (
        pytest.raises(WorkersDiedError) as caught,
        ProcessCrew(_fatal_for_zero, 2) as crew,
    ):
        list(crew.map([0, 1, 2, 3]))
    assert caught.value.found == {1: -1, 2: -2, 3: -3}


def test_the_journal_has_the_order_of_the_request(tmp_path: Path) -> None:
    asked = drawn(6)
    texts = []
    for count in (1, 3):
        path = tmp_path / f"{count}.jsonl"
        with crewed(Slow(tmp_path), CrewSettings(count), at_once=6) as evaluator:
            journal = Journaled(evaluator, path)
            list(journal.scores(asked[:2]))
            list(journal.scores(asked))
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    assert texts[0].count(b"\n") == len(set(asked))


def test_an_error_of_a_score_is_raised_here() -> None:
    refusing = Refusing().score
    with pytest.raises(InvalidValueError, match="nothing"), ProcessCrew(refusing, 2) as crew:
        list(crew.map(drawn(2)))


class Unreadable(Exception):
    """Cannot be made from its arguments, which are those of its base."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"line {line} of {file}")


def unreadable(task: int) -> int:
    raise Unreadable("mine.py", task)


def unwritable(task: int) -> int:
    class Local(Exception):
        pass

    raise Local(f"task {task}")


@pytest.mark.parametrize(
    ("work", "words"),
    [(unreadable, "Unreadable: line 7 of mine.py"), (unwritable, "Local: task 7")],
)
def test_an_error_that_no_other_process_can_read_is_told_at_once(
    work: Callable[[int], int], words: str
) -> None:
    with ProcessCrew(work, 2) as crew:
        with pytest.raises(RuntimeFailure, match=words):
            list(crew.map([7]))
        assert crew._pool is not None and not crew._pool._broken


def test_workers_without_a_batch_are_refused() -> None:
    for settings in (CrewSettings(), CrewSettings(1)):
        settings.require_work(gpu=True)
        require_several(settings, 1)
    CrewSettings(4).require_work(gpu=False)
    for settings in (CrewSettings(4), CrewSettings(4, ray="local"), CrewSettings(ray="auto")):
        require_several(settings, 8)
        with pytest.raises(InvalidValueError, match="at_once=8"):
            require_several(settings, 1)
    with pytest.raises(InvalidValueError, match="share one GPU"):
        CrewSettings(2).require_work(gpu=True)


@pytest.mark.parametrize("count", [0, -1])
def test_no_workers_are_no_crew(count: int) -> None:
    with pytest.raises(InvalidValueError, match="1 or more"):
        CrewSettings(count)


def test_an_exception_of_the_beat_ends_the_work(tmp_path: Path) -> None:
    """So Ctrl-C and a full disk of the progress end a crew too."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProcessCrew(Slow(tmp_path).score, 2) as crew:
        list(crew.map(drawn(100), beat=beat))


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Kill one process of every crew once it works."""
    killed: list[int] = []
    submit = ProcessCrew._submit

    def kill_one(crew: ProcessCrew[Architecture, float], wanted: dict[int, Architecture]) -> object:
        running = submit(crew, wanted)
        if not killed and crew._pool is not None:
            until = monotonic() + 20
            while not crew._pool._processes and monotonic() < until:
                sleep(0.01)
            killed.append(next(iter(crew._pool._processes)))
            os.kill(killed[0], signal.SIGKILL)
        return running

    monkeypatch.setattr(ProcessCrew, "_submit", kill_one)
    yield killed
    assert killed


def searched(priced: PricedSpace, folder: Path, crew: CrewSettings) -> tuple[bytes, list[object]]:
    recipe = OneShotRecipe(epochs=2, batch_size=16, evaluations=12, at_once=4, initial_population=4)
    low, high = priced.feasible_ms()
    settings = SearchSettings(seed=3, recipe=recipe, crew=crew)
    searcher = SEARCHERS["evolution"](priced, settings)
    found = searcher.search(tiny_data(), [low + 0.4 * (high - low)], RunFolder(folder, {}))
    return evaluations_file(folder).read_bytes(), [result.as_dict() for result in found]


@pytest.mark.usefixtures("deadly")
@pytest.mark.parametrize("make", [make_small_space, make_mix_space])
def test_a_search_is_the_same_with_any_number_of_processes(
    tmp_path: Path, make: Callable[[], SearchSpace]
) -> None:
    """Its journal, byte for byte, and its results; also where a process is killed."""
    space = make()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    alone = searched(priced, tmp_path / "alone", CrewSettings())
    assert searched(priced, tmp_path / "three", CrewSettings(3)) == alone
