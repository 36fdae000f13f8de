"""What a step of training a TF-NAS network from scratch takes, beside plain eager torch.

    python benchmarks/train_step.py [--rounds N] [--batch N] [--networks N] [--threads N]

A step is forward, backward and update of one network, as ``latbench train`` makes it, at 32 px and
100 classes, with the published recipe of ImageNet except for the batch size. The network is random
but has all layers. Both sides have the same weights at the start.

* ``ours``: ``nas.training.from_scratch``: channels last, modules that are fast on a CPU.
* ``plain``: the same layers as torch's modules in the usual order of dimensions (NCHW), with the
  same optimiser.

Steps are taken in turn. A time is that of the processor, of all threads together: it changes
little when other processes use the machine. The interval of the ratio is that of
``components_step.py``.
"""

from __future__ import annotations

import copy
from argparse import ArgumentParser
from time import process_time

import numpy as np
import torch
from components_step import WARM_UP, ratio_interval, spread
from torch import Tensor, nn

from latbench.environment import current_environment
from latbench.render.torch import NetworkModule
from latbench.report.terminal import print_lines, print_table
from nas.spaces import make_space
from nas.training.distributed import ALONE
from nas.training.from_scratch import make_model
from nas.training.memory import keep_freed_memory
from nas.training.module_training import TrainingState
from nas.training.optimizer import set_lr
from nas.training.recipe import TrainingRecipe

SIZE, CLASSES = 32, 100


def main() -> None:
    """Print both times and their ratio."""
    parser = ArgumentParser(description="A step of training from scratch, ours and plain.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    environment = current_environment({"torch": torch.__version__})
    print_lines(
        [
            f"{environment.cpu}, {environment.system}, {environment.taken_at}, "
            f"torch {torch.__version__}, {arguments.threads} threads",
            f"batch {arguments.batch}, {SIZE} px, {CLASSES} classes, {arguments.rounds} rounds",
            "",
        ]
    )
    rows = []
    for seed in range(arguments.networks):
        times_ms = _times_ms(seed, arguments.batch, arguments.rounds)
        ours, plain = times_ms["ours"], times_ms["plain"]
        low, high = ratio_interval(plain, ours)
        ratio = np.median(plain) / np.median(ours)
        rows.append(
            (str(seed), spread(ours), spread(plain), f"{ratio:.2f} ({low:.2f} - {high:.2f})")
        )
    print_table(("network", "ours, ms (quartiles)", "plain, ms (quartiles)", "plain / ours"), rows)


def _times_ms(seed: int, batch: int, rounds: int) -> dict[str, np.ndarray]:
    space = make_space("tfnas", SIZE, CLASSES)
    drawn = space.random(seed=seed)
    largest = space.largest()  # for its depths
    stages = [
        [*own, *deep[len(own) :]] for own, deep in zip(drawn.stages, largest.stages, strict=True)
    ]
    network = space.lower(space.architecture(stages))
    recipe = TrainingRecipe(batch_size=batch)
    ours = make_model(network, seed=seed)
    plain = NetworkModule(network)
    plain.load_state_dict(copy.deepcopy(ours.state_dict()))
    states = {
        name: TrainingState(model, nn.CrossEntropyLoss(), recipe)
        for name, model in (
            ("ours", ours),
            ("plain", plain.to(memory_format=torch.contiguous_format)),
        )
    }
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3, SIZE, SIZE, generator=rng)
    labels = torch.randint(CLASSES, (batch,), generator=rng)
    times_ms: dict[str, list[float]] = {name: [] for name in states}
    for turn in range(WARM_UP + rounds):
        for name, state in states.items():
            taken_ms = _taken_ms(state, x, labels, recipe, last=name == "ours")
            if turn >= WARM_UP:
                times_ms[name].append(taken_ms)
    return {name: np.array(values) for name, values in times_ms.items()}


def _taken_ms(
    state: TrainingState, x: Tensor, labels: Tensor, recipe: TrainingRecipe, *, last: bool
) -> float:
    """Processor time of one step; ``last`` gives it images in channels last."""
    layout = torch.channels_last if last else torch.contiguous_format
    set_lr(state.optimizer, 1e-3)
    begin = process_time()
    state.model.train()
    state.step(x.contiguous(memory_format=layout), labels, recipe, ALONE)
    return (process_time() - begin) * 1e3


if __name__ == "__main__":
    main()
