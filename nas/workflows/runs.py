"""Run folders of one process or of several that train together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.training.distributed import ALONE, Workers
from nas.training.run_folder import RunFolder


def run_folder(path: str | Path, config: dict[str, Any], group: Workers = ALONE) -> RunFolder:
    """The folder of a run; if several processes train together, the first one creates it.

    Raises:
        MismatchError: The folder holds another run.
        InvalidFileError: The folder cannot be used, or another process trains in it.
    """
    if not group.leads:
        group.wait()
    try:
        folder = RunFolder(Path(path), config)
        if group.leads:
            folder.hold()
        return folder
    finally:  # a refusal must not leave the others waiting: they find the same folder and refuse it
        if group.leads:
            group.wait()
