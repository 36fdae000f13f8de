"""Configuration of a run, as its folder holds it; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latbench.errors import InvalidFileError
from latbench.files import read_text


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
