"""New components: a file, the line that registers it, and a contract test.

In a checkout the file goes into the folder of its family, and the line into the table of the
family. Outside of a checkout the component becomes a separate package with an entry point. The
templates are complete components of the smallest kind. They run without changes, and explain what
to change.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from string import Template
from typing import Any

from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, UnknownNameError
from latbench.files import write_atomically
from latbench.result import Result

LINE_LENGTH = 100  # limit of this project; a line that registers a long name could exceed it
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PACKAGE_TABLE = "package.toml"


@dataclass(frozen=True)
class Kind:
    """A kind of component: where its files go, and where they are registered.

    Attributes:
        what: Name of the kind in errors.
        registry: Table of the family, a module-level name in ``<folder>/__init__.py``.
        folder: Folder of the file, from the root of a checkout.
        group: Group of the family's entry points.
        class_suffix: Suffix of the class name; None if a component is a function.
        beside: Further files, as pairs of template and path from the root of a checkout.
    """

    what: str
    registry: str
    folder: str
    group: str
    class_suffix: str | None = None
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def tests(self) -> str:
        """Folder of the contract test."""
        return f"tests/{self.folder.partition('/')[0]}"

    @property
    def needs(self) -> str:
        """Dependency of a package with such a component."""
        without_torch = self.folder.startswith(("latbench/", "nas/spaces"))
        return "latbench" if without_torch else "latbench[nas]"


KINDS: dict[str, Kind] = {
    "space": Kind("search space", "SPACES", "nas/spaces", "latbench.spaces"),
    "block": Kind("kind of block", "BLOCKS", "latbench/blocks", "latbench.blocks", ""),
    "searcher": Kind("searcher", "SEARCHERS", "nas/searchers", "latbench.searchers", "Searcher"),
    "dataset": Kind("data set", "DATASETS", "nas/data", "latbench.datasets"),
    "strategy": Kind(
        "strategy", "STRATEGIES", "nas/training/strategies", "latbench.strategies", ""
    ),
    "criterion": Kind("criterion", "CRITERIA", "nas/criteria", "latbench.criteria", ""),
    "task": Kind("task", "TASKS", "nas/tasks", "latbench.tasks", ""),
    "runtime": Kind(
        "runtime",
        "PROFILERS",
        "latbench/profilers",
        "latbench.runtimes",
        "Profiler",
        beside=(("runtime_profile.toml", "device_profiles/cpu-$name.toml"),),
    ),
}


@dataclass(frozen=True, repr=False)
class Component(Result):
    """The component that was written.

    Attributes:
        kind: Kind of the component.
        name: Name in the registry.
        root: Folder of the checkout or of the package.
        files: New and changed files, as paths from the root.
        next_step: Command to run next.
    """

    kind: str
    name: str
    root: Path
    files: tuple[str, ...]
    next_step: str

    def as_dict(self) -> dict[str, Any]:
        """The component as plain JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "root": str(self.root),
            "files": list(self.files),
            "next": self.next_step,
        }


def create(kind: str, name: str, *, root: str | Path | None = None) -> Component:
    """Write a working component and its contract test, as a start for your own code.

    Args:
        kind: One of ``KINDS``, such as ``"space"``.
        name: Name in the registry: words of lower-case letters and digits, joined by "-".
        root: A checkout; None takes the one around the working directory. Without any checkout the
            component becomes a separate package, ``latbench-<name>``.

    Raises:
        UnknownNameError: There is no such kind.
        InvalidValueError: The name is not valid, or is in use.
        InvalidFileError: The root is no checkout, or a file exists. Nothing was written.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    here = Path.cwd()
    checkout = Path(root) if root is not None else find_checkout(here)
    if checkout is None:
        return new_package(kind, name, parent=here)
    return new_component(kind, name, root=checkout.resolve())


@dataclass(frozen=True)
class _Plan:
    """Texts of files by path. Nothing is written before all texts are ready."""

    new: dict[Path, str] = field(default_factory=dict)
    changed: dict[Path, str] = field(default_factory=dict)

    def write(self) -> None:
        for path in self.new:
            if path.exists():
                raise InvalidFileError(f"{path} exists and is kept: choose another name")
        written: list[Path] = []
        try:
            for path, text in self.new.items():
                write_atomically(path, text)
                written.append(path)
            for path, text in self.changed.items():
                write_atomically(path, text)
        except LatbenchError:
            for path in written:
                path.unlink()
            raise


def find_checkout(start: Path) -> Path | None:
    """The checkout that contains a folder, or None."""
    return next((p for p in (start, *start.parents) if _is_checkout(p)), None)


def new_component(kind: str, name: str, *, root: Path) -> Component:
    """Write a component into a checkout.

    Args:
        kind: One of ``KINDS``.
        name: Name in the registry: words of lower-case letters and digits, joined by "-".
        root: The checkout.

    Raises:
        InvalidValueError: The name is not valid, or is in use.
        InvalidFileError: The root is no checkout, or a file exists. Nothing was written.
    """
    if not _is_checkout(root):
        raise InvalidFileError(
            f"{root} is no checkout of latbench: name the folder that holds its pyproject.toml, "
            "or leave out --root outside of a checkout to write a package of its own"
        )
    family = KINDS[kind]
    registry = root / family.folder / "__init__.py"
    table = _Table(registry, family.registry)
    names = _names(kind, name, taken=table.names)
    module = names["module"]
    files = {
        f"{kind}.py": f"{family.folder}/{module}.py",
        f"{kind}_test.py": f"{family.tests}/test_{kind}_{module}.py",
    } | {template: Template(path).substitute(names) for template, path in family.beside}
    plan = _Plan()
    for template, path in files.items():
        plan.new[root / path] = _render(template, names)
    place = f"{family.folder.replace('/', '.')}.{module}:{names['attribute']}"
    plan.changed[registry] = table.with_member(name, place)
    plan.write()
    test = files[f"{kind}_test.py"]
    written = (*files.values(), f"{family.folder}/__init__.py")
    is_installed = _source(family.folder) == registry.resolve()
    install = "" if is_installed else "pip install -e '.[nas,dev]' && "
    return Component(
        kind, name, root, written, f"cd {quote(str(root))} && {install}python -m pytest {test}"
    )


def new_package(kind: str, name: str, *, parent: Path) -> Component:
    """Write a component as a separate package, which registers it by an entry point.

    Args:
        kind: One of ``KINDS``.
        name: Name in the registry, as in ``new_component``.
        parent: Folder in which the folder ``latbench-<name>`` is made.

    Raises:
        InvalidValueError: The name is not valid, or is in use.
        InvalidFileError: The folder exists. Nothing was written.
    """
    family = KINDS[kind]
    names = _names(kind, name, taken=_Table(_source(family.folder), family.registry).names)
    root = parent / f"latbench-{name}"
    if root.exists():
        raise InvalidFileError(f"{root} exists and is kept: choose another name")
    module = f"latbench_{names['module']}"
    files = {
        f"{kind}.py": f"{module}.py",
        f"{kind}_test.py": f"tests/test_{kind}_{names['module']}.py",
        _PACKAGE_TABLE: "pyproject.toml",
    } | {template: Path(Template(p).substitute(names)).name for template, p in family.beside}
    names |= {"package_module": module, "group": family.group, "needs": family.needs}
    plan = _Plan()
    for template, path in files.items():
        plan.new[root / path] = _render(template, names)
    plan.write()
    place = quote(str(root))
    next_step = f"pip install pytest -e {place} && python -m pytest {place}"
    return Component(kind, name, root, tuple(files.values()), next_step)


def _source(folder: str) -> Path:
    """Source code of the installed package that a folder of a checkout is."""
    spec = find_spec(folder.replace("/", "."))
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve()


class _Table:
    """The table of a registry in its source code."""

    def __init__(self, path: Path, registry: str) -> None:
        self._lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        members = _members(ast.parse("".join(self._lines)), registry)
        if members is None:
            raise InvalidFileError(f"{path} holds no table {registry} that a line can be added to")
        self._line_of = members

    @property
    def names(self) -> list[str]:
        return list(self._line_of)

    def with_member(self, name: str, place: str) -> str:
        """The source with one more line: in order if the names are sorted, otherwise at the end.

        Raises:
            InvalidValueError: The line would be too long.
        """
        line = f'        "{name}": "{place}",\n'
        if len(line) > LINE_LENGTH + 1:
            raise InvalidValueError(
                f"{name} is too long a name: its line in the registry would have "
                f"{len(line) - 1} characters, {LINE_LENGTH} are allowed"
            )
        later = [number for known, number in self._line_of.items() if known > name]
        is_sorted = self.names == sorted(self.names)
        at = min(later) - 1 if is_sorted and later else max(self._line_of.values())
        return "".join([*self._lines[:at], line, *self._lines[at:]])


def _members(tree: ast.Module, registry: str) -> dict[str, int] | None:
    """Line numbers of a registry's members by name."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id != registry or not isinstance(node.value, ast.Call):
                continue
            for argument in node.value.args:
                if isinstance(argument, ast.Dict):
                    keys = [key for key in argument.keys if isinstance(key, ast.Constant)]
                    return {str(key.value): key.lineno for key in keys} or None
    return None


def _names(kind: str, name: str, *, taken: list[str]) -> dict[str, str]:
    """Values for the placeholders of templates: the name, and its forms in code.

    Raises:
        InvalidValueError: The name is not valid, or is in use.
    """
    family = KINDS[kind]
    module = name.replace("-", "_")
    camel = "".join(word.capitalize() for word in name.split("-"))
    attribute = module if family.class_suffix is None else camel + family.class_suffix
    if not _NAME.fullmatch(name) or any(map(_is_pythons, (module, attribute))):
        raise InvalidValueError(
            f"{name!r} cannot name a {family.what}: use words of lower-case letters and digits, "
            "joined by '-', that are no word of Python's, such as 'my-own'"
        )
    if name in taken:
        raise InvalidValueError(
            f"there is a {family.what} {name!r} already: choose a name that is not among "
            f"{', '.join(taken)}"
        )
    return {"name": name, "module": module, "camel": camel, "attribute": attribute}


def _is_pythons(word: str) -> bool:
    return keyword.iskeyword(word) or hasattr(builtins, word)


def _render(template: str, names: dict[str, str]) -> str:
    """The text of a template with its placeholders filled in.

    Raises:
        InvalidValueError: The file imports something else under the name of the component.
    """
    folder = resources.files(__package__) / "templates"
    text = Template((folder / f"{template}.txt").read_text("utf-8")).substitute(names)
    if template.endswith(".py"):
        imports = [
            n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        if names["attribute"] in {alias.asname or alias.name for n in imports for alias in n.names}:
            raise InvalidValueError(
                f"{names['name']!r} would be {names['attribute']} in the code, which is the name "
                "of something that it uses: choose another"
            )
    return text


def _is_checkout(folder: Path) -> bool:
    marks = ("pyproject.toml", "latbench/registry.py", "nas/spaces/__init__.py")
    return all((folder / mark).is_file() for mark in marks)
