"""What can go wrong, and what to do about it.

Every error a user can cause is one of these; its message is one line that names the bad value,
what is allowed and the next step. The command line prints it and exits with code 2.

    LatbenchError
     ├─ UnknownNameError      a name that is in no registry; lists the choices and the nearest
     ├─ InvalidValueError     a value out of range, of the wrong form or without its unit
     ├─ InvalidFileError      a file that is foreign, truncated or does not fit
     ├─ MismatchError         two things that do not belong together (table and space, ...)
     ├─ BudgetError           a budget out of reach; carries the nearest feasible one
     ├─ MissingExtraError     an optional dependency that is not installed
     ├─ PluginError           an installed package whose member clashes or cannot be loaded
     ├─ DivergedError         a training whose loss or weights are no numbers any more
     ├─ TorchDeviceError      a torch device whose memory is too small, or that failed in a training
     ├─ OutputError           a result that cannot be printed
     ├─ RuntimeFailure        an inference runtime refused a model, or its device cannot be used
     └─ DeviceBusyError       another process measures on the same device
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class LatbenchError(Exception):
    """Base of all errors that a user can cause and mend.

    Attributes:
        kind: Stable machine-readable name of the class of error.
        path: Where in a file or value the offence stands, such as ``$.stages[0][1].op``.
        choices: The allowed names, where there is a list of them.
        nearest_ms: The nearest feasible latency in ms, for budgets of latency.
        nearest_macs_m: The nearest feasible MACs in millions, for budgets of MACs.
        nearest_params_m: The nearest feasible parameters in millions, for budgets of these.
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
        """How an error reaches another process: whole, whatever its class is made of."""
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
    """Something to know of a result that is not quite what was asked for."""


class UnknownNameError(LatbenchError):
    """A name that is not among the choices."""

    kind = "unknown-name"

    def __init__(
        self, what: str, name: str, choices: Iterable[str], *, path: str | None = None
    ) -> None:
        known = list(choices)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        place = f" at {path}" if path else ""
        allowed = f"choose from {', '.join(known)}" if known else "there is none, leave it out"
        message = f"unknown {what} {name!r}{place}: {hint}{allowed}"
        super().__init__(message, path=path, choices=known)


class InvalidValueError(LatbenchError):
    """A value that is out of range, of the wrong form or without its unit."""

    kind = "invalid-value"


class InvalidFileError(LatbenchError):
    """A file that is foreign, truncated, damaged or does not fit its schema."""

    kind = "invalid-file"


class MismatchError(LatbenchError):
    """Two things that do not belong together, such as a table and another space."""

    kind = "mismatch"


class BudgetError(LatbenchError):
    """A budget that cannot be met; ``nearest_ms`` says which one can."""

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
    """The loss or the weights of a training are no finite numbers any more."""

    kind = "diverged"


class TorchDeviceError(LatbenchError):
    """The torch device of a training has too little memory or failed, or a process was lost."""

    kind = "torch-device"


class OutputError(LatbenchError):
    """Standard output is closed or full, so that a result would be lost."""

    kind = "output"


class RuntimeFailure(LatbenchError):
    """An inference runtime refused a model or a device."""

    kind = "runtime-failure"


class DeviceBusyError(LatbenchError):
    """Another process measures on the same device; two would spoil each other's times."""

    kind = "device-busy"


def offence(message: str) -> str | None:
    """Where the value stands that a schema error speaks of, as a JSON path."""
    place = re.search(r"`(\$.*?)`", message)
    field = re.search(r"(?:unknown|missing required) field `(.*?)`", message)
    if place is None and field is None:
        return None
    return (place.group(1) if place else "$") + (f".{field.group(1)}" if field else "")
