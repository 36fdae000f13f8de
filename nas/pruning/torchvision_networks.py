"""Trained networks of torchvision, by name, with weights of a file or published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from latbench.errors import (
    InvalidFileError,
    MismatchError,
    UnknownNameError,
    in_one_line,
)
from latbench.files import require_file

_WHAT = "trained weights, a file of safetensors or a state dict that torch.save wrote"
_HEADER_AT = 8  # bytes of safetensors before its header, which is a JSON object


def load_network(name: str, weights: str | Path) -> nn.Module:
    """A classification network of torchvision with trained weights, in evaluation mode.

    Args:
        name: Name of the network, such as ``"mobilenet_v2"``.
        weights: Path of a file of weights; or the name of published ones, such as
            ``"IMAGENET1K_V1"`` or ``"DEFAULT"``, which torchvision downloads.

    Raises:
        UnknownNameError: There is no such network or no such weights.
        InvalidFileError: The file does not hold weights, or nothing can be downloaded.
        MismatchError: The weights are of another network.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownNameError("network", name, known)
    if not _is_there(Path(weights)):
        return _published(name, str(weights))
    state = _read(Path(weights))
    last = list(models.get_model(name, weights=None).state_dict())[-1]  # one bias a class
    if last not in state:
        raise MismatchError(f"{weights} holds weights of another network: it has no {last}")
    classes = state[last].shape[0] if state[last].ndim else 1  # a number is refused below
    module = models.get_model(name, weights=None, num_classes=classes)
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = in_one_line(error, most=200)
        raise MismatchError(f"{weights} holds weights of another network: {reason}") from error
    found: nn.Module = module.eval()
    return found


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it is too long for a path
        return False


def _published(name: str, weights: str) -> nn.Module:
    published = {each.name: each for each in models.get_model_weights(name)}
    if weights != "DEFAULT" and weights not in published:
        raise UnknownNameError(f"file, or weights of {name},", weights, ["DEFAULT", *published])
    try:
        found: nn.Module = models.get_model(name, weights=weights).eval()
    except (OSError, RuntimeError) as error:
        raise InvalidFileError(
            f"cannot download the weights {weights} of {name}: {in_one_line(error)}; give a file"
        ) from error
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    """Weights by name; a pickle is read without running any code in it."""
    require_file(path, what=_WHAT)
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(_HEADER_AT + 1)[_HEADER_AT:] == b"{"
        if is_safetensors:
            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # safetensors and torch's unpickler raise many kinds
        raise InvalidFileError(f"{path} is not {_WHAT}: {in_one_line(error)}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InvalidFileError(f"{path} is not {_WHAT}: it holds {type(state).__name__}")
    return state
