"""The examples of the pages: parsed, run, and their outputs written anew.

    python docs/examples.py [PAGE ...]              run them as they stand, which takes hours
    python docs/examples.py --refresh [PAGE ...]    and put what they print into the pages

The examples of a page run in order, in one new folder. The tests run them too, at a small size and
on a pretend device (tests/test_examples.py).

Blocks of ``bash`` hold commands, and blocks of ``python`` code. Blocks of ``console`` hold commands
behind ``$ `` and what they print; a line ``...`` stands for lines that are left out. Only commands
of ``latbench`` are run. A line that begins with "Printed on" says where and when; refreshing writes
it anew. What a machine may lack is said in front of an example:

    <!-- skip: next "needs a board" -->
    <!-- skip: next if(small, reason="needs minutes of a quiet machine") -->
    <!-- skip: next if(not small, reason="takes days") -->
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import SkipTest

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from latbench.environment import Environment, current_environment

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", *(p for p in (ROOT / "docs").rglob("*.md") if p.name != "modules.md")]
)
LEFT_OUT = "..."
PROMPT = "$ "
WRITTEN = ("-o", "--output", "--junit", "--overlay", "--picture")  # options that name new files
TABLES, MODELS, ARCHITECTURES = ".sqlite", ".onnx", ".json"
SMALL_IMAGES = ("--input-size", "32", "--classes", "10")
CHECK_FAILED = 1  # exit code of a verdict or a gate: its output is what the page shows
COLUMNS = 110  # of a line in a page
STAMP = "Printed on"
RUNTIMES = ("onnxruntime", "openvino", "torch")


class World(ABC):
    """Where examples run: a folder, and a way to run commands in it.

    Attributes:
        is_small: Whether commands do less than they say; pages ask for it as ``small``.
    """

    is_small = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, words: Sequence[str]) -> list[str]:
        """Run a ``latbench`` command; return the lines that it printed."""
        for name in read_files(words):
            if not (self.folder / name).exists():
                self.supply(name, words)
        return self.execute(words)

    def supply(self, name: str, words: Sequence[str]) -> None:
        """Make a file or run folder that the page supposes."""
        path = self.folder / name
        if name.endswith(TABLES):
            runtime = "openvino" if "openvino" in name else "onnxruntime"
            space = words[2] if words[1] == "search" else "tfnas"
            self.make_table(path, f"cpu-{runtime}", space)
        elif name.endswith(MODELS):
            self.make_model(path)
        elif name.endswith(ARCHITECTURES):
            drawn = ["--draw", "random", "--seed", str(sum(map(ord, name))), "-o", name]
            self.execute(["latbench", "spaces", "tfnas", *SMALL_IMAGES, *drawn])
        elif name.startswith("runs/"):
            asked = ["--data", "digits", "--epochs", "2", "--max-macs", "20M", "-o", name]
            self.execute(["latbench", "search", "nasbench-macro", "--searcher", "random", *asked])
        else:
            raise SkipTest(f"there is no {name} here")

    @abstractmethod
    def make_table(self, path: Path, device: str, space: str) -> None:
        """Write a latency table of a space at 32 px with 10 classes."""

    @abstractmethod
    def make_model(self, path: Path) -> None:
        """Write an ONNX file of a network with convolutions."""

    @abstractmethod
    def execute(self, words: Sequence[str]) -> list[str]:
        """Run a ``latbench`` command whose files are there."""


class ThisMachine(World):
    """The examples as they stand, a process for each command."""

    def make_table(self, path: Path, device: str, space: str) -> None:
        """Profile for some minutes."""
        command = ["latbench", "profile", device, space, *SMALL_IMAGES, "--time-limit", "4min"]
        self.execute([*command, "-o", str(path)])

    def make_model(self, path: Path) -> None:
        """Export a network of torchvision with random weights: the one of that name, if any."""
        import torch
        from torchvision.models import get_model, list_models

        from latbench.models.torch_modules import export_module

        name = path.stem if path.stem in list_models() else "mobilenet_v2"
        export_module(get_model(name), torch.rand(1, 3, 224, 224), path)

    def execute(self, words: Sequence[str]) -> list[str]:
        """The lines on standard output; progress and remarks go elsewhere."""
        command = [sys.executable, str(ROOT / "cli.py"), *words[1:]]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=os.environ | {"COLUMNS": str(COLUMNS)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode not in (0, CHECK_FAILED):
            raise RuntimeError(f"exit code {done.returncode} of: {shlex.join(words)}")
        return [line.rstrip() for line in done.stdout.rstrip().splitlines()]


@dataclass
class Output:
    """What a command of a page printed.

    Attributes:
        command: Words of the command line.
        shown: Lines that the page shows.
        printed: Lines that it prints now.
    """

    command: tuple[str, ...]
    shown: list[str]
    printed: list[str]


@dataclass
class PageRun:
    """The examples of a page that were run.

    Attributes:
        outputs: What the commands of ``console`` blocks printed, by the start of their block.
        skipped: Lines of examples that were not run, each with the reason.
        names: What the examples in Python defined.
    """

    outputs: dict[int, list[Output]] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)


def run_page(page: Path, world: World) -> PageRun:
    """Run the examples of a page in order, in the folder of a world."""
    done = PageRun()

    def commands(example: Example) -> None:
        found = list(typed(str(example.parsed)))
        outputs = [Output(words, shown, _run(words, world)) for words, shown in found]
        done.outputs[example.start] = outputs

    parsers = [
        SkipParser(),
        CodeBlockParser("bash", commands),
        CodeBlockParser("console", commands),
        PythonCodeBlockParser(),
    ]
    before = Path.cwd()
    os.chdir(world.folder)
    try:
        document = Sybil(parsers).parse(page)
        document.namespace["small"] = world.is_small
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                done.skipped[example.line] = str(reason)
        done.names = document.namespace
    finally:
        os.chdir(before)
    return done


def typed(block: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The command lines of a block as words, each with the lines below it."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    if not any(line.startswith(PROMPT) for line in lines):
        lines = [PROMPT + line for line in lines if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith(PROMPT)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        words = shlex.split(lines[start].removeprefix(PROMPT), comments=True)
        yield tuple(words), lines[start + 1 : end]


def _run(words: Sequence[str], world: World) -> list[str]:
    return world.run(words) if words[:1] == ("latbench",) else []


def read_files(words: Sequence[str]) -> Iterator[str]:
    """Names of files and run folders that a command reads."""
    for before, word in pairwise(words):
        is_file = word.endswith((TABLES, MODELS, ARCHITECTURES, ".npz", ".pkl"))
        if before not in WRITTEN and (is_file or word.startswith("runs/")):
            yield word


def refreshed(text: str, run: PageRun, environment: Environment) -> str:
    """The text of a page with what its commands printed in an environment."""
    for start in sorted(run.outputs, reverse=True):
        end = text.index("\n```", start)
        block, at = text[start:end], 0
        for output in run.outputs[start]:
            if output.shown:
                old, new = "\n".join(output.shown), "\n".join(_shortened(output))
                at = block.index(old, at)
                block = block[:at] + new + block[at + len(old) :]
                at += len(new)
        text = text[:start] + block + text[end:]
    return re.sub(rf"(?m)^{STAMP}\b.*$", _stamp(environment), text)


def _stamp(environment: Environment) -> str:
    """Where and when the outputs of a page were printed, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    day = environment.taken_at[:10]
    return f"{STAMP} {day}, {environment.cpu}, {environment.cores} cores: {versions}."


def _shortened(output: Output) -> list[str]:
    """As many first and last lines as the page shows around its ``...``."""
    shown, printed = output.shown, output.printed
    if LEFT_OUT not in shown:
        return printed
    first, last = shown.index(LEFT_OUT), len(shown) - shown.index(LEFT_OUT) - 1
    return [*printed[:first], LEFT_OUT, *printed[len(printed) - last :]]


def main() -> None:
    """Run the examples of pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, metavar="PAGE")
    parser.add_argument("--refresh", action="store_true", help="put the outputs into the pages")
    asked = parser.parse_args()
    for page in asked.pages:
        if not page.is_file():
            parser.error(f"there is no page {page}: name README.md or a file below docs/")
    failed = []
    for page in asked.pages:
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = run_page(page.resolve(), ThisMachine(Path(folder)))
            except Exception as error:  # an example in Python may raise any
                print(f"{page.name}: {error}")
                failed.append(page.name)
                continue
        commands = sum(map(len, run.outputs.values()))
        print(f"{page.name}: {commands} commands run, {len(run.skipped)} examples skipped")
        for line, reason in run.skipped.items():
            print(f"  line {line}: {reason}")
        if asked.refresh:
            text = refreshed(page.read_text(encoding="utf-8"), run, _environment())
            page.write_text(text, encoding="utf-8")
    if failed:
        sys.exit(f"these pages do not run: {', '.join(failed)}")


def _environment() -> Environment:
    """This machine, with the versions of the runtimes that are installed."""
    found = {}
    for name in RUNTIMES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return current_environment(found)


if __name__ == "__main__":
    main()
