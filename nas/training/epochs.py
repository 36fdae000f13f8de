"""The training loop that all trainings share: epochs, metrics, checkpoints, progress.

After each epoch its metrics are logged and a checkpoint is written. A resumed run starts from the
last finished epoch and ends as an uninterrupted one (on a CPU bit for bit), because every draw
follows from the seed and the number of the epoch. A loss or a weight that is not finite ends the
training with an error, and the last checkpoint is kept. Under ``torchrun`` process 0 writes files.

The caller decides what is trained and what an epoch does; ``nas.training.steps`` shows it the
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latbench.errors import DivergedError, InvalidFileError, MismatchError, in_one_line
from latbench.progress import Progress, silent
from nas.training.distributed import ALONE, Workers
from nas.training.memory import keep_freed_memory
from nas.training.run_folder import RunFolder
from nas.training.steps import Report
from nas.training.torch_device import CPU, DEVICE_ERRORS, TorchDevice

Values = dict[str, float | None]
"""Metrics of an epoch that are logged."""

_REMEDY = (
    "start again in another folder (-o) with a lower learning rate, with gradients clipped, or in "
    "single precision if this was not"
)


class Stateful(Protocol):
    """Modules and optimisers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Resumable:
    """Everything that a training changes, which is everything that a checkpoint holds.

    Args:
        parts: Parts under their names in checkpoints; None if this training has no such part.

    Attributes:
        epoch: Number of finished epochs.
    """

    def __init__(self, **parts: Stateful | None) -> None:
        self.epoch = 0
        self._parts = parts

    def save(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        states = {
            name: None if part is None else part.state_dict() for name, part in self._parts.items()
        }
        return {"epoch": self.epoch, **states}

    def load(self, saved: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.epoch = saved["epoch"]
        for name, part in self._parts.items():
            if part is not None:
                part.load_state_dict(saved[name])

    def is_finite(self) -> bool:
        """Whether all parameters and buffers are finite; waits for each device once."""
        modules = [part for part in self._parts.values() if isinstance(part, nn.Module)]
        states = [
            value for m in modules for value in m.state_dict().values()
        ]  # some states are lists
        tensors = [s for s in states if isinstance(s, Tensor) and s.is_floating_point()]
        found: dict[torch.device, list[Tensor]] = {}
        for tensor in tensors:
            found.setdefault(tensor.device, []).append(tensor.isfinite().all())
        return all(bool(torch.stack(each).all()) for each in found.values())


def scaler_part(scaler: torch.amp.GradScaler) -> dict[str, Stateful]:
    """The loss scaler as part of a checkpoint; empty if it does not scale."""
    return {"scaler": scaler} if scaler.is_enabled() else {}


def resume(state: Resumable, folder: RunFolder, *checkpoints: str) -> bool:
    """Restore the first of these checkpoints that exists; return whether there was one.

    Raises:
        InvalidFileError: The checkpoint is damaged, or belongs to a diverged training.
        MismatchError: The checkpoint belongs to another network.
    """
    for name in checkpoints:
        saved = folder.checkpoint(name)
        if saved is not None:
            try:
                state.load(saved)
            except DEVICE_ERRORS:
                raise  # some are RuntimeErrors as well
            except (KeyError, RuntimeError, ValueError) as error:  # torch's, for other shapes
                raise MismatchError(
                    f"the checkpoint {name} in {folder.path} is of another network "
                    f"({in_one_line(error, most=200)}): choose another folder (-o)"
                ) from error
            if not state.is_finite():
                raise InvalidFileError(
                    f"the checkpoint {name} in {folder.path} has weights that are not "
                    f"finite: {_REMEDY}"
                )
            return True
    return False


def run_epochs(
    state: Resumable,
    epochs: int,
    train_epoch: Callable[[Report], Values],
    folder: RunFolder | None,
    *,
    phase: str,
    checkpoint: str | None = None,
    workers: Workers = ALONE,
    torch_device: TorchDevice = CPU,
    batch_size: int | None = None,
    fixed_shapes: bool = False,
    progress: Progress = silent,
) -> None:
    """Train until ``epochs`` epochs are finished.

    Args:
        state: State of the training; its epochs are counted here.
        epochs: Number of epochs of the whole training, including finished ones.
        train_epoch: Function that trains for one epoch, reports each step and returns metrics.
        folder: Folder for metrics and checkpoints; None writes none.
        phase: Name of the training in metrics and progress.
        checkpoint: Name of the checkpoint; the phase's if None.
        workers: The processes that train together; all hold the same state.
        torch_device: Device of the state and of the steps.
        batch_size: Images a step, for error messages about memory.
        fixed_shapes: Whether every step computes on the same shapes.
        progress: Callback with the fraction of all epochs that is done.

    Raises:
        DivergedError: A reported loss, or a weight after an epoch, is not finite. Nothing of that
            epoch is kept, and the last checkpoint is not changed.
        TorchDeviceError: The device failed or has too little memory. The last checkpoint is not
            changed.
    """
    torch.set_flush_denormal(True)
    if not torch_device.is_gpu:
        keep_freed_memory()
    workers.wait()  # no process writes before all have read
    if state.epoch >= epochs:
        return
    kept = folder if workers.leads else None
    with (
        kept.metrics() if kept else nullcontext() as metrics,
        torch_device.training(fixed_shapes=fixed_shapes),
    ):
        work = f"the training ({phase})"
        while state.epoch < epochs:
            begin = monotonic()
            with torch_device.guarded(work=work, kept=_left(state.epoch), batch_size=batch_size):
                values = _one_epoch(state, epochs, train_epoch, phase=phase, progress=progress)
            if metrics is not None:
                seconds = round(monotonic() - begin, 3)
                metrics.log(phase, state.epoch, {**values, "seconds": seconds})
            state.epoch += 1
            if kept is not None:
                kept.save_checkpoint(checkpoint or phase, state.save())
            with torch_device.guarded(work=work, kept=_left(state.epoch)):
                workers.wait()


def _one_epoch(
    state: Resumable,
    epochs: int,
    train_epoch: Callable[[Report], Values],
    *,
    phase: str,
    progress: Progress,
) -> Values:
    """Metrics of one epoch, after which all weights are finite."""
    values = train_epoch(_reporter(progress, phase, state.epoch, epochs))
    if not state.is_finite():
        raise _diverged("weights are not finite", phase, state.epoch, epochs)
    return values


def _reporter(progress: Progress, phase: str, epoch: int, epochs: int) -> Report:
    steps = 0

    def report(done: float, loss: float) -> None:
        nonlocal steps
        steps += 1
        if not math.isfinite(loss):
            raise _diverged(f"loss is {loss} in step {steps}", phase, epoch, epochs)
        words = f"{phase}, epoch {epoch + 1} of {epochs}, loss {loss:.2f}"
        progress((epoch + done) / epochs, words)

    return report


def _diverged(what: str, phase: str, epoch: int, epochs: int) -> DivergedError:
    return DivergedError(
        f"the training ({phase}) diverged in epoch {epoch + 1} of {epochs}: its {what}; "
        f"{_left(epoch)}. What to do: {_REMEDY}"
    )


def _left(epoch: int) -> str:
    return f"the checkpoint of epoch {epoch} is as it was" if epoch else "no epoch was finished"
