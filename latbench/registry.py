"""Registries of interchangeable implementations, found by name and imported only when used.

Installed packages add members through entry points in their ``pyproject.toml``:

    [project.entry-points."latbench.spaces"]
    my-space = "my_package.my_space:my_space"

Each group of entry points belongs to one registry:

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

The entry points of a group are read at the first look-up, which takes some milliseconds. A member
is imported when it is first requested. ``latbench --help`` needs neither.
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
    """Named implementations of one kind, each with the place where it is defined.

    A member is one line, ``"name": "package.module:attribute"``. The module is imported at the
    first look-up. Listing the names of all runtimes therefore needs none of the runtimes.

    Args:
        what: Description of a member in errors.
        places: Members that come with this project.
        group: Group of entry points through which installed packages add members.
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
            UnknownNameError: No such member exists; the error lists the choices and the nearest.
            PluginError: The member comes from an installed package that cannot be loaded, or an
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
                f"{point.value}: {error}; repair or uninstall the package"
            ) from error
        return member


@cache
def _entry_points(group: str) -> list[EntryPoint]:
    """Entry points of a group, sorted, because packages are found in no fixed order."""
    from importlib.metadata import entry_points

    return sorted(entry_points(group=group), key=lambda point: (point.name, _package(point)))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
