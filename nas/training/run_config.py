"""Configuration of a run, as its folder holds it; read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from latbench.errors import InvalidFileError
from latbench.files import read_text

LABELS = "labels"
"""Setting with a digest of the data's labels."""

LATENCIES = "latencies"
"""Setting with a digest of each table's blocks and their latencies."""

FITNESS = "fitness"
"""Setting with the name of the fitness that the data's task gives as a score."""

STRUCTURE = "structure"
"""Setting with a digest of the blocks of the space or the network."""

ADDED = (LABELS, LATENCIES, FITNESS, STRUCTURE)
"""Settings that configurations of older versions may lack; those runs are resumed without them."""

_SHOWN = 40  # characters of a value; longer values are left out of a message


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
        InvalidFileError: The folder holds no run.
    """
    file = path / "config.json"
    try:
        config = json.loads(read_text(file, what="the configuration of a run, JSON"))
    except InvalidFileError as error:
        raise InvalidFileError(
            f"{path} holds no run: {error.message}; name the folder that a search or a training "
            "was given by -o"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(f"{path} holds no run: {file.name} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise InvalidFileError(f"{path} holds no run: config.json is not a JSON object")
    return config


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Where a run's configuration is not the one asked for, in words, a setting at a time."""
    for key in sorted(theirs.keys() | ours.keys()):
        there, here, name = theirs.get(key), ours.get(key), at + key
        if isinstance(there, dict) and isinstance(here, dict):
            yield from differences(there, here, f"{name}.")
        elif there != here:
            both = f"{name} is {_value(there)} there and {_value(here)} here"
            is_short = len(both) <= len(name) + 2 * _SHOWN
            yield both if is_short else f"{name} differs"


def _value(value: object) -> str:
    return msgspec.json.encode(value).decode()
