"""Families of interchangeable things, looked up by name and imported only when used.

Installed packages add members through entry points; in a package's ``pyproject.toml``:

    [project.entry-points."latbench.spaces"]
    my-space = "my_package.my_space:my_space"

The groups, each with its registry:

    latbench.blocks       latbench.blocks.BLOCKS
    latbench.runtimes     latbench.profilers.PROFILERS
    latbench.importers    latbench.tables.importers.IMPORTERS
    latbench.spaces       nas.spaces.SPACES
    latbench.datasets     nas.data.DATASETS
    latbench.criteria     nas.criteria.CRITERIA
    latbench.objectives   nas.criteria.hardware.OBJECTIVES
    latbench.tasks        nas.tasks.TASKS
    latbench.strategies   nas.training.strategies.STRATEGIES
    latbench.evaluators   nas.evaluators.EVALUATORS
    latbench.black_boxes  nas.optimize.blackbox.BLACK_BOXES
    latbench.searchers    nas.searchers.SEARCHERS

A family's entry points are read at its first look-up, in some milliseconds, and a member is
imported when it is first asked for: ``latbench --help`` pays for neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from latbench.errors import PluginError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing, each with the place of its implementation.

    A member is one line, ``"name": "package.module:attribute"``. The module is imported at the
    first look-up, so listing the names of all runtimes needs none of the runtimes.

    Args:
        what: What a member is called in errors.
        places: The members that come with this project.
        group: Entry points of installed packages that are members as well.
    """

    def __init__(self, what: str, places: Mapping[str, str], *, group: str) -> None:
        self.what = what
        self.group = group
        self._places = dict(places)

    def __iter__(self) -> Iterator[str]:
        """All names: this project's own, then those of installed packages.

        Raises:
            PluginError: An installed package uses a name that is taken.
        """
        return iter([*self._places, *self._plugins()])

    def __getitem__(self, name: str) -> T:
        """The member called ``name``.

        Raises:
            UnknownNameError: No such member; the error lists the choices and the nearest.
            PluginError: It comes from an installed package that cannot be loaded, or an
                installed package uses a name that is taken.
        """
        plugins = self._plugins()
        if name in plugins:
            return self._load(plugins[name])
        if name not in self._places:
            raise UnknownNameError(self.what, name, self)
        module, _, attribute = self._places[name].partition(":")
        member: T = getattr(importlib.import_module(module), attribute)
        return member

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the members that come with this project."""
        return tuple(self._places)

    def _plugins(self) -> dict[str, EntryPoint]:
        """Members that installed packages add, by name."""
        found: dict[str, EntryPoint] = {}
        for point in _entry_points(self.group):
            if point.name in self._places:
                raise PluginError(
                    f"package {_package(point)} brings a {self.what} {point.name!r}, which "
                    "latbench has itself: uninstall the package, or rename its entry point"
                )
            if point.name in found:
                raise PluginError(
                    f"packages {_package(found[point.name])} and {_package(point)} both bring a "
                    f"{self.what} {point.name!r}: uninstall one of them"
                )
            found[point.name] = point
        return found

    def _load(self, point: EntryPoint) -> T:
        try:
            member: T = point.load()
        except Exception as error:  # a foreign module may raise anything
            raise PluginError(
                f"{self.what} {point.name!r} of package {_package(point)} cannot be loaded from "
                f"{point.value}: {error}; mend or uninstall the package"
            ) from error
        return member


@cache
def _entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, sorted: which package is found first is luck."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group), key=lambda point: (point.name, _package(point)))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
