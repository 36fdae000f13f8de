"""Settings of a TF-NAS search: the published search, its variants and its constants.

The defaults follow the published code wherever it differs from the paper, except for the random
changes of training images. These defaults are for small images; the recipe ``tfnas-imagenet100``
has the code's values for ImageNet. docs/papers.md lists every difference between paper, code and
this project.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from nas.recipes import BatchSize, Count, Fraction, NotNegative, Positive, Precision, Rate
from nas.searchers.tfnas.choices import DepthSearch, SecondPath
from nas.supernet.candidates import Initial
from nas.supernet.elastic import KeptChannels
from nas.training.recipe import SearchRecipe

TAU_END = 5.0 * 0.96**79  # about 0.2, in the last of 90 epochs of the published code


class TFNASRecipe(SearchRecipe, frozen=True, kw_only=True, tag="tfnas"):
    """The published search (90 epochs of 100 ImageNet classes), its variants and constants.

    Attributes:
        second_path: How the second path of a weight step is drawn (bi-sampling, Table 3).
        depth: How depth is searched (Table 4, ``nas.searchers.tfnas.choices``).
        latency_objective: How the expected latency joins the loss: C1 of FBNet, C2 of
            ProxylessNAS, Eq. 9, or the code's absolute form (Table 5, ``nas.criteria.hardware``).
        elasticity: Whether widths are scaled to the target after every epoch (Table 5). Otherwise
            they stay at 3 and 6 times a layer's input. Spaces without widths ignore it.
        squeeze_excite: Whether operations with squeeze-excite are among the candidates (Table 2
            has networks found without them).
        initial: Initial weights: torch's default, as in the code, or He's.
        alike: Correlation of the initial weights of a layer's operations; 0 as published.
        kept_channels: Channels that an operation's new width takes: the largest of ``all``, as in
            the code, or those ``in-use`` before any others.
        warmup: Share of the epochs with one path, no architecture step and no scaling.
        clip: Largest norm of the weights' gradient.
        restart_optimizers: Whether momentum and Adam's moments are reset at every epoch, as in the
            code, which makes new optimisers there.
        alpha_lr: Learning rate of Adam on alphas and betas.
        alpha_clip: Largest norm of the gradient of alphas and betas together; 0 for none. The
            code has 5.
        alpha_every: Number of weight steps for each architecture step.
        tau_start: Temperature of Gumbel softmax in warm-up and in the first epoch after it.
        tau_end: Temperature of the last epoch; 5.0 x 0.96 ** 79 in the code.
        tau_schedule: How the temperature falls between them: ``geometric`` as in the code (x 0.96
            an epoch), ``linear`` as in the paper.
        autocast: Older form of ``precision = "bf16"``.
        least_area: Smallest part of a stored image that a training crop shows; 0.08 in the code.
        jitter: Strength of the changes of brightness, contrast and saturation; 0.4 in the code.
        hue: Largest rotation of the hue, as a fraction of the circle; 0.2 in the code.
    """

    second_path: SecondPath = "random"
    depth: DepthSearch = "sink-connecting"
    latency_objective: str = "absolute"
    elasticity: bool = True
    squeeze_excite: bool = True
    initial: Initial = "torch"
    alike: Fraction = 0.0
    kept_channels: KeptChannels = "all"
    epochs: Count = 90
    batch_size: BatchSize = 32
    warmup: Rate = 1 / 9
    lr: Positive = 0.025
    weight_decay: NotNegative = 1e-5
    clip: Positive = 5.0
    restart_optimizers: bool = True
    alpha_lr: Positive = 0.01
    alpha_betas: tuple[Rate, Rate] = (0.5, 0.999)
    alpha_weight_decay: NotNegative = 5e-4
    alpha_clip: NotNegative = 5.0
    alpha_every: Count = 2
    tau_start: Positive = 5.0
    tau_end: Positive = TAU_END
    tau_schedule: Literal["geometric", "linear"] = "geometric"
    autocast: bool = False
    least_area: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    jitter: Fraction = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0

    def __post_init__(self) -> None:
        if self.autocast and self.precision not in ("fp32", "bf16"):
            raise ValueError(
                f"autocast means bf16, and precision is {self.precision}: leave it out"
            )

    @property
    def computed_in(self) -> Precision:
        return "bf16" if self.autocast else self.precision

    @property
    def warmup_epochs(self) -> int:
        if self.epochs == 1 or self.warmup == 0:
            return 0
        return min(self.epochs - 1, max(1, round(self.epochs * self.warmup)))

    def tau(self, epoch: int) -> float:
        """Temperature of an epoch, counted from 0.

        It is ``tau_start`` up to the first epoch after warm-up and ``tau_end`` in the last one.
        """
        first = self.warmup_epochs
        if epoch <= first:
            return self.tau_start
        progress = (epoch - first) / (self.epochs - 1 - first)
        if self.tau_schedule == "linear":
            return self.tau_start + (self.tau_end - self.tau_start) * progress
        return self.tau_start * float((self.tau_end / self.tau_start) ** progress)
