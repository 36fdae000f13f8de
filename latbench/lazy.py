"""Lazy imports of a package's public names and of optional dependencies.

With lazy imports, ``import latbench`` and ``latbench --help`` take milliseconds, and an install
without extras works for everything that needs no extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

from latbench.errors import MissingExtraError


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Context manager whose failed imports name the extra to install.

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
    """Make a package's ``__getattr__`` and ``__dir__``, which import public names at first use.

    Args:
        package: Name of the package.
        places: Public names, each with the module that defines it.
        extra: Extra that the modules need; None if they need only the core dependencies.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needing(extra) if extra else nullcontext():
            return getattr(import_module(places[name]), name)

    return get, lambda: sorted(places)
