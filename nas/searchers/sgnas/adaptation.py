"""Adaptation of a trained generator to a new device.

The generator of a finished run gets a vector for the new device. The supernet of the run trains
this vector (``nas.searchers.sgnas.generator_training``); nothing else changes.
"""

from __future__ import annotations

from latbench.progress import Progress, silent
from nas.data.images import ImageData
from nas.generator import Generator, device_of, load_generator, require_table
from nas.latency.priced_space import PricedSpace
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_training import GeneratorTraining
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.searchers.sgnas.searcher import evaluator_of
from nas.training.run_files import generator_file
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice


def adapt(
    folder: RunFolder,
    priced: PricedSpace,
    data: ImageData,
    recipe: SGNASRecipe,
    *,
    seed: int,
    torch_device: TorchDevice = CPU,
    progress: Progress = silent,
) -> Generator:
    """The generator of a finished run with one more device, whose vector alone is trained.

    Args:
        folder: Folder of the run; its supernet evaluates.
        priced: The space with the prices of the new device.
        data: Data of the run.
        recipe: Recipe of the run, with the number of generator epochs for the new device.
        seed: Seed of the run.
        torch_device: Device for the training, in the precision of the recipe.
        progress: Gets the fraction that is done, and a description.

    Raises:
        LatbenchError: The run is not finished, knows the device already, or has another space.
    """
    known = load_generator(generator_file(folder.path))
    require_table(known, priced.table)
    space, torch_device = priced.space, torch_device.at(recipe.computed_in)
    data = data.to(torch_device.device)
    device = device_of(priced.table)
    budgets = Budgets.of(space, [priced], low=recipe.low, high=recipe.high).only(device)
    training = GeneratorTraining(
        evaluator_of(
            folder,
            space,
            data,
            recipe,
            seed=seed,
            torch_device=torch_device,
            progress=lambda _, words: progress(0.0, words),
        ),
        space,
        budgets,
        recipe,
        seed,
        generator=known.with_device(device),
    )
    return training.run(None, progress)
