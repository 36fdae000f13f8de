"""Training of one network on a data set: a module and a recipe in, trained weights out.

A recipe (``nas.training.recipe``) sets the constants; the data set's task sets loss and metric. A
run resumes from its last finished epoch, bit-exactly: weights, criterion, optimiser and running
mean are in the checkpoint, and every draw follows from the seed and the epoch. Under ``torchrun``,
all processes train on their shares of the same batches.

A network may learn from another one as well: from a teacher's outputs (Hinton et al. 2015).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from latbench.files import write_atomically
from latbench.progress import Phase, Phases, Progress, silent
from nas.data.augmentation import augment
from nas.data.feed import feed
from nas.data.images import ImageData, batch_count, batches, generator
from nas.tasks import task_of
from nas.training.criterion import loss_of
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import Resumable, Values, resume, run_epochs, scaler_part
from nas.training.optimizer import TensorFlowRMSprop, cosine, set_lr
from nas.training.recipe import NetworkRecipe
from nas.training.run_folder import RunFolder
from nas.training.steps import Losses, Report, images_a_step
from nas.training.torch_device import CPU, TorchDevice

WEIGHTS = "weights.safetensors"
_LAST = "last"
_TRAINED = 3.0  # time of a training image relative to a test image: backward takes twice as long
_SLACK = 1e-9  # keeps rounding from delaying a step of the schedule


@dataclass(frozen=True)
class Distillation:
    """A trained network whose outputs another one learns to give, beside the labels.

    Attributes:
        teacher: The trained network, in evaluation mode.
        share: Part of the loss that compares the outputs; the rest is the criterion's.
        temperature: Divisor of both networks' outputs before the softmax.
    """

    teacher: nn.Module
    share: float
    temperature: float

    def loss(self, outputs: Tensor, images: Tensor) -> Tensor:
        """Divergence of the teacher's softmax from that of ``outputs``, times the temperature
        squared, so that its gradient does not shrink with the temperature (Hinton et al. 2015).
        """
        with torch.no_grad():
            wanted = self.teacher(images)
        ours, theirs = (F.log_softmax(x.float() / self.temperature, 1) for x in (outputs, wanted))
        divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2


def train(
    state: TrainingState,
    data: ImageData,
    recipe: NetworkRecipe,
    folder: RunFolder,
    *,
    group: Workers = ALONE,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train to the end of the recipe, write the weights, return the test metrics.

    Args:
        state: The network with its optimiser; it resumes from the folder's last checkpoint.
        data: Data set; its task defines the metrics.
        recipe: Constants of the training.
        folder: Folder of the run; process 0 writes there.
        group: The processes that train together.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: The loss diverged, or an image is damaged.
    """
    device = state.torch_device
    shown = _TRAINED * len(data.train) * recipe.epochs
    with Phases(progress, [Phase("train", shown), Phase("test", float(_tested(data)))]) as phases:
        phases["train"](0.0, "reading the data")
        data = data.to(device.device)
        resume(state, folder, _LAST)
        run_epochs(
            state,
            recipe.epochs,
            lambda report: state.train_epoch(data, recipe, group, report),
            folder,
            phase="train",
            checkpoint=_LAST,
            workers=group,
            torch_device=device,
            batch_size=recipe.batch_size,
            fixed_shapes=True,
            progress=phases["train"],
        )
        with device.guarded(work="the test", kept="the training is finished and kept"):
            score = test(state.result, data, progress=phases["test"])
        if group.leads:
            with folder.metrics() as metrics:
                metrics.log("test", recipe.epochs, score)
            write_atomically(folder.path / WEIGHTS, save(_separate(state.result)))
        group.wait()
    return score


def test(model: nn.Module, data: ImageData, *, progress: Progress = silent) -> dict[str, float]:
    """The metrics of the data's task, such as ``top1`` and ``top5``; fractions.

    It computes on the network's device.
    """
    model.eval()
    seen, total = 0, _tested(data)

    def counted(images: Tensor) -> Tensor:
        nonlocal seen
        progress(seen / total, f"image {seen} of {total}")
        seen += len(images)
        outputs: Tensor = model(images)
        return outputs

    return task_of(data, next(model.parameters()).device).test(counted)


def _tested(data: ImageData) -> int:
    """Number of images that a test looks at."""
    return len(data.test) if data.pairs is None else len(data.pairs.images)


class TrainingState(Resumable):
    """The network with its criterion, optimiser and running mean.

    Args:
        model: The network; its weights are trained in place.
        criterion: Loss of outputs and labels, with its own parameters if it has any.
        recipe: Constants of the training.
        torch_device: Device of the training; the recipe sets the precision.
        distillation: Teacher of the network; None if it learns from labels only.

    Attributes:
        torch_device: Device of all of them, with the recipe's precision.
        model: The network that is trained.
        criterion: Loss of outputs and labels.
        mean: Running mean of the weights, if the recipe asks for one.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: nn.Module,
        recipe: NetworkRecipe,
        torch_device: TorchDevice = CPU,
        distillation: Distillation | None = None,
    ) -> None:
        self.torch_device = torch_device.at(recipe.precision)
        self.model = self.torch_device.place(model)
        self.criterion = self.torch_device.place(criterion)
        self.distillation = distillation
        self.scaler = self.torch_device.scaler()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = recipe.norm_momentum
        self.mean = copy.deepcopy(self.model) if recipe.ema else None
        self.parameters = [*self.model.parameters(), *self.criterion.parameters()]
        self.optimizer = _optimizer(self.parameters, recipe)
        super().__init__(
            model=self.model,
            criterion=self.criterion,
            optimizer=self.optimizer,
            mean=self.mean,
            **scaler_part(self.scaler),
        )

    @property
    def result(self) -> nn.Module:
        """The network that is tested and saved."""
        return self.mean or self.model

    def train_epoch(
        self,
        data: ImageData,
        recipe: NetworkRecipe,
        group: Workers,
        report: Report,
    ) -> Values:
        """Train for one epoch; return the mean loss of all processes and the last learning rate."""
        epoch, rank = self.epoch, group.rank
        order = generator(recipe.seed, epoch, 0)
        changes, dropped = (generator(recipe.seed, epoch, use, rank) for use in (1, 3))
        steps = batch_count(len(data.train), recipe.batch_size)
        length = 1 / (steps * recipe.epochs)  # of a step, as a part of the training
        total = torch.zeros((), device=self.torch_device.device)
        losses = Losses(report, self.torch_device)
        self.model.train()
        drawn = batches(
            data.train.cropped(recipe.least_area),
            recipe.batch_size,
            order,
            share=group.share(images_a_step(data.train, recipe.batch_size, recipe.per_class)),
            per_class=recipe.per_class,
        )
        with self.torch_device.seeded(dropped.initial_seed()):
            fed = feed(drawn, self.torch_device.device)
            for step, (raw, labels) in enumerate(fed, start=1):
                begun = (epoch + (step - 1) / steps) / recipe.epochs
                lr = learning_rate(recipe, begun, step=length)
                set_lr(self.optimizer, lr)
                images = augment(
                    raw,
                    changes,
                    flip=data.flip,
                    shift=recipe.shift,
                    fill=recipe.fill,
                    strength=recipe.jitter,
                    hue=recipe.hue,
                )
                total = total + self.step(data.to_input(images), labels, recipe, group)
                losses.add(step / steps, total, over=step)
        mean = losses.read()[-1]
        group.average_buffers(self.model)
        if self.mean is not None:
            group.average_buffers(self.mean)
        return {"loss": group.sum([mean])[0] / group.count, "lr": lr}

    def step(self, images: Tensor, labels: Tensor, recipe: NetworkRecipe, group: Workers) -> Tensor:
        """Do one step on a batch, or on this process's share of one; return its loss."""
        with self.torch_device.autocast():
            loss = self._loss(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        group.average_gradients(self.parameters)
        if recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.mean is not None:
            _move_towards(self.mean, self.model, 1 - recipe.ema)
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs = self.model(images)
        loss = loss_of(self.criterion, outputs, labels)
        learnt = self.distillation
        if learnt is None:
            return loss
        return (1 - learnt.share) * loss + learnt.share * learnt.loss(outputs, images)


def _optimizer(parameters: list[nn.Parameter], recipe: NetworkRecipe) -> torch.optim.Optimizer:
    # vectors of any shape are norms, biases and PReLU's slopes
    vectors = [p for p in parameters if p.numel() == max(p.shape, default=1)]
    plain = [] if recipe.decay_norms else vectors
    kept = {id(p) for p in plain}
    decayed = [p for p in parameters if id(p) not in kept]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "rmsprop":
        return TensorFlowRMSprop(
            groups,
            lr=0.0,
            alpha=recipe.alpha,
            momentum=recipe.momentum,
            epsilon=recipe.epsilon,
        )
    return torch.optim.SGD(
        groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0
    )


def learning_rate(recipe: NetworkRecipe, progress: float, *, step: float) -> float:
    """The learning rate of a step.

    A warm-up of n steps begins at 1 / n of the rate and has the whole rate in its last step.

    Args:
        recipe: Recipe of the schedule.
        progress: Fraction of the training that is done before the step.
        step: Length of the step, a fraction of the training.
    """
    peak = recipe.lr_per_256 * recipe.batch_size / 256
    rise = (progress + step) / recipe.warmup if recipe.warmup else 1.0
    if recipe.lr_changes == "epoch":
        epoch = math.floor(progress * recipe.epochs + _SLACK)
        progress = epoch / recipe.epochs
        rise = (epoch + 1) / (recipe.warmup * recipe.epochs) if recipe.warmup else 1.0
    if recipe.cosine_from == "start" and recipe.schedule == "cosine":
        return min(rise, 1.0) * cosine(peak, progress)
    after = (progress - recipe.warmup) / (1 - recipe.warmup)
    if after < 0:
        return peak * min(rise, 1.0)
    if recipe.schedule == "cosine":
        return cosine(peak, after)
    epochs = (progress - recipe.warmup) * recipe.epochs
    return float(peak * recipe.step_factor ** math.floor(epochs / recipe.step_epochs + _SLACK))


@torch.no_grad()
def _move_towards(mean: nn.Module, model: nn.Module, share: float) -> None:
    """Move a running mean, with its running statistics, towards the model by a share.

    A tensor that a module holds under two names is moved once.
    """
    pairs = [
        *zip(mean.parameters(), model.parameters(), strict=True),
        *zip(mean.buffers(), model.buffers(), strict=True),
    ]
    for ours, theirs in pairs:
        if not ours.is_floating_point():
            ours.copy_(theirs)
    moved = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([ours for ours, _ in moved], [theirs for _, theirs in moved], share)


def _separate(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module by name, on the CPU; safetensors files hold no shared memory."""
    contiguous = torch.contiguous_format
    return {n: v.cpu().clone(memory_format=contiguous) for n, v in model.state_dict().items()}
