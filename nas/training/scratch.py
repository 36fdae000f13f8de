"""Training one architecture from scratch, and testing it.

SGD with Nesterov momentum, a short linear warm-up and a cosine to zero, label smoothing, no
weight decay on norms and biases. A run goes on from its last finished epoch, bit-exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from latbench.blocks import Network
from latbench.errors import InvalidFileError, MismatchError
from latbench.files import write_atomically
from latbench.render.torch import NetworkModule
from nas.data.images import ImageData, Split, augment, batches, generator
from nas.training.memory import keep_freed_memory
from nas.training.run_folder import RunFolder

WEIGHTS = "weights.safetensors"
_LAST = "last"
_TEST_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the learning rate is for batches of 256 and scales with them."""

    epochs: int = 30
    batch_size: int = 64
    seed: int = 0
    lr_per_256: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 4e-5
    smoothing: float = 0.1
    warmup: float = 0.05  # of all steps
    clip: float = 5.0
    shift: int = 4  # largest shift of a training image, in pixels


@dataclass(frozen=True)
class Score:
    """Accuracies on the test images, fractions."""

    top1: float
    top5: float


def train(
    network: Network,
    data: ImageData,
    recipe: Recipe,
    folder: RunFolder,
    *,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Score:
    """Train to the end of the recipe, write the weights, return the test score."""
    torch.set_flush_denormal(True)
    keep_freed_memory()
    model = make_model(network, seed=recipe.seed)
    optimizer = _optimizer(model, recipe)
    saved = folder.checkpoint(_LAST)
    first = 0
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"]
    steps = max(1, len(data.train) // recipe.batch_size)
    with folder.metrics() as metrics:
        for epoch in range(first, recipe.epochs):
            begin = monotonic()
            model.train()
            order, shifts = generator(recipe.seed, epoch, 0), generator(recipe.seed, epoch, 1)
            total = 0.0
            for step, (raw, labels) in enumerate(batches(data.train, recipe.batch_size, order)):
                _set_lr(optimizer, recipe, (epoch + step / steps) / recipe.epochs)
                images = augment(raw, shifts, flip=data.flip, shift=recipe.shift)
                loss = F.cross_entropy(
                    model(data.to_input(images)), labels, label_smoothing=recipe.smoothing
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                optimizer.step()
                total += float(loss.detach())
                progress(
                    (epoch + (step + 1) / steps) / recipe.epochs,
                    f"epoch {epoch + 1} of {recipe.epochs}, loss {total / (step + 1):.3f}",
                )
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            folder.save_checkpoint(_LAST, state | {"epoch": epoch + 1})
            metrics.log(
                "train",
                epoch,
                {
                    "loss": total / steps,
                    "lr": optimizer.param_groups[0]["lr"],
                    "seconds": round(monotonic() - begin, 3),
                },
            )
        score = test(model, data, data.test)
        metrics.log("test", recipe.epochs, {"top1": score.top1, "top5": score.top5})
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomically(folder.path / WEIGHTS, save(tensors))
    return score


@torch.no_grad()
def test(model: nn.Module, data: ImageData, split: Split) -> Score:
    """Top-1 and top-5 accuracy."""
    model.eval()
    first = fifth = 0
    for images, labels in batches(split, _TEST_BATCH, generator(0), drop_last=False):
        logits = model(data.to_input(images))
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        first += int(ranked[:, 0].sum())
        fifth += int(ranked.any(dim=1).sum())
    return Score(first / len(split), fifth / len(split))


def make_model(network: Network, *, seed: int) -> NetworkModule:
    """The network with fresh weights, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NetworkModule(network)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
    return model.to(memory_format=torch.channels_last)


def load_model(network: Network, weights: Path) -> NetworkModule:
    """The network with weights from a file.

    Raises:
        InvalidFileError: The file is missing or no weights file.
        MismatchError: The weights are of another network.
    """
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InvalidFileError(f"cannot read weights from {weights}: {error}") from error
    model = make_model(network, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise MismatchError(f"{weights} holds weights of another network: {reason}") from error
    return model


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


def _set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    peak = recipe.lr_per_256 * recipe.batch_size / 256
    if progress < recipe.warmup:
        lr = peak * progress / recipe.warmup
    else:
        after = (progress - recipe.warmup) / (1 - recipe.warmup)
        lr = peak * (1 + math.cos(math.pi * after)) / 2
    for group in optimizer.param_groups:
        group["lr"] = lr
