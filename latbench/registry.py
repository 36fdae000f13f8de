"""Families of interchangeable things, looked up by name and imported only when used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from latbench.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing, each with the place of its implementation.

    A member is one line, ``"name": "package.module:attribute"``. The module is imported at the
    first look-up, so listing the names of all runtimes needs none of the runtimes.
    """

    def __init__(self, what: str, places: Mapping[str, str]) -> None:
        self.what = what
        self._places = dict(places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, name: str) -> T:
        """The member called ``name``.

        Raises:
            UnknownNameError: No such member; the error lists the choices and the nearest.
        """
        if name not in self._places:
            raise UnknownNameError(self.what, name, self._places)
        module, _, attribute = self._places[name].partition(":")
        member: T = getattr(importlib.import_module(module), attribute)
        return member
