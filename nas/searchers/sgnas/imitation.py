"""Imitation: before it sees images, a generator learns to output its priors.

The published training has no such steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from latbench.progress import Progress
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.generator_state import GeneratorState
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.training.distributed import Workers
from nas.training.torch_device import TorchDevice

_REQUESTS = 16  # requests in a step


def imitate(
    state: GeneratorState,
    budgets: Budgets,
    *,
    recipe: SGNASRecipe,
    rng: torch.Generator,
    torch_device: TorchDevice,
    workers: Workers,
    progress: Progress,
) -> None:
    """Train the output towards the nearest prior of each budget, with the hardware loss.

    Args:
        state: State with the generator, whose priors are known.
        budgets: Budgets of the requests.
        recipe: Settings of the training, with the number of steps.
        rng: Draws the requests.
        torch_device: Device of the generator.
        workers: The processes that train together; all draw the same requests.
        progress: Callback with the fraction done and a short description.
    """
    generator, plane = state.generator, budgets.plane
    known = generator.prior_choices()
    requests = budgets.epoch(recipe.budgets, recipe.jitter, rng)
    for number in range(recipe.imitation_steps):
        asked = [next(requests) for _ in range(_REQUESTS)]
        logits = plane.masked(generator(asked))
        wanted = known[generator.nearest_priors(asked).to(known.device)]
        excess = [
            budgets.excess(request, each)
            for request, each in zip(asked, logits.softmax(-1), strict=True)
        ]
        hardware = recipe.hardware_loss(torch.stack(excess)).mean()
        loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten()) + hardware
        state.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        workers.average_gradients(generator.parameters())
        state.adam.step()
        words = f"imitation, step {number + 1} of {recipe.imitation_steps}"
        if not torch_device.is_gpu:  # reading the loss would wait for a GPU
            words = f"{words}, loss {float(loss.detach()):.2f}"
        progress((number + 1) / recipe.imitation_steps, words)
