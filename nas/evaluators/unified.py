"""A trained unified supernet as a judge of networks."""

from __future__ import annotations

from torch import nn

from nas.data.images import ImageData
from nas.evaluators.base import Evaluator
from nas.spaces import PLAIN, Architecture, SearchSpace, make_space
from nas.supernet.unified import UnifiedSupernet, path_of
from nas.training.epochs import Progress
from nas.training.run_folder import RunFolder
from nas.training.unified import (
    Parts,
    UnifiedRecipe,
    divide,
    fitness,
    train_unified,
    unified_criterion,
)


class Judge(Evaluator):
    """A trained supernet with the images to train and to judge generators on.

    A score is the fitness of the calibrated network on the images that select, as the data's task
    defines it: accuracy for classes, minus the loss for faces.

    Args:
        supernet: Trained; its weights are frozen from here on.
        data: Data set of the images.
        parts: Images to train generators on, and those that select.
        recipe: The supernet's.
        criterion: The loss that the supernet was trained with; frozen from here on.
    """

    def __init__(
        self,
        supernet: UnifiedSupernet,
        data: ImageData,
        parts: Parts,
        recipe: UnifiedRecipe,
        *,
        criterion: nn.Module,
    ) -> None:
        super().__init__()
        self.supernet = supernet.requires_grad_(False)
        self.criterion = criterion.requires_grad_(False).eval()
        self.data, self.parts, self.recipe = data, parts, recipe

    def _score(self, architecture: Architecture) -> float:
        return fitness(
            self.supernet,
            path_of(architecture),
            self.data,
            self.parts,
            self.recipe,
            criterion=self.criterion,
        )


def trained_judge(
    folder: RunFolder,
    space: SearchSpace,
    data: ImageData,
    recipe: UnifiedRecipe,
    *,
    seed: int,
    progress: Progress = lambda fraction, words: None,
) -> Judge:
    """The supernet of a run, trained to its end or read from its folder, as a judge."""
    parts = divide(data, recipe, seed=seed)
    criterion = unified_criterion(data, space.classes, recipe, seed=seed)
    supernet = train_unified(
        _plain(space),
        data,
        parts,
        recipe,
        folder,
        seed=seed,
        criterion=criterion,
        progress=progress,
    )
    return Judge(supernet, data, parts, recipe, criterion=criterion)


def _plain(space: SearchSpace) -> SearchSpace:
    """The space without squeeze-excite and with ReLU6: what a unified supernet is of."""
    if space.variant == PLAIN:
        return space
    return make_space(space.name, space.input_size, space.classes)
