"""The main job on this machine in minutes: profile, search, train, verify.

The demo makes a rough table at 32 px and runs a short search on scikit-learn's digits, with
on-device correction to the target. It trains the network from scratch and measures it once more.
Everything is stored in one folder; an interrupted demo resumes there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latbench.files import write_atomically
from latbench.progress import Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable
from latbench.workflows.network_errors import verify_apart
from nas.data import load_data
from nas.latency.priced_space import PricedSpace
from nas.spaces import Architecture, SearchSpace, make_space
from nas.workflows.search import search
from nas.workflows.space_profiling import profile
from nas.workflows.training import train

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Function that opens a progress display for one stage of the demo, under a title."""

DEVICE, SPACE, DATA = "cpu-onnxruntime", "tfnas", "digits"
INPUT_SIZE, CLASSES = 32, 10
PROFILE_S = 130.0
SEARCH_IMAGES, SEARCH_EPOCHS, TRAIN_EPOCHS = 960, 5, 16
_TARGET_QUANTILE = 0.1  # quantile of random networks' latencies: a fast network trains fast
_DRAWN = 200


@dataclass(frozen=True, repr=False)
class DemoResult(Result):
    """Results of the demo.

    Attributes:
        target_ms: Target latency.
        predicted_ms: Latency of the network that was found, as the table predicts it.
        measured_ms: Latency of the network on the device.
        top1: Top-1 accuracy of the network on the test images, a fraction.
        error: Relative error of the prediction: predicted / measured - 1.
        architecture: The network that was found.
    """

    target_ms: float
    predicted_ms: float
    measured_ms: float
    top1: float
    error: float
    architecture: Architecture

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        numbers = ("target_ms", "predicted_ms", "measured_ms", "top1", "error")
        plain: dict[str, Any] = {name: getattr(self, name) for name in numbers}
        return plain | {"architecture": self.architecture.as_dict()}


def silent_stage(title: str) -> AbstractContextManager[Progress]:
    """A stage without a progress display."""
    return nullcontext(silent)


def run_demo(output: str | Path, stage: Stage = silent_stage) -> DemoResult:
    """Profile this machine, search, train and verify a network, in minutes.

    The same call resumes an interrupted demo.

    Args:
        output: Folder for all results.
        stage: Function that opens the progress display of each stage: profile, search, train,
            verify.

    Raises:
        DeviceBusyError: Another process measures on this machine.
        MismatchError: The folder holds other files.
    """
    folder = Path(output)
    space = make_space(SPACE, INPUT_SIZE, CLASSES)
    priced, target_ms = _profiled(space, folder, stage)
    data = load_data(DATA, input_size=INPUT_SIZE, classes=CLASSES)
    with stage("search") as progress:
        found = search(
            space,
            [priced.table],
            data=data,
            output=folder / "search",
            targets=[target_ms],
            images=SEARCH_IMAGES,
            epochs=SEARCH_EPOCHS,
            measured=True,
            progress=progress,
        )[0]
    with stage("train") as progress:
        trained = train(
            found.architecture,
            data,
            output=folder / "train",
            epochs=TRAIN_EPOCHS,
            progress=progress,
        )
    with stage("verify") as progress:
        network = space.lower(found.architecture)
        verified = verify_apart(priced.table.path, [network], progress=progress).networks[0]
    predicted_ms = priced.latency_ms(found.architecture)
    measured_ms = verified.measured.estimate_ms
    return DemoResult(
        target_ms=target_ms,
        predicted_ms=predicted_ms,
        measured_ms=measured_ms,
        top1=trained.metrics["top1"],
        error=predicted_ms / measured_ms - 1,
        architecture=found.architecture,
    )


def _profiled(space: SearchSpace, folder: Path, stage: Stage) -> tuple[PricedSpace, float]:
    """The space with the prices of this machine, and the target in ms; both stay in the folder.

    Raises:
        KeyboardInterrupt: The profiling was interrupted.
    """
    path = folder / "table.sqlite"
    budget = folder / "budget.json"  # written once, when profiling is finished
    if not budget.exists():
        with stage("profile") as progress:
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
