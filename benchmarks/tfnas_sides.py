"""Steps of a TF-NAS search: this project's, and those of a plain implementation.

The plain side does what the published code does: eager, NCHW, all eight operations of a layer as
separate modules, gradients of all weights in every backward pass. Both sides have the same made-up
prices; the arithmetic with them is real.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import BlockSpec
from latbench.blocks.graph import Norm
from latbench.cost import block_cost
from latbench.render.torch import Modules, render_torch
from latbench.tables import LatencyTable, Origin
from latbench.tables.foreign import import_table
from latbench.tables.importers import ForeignEntry, ForeignTable
from nas.data.images import generator
from nas.latency.priced_space import PricedSpace, space_label
from nas.searchers.base import SearchSettings
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.spaces import Choice, SearchSpace
from nas.spaces.tfnas import tfnas_strided
from nas.training.memory import keep_freed_memory
from nas.training.torch_device import CPU, TorchDevice

Steps = dict[str, Callable[[], object]]
"""Steps by kind: ``weight``, ``architecture``, and for this project ``widths``."""

TAU = 1.0


@dataclass(frozen=True)
class Shape:
    """What both sides compute on.

    Attributes:
        input_size: Side of the images in pixels.
        batch_size: Images a step.
        classes: Number of classes.
        stem_stride: Stride of the first convolution.
        scale: Factor of the images; just off 1 it changes nothing but how numbers are rounded.
        same_paths: Draw the same noise in every step, and so the same paths as long as alphas
            hardly move. A GPU makes a plan for every new shape of a convolution, some 20 ms each,
            and random paths meet new ones for minutes.
    """

    input_size: int
    batch_size: int
    classes: int = 100
    stem_stride: int = 2
    scale: float = 1.0
    same_paths: bool = False

    def space(self) -> SearchSpace:
        return tfnas_strided(self.input_size, self.classes, stem_stride=self.stem_stride)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random images ``(B, 3, S, S)`` and labels ``(B,)``, always the same."""
        rng = generator(0)
        images = torch.randn(self.batch_size, 3, self.input_size, self.input_size, generator=rng)
        return images * self.scale, torch.randint(self.classes, (self.batch_size,), generator=rng)


def price_ms(spec: BlockSpec) -> float:
    """A made-up latency of a block."""
    return 0.02 + block_cost(spec).macs * 1e-7


def made_up_table(space: SearchSpace, path: Path) -> LatencyTable:
    """A table of a space with made-up prices, written to ``path``."""
    entries = tuple(ForeignEntry("", None, spec, price_ms(spec)) for spec in space.blocks())
    table = ForeignTable(entries, 0.2, space_label(space), 0)
    import_table(table, path, origin=Origin("tfnas", "", 0, 0, 0, ()), device="made up")
    return LatencyTable.open(path)


def made_up_prices(space: SearchSpace) -> PricedSpace:
    """The space with made-up prices."""
    with tempfile.TemporaryDirectory() as folder:
        return PricedSpace(space, made_up_table(space, Path(folder) / "prices.sqlite"))


def our_steps(shape: Shape, recipe: TFNASRecipe, device: TorchDevice = CPU) -> Steps:
    """Steps of this project's searcher."""
    keep_freed_memory()
    priced = made_up_prices(shape.space())
    searcher = TFNASSearcher(priced, SearchSettings(recipe=recipe, torch_device=device))
    target_ms = sum(priced.feasible_ms()) / 2
    state = searcher.begin()
    state.strategy.tau = TAU
    objective = searcher.objective_at(state, target_ms)
    images, labels = shape.batch()
    x = images.to(device.device).contiguous(memory_format=device.memory_format)
    labels, noise = labels.to(device.device), generator(0)

    def weight_step() -> object:
        if shape.same_paths:
            noise.manual_seed(0)
        return state.weight_step(x, labels, rng=noise)

    return {
        "weight": weight_step,
        "architecture": lambda: state.architecture_step(x, labels, objective, rng=noise),
        "widths": lambda: searcher.scale(state, target_ms),
    }


def plain_steps(shape: Shape, device: TorchDevice = CPU) -> Steps:
    """Steps of the plain implementation; its noise is drawn on the device."""
    torch.manual_seed(0)
    place = device.device
    network = PlainNetwork(shape.space()).to(place)
    noise = torch.Generator(place).manual_seed(0)
    choices = [p for name, p in network.named_parameters() if "alpha" in name or "betas" in name]
    chosen = {id(parameter) for parameter in choices}
    weights = [p for p in network.parameters() if id(p) not in chosen]
    sgd = torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=1e-5)
    adam = torch.optim.Adam(choices, lr=0.01, betas=(0.5, 0.999), weight_decay=5e-4)
    images, labels = (tensor.to(place) for tensor in shape.batch())

    def weight_step() -> None:
        if shape.same_paths:
            noise.manual_seed(0)
        sgd.zero_grad()
        first: dict[PlainLayer, int] = {}

        def one(layer: PlainLayer) -> int:
            first[layer] = int(_gumbel(layer.alpha.detach(), noise).argmax())
            return first[layer]

        def other(layer: PlainLayer) -> int:
            drawn = int(torch.randint(len(layer.ops) - 1, (1,), generator=noise, device=place))
            return drawn + (drawn >= first[layer])

        with device.autocast():
            loss = F.cross_entropy(network.path(images, one), labels)
            loss = loss + F.cross_entropy(network.path(images, other), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        sgd.step()

    def architecture_step() -> None:
        adam.zero_grad()
        with device.autocast():
            logits, latency_ms = network.soft(images, noise)
            loss = F.cross_entropy(logits, labels) + 0.1 * (latency_ms / 5 - 1).abs()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        adam.step()
        with torch.no_grad():
            for parameter in choices:
                parameter.copy_(parameter.log_softmax(0))

    return {"weight": weight_step, "architecture": architecture_step}


def _gumbel(alpha: Tensor, noise: torch.Generator) -> Tensor:
    """Logits of Gumbel softmax with noise drawn where alpha lies."""
    drawn = -torch.empty_like(alpha).exponential_(generator=noise).log()
    return (alpha.log_softmax(0) + drawn) / TAU


def _norm(layer: Any) -> nn.Module:
    return nn.BatchNorm2d(layer.channels, affine=False, track_running_stats=False)


_MODULES: Modules = {Norm: _norm}  # all else as rendered


class PlainLayer(nn.Module):
    """Eight operations as separate modules."""

    def __init__(self, space: SearchSpace, stage: int, index: int) -> None:
        super().__init__()
        layer = space.stages[stage][index]
        blocks = [layer.block(Choice(op, layer.start_width(op))) for op in layer.ops]
        self.ops = nn.ModuleList(render_torch(b, modules=_MODULES) for b in blocks if b is not None)
        self.prices_ms = [price_ms(block) for block in blocks if block is not None]
        self.alpha = nn.Parameter(torch.zeros(len(blocks)))

    def soft(self, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        weights = _gumbel(self.alpha, noise).softmax(0)
        y = sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))
        latency_ms = sum(w * p for w, p in zip(weights, self.prices_ms, strict=True))
        assert isinstance(y, Tensor) and isinstance(latency_ms, Tensor)
        return y, latency_ms


class PlainNetwork(nn.Module):
    """The supernet of the published code in a page."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(render_torch(s, modules=_MODULES) for s in space.stem))
        self.stages = nn.ModuleList(
            nn.ModuleList(PlainLayer(space, s, i) for i in range(len(layers)))
            for s, layers in enumerate(space.stages)
        )
        self.tail = nn.Sequential(*(render_torch(s, modules=_MODULES) for s in space.head))
        self.betas = nn.ParameterList(torch.zeros(len(layers)) for layers in space.stages)

    def path(self, x: Tensor, pick: Callable[[PlainLayer], int]) -> Tensor:
        """Logits of one operation a layer, ``(N, classes)``."""
        x = self.stem(x)
        for stage, beta in zip(self.stages, self.betas, strict=True):
            outputs = []
            for layer in stage:  # type: ignore[union-attr]
                x = layer.ops[pick(layer)](x)
                outputs.append(x)
            x = sum(w * y for w, y in zip(beta.softmax(0), outputs, strict=True))
        return self.tail(x)

    def soft(self, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logits of all operations, weighted, and the expected latency in ms."""
        latency_ms = torch.zeros((), device=x.device)
        x = self.stem(x)
        for stage, beta in zip(self.stages, self.betas, strict=True):
            outputs, so_far = [], torch.zeros((), device=x.device)
            weights = beta.softmax(0)
            for layer, weight in zip(stage, weights, strict=True):  # type: ignore[arg-type]
                x, layer_ms = layer.soft(x, noise)
                outputs.append(x)
                so_far = so_far + layer_ms
                latency_ms = latency_ms + weight * so_far
            x = sum(w * y for w, y in zip(weights, outputs, strict=True))
        return self.tail(x), latency_ms
