"""The main job on this machine in minutes: profile, search, verify, train.

The demo makes a rough table at 32 px and runs a short search on scikit-learn's digits. The search
measures what it finds until the target is met with 95 % confidence; that measurement is the demo's
verdict. Then it trains the network from scratch. Everything is stored in one folder; an interrupted
demo resumes there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latbench.files import write_atomically
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable
from nas.data import load_data
from nas.latency.correction import Correction
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit
from nas.spaces import Architecture, SearchSpace, make_space
from nas.workflows.search import search
from nas.workflows.space_profiling import profile
from nas.workflows.training import train

DEVICE, SPACE, DATA = "cpu-onnxruntime", "tfnas", "digits"
INPUT_SIZE, CLASSES = 32, 10
PROFILE_S = 100.0
SEARCH_IMAGES, SEARCH_EPOCHS, TRAIN_EPOCHS = 720, 5, 10
PHASES = (
    Phase("profile", seconds=PROFILE_S),
    Phase("search", seconds=140.0),
    Phase("train", seconds=60.0),
)
"""Parts of the demo, with their expected times on two cores."""

_TARGET_QUANTILE = 0.1  # quantile of random networks' latencies: a fast network trains fast
_DRAWN = 200


@dataclass(frozen=True, repr=False)
class DemoResult(Result):
    """Results of the demo.

    Attributes:
        target_ms: Target latency.
        predicted_ms: Latency of the network that was found, as the table predicts it.
        correction: Measured latency of the network, and the verdict on it.
        top1: Top-1 accuracy of the network on the test images, a fraction.
        architecture: The network that was found.
    """

    target_ms: float
    predicted_ms: float
    correction: Correction[Fit]
    top1: float
    architecture: Architecture

    @property
    def measured_ms(self) -> float:
        """Latency of the network on the device."""
        return self.correction.measured_ms

    @property
    def error(self) -> float:
        """Relative error of the prediction: predicted / measured - 1."""
        return self.predicted_ms / self.measured_ms - 1

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        plain: dict[str, Any] = {"target_ms": self.target_ms, "predicted_ms": self.predicted_ms}
        plain |= self.correction.as_dict()
        plain |= {"top1": self.top1, "error": self.error}
        return plain | {"architecture": self.architecture.as_dict()}


def run_demo(output: str | Path, *, progress: Progress = silent) -> DemoResult:
    """Profile this machine, search a network, verify its latency and train it, in minutes.

    The same call resumes an interrupted demo.

    Args:
        output: Folder for all results.
        progress: Callback with the fraction done and a short description.

    Raises:
        DeviceBusyError: Another process measures on this machine.
        MismatchError: The folder holds other files.
    """
    with Phases(progress, PHASES) as phases:
        return _run(Path(output), phases)


def _run(folder: Path, phases: Phases) -> DemoResult:
    space = make_space(SPACE, INPUT_SIZE, CLASSES)
    priced, target_ms = _profiled(space, folder, phases["profile"])
    data = load_data(DATA, input_size=INPUT_SIZE, classes=CLASSES)
    found = search(
        space,
        [priced.table],
        data=data,
        output=folder / "search",
        targets=[target_ms],
        images=SEARCH_IMAGES,
        epochs=SEARCH_EPOCHS,
        until_verified=True,
        progress=phases["search"],
    )[0]
    trained = train(
        found.architecture,
        data,
        output=folder / "train",
        epochs=TRAIN_EPOCHS,
        progress=phases["train"],
    )
    assert found.correction is not None  # the search was asked for it
    return DemoResult(
        target_ms=target_ms,
        predicted_ms=priced.latency_ms(found.architecture),
        correction=found.correction,
        top1=trained.metrics["top1"],
        architecture=found.architecture,
    )


def _profiled(space: SearchSpace, folder: Path, progress: Progress) -> tuple[PricedSpace, float]:
    """The space with the prices of this machine, and the target in ms; both stay in the folder.

    Raises:
        KeyboardInterrupt: The profiling was interrupted.
    """
    path = folder / "table.sqlite"
    budget = folder / "budget.json"  # written once, when profiling is finished
    if not budget.exists():
        profiled = profile(DEVICE, space, path, time_limit=PROFILE_S, progress=progress)
        if profiled.result.interrupted:
            raise KeyboardInterrupt
    priced = PricedSpace(space, LatencyTable.open(path), efficient=True)
    if not budget.exists():
        write_atomically(
            budget, json.dumps({"target_ms": _target_ms(priced)}, allow_nan=False) + "\n"
        )
    return priced, float(json.loads(budget.read_bytes())["target_ms"])


def _target_ms(priced: PricedSpace) -> float:
    """A plausible target: a low quantile of random networks' latencies, rounded to two digits."""
    rng = np.random.default_rng(0)
    latencies = [priced.latency_ms(priced.space.random(rng, priced.widths)) for _ in range(_DRAWN)]
    return float(f"{np.quantile(latencies, _TARGET_QUANTILE):.2g}")
