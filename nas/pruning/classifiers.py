"""Torch modules as classifiers: what they give, and which weights they have."""

from __future__ import annotations

import copy
from hashlib import sha256

import torch
from torch import Tensor, nn

from latbench.errors import InvalidValueError, in_one_line


def output_count(module: nn.Module, example: Tensor) -> int:
    """Number of outputs of a module, which are the same in both modes.

    Raises:
        InvalidValueError: It does not take the images, or does not give one vector an image.
    """
    training = copy.deepcopy(module).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = module(example)
            trained = training(torch.cat([example, example]))  # batch norm refuses one vector
    except Exception as error:  # code of the module runs here, and may raise anything
        raise InvalidValueError(
            f"{type(module).__name__} does not take images {tuple(example.shape)} of float32 "
            f"({type(error).__name__}: {in_one_line(error)}): choose another input size, or "
            "another network"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise InvalidValueError(
            f"{type(module).__name__} does not give logits (N, classes), by which a classifier is "
            "fine-tuned and tested: prune another network"
        )
    if not isinstance(trained, Tensor) or trained.shape[1:] != outputs.shape[1:]:
        raise InvalidValueError(
            f"{type(module).__name__} gives {type(trained).__name__} in training mode, such as "
            "those of auxiliary classifiers, instead of logits: remove these outputs"
        )
    return outputs.shape[1]


def weights_digest(module: nn.Module) -> str:
    """Digest of a module's weights."""
    found = sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
