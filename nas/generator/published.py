"""Import of the architecture generators that SGNAS published."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latbench.errors import InvalidFileError, MismatchError, in_one_line
from latbench.files import read_bytes, read_text
from latbench.tables import SpaceLabel
from nas.generator.generator import Generator, GeneratorLabel
from nas.spaces import make_space
from nas.spaces.sgnas import CHOICES, SUB_BLOCKS

_MAX_FILE_BYTES = 64 << 20  # the published ones take 0.3 MB
_WEIGHTS = "the weights of a published generator, npz or a .pth of torch 1.6 or later"
_POOL = 'a prior pool, JSON of budgets and rows such as {"360": [[0, 0, 1, ...], ...]}'
_WRAPPED = ("state_dict", "model")  # names under which checkpoints keep the weights
_PARALLEL = "module."  # prefix of all names, if a model was trained in parallel

# space, and trained range of budgets in millions of conv MACs
_FORMS = (
    (SpaceLabel("sgnas", 224, 1000), 270.0, 450.0),
    (SpaceLabel("sgnas", 32, 100), 80.0, 120.0),
)


def import_generator(weights: Path, prior: Path) -> Generator:
    """Convert a published generator.

    The budgets of its priors show whether it is the one for ImageNet or for CIFAR. The file of
    weights does not contain this.

    Args:
        weights: File of arrays under their published names: npz, or a torch file as published.
        prior: JSON file of the prior pool: maps a budget in millions of MACs to rows of zeros and
            ones.

    Raises:
        InvalidFileError: A file is missing or damaged, or holds something else.
        MismatchError: No generator was published for the range of the priors.
    """
    pool = _read_pool(prior)
    if not pool:
        raise InvalidFileError(f"{prior} is not {_POOL}: it is empty")
    places = tuple(pool)
    form = next((f for f in _FORMS if all(f[1] <= p <= f[2] for p in places)), None)
    if form is None:
        ranges = " or ".join(f"{low:g} to {high:g}" for _, low, high in _FORMS)
        raise MismatchError(
            f"{prior} has priors at {', '.join(f'{p:g}' for p in places)} M MACs: generators were "
            f"published for {ranges}"
        )
    space, low, high = form
    layers = len(make_space(space.name, space.input_size, space.classes).layers)
    priors = torch.stack([_plane(rows, layers, source=prior) for rows in pool.values()])
    label = GeneratorLabel(1, "published", space, low, high, ("macs",), (), places)
    generator = Generator(label, priors)
    try:
        generator.network.load_state_dict(_read_arrays(weights))
    except RuntimeError as error:
        reason = in_one_line(error, most=200)
        raise InvalidFileError(f"{weights} is not {_WEIGHTS}: {reason}") from error
    return generator.eval()


def _read_pool(path: Path) -> dict[float, object]:
    text = read_text(path, what=_POOL, limit=_MAX_FILE_BYTES)
    try:
        return {float(key): rows for key, rows in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidFileError(f"{path} is not {_POOL}") from error


def _plane(rows: object, layers: int, *, source: Path) -> Tensor:
    shape = (layers, SUB_BLOCKS * CHOICES)
    try:
        plane = np.array(rows, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        plane = np.zeros(0, dtype=np.float32)
    groups = (
        plane.reshape(-1, CHOICES) if plane.shape == shape else np.zeros((1, 1), dtype=np.float32)
    )
    if not (np.isin(groups, (0, 1)).all() and (groups.sum(axis=1) == 1).all()):
        raise InvalidFileError(
            f"{source} is no prior pool of this space: a prior has {layers} rows of "
            f"{SUB_BLOCKS} times one choice of {CHOICES}, as zeros and ones"
        )
    return torch.from_numpy(plane)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a weights file by name, as float32. Pickled objects are refused, not run."""
    raw = read_bytes(path, what=_WEIGHTS, limit=_MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InvalidFileError(f"{path} is not {_WEIGHTS}") from error
    if sum(entry.file_size for entry in entries) > _MAX_FILE_BYTES:
        raise InvalidFileError(f"{path} is not {_WEIGHTS}: it is larger than 64 MiB")
    try:
        if any(entry.filename.endswith("/data.pkl") for entry in entries):
            return _read_torch(raw)
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            return {n: torch.from_numpy(arrays[n].astype(np.float32)) for n in arrays.files}
    except Exception as error:  # numpy and torch raise many kinds of errors for a damaged file
        reason = str(error).split("\n")[0][:200]
        raise InvalidFileError(f"{path} is not {_WEIGHTS}: {reason}") from error


def _read_torch(raw: bytes) -> dict[str, Tensor]:
    """The state dict of a torch file, also from inside a checkpoint; runs no code."""
    found = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    if isinstance(found, dict):
        found = next((found[key] for key in _WRAPPED if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError("it holds no state dict")
    return {str(name).removeprefix(_PARALLEL): value.float() for name, value in found.items()}
