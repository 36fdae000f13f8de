"""Cells of ``judge.py``: supernets that score a fixed sample of networks, and what they are worth.

A cell returns the accuracies of the same networks in the same order. In a cell of a strategy they
come from one supernet, trained as by ``latbench search --searcher random``; in a cell of
``scratch`` every network was trained by itself. NAS-Bench-Macro has published accuracies instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import msgspec
import numpy as np
import torch
from cells import Progress, Stopwatch, shortened

from nas.data import load_data
from nas.data.fit import divided
from nas.data.images import ImageData, generator
from nas.evaluators.journal import Journaled
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.evaluators.tabular import Entry, TabularEvaluator
from nas.optimize.constraints import Constraint, Count, Limit
from nas.optimize.encoding import EncodedSpace
from nas.optimize.enumeration import all_codes
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot import OneShotSearcher
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import Architecture, SearchSpace, distinct_random, make_space
from nas.tasks import task_of
from nas.training import from_scratch
from nas.training.recipe import TrainingRecipe
from nas.training.run_files import evaluations_file
from nas.training.run_folder import RunFolder
from nas.training.strategies import make_strategy

SCRATCH = "scratch"
ALIKE = "+alike"  # after a strategy: the operations of a layer start alike
DATA, CLASSES = "fashion-mnist", 10
BATCH_SIZE = 32  # of all trainings
PUBLISHED = "nasbench-macro"  # the space whose accuracies are known
_LR = 0.045 / 4  # the default of a search for batches of 128, scaled to batches of 32
_CLIP = 5.0  # without it short trainings diverge, and those that sum several paths do so first
_CORRELATION = 0.9  # of weights that start alike
_ANY = 1e15  # multiply-accumulates: no limit
_SAMPLE_SEED = 0  # of the networks; all cells score the same ones


@dataclass(frozen=True)
class Trial:
    """A space, and the sizes of all cells on it.

    Attributes:
        space: Name of the space.
        input_size: Side of the images in pixels.
        networks: Number of networks that are scored.
        images: Number of training images. A fifth of them is held out and gives the scores.
        paths: Number of paths that every training image trains. A strategy that trains k paths a
            step has ``paths / k`` epochs, so all strategies compute about as much.
        layers: Largest number of layers of a stage; None keeps all.
        scratch_epochs: Epochs of a training from scratch; 0 where accuracies are published.
        tested: Number of test images of a training from scratch.
    """

    space: str
    input_size: int
    networks: int
    images: int
    paths: int
    layers: int | None = None
    scratch_epochs: int = 0
    tested: int = 4_000

    def make_space(self) -> SearchSpace:
        """The space, with fewer layers if they are limited."""
        return shortened(make_space(self.space, self.input_size, CLASSES), self.layers)

    def settings(self) -> dict[str, Any]:
        """The sizes as JSON values, which a folder of cells must share."""
        return asdict(self)


# paths: divisible by those of a step: 1, 4 (sandwich), and the operations of a layer (fair)
# layers: the first one of a stage has no shortcut; supernets of such layers alone learned nothing
TRIALS = {
    "nasbench-macro-16px": Trial(PUBLISHED, 16, networks=100, images=3_200, paths=12),
    "proxylessnas-short": Trial(
        "proxylessnas", 16, networks=30, images=3_200, paths=28, layers=2, scratch_epochs=8
    ),
    "tfnas-short": Trial(
        "tfnas", 16, networks=30, images=3_200, paths=24, layers=2, scratch_epochs=8
    ),
    "nasbench-macro-32px": Trial(PUBLISHED, 32, networks=200, images=6_400, paths=24),
}


def short_recipe(strategy: str, *, evaluations: int = 1) -> OneShotRecipe:
    """Settings of a short search in batches of ``BATCH_SIZE``.

    Args:
        strategy: A strategy, perhaps with ``ALIKE``.
        evaluations: Number of architectures to score.
    """
    return OneShotRecipe(
        strategy=strategy.removesuffix(ALIKE),
        alike=_CORRELATION if strategy.endswith(ALIKE) else 0.0,
        lr=_LR,
        clip=_CLIP,
        evaluations=evaluations,
    )


def published_entry(published: TabularEvaluator, architecture: Architecture) -> Entry:
    """The benchmark's entry of an architecture at any input size; it was measured at 32 px."""
    size = published.space.input_size
    return published.entry(msgspec.structs.replace(architecture, input_size=size))


def sample(trial: Trial, published: TabularEvaluator | None = None) -> list[Architecture]:
    """The networks that all cells of a trial score, in a random order.

    They are random ones; with published accuracies one of each of as many strata of accuracy.
    """
    rng = np.random.default_rng(_SAMPLE_SEED)
    space = trial.make_space()
    if published is None:
        return distinct_random(space, trial.networks, rng)
    encoded = EncodedSpace(Constraint((Limit(Count(space, "macs"), _ANY),)))
    codes = all_codes(encoded, 10_000)
    assert codes is not None
    everything = [encoded.decode(tuple(code)) for code in codes.tolist()]
    everything.sort(key=lambda made: published_entry(published, made).mean_acc)  # stable
    strata = np.array_split(np.arange(len(everything)), trial.networks)
    drawn = [everything[int(rng.choice(stratum))] for stratum in strata]
    return [drawn[i] for i in rng.permutation(len(drawn)).tolist()]


def run_cell(
    trial: Trial,
    strategy: str,
    networks: Sequence[Architecture],
    *,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, Any]:
    """Accuracies of networks by one supernet, or of networks trained from scratch.

    Args:
        trial: Space and sizes.
        strategy: Strategy of the supernet, perhaps with ``ALIKE``; or ``SCRATCH``.
        networks: Networks to score.
        seed: Seed of weights, images and paths.
        run: Folder of this cell; an interrupted cell goes on from it.
        tick: Callback between steps, which may raise ``TimeIsUp``.

    Returns:
        ``accuracies``, fractions in the order of the networks, and processor time in s.
    """
    torch.set_num_threads(1)
    whole = load_data(DATA, input_size=trial.input_size, classes=CLASSES)
    data = whole.subset(trial.images, seed=0)
    if strategy == SCRATCH:
        return _trained(trial, networks, data, seed, run, tick)
    return _judged(trial, strategy, networks, data, seed, run, tick)


def _judged(
    trial: Trial,
    strategy: str,
    networks: Sequence[Architecture],
    data: ImageData,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, Any]:
    """Accuracies on held-out images by the weights of one supernet, with calibrated norms."""
    space = trial.make_space()
    recipe = short_recipe(strategy)
    drawn = make_strategy(recipe.strategy, space).draw(generator(0), 0.0)
    epochs = max(1, round(trial.paths / len(drawn)))
    limits = (Limit(Count(space, "macs"), _ANY),)
    settings = SearchSettings(epochs, BATCH_SIZE, seed, recipe, limits=limits)
    searcher = SEARCHERS["random"](space, settings)
    assert isinstance(searcher, OneShotSearcher)
    folder = RunFolder(run, {**trial.settings(), "strategy": strategy, "seed": seed})
    with Stopwatch(run / "training_s.json", process_time) as training:
        criterion = searcher.train(data, folder, progress=tick)
    train, selection = divided(data, searcher.recipe.held_out, seed=seed)
    evaluator = SupernetEvaluator(
        searcher.supernet,
        data,
        criterion=criterion,
        calibration=train,
        selection=selection,
        batch_size=BATCH_SIZE,
    )
    journal = Journaled(evaluator, evaluations_file(run))
    with Stopwatch(run / "scoring_s.json", process_time) as scoring:
        accuracies = []
        for accuracy in journal.scores(networks):
            accuracies.append(accuracy)
            tick(len(accuracies) / len(networks), "score")
    return {
        "epochs": epochs,
        "training_s": round(training.total_s, 1),
        "scoring_s": round(scoring.total_s, 1),
        "accuracies": [round(accuracy, 6) for accuracy in accuracies],
    }


def _trained(
    trial: Trial,
    networks: Sequence[Architecture],
    data: ImageData,
    seed: int,
    run: Path,
    tick: Progress,
) -> dict[str, Any]:
    """Test accuracies of networks that were trained one by one, by one recipe."""
    tested = replace(data, test=data.test.take(torch.arange(trial.tested)))
    recipe = TrainingRecipe(epochs=trial.scratch_epochs, batch_size=BATCH_SIZE, seed=seed)
    space = trial.make_space()
    accuracies = []
    with Stopwatch(run / "training_s.json", process_time) as training:
        for number, architecture in enumerate(networks):
            folder = RunFolder(run / str(number), {**trial.settings(), "seed": seed})
            network = space.lower(architecture)
            found = from_scratch.train(network, tested, recipe, folder, progress=tick)
            accuracies.append(found[task_of(data).metric])
    return {
        "training_s": round(training.total_s, 1),
        "accuracies": [round(accuracy, 6) for accuracy in accuracies],
    }
