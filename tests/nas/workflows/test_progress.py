"""Progress of every workflow: fractions that never fall, and 1 at the end alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import latbench
import nas
from latbench.device import DeviceProfile
from nas.latency.priced_space import PricedSpace
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.searchers.sgnas.adaptation import adapt
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.training.run_folder import RunFolder
from nas.workflows.space_profiling import ProfiledTable
from tests.conftest import make_mix_space, make_tiny_space, write_table
from tests.latbench.models.small import save
from tests.latbench.models.test_segments import residual_network
from tests.nas.data.test_data import write_imagenet
from tests.nas.runs import tiny_data
from tests.nas.simulated_device import slower_by


class Recorder:
    """A progress function that keeps what it is told."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.words: list[str] = []

    def __call__(self, fraction: float, words: str, /) -> None:
        self.fractions.append(fraction)
        self.words.append(words)

    def require_truth(self, *, least: int = 3) -> None:
        """The fractions of work that has ended; there are some before the end."""
        *during, end = self.fractions
        assert end == 1.0
        assert during == sorted(during)
        assert all(0 <= fraction < 1 for fraction in during)
        assert len(during) >= least


@pytest.fixture
def shown() -> Recorder:
    return Recorder()


@pytest.fixture
def table(tmp_path: Path, quick_profile: DeviceProfile) -> ProfiledTable:
    space = nas.make_space("nasbench-macro", input_size=8, classes=10)
    return nas.profile(quick_profile, space, tmp_path / "t.sqlite", time_limit="1min")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(residual_network(), tmp_path / "model.onnx")


def test_profiling_its_plan_and_a_transfer(
    tmp_path: Path, quick_profile: DeviceProfile, tiny_space: Any
) -> None:
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    for workflow in (
        lambda shown: nas.forecast(quick_profile, tiny_space, progress=shown),
        lambda shown: nas.profile(quick_profile, tiny_space, old, time_limit=1, progress=shown),
        lambda shown: nas.profile(quick_profile, tiny_space, old, time_limit=1, progress=shown),
        lambda shown: nas.profile(quick_profile, tiny_space, new, source=old, progress=shown),
    ):
        _require_truth_of(workflow)


def test_calibration_and_verification(
    table: ProfiledTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, as where torch is not loaded."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    _require_truth_of(lambda shown: nas.calibrate(table, networks=2, progress=shown))
    _require_truth_of(lambda shown: nas.verify([], table, random=2, tolerance=9, progress=shown))


def test_measuring_models(model: Path, quick_profile: DeviceProfile) -> None:
    for workflow in (
        lambda shown: latbench.check_device(quick_profile, duration=0.1, progress=shown),
        lambda shown: nas.bench([model, model], quick_profile, time_limit=0.1, progress=shown),
    ):
        _require_truth_of(workflow)


@pytest.mark.usefixtures("priced")
def test_explaining_a_model(model: Path, quick_profile: DeviceProfile) -> None:
    _require_truth_of(
        lambda shown: nas.explain(model, quick_profile, time_limit="1s", progress=shown)
    )


def test_alignment(tmp_path: Path, model: Path, quick_profile: DeviceProfile) -> None:
    _require_truth_of(
        lambda shown: latbench.align(
            model, quick_profile, output=tmp_path / "a.onnx", time_limit=0.1, progress=shown
        )
    )


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_searches(name: str, tmp_path: Path, profile: DeviceProfile, shown: Recorder) -> None:
    """Each with two targets; one that measures measures three rounds."""
    family = SEARCHERS[name]
    space = make_mix_space() if name == "sgnas" else make_tiny_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile))
    recipe: Any = None
    if family.recipe_kind is OneShotRecipe:
        recipe = OneShotRecipe(evaluations=6, initial_population=4)
    if name == "sgnas":
        recipe = SGNASRecipe(
            budgets=5,
            priors=1,
            prior_candidates=2,
            selected_on=2,
            calibration_batches=1,
            imitation_steps=2,
        )
    measure = slower_by(priced, 1.05) if family.corrects_on_device else None
    settings = SearchSettings(epochs=2, batch_size=16, recipe=recipe, measure=measure)
    low_ms, high_ms = priced.feasible_ms()
    targets = [low_ms + part * (high_ms - low_ms) for part in (0.3, 0.4)]
    folder = RunFolder(tmp_path / "run", {})
    family(priced, settings).search(tiny_data(), targets, folder, progress=shown)
    shown.require_truth(least=6)
    if name == "sgnas":
        device = latbench.load_device("cpu-pytorch")
        other = PricedSpace(space, write_table(tmp_path / "o.sqlite", space, device))
        short = msgspec.structs.replace(recipe, generator_epochs=1)
        _require_truth_of(
            lambda shown: adapt(folder, other, tiny_data(), short, seed=0, progress=shown)
        )


def test_a_search_that_goes_on_from_its_end(
    tmp_path: Path, profile: DeviceProfile, shown: Recorder
) -> None:
    """It has nothing left to train."""
    space = make_tiny_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile))
    target_ms = sum(priced.feasible_ms()) / 2
    for again in (Recorder(), shown):
        searcher = SEARCHERS["tfnas"](priced, SearchSettings(epochs=2, batch_size=16))
        folder = RunFolder(tmp_path / "run", {})
        searcher.search(tiny_data(), [target_ms], folder, progress=again)
    shown.require_truth(least=2)


def test_training_testing_and_export(tmp_path: Path) -> None:
    architecture = nas.make_space("nasbench-macro", 8, 10).random(seed=1)
    weights = tmp_path / "run" / "weights.safetensors"
    for workflow in (
        lambda shown: nas.train(
            architecture, tiny_data(), output=tmp_path / "run", epochs=2, progress=shown
        ),
        lambda shown: nas.evaluate(tmp_path / "run", tiny_data(), progress=shown),
        lambda shown: nas.export(
            architecture, tmp_path / "m.onnx", weights=weights, progress=shown
        ),
    ):
        _require_truth_of(workflow, least=2)


def test_a_fit_on_the_device(
    tmp_path: Path, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = nas.make_space("tfnas", 32, 10)
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile))
    measure = slower_by(priced, 1.05)
    monkeypatch.setattr("nas.latency.correction.measurer", lambda table: measure)
    drawn = space.random(seed=2)
    target_ms = priced.latency_ms(drawn)
    _require_truth_of(
        lambda shown: nas.fit(
            drawn, priced.table, target=target_ms, until_verified=True, progress=shown
        )
    )


def test_names_are_checked_without_torch() -> None:
    """Its import takes seconds, and no progress is shown before the options are read."""
    code = "import sys; from nas.commands.options import SEARCHER, DATA_SET\n"
    code += "print(SEARCHER.convert('tfnas', None, None), DATA_SET.convert('digits', None, None))\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tfnas", "digits", "False"]


def test_packing(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "images")
    _require_truth_of(
        lambda shown: nas.pack(tmp_path / "images", tmp_path / "packed", progress=shown)
    )


def _require_truth_of(workflow: Callable[[Recorder], object], *, least: int = 3) -> None:
    shown = Recorder()
    workflow(shown)
    shown.require_truth(least=least)
