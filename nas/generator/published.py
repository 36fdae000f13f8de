"""Reading the architecture generators that SGNAS published."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latbench.errors import InvalidFileError, MismatchError
from latbench.tables import SpaceLabel
from nas.generator.generator import Generator, GeneratorLabel
from nas.spaces import make_space
from nas.spaces.sgnas import CHOICES, SUB_BLOCKS

_MAX_FILE_BYTES = 64 << 20  # the published ones take 0.3 MB

# space, and the trained range of budgets in millions of conv MACs
_FORMS = (
    (SpaceLabel("sgnas", 224, 1000), 270.0, 450.0),
    (SpaceLabel("sgnas", 32, 100), 80.0, 120.0),
)


def import_generator(weights: Path, prior: Path) -> Generator:
    """A published generator, made usable.

    Which of the two forms it is, for ImageNet or for CIFAR, is told by the budgets of its
    priors: files of weights do not say.

    Args:
        weights: Arrays under their published names, npz.
        prior: The prior pool: budget in millions of MACs to rows of zeros and ones, JSON.

    Raises:
        InvalidFileError: A file is missing, damaged or holds something else.
        MismatchError: The priors are of no range that generators were published for.
    """
    pool = _read_pool(prior)
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
    state = {name: torch.from_numpy(array) for name, array in _read_arrays(weights).items()}
    try:
        generator.network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidFileError(f"{weights} holds no published generator: {reason}") from error
    return generator.eval()


def _read_pool(path: Path) -> dict[float, object]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidFileError(f"{path} is no prior pool: it is larger than 64 MiB")
        pool = json.loads(path.read_bytes())
        return {float(key): rows for key, rows in pool.items()}
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise InvalidFileError(
            f"{path} is no prior pool: it should be JSON of budgets and rows, such as "
            '{"360": [[0, 0, 1, ...], ...]}'
        ) from error


def _plane(rows: object, layers: int, *, source: Path) -> Tensor:
    shape = (layers, SUB_BLOCKS * CHOICES)
    try:
        plane = np.array(rows, dtype=np.float32)
    except (TypeError, ValueError):
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


def _read_arrays(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The arrays of an npz file, as float32; pickled objects are refused, not run."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidFileError(f"{path} holds no generator: it is larger than 64 MiB")
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_FILE_BYTES:
                raise InvalidFileError(f"{path} holds no generator: it is larger than 64 MiB")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float32) for name in arrays.files}
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidFileError(f"{path} is no npz file of weights: {error}") from error
