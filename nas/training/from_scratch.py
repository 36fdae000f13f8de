"""Training one architecture from scratch, and testing it.

A recipe (``nas.training.recipe``) sets the constants; the data set's task sets loss and metric. A
run resumes from its last finished epoch, bit-exactly: weights, criterion, optimiser and running
mean are in the checkpoint, and every draw follows from the seed and the epoch. Under ``torchrun``,
all processes train on their shares of the same batches.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latbench.blocks import Network, network_graph
from latbench.errors import InvalidFileError, MismatchError, in_one_line
from latbench.files import require_file, write_atomically
from latbench.progress import Progress, silent
from latbench.render.torch import NetworkModule
from nas.data.augmentation import augment
from nas.data.feed import feed
from nas.data.images import ImageData, batches, generator
from nas.supernet.candidates import Initial, initialise
from nas.tasks import task_of
from nas.training.criterion import check_batches, criterion_of
from nas.training.distributed import ALONE, Workers
from nas.training.epochs import Resumable, Values, resume, run_epochs, scaler_part
from nas.training.optimizer import TensorFlowRMSprop, cosine, set_lr
from nas.training.recipe import TrainingRecipe
from nas.training.regularisation import add_drop_connect, add_dropout
from nas.training.run_folder import RunFolder
from nas.training.steps import Losses, Report
from nas.training.torch_device import CPU, TorchDevice

WEIGHTS = "weights.safetensors"
_WHAT = "the weights of a trained run, RUN/weights.safetensors"
_LAST = "last"
_SLACK = 1e-9  # keeps rounding from delaying a step of the schedule


def train(
    network: Network,
    data: ImageData,
    recipe: TrainingRecipe,
    folder: RunFolder,
    *,
    group: Workers = ALONE,
    torch_device: TorchDevice = CPU,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train to the end of the recipe, write the weights, return the test metrics.

    Args:
        network: Blocks of the network.
        data: Data set; its task defines the loss and the metrics.
        recipe: Constants of the training.
        folder: Folder of the run; process 0 writes there.
        group: The processes that train together.
        torch_device: Device of the training; the recipe sets the precision.
        progress: Callback with the fraction done and a short description.

    Raises:
        LatbenchError: Network, data and recipe do not fit together, or an image is damaged.
    """
    check(network, data, recipe, group, torch_device=torch_device)
    data = data.to(torch_device.device)
    state = TrainingState(network, data, recipe, torch_device)
    resume(state, folder, _LAST)
    run_epochs(
        state,
        recipe.epochs,
        lambda report: state.train_epoch(data, recipe, group, report),
        folder,
        phase="train",
        checkpoint=_LAST,
        workers=group,
        torch_device=state.torch_device,
        batch_size=recipe.batch_size,
        fixed_shapes=True,
        progress=progress,
    )
    with torch_device.guarded(work="the test", kept="the training is finished and kept"):
        score = test(state.result, data)
    if group.leads:
        with folder.metrics() as metrics:
            metrics.log("test", recipe.epochs, score)
        tensors = {name: v.cpu().contiguous() for name, v in state.result.state_dict().items()}
        write_atomically(folder.path / WEIGHTS, save(tensors))
    group.wait()
    return score


def check(
    network: Network,
    data: ImageData,
    recipe: TrainingRecipe,
    group: Workers,
    *,
    torch_device: TorchDevice = CPU,
) -> None:
    """Refuse a network, data and recipe that do not fit together, before anything is written.

    Raises:
        LatbenchError: The criterion or an option is unknown, outputs do not fit the data, a batch
            does not divide among processes or classes, there are too few images for batch norm, or
            the device does not support the precision.
    """
    torch_device.at(recipe.precision)
    _criterion(network, data, recipe)
    check_batches(recipe, group)
    group.share(_images_a_step(data, recipe))


def test(model: nn.Module, data: ImageData) -> dict[str, float]:
    """The metrics of the data's task, such as ``top1`` and ``top5``; fractions.

    It computes on the network's device.
    """
    model.eval()
    return task_of(data, next(model.parameters()).device).test(model)


class TrainingState(Resumable):
    """The network with its criterion, optimiser and running mean.

    Attributes:
        torch_device: Device of all of them, with the recipe's precision.
        criterion: Loss, with its own parameters if it has any.
        mean: Running mean of the weights, if the recipe asks for one.
    """

    def __init__(
        self,
        network: Network,
        data: ImageData,
        recipe: TrainingRecipe,
        torch_device: TorchDevice = CPU,
    ) -> None:
        self.torch_device = torch_device.at(recipe.precision)
        model = make_model(network, seed=recipe.seed, initial=recipe.initial)
        self.model = self.torch_device.place(model)
        self.criterion = self.torch_device.place(_criterion(network, data, recipe))
        self.scaler = self.torch_device.scaler()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = recipe.norm_momentum
        self.mean = copy.deepcopy(self.model) if recipe.ema else None
        add_dropout(self.model, recipe.dropout)
        add_drop_connect(self.model, recipe.drop_connect)
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
    def result(self) -> NetworkModule:
        """The network that is tested and saved."""
        return self.mean or self.model

    def train_epoch(
        self,
        data: ImageData,
        recipe: TrainingRecipe,
        group: Workers,
        report: Report,
    ) -> Values:
        """Train for one epoch; return the mean loss of all processes and the last learning rate."""
        epoch, rank = self.epoch, group.rank
        order = generator(recipe.seed, epoch, 0)
        changes, dropped = (generator(recipe.seed, epoch, use, rank) for use in (1, 3))
        steps = max(1, len(data.train) // recipe.batch_size)
        total = torch.zeros((), device=self.torch_device.device)
        losses = Losses(report, self.torch_device)
        self.model.train()
        drawn = batches(
            data.train.cropped(recipe.least_area),
            recipe.batch_size,
            order,
            share=group.share(_images_a_step(data, recipe)),
            per_class=recipe.per_class,
        )
        with self.torch_device.seeded(dropped.initial_seed()):
            fed = feed(drawn, self.torch_device.device)
            for step, (raw, labels) in enumerate(fed, start=1):
                lr = learning_rate(recipe, (epoch + (step - 1) / steps) / recipe.epochs)
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

    def step(
        self, images: Tensor, labels: Tensor, recipe: TrainingRecipe, group: Workers
    ) -> Tensor:
        """Do one step on a batch, or on this process's share of one; return its loss."""
        with self.torch_device.autocast():
            loss: Tensor = self.criterion(self.model(images), labels)
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


def make_model(network: Network, *, seed: int, initial: Initial = "he") -> NetworkModule:
    """The network with random weights, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NetworkModule(network)
        model.apply(lambda module: initialise(module, initial))
    return model.to(memory_format=torch.channels_last)


def load_model(network: Network, weights: Path) -> NetworkModule:
    """The network with weights from a file.

    Raises:
        InvalidFileError: The file is missing or does not hold weights.
        MismatchError: The weights belong to another network.
    """
    require_file(weights, what=_WHAT)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InvalidFileError(f"{weights} is not {_WHAT}: {error}") from error
    model = make_model(network, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = in_one_line(error, most=200)
        raise MismatchError(f"{weights} holds weights of another network: {reason}") from error
    return model


def _criterion(network: Network, data: ImageData, recipe: TrainingRecipe) -> nn.Module:
    outputs = network_graph(network[-1:]).output_shape[0]
    return criterion_of(data, outputs, recipe, default="scratch")


def _images_a_step(data: ImageData, recipe: TrainingRecipe) -> int:
    """The batch size, or the number of images if it is smaller; batches by class repeat images."""
    return recipe.batch_size if recipe.per_class else min(recipe.batch_size, len(data.train))


def _optimizer(parameters: list[nn.Parameter], recipe: TrainingRecipe) -> torch.optim.Optimizer:
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


def learning_rate(recipe: TrainingRecipe, progress: float) -> float:
    """The learning rate after a fraction of all steps."""
    peak = recipe.lr_per_256 * recipe.batch_size / 256
    rise = progress / recipe.warmup if recipe.warmup else 1.0
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
    """Move a running mean, with its running statistics, towards the model by a share."""
    pairs = list(zip(mean.state_dict().values(), model.state_dict().values(), strict=True))
    for ours, theirs in pairs:
        if not ours.is_floating_point():
            ours.copy_(theirs)
    moved = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([ours for ours, _ in moved], [theirs for _, theirs in moved], share)
