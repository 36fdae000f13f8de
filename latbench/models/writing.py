"""Writing of an ONNX model: a whole file appears under its name, or nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto

from latbench.errors import InvalidFileError
from latbench.models.onnx_model import PROTOBUF_LIMIT_BYTES


def write_model(
    path: Path,
    proto: ModelProto,
    *,
    accept: Callable[[Path], None] = lambda written: None,
    most_bytes: int = PROTOBUF_LIMIT_BYTES,
) -> None:
    """Write a model with its weights inside, or beside it if the file would exceed 2 GiB.

    Args:
        path: File of the model. Weights beside it are in ``{name}.data``.
        proto: The model with its weights inside.
        accept: Check of the written file under a temporary name; if it raises, nothing is kept.
        most_bytes: Size of the weights above which they are written beside the model.

    Raises:
        InvalidFileError: A file exists under the name, or it cannot be written.
    """
    path, data = path.resolve(), path.resolve().with_name(f"{path.name}.data")
    beside = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > most_bytes
    require_new(path)
    if beside:
        require_new(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / path.name
            onnx.save_model(
                proto,
                written,
                save_as_external_data=beside,
                all_tensors_to_one_file=True,
                location=data.name if beside else None,
            )
            accept(written)
            _move([Path(folder) / data.name, written] if beside else [written], path.parent)
    except OSError as error:
        raise InvalidFileError(f"cannot write {path}: {error.strerror}") from error


def require_new(path: Path) -> None:
    """Refuse a path that exists.

    Raises:
        InvalidFileError: It exists.
    """
    if path.exists():
        raise InvalidFileError(f"{path} exists: choose another output, or remove it")


def require_writable(path: Path) -> None:
    """Refuse a path at which no new file can be written. Nothing is left there.

    Raises:
        InvalidFileError: A file exists under the name, or none can be made.
    """
    path = path.resolve()
    require_new(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    made = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise InvalidFileError(
            f"cannot write {path}: {error.strerror}; choose another output"
        ) from error
    finally:
        for folder in reversed(made):
            folder.rmdir()


def _move(files: list[Path], folder: Path) -> None:
    """Rename files into a folder, the model last; all of them or none."""
    moved = []
    try:
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o644)
            moved.append(file.replace(folder / file.name))
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise
