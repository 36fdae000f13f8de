"""Steps of an epoch: batches of images as training steps get them, and the losses of the steps.

An epoch shows the training images once. A step returns its loss on the device. Reading a number
from a GPU waits for all its work, so losses are read twice a second. Under ``torchrun`` all
processes draw the same batches, and each computes its share of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from nas.data.augmentation import augment
from nas.data.feed import Batch, feed
from nas.data.images import ImageData, Source, batch_count, batches, endless_batches
from nas.training.distributed import ALONE, Workers
from nas.training.recipe import SearchRecipe
from nas.training.torch_device import CPU, TorchDevice

Report = Callable[[float, float], None]
"""Callback after every step, with the fraction of the epoch that is done and the loss."""

Step = Callable[[int, Tensor, Tensor], Tensor | float]
"""One training step: takes its number in the epoch, inputs ``(B, 3, S, S)`` and labels ``(B,)``;
returns the loss, a scalar without gradient on the device."""

READ_EVERY_S = 0.5  # how often losses are read from a GPU


def images_a_step(source: Source, batch_size: int, per_class: int) -> int:
    """The batch size, or the number of images if it is smaller; batches by class repeat images."""
    return batch_size // per_class * per_class if per_class else min(batch_size, len(source))


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
    """Batches of images as training steps get them; each process reads its share.

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

    @classmethod
    def of(
        cls,
        data: ImageData,
        source: Source,
        recipe: SearchRecipe,
        *,
        workers: Workers = ALONE,
        torch_device: TorchDevice = CPU,
    ) -> TrainingImages:
        """Batches as a recipe asks for them."""
        return cls(
            data,
            source,
            recipe.batch_size,
            recipe.shift,
            workers,
            per_class=recipe.per_class,
            torch_device=torch_device,
        )

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return batch_count(len(self.source), self.batch_size)

    def show(
        self, step: Step, report: Report, *, order: torch.Generator, shifts: torch.Generator
    ) -> float:
        """Do a step on every batch of an epoch; return the mean loss over steps and processes."""
        losses = Losses(report, self.torch_device)
        source = self.source
        if self.least_area is not None:
            source = source.cropped(self.least_area)
        whole, share = self._share(source)
        drawn = batches(source, self.batch_size, order, share=share, per_class=self.per_class)
        # criteria that draw, such as triplet, use torch's own generators
        with self.torch_device.seeded(order.initial_seed()):
            for number, (raw, labels) in enumerate(feed(drawn, self.torch_device.device)):
                images = augment(
                    raw,
                    shifts,
                    flip=self.data.flip,
                    shift=self.shift,
                    strength=self.jitter,
                    hue=self.hue,
                    whole=whole,
                    share=share,
                )
                loss = step(number, self.data.to_input(images), labels)
                losses.add((number + 1) / self.steps, loss)
        values = losses.read()
        mean = sum(values) / len(values)
        return self.workers.sum([mean / self.workers.count])[0]

    def unaugmented(self, source: Source, rng: torch.Generator) -> Iterator[Batch]:
        """Endless batches of inputs and labels of held-out images, without augmentation."""
        _, share = self._share(source)
        drawn = endless_batches(source, self.batch_size, rng, share=share, per_class=self.per_class)
        for images, labels in feed(drawn, self.torch_device.device):
            yield self.data.to_input(images), labels

    def _share(self, source: Source) -> tuple[int, slice]:
        """Number of images in every batch of a source, and this process's part of them."""
        whole = images_a_step(source, self.batch_size, self.per_class)
        return whole, self.workers.share(whole)
