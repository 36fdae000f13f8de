"""What a training step moves between processor and GPU, and how often it waits.

A step should bring its images and labels as bytes, and nothing should come back but a report once
in a while. Counted by PyTorch's profiler over three steps of every trainer, as it runs in a search.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.gpu.conditions import ROOT, Conditions
from benchmarks.gpu.record import Record
from benchmarks.gpu.running import FAILED
from benchmarks.tfnas_sides import made_up_table
from nas.data import load_data
from nas.latency.priced_space import PricedSpace
from nas.recipes import load_recipe
from nas.searchers import SEARCHERS, SearchSettings
from nas.spaces import make_space
from nas.training.run_folder import RunFolder
from nas.training.torch_device import TorchDevice, find_torch_device

_SKIPPED, _COUNTED, _WATCHED = 2, 3, 1  # steps: before, under the profiler, watched for waits
_BATCH = 32
_SIZE = 32
_LISTED = 4
_SLACK_BYTES = 64 << 10  # for paths, noise and prices


@dataclass(frozen=True)
class Trainer:
    """A training whose steps are counted.

    Attributes:
        searcher: Name of the search that it is a part of.
        space: Name of the space.
        settings: Settings of its recipe.
        optimizer: End of the class name of the optimiser whose steps are counted.
        batches: Batches of images that a step needs, on average.
    """

    searcher: str
    space: str
    settings: tuple[str, ...]
    optimizer: str
    batches: float


_SHORT = ("priors=1", "prior_candidates=1", "selected_on=1", "calibration_batches=1")
TRAINERS = {
    "TF-NAS": Trainer("tfnas", "tfnas", ("warmup=0.0",), "SGD", 1.5),
    "SGNAS supernet": Trainer("sgnas", "sgnas", _SHORT, "SGD", 1),
    "SGNAS generator": Trainer("sgnas", "sgnas", (*_SHORT, "held_out=0.9"), "Adam", 1),
    "Gumbel": Trainer("gumbel", "proxylessnas", (), "SGD", 2),
}


def run(conditions: Conditions, record: Record) -> None:
    """Count for each trainer; one that fails is named and the next is counted."""
    device = find_torch_device(conditions.on)
    for name, trainer in TRAINERS.items():
        if conditions.seconds_left < 8:
            record.add(f"{name}: no time left")
            continue
        folder = conditions.folder / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        window = _Window(trainer.optimizer, folder / "trace.json", tiny=conditions.tiny)
        try:
            _train(trainer, device, folder, window, tiny=conditions.tiny)
        except Enough:
            _report(record, name, trainer, window)
        except Exception as error:
            record.add(f"{name} FAILED: {type(error).__name__}: {' '.join(str(error).split())}")
            record.end(FAILED)


def _train(
    trainer: Trainer, device: TorchDevice, folder: Path, window: _Window, *, tiny: bool
) -> None:
    space = make_space(trainer.space, _SIZE, 10)
    priced = PricedSpace(space, made_up_table(space, folder / "table.sqlite"))
    searcher = SEARCHERS[trainer.searcher]
    assert searcher.recipe_kind is not None
    recipe = load_recipe(searcher.recipe_kind, None, list(trainer.settings))
    data = load_data("digits", input_size=_SIZE, classes=10)
    batch_size = _BATCH
    if tiny:
        data, batch_size = data.subset(160, seed=0), 8
    settings = SearchSettings(epochs=1, batch_size=batch_size, recipe=recipe, torch_device=device)
    target_ms = sum(priced.feasible_ms()) / 2
    hook = register_optimizer_step_post_hook(window)
    try:
        searcher(priced, settings).search(data, [target_ms], RunFolder(folder / "run", {}))
    finally:
        hook.remove()
        window.close()
    raise RuntimeError("the training ended before enough steps were counted")


class Enough(Exception):
    """Enough steps were counted."""


class _Window:
    """Counts steps of an optimiser; profiles some, watches some for waits, then ends the training.

    Called after every step of any optimiser.

    Args:
        optimizer: End of the class name of the optimiser whose steps are counted.
        trace: File that the profiler may use.
        tiny: Whether a few steps will do.

    Attributes:
        counted: Steps under the profiler.
        counts: What was counted in them.
        warnings: Warnings of later steps; some say that the processor waited.
    """

    def __init__(self, optimizer: str, trace: Path, *, tiny: bool) -> None:
        self._optimizer, self._trace = optimizer, trace
        self._skipped, self.counted = (1, 2) if tiny else (_SKIPPED, _COUNTED)
        self._steps = 0
        self._profiler: Any = None
        self._catching: Any = None
        self.warnings: list[warnings.WarningMessage] = []
        self.counts: Counter[str] = Counter()

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not type(optimizer).__name__.endswith(self._optimizer):
            return
        self._steps += 1
        if self._steps == self._skipped:
            self._begin_profile()
        elif self._steps == self._skipped + self.counted:
            self._end_profile()
            self._begin_watch()
        elif self._steps == self._skipped + self.counted + _WATCHED:
            self.close()
            raise Enough

    def close(self) -> None:
        """Stop whatever is being recorded."""
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._profiler = None
        if self._catching is not None:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
            self._catching.__exit__(None, None, None)
            self._catching = None

    def _begin_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            activities = [ProfilerActivity.CUDA]
        self._profiler = profile(activities=activities)
        self._profiler.__enter__()

    def _end_profile(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        profiler.export_chrome_trace(str(self._trace))
        self.counts = count_events(json.loads(self._trace.read_text()))
        self._trace.unlink()

    def _begin_watch(self) -> None:
        if torch.cuda.is_available():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that this mode is a prototype
                torch.cuda.set_sync_debug_mode("warn")
        self._catching = warnings.catch_warnings(record=True)
        self.warnings = self._catching.__enter__()
        warnings.simplefilter("always")


def count_events(trace: Mapping[str, Any]) -> Counter[str]:
    """Bytes and calls of copies and waits in a trace of PyTorch's profiler.

    Returns:
        ``HtoD bytes``, ``HtoD copies``, the same for ``DtoH`` and ``DtoD``, ``kernels``, and the
        number of calls of every function of CUDA that waits.
    """
    counts: Counter[str] = Counter()
    for event in trace["traceEvents"]:
        kind, name = event.get("cat", ""), event.get("name", "")
        if kind == "gpu_memcpy":
            way = next((w for w in ("HtoD", "DtoH", "DtoD") if w in name), "other")
            counts[f"{way} copies"] += 1
            counts[f"{way} bytes"] += int(event.get("args", {}).get("bytes", 0))
        elif kind == "kernel":
            counts["kernels"] += 1
        elif kind in ("cuda_runtime", "cuda_driver") and "Synchronize" in name:
            counts[name] += 1
    return counts


def _report(record: Record, name: str, trainer: Trainer, window: _Window) -> None:
    counts, steps = window.counts, window.counted
    batch_bytes = _BATCH * (_SIZE * _SIZE + 8)  # grey bytes and labels
    allowed = trainer.batches * batch_bytes + _SLACK_BYTES
    brought = counts["HtoD bytes"] / steps
    waits = {k: v / steps for k, v in counts.items() if "Synchronize" in k}
    verdict = "within" if brought <= allowed else "MORE THAN"
    record.add(
        f"{name}, a step: HtoD {brought / 1024:.1f} KiB in {counts['HtoD copies'] / steps:.1f} "
        f"copies ({verdict} its images), DtoH {counts['DtoH bytes'] / steps:.0f} B in "
        f"{counts['DtoH copies'] / steps:.1f}, {counts['kernels'] / steps:.0f} kernels, waits: "
        f"{', '.join(f'{k} {v:.1f}' for k, v in waits.items()) or 'none'}",
        **{name: {"steps": steps, "counts": dict(counts), "allowed_bytes_a_step": allowed}},
    )
    where = Counter(
        f"{_short(w.filename)}:{w.lineno}"
        for w in window.warnings
        if "synchroniz" in str(w.message).lower()
    )
    if where:
        listed = ", ".join(f"{place} x {n}" for place, n in where.most_common(_LISTED))
        record.add(
            f"{name}, waits in {_WATCHED} steps by line: {sum(where.values())}: {listed}",
            **{f"{name} waits": dict(where)},
        )


def _short(filename: str) -> str:
    return filename.removeprefix(f"{ROOT}/").replace("site-packages/", "")[-45:]
