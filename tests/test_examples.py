"""The examples of the pages run: at a small size, on a device that takes known times."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import latbench.device_files
import nas
from docs.examples import (
    LEFT_OUT,
    MODELS,
    PAGES,
    ROOT,
    SMALL_IMAGES,
    Output,
    PageRun,
    World,
    refreshed,
    run_page,
    typed,
)
from latbench.blocks import BlockSpec, Network
from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.environment import current_environment
from latbench.profilers import PROFILERS, Session
from latbench.profilers.onnxruntime import OnnxRuntimeProfiler
from latbench.progress import Progress, silent
from latbench.tables.price_model import PriceModel
from latbench.workflows import footprint, network_errors, verdict_sweep
from nas.spaces import make_space
from nas.spaces.tfnas import STAGES
from tests.conftest import REFERENCE, PricedSession, make_quick_profile, write_table
from tests.latbench.models.small import model_of, save

SMALL = {
    "--time-limit": "1s",
    "--duration": "1s",
    "--epochs": "2",
    "--images": "48",
    "--data": "digits",
    "--random": "3",
    "--workers": "1",
}
"""Values of options that make a command quick."""

LIMITED = ("profile", "bench", "explain", "align")  # commands with a time limit

FIXED = [("spaces",), ("generate",), ("table", "import")]
"""Commands whose outputs are the same everywhere."""

QUICK_SETTINGS = {
    "evolution": ("evaluations=6", "initial_population=3"),
    "sgnas": (
        "budgets=5",
        "priors=1",
        "prior_candidates=2",
        "selected_on=2",
        "imitation_steps=2",
        "generator_epochs=1",
    ),
}
"""Settings that make a search quick, by searcher."""


SPACES_PAGE = ROOT / "docs" / "tutorials" / "own-components.md"
PYTHON_PAGE = ROOT / "docs" / "tutorials" / "python.md"

SUM = PriceModel(0.0, 1.0, 0.0, 0.0)  # a network takes what its blocks take


PROFILED: list[bytes] = []


def pretend_ms(spec: BlockSpec) -> float:
    """Latency of a block on the pretend device, near that of a CPU core."""
    return 0.001 + block_cost(spec).macs / 15.7e6


class PretendProfiler(OnnxRuntimeProfiler):
    """A runtime on which a network of blocks takes the sum of known times; models are measured."""

    @staticmethod
    def unavailable(profile: DeviceProfile) -> str | None:
        return None

    def open(self, network: Network) -> Session:
        return PricedSession(sum(map(pretend_ms, network)))


PUBLISHED = {
    "generator.npz": "sgnas/generator_imagenet.npz",
    "prior_pool.json": "sgnas/prior_pool_imagenet.json",
    "latency_gpu.pkl": "tfnas/latency_gpu.pkl",
}
"""Files of the published systems that pages use, in the folder of reference data."""


class SmallWorld(World):
    """The commands of pages with less data, fewer epochs and shorter measurements.

    Args:
        folder: Folder in which they run.
        call: Runs a command in this process; returns exit code, standard output and error.
    """

    is_small = True

    def __init__(self, folder: Path, call: Callable[..., tuple[int, str, str]]) -> None:
        super().__init__(folder)
        self._call = call

    def supply(self, name: str, words: Sequence[str]) -> None:
        """Also files of the published systems, where they are beside this checkout."""
        if name not in PUBLISHED:
            super().supply(name, words)
        elif (published := REFERENCE / PUBLISHED[name]).exists():
            (self.folder / name).write_bytes(published.read_bytes())
        else:
            raise SkipTest(f"{name} is not beside this checkout")

    def make_table(self, path: Path, device: str, space: str) -> None:
        """A table with the pretend device's times for all widths divisible by 8."""
        if path.stem in ("before", "after"):  # compared by visits, which a written table lacks
            self._call("profile", device, "nasbench-macro", "-o", path)
            return
        if (device, space) == ("cpu-onnxruntime", "tfnas"):  # may be calibrated
            path.write_bytes(self._profiled())
            return
        profile = latbench.device_files.load_device(device)
        write_table(
            path,
            make_space(space, 32, 10),
            profile,
            prices=pretend_ms,
            model=SUM,
            environment=current_environment(PretendProfiler(profile).versions()),
        )

    def _profiled(self) -> bytes:
        """A profile of TF-NAS's space, made once."""
        if not PROFILED:
            path = self.folder / "profiled.sqlite"
            self._call("profile", "cpu-onnxruntime", "tfnas", *SMALL_IMAGES, "-o", path)
            PROFILED.append(path.read_bytes())
        return PROFILED[0]

    def make_model(self, path: Path) -> None:
        """Convolutions with a width that runtimes do not like."""
        rng, channels = np.random.default_rng(0), (3, 13, 16, 16, 13, 13, 16, 16)
        weights, nodes = [], []
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            values = rng.standard_normal((after, before, 3, 3)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"w{i}"))
            name = "y" if i == len(channels) - 2 else f"r{i}"
            nodes += [
                helper.make_node("Conv", [f"r{i - 1}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
                helper.make_node("Relu", [f"c{i}"], [name]),
            ]
        x = helper.make_tensor_value_info("r-1", TensorProto.FLOAT, (1, 3, 16, 16))
        save(model_of(nodes, inputs=[x], weights=weights, rank=4), path)

    def execute(self, words: Sequence[str]) -> list[str]:
        """A command at small size, in this process; a profile is planned, and its table written."""
        if words[1] == "profile" and not any(name.endswith(MODELS) for name in words):
            *devices, space = itertools.takewhile(lambda word: not word.startswith("-"), words[2:])
            for device in devices:
                self.make_table(self.folder / words[-1], device, space)
            words = [*words[:-2], "--plan"]
        code, out, err = self._call(*small(words[1:]))
        assert code == 0, f"{' '.join(words)}\n{err}"
        return out.rstrip("\n").splitlines()


def small(words: Sequence[str]) -> list[str]:
    """A command that does the same with less."""
    changed = list(words)
    for i, word in enumerate(words[:-1]):
        if word in SMALL:
            changed[i + 1] = SMALL[word]
    if words[0] in LIMITED and "--time-limit" not in words:
        changed += ["--time-limit", SMALL["--time-limit"]]
    if "--check" in words:
        changed += ["--duration", SMALL["--duration"]]
    for name in ("--images", "--epochs") if words[0] in ("search", "train") else ():
        changed += [] if name in words else [name, SMALL[name]]
    if words[0] == "search":
        searcher = words[words.index("--searcher") + 1] if "--searcher" in words else words[1]
        if "--table" not in words and "--classes" not in words:
            changed += ["--classes", "10"]  # of the digits
        if searcher == "sgnas":  # which divides them into three parts
            changed += ["--images", "100"]
        for setting in QUICK_SETTINGS.get(searcher, ()):
            changed += ["--set", setting]
    return changed


@pytest.fixture
def three_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF-NAS's space with three of its six stages."""
    monkeypatch.setattr("nas.spaces.tfnas.STAGES", STAGES[:3])


@pytest.fixture
def world(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> SmallWorld:
    """The small world, with the pretend device in place of ONNX Runtime and OpenVINO."""
    quick = make_quick_profile().sweep

    def load_quick(name: str | Path) -> DeviceProfile:
        return msgspec.structs.replace(load_device(name), sweep=quick)

    def run_here(
        work: Callable[..., Any], *args: object, died: str, progress: Progress = silent
    ) -> Any:
        return work(*args, progress)

    monkeypatch.setattr("latbench.device_files.load_device", load_quick)
    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(PROFILERS._places, runtime, f"{__name__}:PretendProfiler")
    for module in (network_errors, verdict_sweep, footprint):
        monkeypatch.setattr(module, "run_apart", run_here)
    for function in (latbench.bench, latbench.explain):
        monkeypatch.setitem(function.__kwdefaults__, "time_limit", SMALL["--time-limit"])
    return SmallWorld(tmp_path, run)


COMMAND_PAGES = [page for page in PAGES if page not in (PYTHON_PAGE, SPACES_PAGE)]


@pytest.mark.usefixtures("three_stages")
@pytest.mark.parametrize("page", COMMAND_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run(page: Path, world: SmallWorld) -> None:
    done = run_page(page, world)
    _require_fixed_outputs(done)
    text = page.read_text(encoding="utf-8")
    for reason in done.skipped.values():
        assert f'"{reason}"' in text or "beside this checkout" in reason, "not run, and not said"


def test_the_spaces_are_those_that_a_tutorial_shows(world: SmallWorld) -> None:
    _require_fixed_outputs(run_page(SPACES_PAGE, world))


def _require_fixed_outputs(done: PageRun) -> None:
    for output in itertools.chain.from_iterable(done.outputs.values()):
        if output.shown and any(output.command[1 : 1 + len(words)] == words for words in FIXED):
            shown = (".*" if line == LEFT_OUT else re.escape(line) for line in output.shown)
            assert re.fullmatch("\n".join(shown), "\n".join(output.printed), re.DOTALL)


@pytest.mark.usefixtures("three_stages")
def test_the_tutorial_in_python_finds_a_network_under_its_target(world: SmallWorld) -> None:
    names = run_page(PYTHON_PAGE, world).names
    table, found, fitted, target = (names[n] for n in ("table", "found", "fitted", "target"))
    assert isinstance(table, nas.ProfiledTable)
    assert isinstance(found, nas.SearchResults)
    assert isinstance(fitted, nas.FittedArchitecture)
    (result,) = found
    assert max(fitted.latency_ms, result.latency_ms) <= target
    assert json.loads((world.folder / found.files[0]).read_text()) == result.architecture.as_dict()
    assert (world.folder / "model.onnx").stat().st_size > 100_000


def test_outputs_are_put_where_they_are_shown() -> None:
    shown = ["network  latency", "a  1 ms", "...", "mean 1 %"]
    text = "before\n```console\n$ latbench x\n" + "\n".join(shown) + "\n```\nPrinted on 1999\n"
    printed = ["network  latency", "a  2 ms", "b  3 ms", "c  4 ms", "mean 2 %"]
    done = PageRun({text.index("```"): [Output(("latbench", "x"), shown, printed)]})
    environment = current_environment({"onnxruntime": "9.9"})
    found = refreshed(text, done, environment)
    before, found_stamp = found.rstrip("\n").rsplit("\n", 1)
    assert f"{before}\nPrinted on 1999\n" == text.replace("1 ms", "2 ms").replace("1 %", "2 %")
    for part in (environment.taken_at[:10], environment.cpu, "onnxruntime 9.9"):
        assert part in found_stamp


def test_equal_outputs_of_two_commands_are_told_apart() -> None:
    text = "```console\n$ latbench x\nold\n$ latbench y\nold\n```\n"
    outputs = [Output(("latbench", name), ["old"], [f"of {name}"]) for name in ("x", "y")]
    found = refreshed(text, PageRun({0: outputs}), current_environment({}))
    assert found == "```console\n$ latbench x\nof x\n$ latbench y\nof y\n```\n"


def test_commands_are_found_behind_prompts_and_over_several_lines() -> None:
    block = "$ latbench a \\\n    --b c   # why\nprinted\n$ latbench d\n"
    assert list(typed(block)) == [
        (("latbench", "a", "--b", "c"), ["printed"]),
        (("latbench", "d"), []),
    ]
    assert [words for words, _ in typed("make demo\n\nlatbench d\n")] == [
        ("make", "demo"),
        ("latbench", "d"),
    ]
