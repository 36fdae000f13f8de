"""Recipes: how a search or a training goes, as data; the published ones are shipped.

A recipe is a struct whose defaults are the published values; a TOML file or single settings change
them. A kind of recipe is a subclass with a tag of its own, which its files state:

    recipe = "tfnas"
    epochs = 90

No torch here: recipes are read before anything heavy is imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from latbench.errors import InvalidFileError, InvalidValueError, UnknownNameError, offence
from latbench.files import decode_text, is_hidden, read_text

# what the settings of recipes may be
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
    """Base of all kinds of recipe. Fields have defaults, so that a file states what differs."""


def shipped_recipes(kind: type[Recipe] | None = None) -> list[str]:
    """Names of the recipes that come with the package, all or those of one kind."""
    files = resources.files(__name__).iterdir()
    names = (file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))
    return sorted(
        name
        for name in names
        if not is_hidden(name)
        and (kind is None or tomllib.loads(_shipped_text(name)).get("recipe") == _tag(kind))
    )


def load_recipe(kind: type[R], name_or_path: str | Path | None, changes: Sequence[str] = ()) -> R:
    """A recipe of a kind: the defaults, or a shipped one or a file, then single settings.

    Args:
        kind: What it has to be.
        name_or_path: Name of a shipped recipe or path of a TOML file; None keeps the defaults.
        changes: Settings as ``key=value``, the value as TOML has it; bare words are text.

    Raises:
        UnknownNameError: Neither a shipped recipe nor a file; or no such setting.
        InvalidFileError: The file is no recipe of this kind.
        InvalidValueError: A setting is of the wrong form or out of range.
    """
    values: dict[str, Any] = {"recipe": _tag(kind)}
    if name_or_path is not None:
        values = _read(kind, str(name_or_path))
    recipe = _convert(kind, values, InvalidFileError, f"{name_or_path} is no recipe of this kind")
    for change in changes:
        key, equals, text = change.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise InvalidValueError(f"{change!r} is no setting: write key=value")
        if key not in kind.__struct_fields__:
            raise UnknownNameError("setting", key, kind.__struct_fields__)
        values[key] = _value(text.strip())
        recipe = _convert(kind, values, InvalidValueError, f"{change!r} does not fit")
    return recipe


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
        raise error(f"{what}: {failure}", path=offence(str(failure))) from failure


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
