"""Settings of SGNAS: training of the supernet, training of the generator, and its losses.

The defaults are the published values for ImageNet, except for the range of budgets and the number
of priors. docs/papers.md lists every difference between paper, code and this project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from torch import Tensor

from latbench.errors import InvalidFileError
from nas.criteria.hardware import squared_distance
from nas.data.images import ImageData
from nas.recipes import Count, Fraction, Positive, Rate
from nas.training.run_config import read_config
from nas.training.unified_training import UnifiedRecipe


class SGNASRecipe(UnifiedRecipe, frozen=True, kw_only=True, tag="sgnas"):
    """Settings of the training of supernet and generator.

    Attributes:
        generator_epochs: Epochs of the generator, over the images held out from the supernet.
        generator_lr: Learning rate of Adam.
        generator_betas: Decay rates of Adam's moments.
        tau_start: Temperature in the first epoch; then it falls geometrically.
        tau_end: Temperature in the last epoch; 5 x 0.95 ** 49 in the published code.
        low: Lower end of the budgets, as a fraction of the feasible range.
        high: Upper end of the budgets, as a fraction of the feasible range.
        strategy: Strategy that draws paths to train a supernet of separate operations, a name in
            ``STRATEGIES``; empty is uniform. A unified supernet always has its own fair paths.
        budgets: Size of the budget grid of each kind; published is 270 to 450 in steps of 5.
        jitter: Largest distance from the grid, in steps; published is 0.5 of 5.
        hardware_weight: Factor of the squared distance from the budget.
        overshoot: Factor of the hardware loss above the budget.
        tolerance: Distance from the budget that has no loss.
        priors: Number of priors, spread over the range.
        prior_candidates: Number of networks to evaluate for each prior.
        prior_images: Share of the selection images on which the candidates are evaluated first,
            calibrated on the same share of batches. Below 1, only the best quarter of them is then
            evaluated on all.
        imitation_steps: Number of steps without images before the first epoch. They train the
            generator to output the priors nearest to some budgets, with the hardware loss added.
            Published is 0.
        selected_on: Number of answers to evaluate after an epoch.
    """

    strategy: str = ""
    generator_epochs: Count = 50
    generator_lr: Positive = 1e-3
    generator_betas: tuple[Rate, Rate] = (0.5, 0.999)
    tau_start: Positive = 5.0
    tau_end: Positive = 0.405
    low: Fraction = 0.05
    high: Fraction = 0.95
    budgets: Annotated[int, msgspec.Meta(ge=2)] = 37
    jitter: Fraction = 0.1
    hardware_weight: Positive = 3e-4
    overshoot: Positive = 1.2
    tolerance: Fraction = 0.1
    priors: Count = 5
    prior_candidates: Count = 8
    prior_images: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    imitation_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    selected_on: Count = 5

    def supernet_share(self, data: ImageData) -> float:
        """Share of the supernet in all training images of the search."""
        count = len(data.train)
        rest = count * self.held_out if self.held_out_from == "train" else len(data.test)
        seen = self.epochs * (count - rest if self.held_out_from == "train" else count)
        return seen / (seen + self.generator_epochs * rest * (1 - self.selection))

    def tau(self, epoch: int) -> float:
        """Temperature of Gumbel softmax in an epoch."""
        progress = epoch / max(1, self.generator_epochs - 1)
        return self.tau_start * float((self.tau_end / self.tau_start) ** progress)

    def hardware_loss(self, excess: Tensor) -> Tensor:
        """Loss of the excess of an expected cost over its budget; 0 within the tolerance."""
        loss: Tensor = squared_distance(
            excess,
            weight=self.hardware_weight,
            over=self.overshoot,
            above=excess > self.tolerance,
            below=excess < -self.tolerance,
        )
        return loss

    def scaled(self, epochs: int | None, batch_size: int | None) -> Self:
        """The recipe with other epochs; those of the generator change in proportion."""
        made = super().scaled(epochs, batch_size)
        share = self.generator_epochs * made.epochs / self.epochs
        return msgspec.structs.replace(made, generator_epochs=max(1, round(share)))


_READ = ("recipe", "epochs", "batch_size", "data", "images", "seed")  # of a configuration


def read_run(run: Path) -> tuple[dict[str, Any], SGNASRecipe]:
    """Configuration and recipe of a run folder.

    Raises:
        InvalidFileError: The folder does not hold a run of this searcher, or one that this version
            of latbench cannot read.
    """
    config = read_config(run)
    if config.get("searcher") != "sgnas":
        raise InvalidFileError(f"{run} holds no run of `latbench search --searcher sgnas`")
    lacking = [name for name in _READ if name not in config]
    if lacking:
        raise InvalidFileError(f"{run} is a run of another version: it lacks {', '.join(lacking)}")
    try:
        recipe = msgspec.convert(_renewed(config["recipe"]), SGNASRecipe)
    except msgspec.ValidationError as error:
        raise InvalidFileError(f"{run} is a run of another version: its recipe {error}") from error
    return config, recipe.scaled(config["epochs"], config["batch_size"])


def _renewed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe in the present form. In older runs label smoothing was a separate setting."""
    if "smoothing" not in recipe:
        return recipe
    kept = {name: value for name, value in recipe.items() if name != "smoothing"}
    options = {"smoothing": recipe["smoothing"]}
    return {**kept, "criterion": "label-smoothing", "options": options}
