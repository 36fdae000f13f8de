"""Shared pieces: a small space, a table with known prices, the published reference data."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any
from zlib import crc32

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

import cli
from latbench.blocks import (
    BlockSpec,
    Classifier,
    ConvBlock,
    InvertedResidual,
    Network,
    block_key,
    block_width,
)
from latbench.device import DeviceProfile, SweepProtocol
from latbench.device_files import load_device
from latbench.environment import Environment, current_environment
from latbench.measure import visiting
from latbench.measure.lock import FOLDER_VARIABLE
from latbench.profilers import Profiler, Session
from latbench.progress import Progress, silent
from latbench.report import terminal
from latbench.tables import Estimate, LatencyTable, StoredFit, TableStore
from latbench.tables.alignment import Alignment, WidthClass
from latbench.tables.price_model import PriceModel
from latbench.workflows import profiling
from latbench.workflows.profiling import ProfileResult
from nas.latency.priced_space import space_label
from nas.latency.table_contents import space_contents
from nas.spaces import FixedLayer, SearchSpace, make_space
from nas.spaces.rows import inverted_residuals
from nas.spaces.sgnas import MixLayer
from nas.spaces.tfnas import TFNASLayer

# no test says how fast a machine is, a busy one least of all
# and in a checkout that may only be read no failed example is kept
_kept = {} if os.access(Path(__file__).parents[1], os.W_OK) else {"database": None}
hypothesis.settings.register_profile("untimed", deadline=None, **_kept)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules stay until the end: no search for garbage goes through a million of their objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # small tests leave little
        gc.enable()


REFERENCE = Path(__file__).parents[2] / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Published artefacts; tests that read them are skipped where they are not at hand."""
    if not REFERENCE.is_dir():
        pytest.skip("the published reference data is not beside this checkout")
    return REFERENCE


def make_tiny_space() -> SearchSpace:
    """Two stages of two and one layers, few channels, 8 px: small enough to enumerate."""
    stem = ConvBlock(3, 8, 3, 1, "relu", 8)
    first = TFNASLayer(8, 16, 2, "relu", 8)
    second = TFNASLayer(16, 16, 1, "relu", 4)
    last = TFNASLayer(16, 24, 1, "swish", 4)
    head = (ConvBlock(24, 32, 1, 1, "swish", 4), Classifier(32, 10, 4))
    return SearchSpace("tiny", 8, 10, (stem,), ((first, second), (last,)), head)


def make_tiny_fixed_space() -> SearchSpace:
    """Two stages of fixed depth without elastic widths: inverted residuals, a skip, mixes."""
    stem = ConvBlock(3, 8, 3, 1, "relu6", 8)
    make_layer = inverted_residuals(("k3_e1", "k3_e2", "k3_e4", "skip"), "relu6")
    first = (make_layer(8, 12, 2, 8), make_layer(12, 12, 1, 4))
    second = (MixLayer(12, 16, 1, 4),)
    head = (ConvBlock(16, 24, 1, 1, "relu6", 4), Classifier(24, 10, 4))
    return SearchSpace("tiny-fixed", 8, 10, (stem,), (first, second), head, elastic_depth=False)


def make_small_space() -> SearchSpace:
    """Fixed depths, no widths, layers that can be left out: 243 architectures."""

    def layer(channels: int, out_channels: int, stride: int, size: int) -> FixedLayer:
        shortcut = ConvBlock(channels, out_channels, 1, stride, None, size)
        return FixedLayer(
            (
                ("identity", None if stride == 1 else shortcut),
                ("k3", InvertedResidual(channels, out_channels, 16, 3, stride, "relu", size)),
                ("k5", InvertedResidual(channels, out_channels, 24, 5, stride, "relu", size)),
            )
        )

    first, second, last = layer(8, 16, 2, 8), layer(16, 16, 1, 4), layer(16, 24, 2, 4)
    return SearchSpace(
        "small",
        8,
        10,
        (ConvBlock(3, 8, 3, 1, "relu", 8),),
        ((first, second, second), (last,), (layer(24, 24, 1, 2),)),
        (Classifier(24, 10, 2),),
        elastic_depth=False,
    )


def make_mix_space(layers: int = 2) -> SearchSpace:
    """Unified blocks of few channels, 8 px: small enough to enumerate two of them."""
    channels = (4, 8, 8, 8)[: layers + 1]
    stem = ConvBlock(3, 4, 3, 1, "relu6", 8)
    rows = tuple(MixLayer(i, o, 1, 8) for i, o in pairwise(channels))
    head = (ConvBlock(channels[-1], 16, 1, 1, "relu6", 8), Classifier(16, 10, 8))
    return SearchSpace("tiny-mix", 8, 10, (stem,), (rows,), head, elastic_depth=False)


def make_quick_profile() -> DeviceProfile:
    """The shipped profile with a protocol of as few calls as it allows."""
    sweep = SweepProtocol(
        warmup_calls=1,
        hot_calls=1,
        cold_calls=1,
        block_dwell_ms=0,
        network_dwell_ms=0,
        min_passes=2,
        max_passes=3,
        networks=6,
        network_visits=1,
        verify_visits=2,
        scan_passes=1,
    )
    return DeviceProfile(name="quick", runtime=load_device("cpu-onnxruntime").runtime, sweep=sweep)


@pytest.fixture(scope="session", autouse=True)
def whole_lines() -> Iterator[None]:
    """Tables are printed as into a pipe, also by parallel workers, to which a width is given."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_timed_lines() -> Iterator[None]:
    """A command says no more on a slow machine: lines of progress are written by the clock."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(terminal, "_LOG_EVERY_S", inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and processes that they start, run while somebody measures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture
def tiny_space() -> SearchSpace:
    return make_tiny_space()


@pytest.fixture
def tiny_fixed_space() -> SearchSpace:
    return make_tiny_fixed_space()


@pytest.fixture
def profile() -> DeviceProfile:
    return load_device("cpu-onnxruntime")


@pytest.fixture
def quick_profile() -> DeviceProfile:
    return make_quick_profile()


def profile_space(
    profiler: Profiler,
    path: Path,
    space: SearchSpace,
    *,
    time_limit_s: float,
    progress: Progress = silent,
) -> ProfileResult:
    """Fill the table of a space, or continue to fill it."""
    contents = space_contents(space, profiler.profile.sweep.networks)
    return profiling.profile(profiler, path, contents, time_limit_s=time_limit_s, progress=progress)


Prices = Callable[[BlockSpec], float]


def random_price(spec: BlockSpec) -> float:
    """A price in ms that depends on the block alone and grows with its width."""
    draw = np.random.default_rng(crc32(block_key(spec).encode())).uniform(0.01, 0.02)
    return float(draw) + 0.002 * (block_width(spec) or 0)


class PricedSession(Session):
    """A session whose calls take a given time."""

    def __init__(self, price_ms: float) -> None:
        self.call_ns = round(1e6 * price_ms)

    def call(self) -> None:
        return

    def timed_call(self) -> int:
        return self.call_ns

    def output(self) -> NDArray[np.float32]:
        raise AssertionError("nothing is computed here")

    def close(self) -> None:
        return


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime on which a network takes the sum of its segments' prices."""

    def open_session(profiler: Profiler, network: Network) -> Session:
        return PricedSession(sum(map(random_price, network)))

    monkeypatch.setattr(visiting, "open_session", open_session)


def write_table(
    path: Path,
    space: SearchSpace,
    device: DeviceProfile,
    *,
    prices: Prices = random_price,
    model: PriceModel | None = None,
    environment: Environment | None = None,
) -> LatencyTable:
    """A table of a space whose prices at widths divisible by 8 are given, and no others."""
    model = model or PriceModel(0.0, 1.0, 0.0, 0.25)
    with TableStore.create(
        path,
        device=device,
        space=space_label(space),
        environment=environment or current_environment({}),
    ) as store:
        store.add_blocks(space.blocks())
        store.record_alignment(Alignment((WidthClass(8, 8), WidthClass(1, 1))))
        store.set_results(
            {
                id_: Estimate(p, 0.99 * p, 1.01 * p, p, 0.99 * p, 1.01 * p, 20, noisy=False)
                for id_, p in ((id_, prices(spec)) for id_, spec in store.blocks().items())
            },
            StoredFit(model, floor=0.01, noisy=False),
        )
    return LatencyTable.open(path)


@pytest.fixture
def tiny_table(tmp_path: Path, tiny_space: SearchSpace, profile: DeviceProfile) -> LatencyTable:
    return write_table(tmp_path / "tiny.sqlite", tiny_space, profile)


@pytest.fixture(scope="session")
def tfnas_table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a table of TF-NAS's space at 32 px; writing it takes longer than most tests."""
    path = tmp_path_factory.mktemp("tfnas") / "tfnas.sqlite"
    write_table(path, make_space("tfnas", 32, 10), load_device("cpu-onnxruntime"))
    return path.read_bytes()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return exit code, standard output and error."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latbench", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), out, err

    return call
