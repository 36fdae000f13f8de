"""Errors that a user can cause.

The message of such an error is one line. It names the bad value, the allowed values and the next
step. The command line prints the message and exits with code 2.

    LatbenchError
     ├─ UnknownNameError      a name that is in no registry; lists the choices and the nearest
     ├─ InvalidValueError     a value out of range, of the wrong form or without its unit
     ├─ InvalidFileError      a file of another kind, truncated, damaged or not as specified
     ├─ MismatchError         two things that do not belong together (table and space, ...)
     ├─ BudgetError           a budget that cannot be met; carries the nearest feasible one
     ├─ MissingExtraError     an optional dependency that is not installed
     ├─ PluginError           an installed package whose member clashes or cannot be loaded
     ├─ DivergedError         a training whose loss or weights are no longer finite numbers
     ├─ TorchDeviceError      a torch device whose memory is too small, or that failed in a training
     ├─ OutputError           a result that cannot be printed
     ├─ RuntimeFailure        an inference runtime refused a model, or its device cannot be used
     └─ DeviceBusyError       another process measures on the same device
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


class LatbenchError(Exception):
    """Base class of all errors that a user can cause and correct.

    Attributes:
        kind: Stable machine-readable name of the class of error.
        path: JSON path of the wrong value in a file, such as ``$.stages[0][1].op``.
        choices: Allowed names, if there is a list of them.
        nearest_ms: Nearest feasible latency in ms, for a latency budget.
        nearest_macs_m: Nearest feasible MACs in millions, for a MACs budget.
        nearest_params_m: Nearest feasible parameters in millions, for a parameter budget.
    """

    kind = "error"

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        choices: Iterable[str] | None = None,
        nearest_ms: float | None = None,
        nearest_macs_m: float | None = None,
        nearest_params_m: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.choices = None if choices is None else list(choices)
        self.nearest_ms = nearest_ms
        self.nearest_macs_m = nearest_macs_m
        self.nearest_params_m = nearest_params_m

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with all its attributes, whatever its constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)

    def as_dict(self) -> dict[str, object]:
        """The error as the JSON object that ``--json`` prints."""
        known = {
            "kind": self.kind,
            "message": self.message,
            "path": self.path,
            "choices": self.choices,
            "nearest_ms": self.nearest_ms,
            "nearest_macs_m": self.nearest_macs_m,
            "nearest_params_m": self.nearest_params_m,
        }
        return {key: value for key, value in known.items() if value is not None}


def _restored(kind: type[LatbenchError], args: tuple[Any, ...], state: Any) -> LatbenchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class LatbenchWarning(UserWarning):
    """A result that differs from what was asked for, without being an error."""


class UnknownNameError(LatbenchError):
    """A name that is not among the choices."""

    kind = "unknown-name"

    def __init__(
        self, what: str, name: str, choices: Iterable[str], *, path: str | None = None
    ) -> None:
        known = list(choices)
        longer = [each for each in known if name and each.startswith(name)]
        near = longer or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        place = f" at {path}" if path else ""
        allowed = f"choose from {', '.join(known)}" if known else "there is none, leave it out"
        message = f"unknown {what} {name!r}{place}: {hint}{allowed}"
        super().__init__(message, path=path, choices=known)


class InvalidValueError(LatbenchError):
    """A value that is out of range, of the wrong form or without its unit."""

    kind = "invalid-value"


class InvalidFileError(LatbenchError):
    """A file of another kind, truncated, damaged or not as its schema specifies."""

    kind = "invalid-file"


class MismatchError(LatbenchError):
    """Two things that do not belong together, such as a table and another space."""

    kind = "mismatch"


class BudgetError(LatbenchError):
    """A budget that cannot be met; ``nearest_ms`` is the nearest feasible one."""

    kind = "infeasible-budget"


class MissingExtraError(LatbenchError):
    """An optional dependency that is not installed."""

    kind = "missing-extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: run `pip install 'latbench[{extra}]'`")
        self.extra = extra


class PluginError(LatbenchError):
    """An installed package adds a member under a taken name, or one that cannot be loaded."""

    kind = "plugin"


class DivergedError(LatbenchError):
    """The loss or the weights of a training are no longer finite numbers."""

    kind = "diverged"


class TorchDeviceError(LatbenchError):
    """The torch device of a training has too little memory or failed, or a process ended."""

    kind = "torch-device"


class OutputError(LatbenchError):
    """Standard output is closed or full, so a result cannot be printed."""

    kind = "output"


class RuntimeFailure(LatbenchError):
    """An inference runtime refused a model or a device."""

    kind = "runtime-failure"


class DeviceBusyError(LatbenchError):
    """Another process measures on the same device; both measurements would be wrong."""

    kind = "device-busy"


def in_one_line(error: Exception, *, most: int | None = None) -> str:
    """The text of another library's error in one line, of at most so many characters."""
    return " ".join(str(error).split())[:most]


def file_error(error: Exception) -> InvalidFileError:
    """One line for an error of the system or of SQLite, such as a full disk."""
    instead = "; copy the table to a folder of your own" if is_read_only(error) else ""
    return InvalidFileError(f"a file could not be read or written: {error}{instead}")


def is_read_only(error: Exception) -> bool:
    """Whether SQLite refused to write, because a table's file or folder is read-only."""
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_READONLY")


def offence(message: str) -> str | None:
    """JSON path of the value that the message of a schema error names; None if it names none."""
    place = re.search(r"`(\$.*?)`", message)
    field = re.search(r"(?:unknown|missing required) field `(.*?)`", message)
    if place is None and field is None:
        return None
    return (place.group(1) if place else "$") + (f".{field.group(1)}" if field else "")


def described(error: Exception, kind: type) -> str:
    """Message of a schema error; a value that is not allowed comes with those that are.

    Args:
        error: Error of msgspec.
        kind: Struct that was asked for.
    """
    message = str(error)
    place = offence(message)
    if place is None or not message.startswith("Invalid enum value"):
        return message
    allowed = _words(kind, place.split(".")[1:])
    return f"{message}: choose from {', '.join(map(str, allowed))}" if allowed else message


def _words(kind: Any, names: list[str]) -> tuple[str | int, ...]:
    """Values of a literal type; ``names`` lead to its field in a struct."""
    import msgspec

    for name in names:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        kind = fields.get(name)
        while get_origin(kind) in (Annotated, Union, UnionType):
            kind = next(each for each in get_args(kind) if each is not type(None))
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            break
    return get_args(kind) if get_origin(kind) is Literal else ()
