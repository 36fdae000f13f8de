"""Losses. A new one is one file here and one line in ``CRITERIA``.

A criterion is a module. It is created with the number of the network's outputs and the number of
classes, and maps outputs ``(N, outputs)`` and labels ``(N,)`` to a scalar. Its own parameters, such
as the class centres of the angular margin, are trained with the network's. Its options are keywords
with defaults. A criterion for embeddings instead of logits has ``embeds = True``. Losses of a cost
relative to its target are in ``nas.criteria.hardware``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import nn

from latbench.errors import InvalidValueError, UnknownNameError
from latbench.registry import Registry

CRITERIA: Registry[Callable[..., nn.Module]] = Registry(
    "criterion",
    {
        "cross-entropy": "nas.criteria.cross_entropy:CrossEntropy",
        "label-smoothing": "nas.criteria.label_smoothing:LabelSmoothing",
        "focal": "nas.criteria.focal:Focal",
        "triplet": "nas.criteria.triplet:Triplet",
        "angular": "nas.criteria.angular:AngularMargin",
    },
    group="latbench.criteria",
)


def make_criterion(
    name: str, *, outputs: int, classes: int, options: Mapping[str, float | str] | None = None
) -> nn.Module:
    """The criterion called ``name`` for these numbers of network outputs and classes.

    Raises:
        UnknownNameError: There is no such criterion, or it has no such option.
        InvalidValueError: An option is out of range or has a wrong type, or the outputs do not fit.
    """
    family = CRITERIA[name]
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(family).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    given: dict[str, float | str] = {}
    for option, value in (options or {}).items():
        if option not in defaults:
            raise UnknownNameError(f"option of {name}", option, defaults)
        given[option] = _like(option, value, defaults[option])
    return family(outputs, classes, **given)


def _like(option: str, value: float | str, default: object) -> float | str:
    """An option's value in the type of its default; recipes store whole numbers as floats.

    Raises:
        InvalidValueError: The value has another type.
    """
    if isinstance(default, str) and not isinstance(value, str):
        raise InvalidValueError(f"{option} {value!r} is not a name: write one, such as {default!r}")
    if isinstance(default, int | float) and isinstance(value, str):
        raise InvalidValueError(f"{option} {value!r} is not a number: write one, such as {default}")
    if isinstance(default, int) and isinstance(value, float):
        if not value.is_integer():
            raise InvalidValueError(f"{option} {value} is not a whole number: write one")
        return int(value)
    return value


def check_range(what: str, value: float, low: float, high: float) -> None:
    """Refuse an option that is out of range.

    Raises:
        InvalidValueError: The value is not within ``[low, high]``.
    """
    if not low <= value <= high:
        raise InvalidValueError(f"{what} {value} is out of range: choose {low:g} to {high:g}")


def check_logits(what: str, outputs: int, classes: int) -> None:
    """Refuse a network that does not have one output per class.

    Raises:
        InvalidValueError: Outputs and classes differ.
    """
    if outputs != classes:
        raise InvalidValueError(
            f"{what} needs one output per class, but the network has {outputs} outputs and the "
            f"data {classes} classes: choose triplet or angular for embeddings"
        )
