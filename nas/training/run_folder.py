"""The folder of a run: configuration, metrics, checkpoints.

A run with the same configuration resumes from the folder; another configuration is refused. A
checkpoint is written beside the old one and renamed, so a killed run always has a whole one.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import torch

from latbench.errors import InvalidFileError, InvalidValueError, MismatchError, MissingExtraError
from latbench.files import is_hidden, write_atomically
from latbench.json_lines import read_json_lines
from nas.training.run_config import ADDED, differences, read_config
from nas.training.run_files import metrics_file

_LOCK = ".lock"


class RunFolder:
    """``config.json``, ``metrics.jsonl``, TensorBoard events and ``checkpoint/``.

    Args:
        path: The folder; created if it does not exist.
        config: Configuration of the run: JSON values and, as ``recipe``, its recipe.

    Raises:
        MismatchError: The folder belongs to a run of another configuration.
        InvalidFileError: The folder cannot be used.
        InvalidValueError: The configuration holds a number that is not finite.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        ours = require_own_folder(path, config)
        file = _config_file(path)
        if not file.exists():
            write_atomically(file, json.dumps(ours, indent=2, allow_nan=False) + "\n")

    def hold(self) -> None:
        """Keep other processes from training in the folder, for as long as this object exists.

        Raises:
            InvalidFileError: Another process trains in it; the message names the process.
        """
        file = (self.path / _LOCK).resolve()
        self._lock = _HELD.get(file) or _Lock(file)
        _HELD[file] = self._lock

    def checkpoint(self, name: str) -> dict[str, Any] | None:
        """The last state saved under ``name``, or None; its tensors are on the CPU.

        So a run can resume on any device: loading a state copies it to the device in use.

        Raises:
            InvalidFileError: The file is damaged.
        """
        file = self._checkpoint_file(name)
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises any exception of its unpickler
            raise InvalidFileError(
                f"{file} is damaged: {error}; delete it to start again"
            ) from error
        return state

    def save_checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        """Save a state under ``name``; it replaces the last one.

        Raises:
            InvalidFileError: It cannot be written, for example on a full disk; the last one is not
                changed.
        """
        file = self._checkpoint_file(name)
        temporary = file.with_suffix(".part")
        try:
            file.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as opened:
                torch.save(dict(state), opened)
                opened.flush()
                os.fsync(opened.fileno())  # else a power cut could leave an empty checkpoint
            temporary.replace(file)
        except (OSError, RuntimeError) as error:  # torch's own message gives positions in the file
            temporary.unlink(missing_ok=True)
            free_mib = shutil.disk_usage(self.path).free >> 20
            reason = str(error).split("\n")[0]
            raise InvalidFileError(
                f"cannot write {file}, where {free_mib} MiB are free ({reason}); the last "
                "checkpoint is not changed: make room, and repeat the command to resume"
            ) from error

    def _checkpoint_file(self, name: str) -> Path:
        return self.path / "checkpoint" / f"{name}.pt"

    @contextmanager
    def metrics(self) -> Iterator[Metrics]:
        """Log of metrics, open during a run."""
        opened = Metrics(self.path)
        try:
            yield opened
        finally:
            opened.close()


def require_own_folder(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse a folder that a run cannot begin in or resume from; nothing is written.

    Returns:
        The configuration as it is read back from JSON.

    Raises:
        MismatchError: The folder belongs to a run of another configuration, or holds other files.
        InvalidFileError: Its configuration cannot be read.
        InvalidValueError: The configuration holds a number that is not finite.
    """
    try:
        text = json.dumps(config, default=msgspec.to_builtins, allow_nan=False)
        ours: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InvalidValueError(
            f"a setting of the run is not a finite number ({error}): give it a finite one"
        ) from error
    if _config_file(path).exists():
        theirs = {name: ours.get(name) for name in ADDED} | read_config(path)
        recipe = theirs.get("recipe")
        if isinstance(recipe, dict):
            theirs["recipe"] = _defaults(config.get("recipe")) | recipe
        differing = [*differences(theirs, ours)]
        if differing:
            raise MismatchError(
                f"{path} holds another run ({', '.join(differing)}): "
                "choose another folder (-o), or repeat its command to resume it"
            )
    elif path.exists() and (
        not path.is_dir() or not all(is_hidden(entry.name) for entry in path.iterdir())
    ):
        raise MismatchError(f"{path} exists and holds no run: choose another folder (-o)")
    return ours


def _defaults(recipe: object) -> dict[str, Any]:
    """Defaults of a recipe's kind: an older run, whose recipe lacks a setting, had its default."""
    if not isinstance(recipe, msgspec.Struct):
        return {}
    defaults: dict[str, Any] = msgspec.to_builtins(type(recipe)())
    return defaults


def _config_file(path: Path) -> Path:
    return path / "config.json"


class _Lock:
    """A lock of this process on a file; closing the file anywhere in the process would end it.

    Where files cannot be locked or written, nothing is locked.

    Raises:
        InvalidFileError: Another process holds it.
    """

    def __init__(self, file: Path) -> None:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # the first checkpoint will say so
            return
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            other = os.read(descriptor, 100).decode(errors="replace").strip() or "another process"
            raise InvalidFileError(
                f"{file.parent} is in use by {other}: wait until it has ended, or stop it"
            ) from None
        except OSError:  # a file system without locks
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()}\n".encode())


_HELD: WeakValueDictionary[Path, _Lock] = WeakValueDictionary()  # by its file


class Metrics:
    """Log in ``metrics.jsonl`` and, if TensorBoard is installed, in its event files.

    A killed process may leave half a line, which is dropped. It may also leave an epoch that was
    logged but not saved. That epoch is trained again, and a line that equals the last one of its
    phase and epoch is not written again.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "nas") from None
        path = metrics_file(folder)
        lines = read_json_lines(
            path, dict[str, Any], cuts=True, remedy="delete that line to continue"
        )
        self._last = {(line.get("phase"), line.get("epoch")): _untimed(line) for line in lines}
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder))

    def log(self, phase: str, epoch: int, values: Mapping[str, float | None]) -> None:
        """Append one line: phase, epoch, time in s since 1970 and the values.

        A value that is not finite is written as null, because JSON has no NaN or Infinity.
        """
        defined = {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in values.items()
        }
        line = {"phase": phase, "epoch": epoch, "time_s": round(time(), 3), **defined}
        if self._last.get((phase, epoch)) == _untimed(line):
            return
        self._last[phase, epoch] = _untimed(line)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in defined.items():
            if value is not None:
                self._events.add_scalar(f"{phase}/{name}", value, epoch)

    def close(self) -> None:
        self._file.close()
        self._events.close()


_TIMES = ("time_s", "seconds")  # fields that differ when an epoch is trained again


def _untimed(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in _TIMES}
