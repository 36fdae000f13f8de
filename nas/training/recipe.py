"""How weights are trained, as values: single networks from scratch, and those that networks share.

``TrainingRecipe`` is the kind ``training``. What searches train is told them by kinds of their own,
beside the searches; what these have in common is ``SearchRecipe``.
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
)


class SearchRecipe(Recipe, frozen=True, kw_only=True):
    """What every training of shared weights is told: SGD on images of which some are held out.

    Attributes:
        held_out: Share of the training images that the weights do not see: for what is searched,
            and for scores.
        lr: Learning rate at the start; a cosine to zero.
        shift: Largest shift of a training image, in pixels.
        criterion: Name of the loss, the data's task's if empty.
        options: Options of the loss.
        per_class: Images of each class in a batch; 0 draws from all alike.
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
        """The precision that the settings together ask for."""
        return self.precision

    def scaled(self, epochs: int | None, batch_size: int | None) -> Self:
        """The recipe in so many epochs and with batches of so many images; None keeps its own."""
        return msgspec.structs.replace(
            self, epochs=epochs or self.epochs, batch_size=batch_size or self.batch_size
        )


class TrainingRecipe(Recipe, frozen=True, kw_only=True, tag="training"):
    """How a network is trained; the defaults are for small images and minutes, not days.

    Attributes:
        initial: How the weights begin: He's normal by fan-out, or torch's default.
        seed: Of weights, order, crops and dropped paths.
        optimizer: ``rmsprop`` is TensorFlow's, as in SGNAS.
        lr_per_256: Learning rate for batches of 256; it scales with the batch.
        alpha: RMSprop's smoothing of squared gradients.
        epsilon: RMSprop's, under the root.
        decay_norms: Whether norms, biases and slopes of PReLU decay as well.
        schedule: Course of the learning rate: a cosine to zero, or steps after the warm-up.
        warmup: Length of the linear warm-up, a fraction of all steps.
        cosine_from: Where the cosine begins: after the ``warmup``, or at the ``start``, so that
            the warm-up scales it.
        lr_changes: How often the learning rate changes. With ``epoch`` the warm-up is at 1 / n in
            the first of its n epochs and at the whole rate in the last.
        step_epochs: A step of the schedule in epochs.
        step_factor: What a step multiplies the learning rate by.
        clip: Largest norm of the gradient; 0 for none.
        criterion: The loss; the task's where empty.
        options: Of the criterion.
        dropout: Before the last linear layer.
        drop_connect: Share of images for which the last block with a shortcut is left out in
            training; it grows linearly from the first block to the last.
        norm_momentum: Of the running statistics.
        ema: Decay of a running mean of the weights, which is what is tested and kept; 0 for
            none.
        precision: Type of products and convolutions. ``bf16`` and ``fp16`` compute under autocast,
            and weights and sums stay ``fp32``; ``fp16`` scales the loss and skips steps whose
            gradients overflow. ``tf32`` rounds factors on CUDA GPUs. ``fp32`` leaves torch's own
            setting, which on CUDA rounds so in convolutions alone.
        shift: Largest shift of a training image, in pixels.
        fill: What fills the border of a shifted image.
        least_area: Smallest part of a stored image that a training crop shows.
        jitter: Strength of the changes of brightness, contrast and saturation.
        hue: Largest turn of the hue, as a part of the circle.
        per_class: Images of each class in a batch; 0 draws from all alike.
    """

    epochs: Count = 30
    batch_size: BatchSize = 64
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    initial: Literal["torch", "he"] = "he"
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
    dropout: Rate = 0.0
    drop_connect: Rate = 0.0
    norm_momentum: Fraction = 0.1
    ema: Rate = 0.0
    precision: Precision = "fp32"
    shift: Pixels = 4
    fill: Literal["edge", "black"] = "edge"
    least_area: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    jitter: Fraction = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    per_class: Annotated[int, msgspec.Meta(ge=0)] = 0
