"""Recipes for training: single networks from scratch, and the shared weights of supernets.

``TrainingRecipe`` is the kind ``training``. Every kind of search has its own recipe, defined beside
the search; ``SearchRecipe`` holds the settings that these share.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from nas.recipes import (
    BatchSize,
    Count,
    Fraction,
    NotNegative,
    Pixels,
    Positive,
    Precision,
    Rate,
    Recipe,
    Share,
    changed,
)


class SearchRecipe(Recipe, frozen=True, kw_only=True):
    """Settings of every training of shared weights: SGD, with some training images held out.

    Attributes:
        held_out: Share of the training images that do not train the weights; they train choices and
            give scores.
        lr: Learning rate at the start; it falls to zero along a cosine.
        shift: Largest shift of a training image, in pixels.
        criterion: Name of the loss; if empty, that of the data's task.
        options: Options of the loss.
        per_class: Images of each class in a batch; 0 draws from all images uniformly.
        precision: Type of products and convolutions, as for ``TrainingRecipe``.
    """

    epochs: Count
    batch_size: BatchSize = 128
    held_out: Share = 0.2
    lr: Positive
    momentum: Rate = 0.9
    weight_decay: NotNegative
    shift: Pixels = 4
    criterion: str = ""
    options: dict[str, float | str] = msgspec.field(default_factory=dict)
    per_class: Annotated[int, msgspec.Meta(ge=0)] = 0
    precision: Precision = "fp32"

    @property
    def computed_in(self) -> Precision:
        """The precision that follows from the settings together."""
        return self.precision

    def scaled(self, epochs: int | None, batch_size: int | None) -> Self:
        """The recipe with another number of epochs and another batch size; None keeps its own.

        Raises:
            InvalidValueError: One of them is out of range.
        """
        return changed(self, epochs=epochs, batch_size=batch_size)


class NetworkRecipe(Recipe, frozen=True, kw_only=True):
    """Settings of every training of one network.

    Attributes:
        seed: Seed of weights, order, crops and dropped paths.
        optimizer: ``rmsprop`` is TensorFlow's, as in SGNAS.
        lr_per_256: Learning rate for batches of 256; it scales with the batch.
        alpha: RMSprop's smoothing of squared gradients.
        epsilon: Constant of RMSprop under the root.
        decay_norms: Whether norms, biases and slopes of PReLU decay as well.
        schedule: Schedule of the learning rate: a cosine to zero, or steps after the warm-up.
        warmup: Length of the linear warm-up, a fraction of all steps.
        cosine_from: Start of the cosine: after the ``warmup``; or at the ``start``, where the
            warm-up scales it.
        lr_changes: Unit after which the learning rate changes. A warm-up of n units starts at 1 / n
            of the rate and has the whole rate in its last unit.
        step_epochs: Length of a step of the schedule, in epochs.
        step_factor: Factor of the learning rate at each step.
        clip: Largest norm of the gradient; 0 for none.
        criterion: Name of the loss; if empty, that of the data's task.
        options: Options of the loss.
        norm_momentum: Momentum of the running statistics.
        ema: Decay of a running mean of the weights, which is then tested and saved; 0 for none.
        precision: Type of products and convolutions. ``bf16`` and ``fp16`` compute under autocast,
            and weights and sums stay ``fp32``; ``fp16`` scales the loss and skips steps whose
            gradients overflow. ``tf32`` rounds factors to TF32 on CUDA GPUs. ``fp32`` keeps torch's
            own setting, which on CUDA rounds factors to TF32 only in convolutions.
        shift: Largest shift of a training image, in pixels.
        fill: Fill of the border of a shifted image.
        least_area: Smallest part of a stored image that a training crop shows.
        jitter: Strength of random changes of brightness, contrast and saturation.
        hue: Largest rotation of the hue, as a fraction of the circle.
        per_class: Images of each class in a batch; 0 draws from all images uniformly.
    """

    epochs: Count = 30
    batch_size: BatchSize = 64
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    optimizer: Literal["sgd", "rmsprop"] = "sgd"
    lr_per_256: Positive = 0.4
    momentum: Rate = 0.9
    nesterov: bool = True
    alpha: Rate = 0.9
    epsilon: Positive = 1e-3
    weight_decay: NotNegative = 4e-5
    decay_norms: bool = False
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup: Rate = 0.05
    cosine_from: Literal["warmup", "start"] = "warmup"
    lr_changes: Literal["step", "epoch"] = "step"
    step_epochs: Positive = 3.0
    step_factor: Fraction = 0.963
    clip: NotNegative = 5.0
    criterion: str = ""
    options: dict[str, float | str] = msgspec.field(default_factory=dict)
    norm_momentum: Fraction = 0.1
    ema: Rate = 0.0
    precision: Precision = "fp32"
    shift: Pixels = 4
    fill: Literal["edge", "black"] = "edge"
    least_area: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    jitter: Fraction = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    per_class: Annotated[int, msgspec.Meta(ge=0)] = 0


class TrainingRecipe(NetworkRecipe, frozen=True, kw_only=True, tag="training"):
    """Settings of the training of a network from scratch; the defaults are for small images and
    minutes, not days.

    Attributes:
        initial: Initial weights: He's normal by fan-out, or torch's default.
        dropout: Dropout rate before the linear layer of the classifier.
        drop_connect: Share of images for which the last block with a shortcut is skipped in
            training; the share grows linearly from the first block to the last.
    """

    initial: Literal["torch", "he"] = "he"
    dropout: Rate = 0.0
    drop_connect: Rate = 0.0


class FineTuningRecipe(NetworkRecipe, frozen=True, kw_only=True, tag="fine-tuning"):
    """Settings of the training after a pruning.

    Attributes:
        distillation: Part of the loss that compares the outputs with those of the network before
            the pruning; 0 learns from labels only.
        temperature: Divisor of both outputs in that comparison, before the softmax.
    """

    epochs: Count = 10
    lr_per_256: Positive = 0.1
    distillation: Fraction = 0.5
    temperature: Positive = 4.0
