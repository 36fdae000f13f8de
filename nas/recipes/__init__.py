"""Recipes: the constants of a search or a training, as TOML files.

A recipe is a struct whose defaults are the published values. A TOML file or single settings change
them. The package ships the published recipes. Each kind of recipe is a subclass with its own tag,
which its files state:

    recipe = "tfnas"
    epochs = 90

This module does not import torch: commands read recipes before they import anything heavy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from latbench.errors import (
    InvalidFileError,
    InvalidValueError,
    UnknownNameError,
    described,
    offence,
)
from latbench.files import decode_text, is_hidden, read_text

# types of settings
Count = Annotated[int, msgspec.Meta(ge=1)]
BatchSize = Annotated[int, msgspec.Meta(ge=2)]  # batch norm needs two images
Pixels = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]

R = TypeVar("R", bound="Recipe")

_WHAT = "a recipe, TOML of settings"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="recipe"):
    """Base of all kinds of recipe. All fields have defaults; a file states only differences.

    The default of a new setting is what was done before there was one: runs that lack the setting
    are resumed with it.
    """


def shipped_recipes(kind: type[Recipe] | None = None) -> list[str]:
    """Names of the recipes that come with the package: all, or those of one kind."""
    files = resources.files(__name__).iterdir()
    names = (file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
    return sorted(
        name
        for name in names
        if not is_hidden(name)
        and (kind is None or tomllib.loads(_shipped_text(name)).get("recipe") == _tag(kind))
    )


def load_recipe(
    kind: type[R],
    name_or_path: str | Path | None,
    changes: Sequence[str] = (),
    **arguments: float | None,
) -> R:
    """Load a recipe: the defaults, a shipped recipe or a file; then change single settings.

    Args:
        kind: Required kind of recipe.
        name_or_path: Name of a shipped recipe or path of a TOML file; None keeps the defaults.
        changes: Settings as ``key=value``, with values as in TOML; bare words are text.
        arguments: Settings that the caller has arguments for, which come last; None changes
            nothing.

    Raises:
        UnknownNameError: There is no such recipe or file, or no such setting.
        InvalidFileError: The file is not a recipe of this kind.
        InvalidValueError: A setting has the wrong form or is out of range.
    """
    values: dict[str, Any] = {"recipe": _tag(kind)}
    if name_or_path is not None:
        values = _read(kind, str(name_or_path))
    recipe = _convert(kind, values, InvalidFileError, f"{name_or_path} is no recipe of this kind")
    given = [f"{key}={value}" for key, value in arguments.items() if value is not None]
    for change in (*changes, *given):
        key, equals, text = change.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise InvalidValueError(f"{change!r} is no setting: write key=value")
        if key not in kind.__struct_fields__:
            raise UnknownNameError("setting", key, kind.__struct_fields__)
        values[key] = _value(text.strip())
        recipe = _convert(kind, values, InvalidValueError, f"{change!r} does not fit")
    return recipe


def changed(recipe: R, **values: float | None) -> R:
    """A recipe with other values; None changes nothing.

    Raises:
        InvalidValueError: A value is out of range.
    """
    kept = msgspec.to_builtins(recipe)
    given = {name: value for name, value in values.items() if value is not None}
    words = ", ".join(f"{name}={value}" for name, value in given.items())
    return _convert(type(recipe), kept | given, InvalidValueError, f"{words!r} does not fit")


def _tag(kind: type[Recipe]) -> str:
    return str(kind.__struct_config__.tag)


def _read(kind: type[Recipe], name_or_path: str) -> dict[str, Any]:
    path, shipped = Path(name_or_path), shipped_recipes(kind)
    if name_or_path in shipped:
        text = _shipped_text(name_or_path)
    elif path.exists():
        text = read_text(path, what=_WHAT)
    else:
        raise UnknownNameError("recipe", name_or_path, shipped)
    if not text.strip():
        raise InvalidFileError(f"{name_or_path} is not {_WHAT}: it is empty")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(f"{name_or_path} is no recipe: {error}") from error


def _shipped_text(name: str) -> str:
    raw = resources.files(__name__).joinpath(f"{name}.toml").read_bytes()
    return decode_text(raw, source=name, what=_WHAT)


def _convert(
    kind: type[R],
    values: dict[str, Any],
    error: type[InvalidFileError] | type[InvalidValueError],
    what: str,
) -> R:
    try:
        return msgspec.convert(values, type=kind)
    except msgspec.ValidationError as failure:
        message = f"{what}: {described(failure, kind)}"
        raise error(message, path=offence(str(failure))) from failure


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
