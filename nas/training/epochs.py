"""The training loop that all trainings share: steps on batches, metrics, checkpoints, progress.

An epoch shows the training images once. Then its metrics are logged and a checkpoint is written. A
resumed run starts from the last finished epoch and ends bit-identical to an uninterrupted one,
because every draw follows from the seed and the number of the epoch. A loss or a weight that is not
finite ends the training with an error, and the last checkpoint is kept. A step returns its loss on
the device. Reading a number from a GPU waits for all its work, so losses are read twice a second.
Under ``torchrun`` all processes draw the same batches, each computes its share of them, and process
0 writes files.

The caller decides what is trained and what a step does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latbench.errors import DivergedError, InvalidFileError
from latbench.progress import Progress, silent
from nas.data.augmentation import augment
from nas.data.feed import Batch, feed
from nas.data.images import ImageData, Source, batches, endless_batches
from nas.training.distributed import ALONE, Workers
from nas.training.memory import keep_freed_memory
from nas.training.run_folder import RunFolder
from nas.training.torch_device import CPU, TorchDevice

Report = Callable[[float, float], None]
"""Callback after every step, with the fraction of the epoch that is done and the loss."""

Values = dict[str, float | None]
"""Metrics of an epoch that are logged."""

Step = Callable[[int, Tensor, Tensor], Tensor | float]
"""One training step: takes its number in the epoch, inputs ``(B, 3, S, S)`` and labels ``(B,)``;
returns the loss, a scalar without gradient on the device."""

READ_EVERY_S = 0.5  # how often losses are read from a GPU

_REMEDY = (
    "start again in another folder (-o) with a lower learning rate, with gradients clipped, or in "
    "single precision if this was not"
)


class _Stateful(Protocol):
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

    def __init__(self, **parts: _Stateful | None) -> None:
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


def scaler_part(scaler: torch.amp.GradScaler) -> dict[str, _Stateful]:
    """The loss scaler as part of a checkpoint; empty if it does not scale."""
    return {"scaler": scaler} if scaler.is_enabled() else {}


def resume(state: Resumable, folder: RunFolder, *checkpoints: str) -> bool:
    """Restore the first of these checkpoints that exists; return whether there was one.

    Raises:
        InvalidFileError: The checkpoint is damaged, or belongs to a diverged training.
    """
    for name in checkpoints:
        saved = folder.checkpoint(name)
        if saved is not None:
            state.load(saved)
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
            left = _left(state.epoch)
            with torch_device.guarded(work=work, kept=left, batch_size=batch_size):
                values = train_epoch(_reporter(progress, phase, state.epoch, epochs))
                finite = state.is_finite()
            if not finite:
                raise _diverged("weights are not finite", phase, state.epoch, epochs)
            if metrics is not None:
                seconds = round(monotonic() - begin, 3)
                metrics.log(phase, state.epoch, {**values, "seconds": seconds})
            state.epoch += 1
            if kept is not None:
                kept.save_checkpoint(checkpoint or phase, state.save())
            with torch_device.guarded(work=work, kept=_left(state.epoch)):
                workers.wait()


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


def mean_loss(losses: Sequence[Tensor]) -> Tensor:
    """The mean of scalar losses on one device, without gradient, in double precision."""
    first = losses[0]
    precise = first.dtype if first.device.type == "mps" else torch.float64  # mps has no double
    total = torch.zeros((), dtype=precise, device=first.device)
    for loss in losses:
        total += loss.detach()
    return total / len(losses)


class Losses:
    """Losses of an epoch's steps; reports them at once, or in batches if they lie on a GPU.

    Args:
        report: Callback that gets every loss, in the order of steps.
        torch_device: Device of the losses.
        clock: Function that returns the time in s.
    """

    def __init__(
        self,
        report: Report,
        torch_device: TorchDevice,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._report, self._clock = report, clock
        self._waits = torch_device.is_gpu
        self._waiting: list[tuple[float, int, Tensor | float]] = []
        self._read_at = clock()
        self.values: list[float] = []

    def add(self, done: float, loss: Tensor | float, *, over: int = 1) -> None:
        """Add the loss of a step, or the sum of ``over`` losses, at this fraction of the epoch."""
        self._waiting.append((done, over, loss))
        if not self._waits or self._clock() - self._read_at >= READ_EVERY_S:
            self.read()

    def read(self) -> list[float]:
        """Report the losses not yet read; return the losses of all steps so far."""
        on_device = [loss for *_, loss in self._waiting if isinstance(loss, Tensor)]
        read = iter(
            torch.stack(on_device).cpu().tolist() if on_device else []
        )  # waits for the GPU once
        for done, over, loss in self._waiting:
            self.values.append((next(read) if isinstance(loss, Tensor) else loss) / over)
            self._report(done, self.values[-1])
        self._waiting.clear()
        self._read_at = self._clock()
        return self.values


@dataclass(frozen=True)
class TrainingImages:
    """Batches of images as training steps get them; each process gets its share.

    Attributes:
        data: Data set of the images.
        source: Training images.
        batch_size: Images a step, over all processes.
        shift: Largest shift of a training image, in pixels.
        workers: The processes that train together.
        per_class: Images of each class in a batch; 0 draws from all images uniformly.
        least_area: Smallest part of a stored image that a training crop shows; None uses the
            source's own value.
        jitter: Strength of random changes of brightness, contrast and saturation.
        hue: Largest rotation of the hue, as a fraction of the circle.
        torch_device: Device of the steps.
    """

    data: ImageData
    source: Source
    batch_size: int
    shift: int
    workers: Workers = ALONE
    per_class: int = 0
    least_area: float | None = None
    jitter: float = 0.0
    hue: float = 0.0
    torch_device: TorchDevice = CPU

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return max(1, len(self.source) // self.batch_size)

    def show(
        self, step: Step, report: Report, *, order: torch.Generator, shifts: torch.Generator
    ) -> float:
        """Do a step on every batch of an epoch; return the mean loss over steps and processes."""
        losses = Losses(report, self.torch_device)
        source = self.source
        if self.least_area is not None:
            source = source.cropped(self.least_area)
        drawn = batches(source, self.batch_size, order, per_class=self.per_class)
        # criteria that draw, such as triplet, use torch's own generators
        with self.torch_device.seeded(order.initial_seed()):
            for number, (raw, labels) in enumerate(feed(drawn, self.torch_device.device)):
                images = self._augmented(raw, shifts)
                loss = step(number, *self._share(images, labels))
                losses.add((number + 1) / self.steps, loss)
        values = losses.read()
        mean = sum(values) / len(values)
        return self.workers.sum([mean / self.workers.count])[0]

    def unaugmented(self, source: Source, rng: torch.Generator) -> Iterator[Batch]:
        """Endless batches of inputs and labels of other images, without augmentation."""
        drawn = endless_batches(source, self.batch_size, rng, per_class=self.per_class)
        for images, labels in feed(drawn, self.torch_device.device):
            yield self._share(images, labels)

    def _augmented(self, raw: Tensor, shifts: torch.Generator) -> Tensor:
        return augment(
            raw,
            shifts,
            flip=self.data.flip,
            shift=self.shift,
            strength=self.jitter,
            hue=self.hue,
        )

    def _share(self, images: Tensor, labels: Tensor) -> Batch:
        """Normalised images and labels of this process's part of a batch."""
        part = self.workers.share(len(labels))
        return self.data.to_input(images[part]), labels[part]
