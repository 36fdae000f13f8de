"""Imports at the last moment: a package's public names, and what an extra brings.

``import latbench`` and ``latbench --help`` then take milliseconds, and a core-only install has all
that needs no extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

from latbench.errors import MissingExtraError


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Imports inside that fail name the extra that brings the missing module.

    Raises:
        MissingExtraError: A module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), extra) from error


def public(
    package: str, places: Mapping[str, str], *, extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, which import a public name at its first use.

    Args:
        package: Name of the package.
        places: Public names, each with the module that defines it.
        extra: The extra that brings what the modules import; None where the core does.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needing(extra) if extra else nullcontext():
            return getattr(import_module(places[name]), name)

    return get, lambda: sorted(places)
