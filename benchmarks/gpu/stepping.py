"""Steps of two sides on one GPU, in turn, with the memory that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import numpy as np
import torch

from benchmarks.gpu.conditions import Conditions
from benchmarks.gpu.record import Record
from benchmarks.sides import Side, SideFailed, serve
from nas.recipes import Precision
from nas.training.torch_device import TorchDevice, find_torch_device

SIDES = ("ours", "plain")
_ROUNDS, _STEPS = 4, 5  # turns of each side, and timed steps a turn
_WARMUP = 3  # steps before the first turn, in which a GPU makes its plans for all shapes
_TIMED_SHARE = 0.7  # of the time, kept for timed steps
_TINY = (1, 1)  # the same without a GPU
_SMALLEST_BATCH = 16
_OUT_OF_MEMORY = "OutOfMemoryError"

Build = Callable[[str, str, int, TorchDevice], dict[str, Callable[[], object]]]
"""For a side and a kind of step, with so many images, on a device: that step, and others that share
its memory, by kind.
"""


def compare(
    conditions: Conditions,
    record: Record,
    item: str,
    *,
    precisions: Sequence[Precision],
    kinds: Sequence[str],
    batch_size: int,
) -> None:
    """Time all kinds of steps of both sides; where one runs out of memory, both with half a batch.

    Args:
        conditions: Time and device.
        record: Gets median, quartiles and peak memory.
        item: Whose module serves the sides.
        precisions: Precisions of the computation.
        kinds: Kinds of steps.
        batch_size: Images a step.
    """
    waiting = [(precision, kind) for precision in precisions for kind in kinds]
    while waiting and batch_size >= _SMALLEST_BATCH // (8 if conditions.tiny else 1):
        sides = {side: Side(conditions.side(item, side, str(batch_size))) for side in SIDES}
        too_large = []
        for number, (precision, kind) in enumerate(waiting):
            share_s = conditions.seconds_left / (len(waiting) - number)
            if conditions.seconds_left < 5:
                record.add(f"{precision} {kind}: no time left")
                continue
            turns = _TINY if conditions.tiny else (_ROUNDS, _STEPS)
            step = f"{precision} {kind}"
            if not _compare_one(sides, record, step, batch_size, turns=turns, seconds=share_s):
                too_large.append((precision, kind))
        for side in sides.values():
            side.close()
        waiting, batch_size = too_large, batch_size // 2


def _compare_one(
    sides: dict[str, Side],
    record: Record,
    step: str,
    batch_size: int,
    *,
    turns: tuple[int, int],
    seconds: float,
) -> bool:
    """Whether both sides had room; one that failed otherwise is left out."""
    end = monotonic() + seconds
    rounds, steps = turns
    times_ms: dict[str, list[float]] = {side: [] for side in sides}
    peaks_gib: dict[str, float] = {}
    for number in range(rounds):
        for side in SIDES if number % 2 else SIDES[::-1]:
            if monotonic() > end and times_ms[side]:
                continue
            try:
                for warmup in range(1 if number or steps == 1 else _WARMUP):
                    sides[side].ask(step)  # untimed
                    if warmup and monotonic() > end - _TIMED_SHARE * seconds:
                        break
                sides[side].ask("forget")
                times_ms[side] += [sides[side].ask(step) for _ in range(steps)]
                peaks_gib[side] = max(peaks_gib.get(side, 0.0), sides[side].ask("peak"))
                sides[side].ask("free")  # the other side needs the room
            except SideFailed as failure:
                if _OUT_OF_MEMORY in str(failure):
                    record.add(f"{step}: {side} is out of memory at batch {batch_size}")
                    return False
                record.add(f"{step}: {side} failed: {failure}")
                return True
    medians = {}
    for side, taken in times_ms.items():
        low, medians[side], high = (float(q) for q in np.quantile(taken, (0.25, 0.5, 0.75)))
        ratio = ""
        if side == SIDES[-1]:
            ratio = f", x {medians[side] / medians['ours']:.2f}"
        record.add(
            f"{step}, batch {batch_size}, {side}: {medians[side]:.1f} ms "
            f"({low:.1f} - {high:.1f}, {len(taken)} steps), peak {peaks_gib[side]:.2f} GiB{ratio}",
            **{
                f"{step}/{batch_size}/{side}": {
                    "median_ms": medians[side],
                    "quartiles_ms": [low, high],
                    "steps": len(taken),
                    "peak_gib": peaks_gib[side],
                }
            },
        )
    return True


def serve_side(
    conditions: Conditions, build: Build, side: str, batch_size: str, kinds: Sequence[str]
) -> None:
    """Be one side: steps are built when they are asked for, and others are forgotten then."""
    found = find_torch_device(conditions.on)
    built: dict[tuple[Precision, str], Callable[[], object]] = {}

    def step(precision: Precision, kind: str) -> Callable[[], object]:
        def take() -> object:
            if (precision, kind) not in built:
                built.clear()
                made = build(side, kind, int(batch_size), found.at(precision))
                built.update({(precision, name): each for name, each in made.items()})
            return built[precision, kind]()

        return take

    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    steps = {f"{each} {kind}": step(each, kind) for each in precisions for kind in kinds}
    memory = _gpu_memory() if conditions.on == "cuda" else dict.fromkeys(_MEMORY, float)
    with found.training():  # the same settings of cuDNN for both sides
        serve(steps, memory, wait=torch.cuda.synchronize if conditions.on == "cuda" else _nothing)


_MEMORY = ("peak", "forget", "free")


def _gpu_memory() -> dict[str, Callable[[], float]]:
    """Peak of what tensors took, in GiB; how to forget it; how to give back what is not in use."""

    def forget() -> float:
        torch.cuda.reset_peak_memory_stats()
        return 0.0

    def free() -> float:
        torch.cuda.empty_cache()
        return 0.0

    def peak() -> float:
        return torch.cuda.max_memory_allocated() / 2**30

    return dict(zip(_MEMORY, (peak, forget, free), strict=True))


def _nothing() -> None:
    pass
