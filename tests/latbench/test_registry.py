"""Families: own members, members of installed packages, and what is wrong with those."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latbench import blocks, registry
from latbench.blocks import block_key, parse_block
from latbench.errors import InvalidFileError, PluginError, UnknownNameError
from latbench.registry import Registry

GROUP = "latbench.blocks"
PLUGIN = """
import msgspec
from latbench.blocks.graph import INPUT, GraphBuilder


class Identity(msgspec.Struct, frozen=True, tag_field="block", tag="relu-only"):
    channels: int
    input_size: int

    def graph(self):
        g = GraphBuilder(self.channels, self.input_size)
        g.act("act", INPUT, "relu")
        return g.build()
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with one module and one entry point on the path."""

    def call(package: str, name: str, place: str, *, source: str = PLUGIN) -> None:
        module = place.partition(":")[0]
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {place}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        forget()

    def forget() -> None:
        registry._entry_points.cache_clear()
        blocks._decoder.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield call
    monkeypatch.undo()
    forget()


def _family() -> Registry[object]:
    return Registry("kind", {"path": "pathlib:Path", "none": "no.such:Thing"}, group=GROUP)


def test_members_are_imported_when_asked_for() -> None:
    family = _family()
    assert family["path"] is Path
    assert list(family)[:2] == ["path", "none"]
    with pytest.raises(ModuleNotFoundError):
        family["none"]
    with pytest.raises(UnknownNameError, match="did you mean 'path'"):
        family["paht"]


def test_installed_packages_add_members(install: Install) -> None:
    install("acme", "relu-only", "acme_blocks:Identity")
    family = _family()
    assert list(family) == ["path", "none", "relu-only"]
    assert family.own == ("path", "none")
    assert family["relu-only"].__name__ == "Identity"  # type: ignore[attr-defined]
    assert "relu-only" not in Registry("kind", {}, group="latbench.spaces")


def test_a_block_of_an_installed_package_is_read_from_its_key(install: Install) -> None:
    key = '{"block":"relu-only","channels":8,"input_size":4}'
    with pytest.raises(InvalidFileError, match="install"):
        parse_block(key)
    install("acme", "relu-only", "acme_blocks:Identity")
    spec = parse_block(key)
    assert block_key(spec) == key
    assert spec.graph().output_shape == (8, 4, 4)


def test_a_clash_names_the_package(install: Install) -> None:
    install("acme", "path", "acme_blocks:Identity")
    for use in (list, lambda family: family["path"], lambda family: "none" in family):
        with pytest.raises(PluginError, match="package acme brings a kind 'path'"):
            use(_family())


def test_two_packages_of_one_name_are_named(install: Install) -> None:
    install("acme", "relu-only", "acme_blocks:Identity")
    install("best", "relu-only", "best_blocks:Identity")
    with pytest.raises(PluginError, match="packages acme and best both bring a kind 'relu-only'"):
        list(_family())


@pytest.mark.parametrize(
    ("place", "source", "why"),
    [
        ("acme_blocks:Identiti", PLUGIN, "no attribute 'Identiti'"),
        ("acme_blocks:Identity", "import no_such_module", "No module named 'no_such_module'"),
        ("acme_blocks:Identity", "1 / 0", "division by zero"),
    ],
)
def test_a_member_that_cannot_be_loaded_names_its_package(
    install: Install, place: str, source: str, why: str
) -> None:
    install("acme", "broken", place, source=source)
    family = _family()
    assert family["path"] is Path  # the others are as good as ever
    with pytest.raises(PluginError, match=f"package acme cannot be loaded.*{why}"):
        family["broken"]
