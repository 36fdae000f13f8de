"""The supernet: weights shared by all architectures of a space.

One forward pass serves paths and mixtures. A sampled path is a one-hot relaxation, and only its
operations are computed. Depth is sink-connecting (TF-NAS, Section 3.2): the output of a stage is
the sum of its layers' outputs, each weighted by the probability that the stage ends there. So no
layer is skipped, and shallow networks are real candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from latbench.blocks import InvertedResidual
from latbench.errors import InvalidValueError
from latbench.render.torch import Modules, NetworkModule, render_torch
from nas.latency.relaxation import Places, Relaxed, Weight, Widths
from nas.spaces import Architecture, Choice, Layer, SearchSpace, every_width
from nas.supernet.candidates import Initial, initialise, modules_of
from nas.supernet.elastic import ElasticInvertedResidual, KeptChannels, Order, Selection
from nas.supernet.similar_start import start_alike

SKIP = -1
"""Placeholder among a layer's operations for the unchanged input."""


Norms = Literal["batch", "running"]


class Supernet(nn.Module):
    """All candidates of a space. Elastic ones have their widest width, and know the channels in
    use.

    Args:
        space: A space whose elastic blocks are inverted residuals.
        start_widths: Initial width of every operation.
        seed: Seed of the initial weights.
        initial: Initial weights. OSNASLib does not state them; its supernets use He's here.
        norms: ``batch`` norms have no parameters and use the statistics of the current batch, as in
            TF-NAS. ``running`` norms have scale, shift and running statistics, as rendered networks
            do. Then a network cut out of the supernet is calibrated before it is evaluated
            (``nas.training.calibration``). Operations of elastic width need ``batch``.

    Raises:
        InvalidValueError: The space has operations that contain choices, or elastic operations with
            running norms.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        start_widths: Widths,
        seed: int,
        norms: Norms = "batch",
        initial: Initial = "he",
    ) -> None:
        super().__init__()
        _check(space, norms)
        modules = modules_of(norms)
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.ModuleList(render_torch(spec, modules=modules) for spec in space.stem)
            self.stages = nn.ModuleList(
                nn.ModuleList(
                    nn.ModuleList(_candidate(layer, op, widths[op], modules) for op in layer.ops)
                    for layer, widths in zip(layers, row, strict=True)
                )
                for layers, row in zip(space.stages, start_widths, strict=True)
            )
            self.tail = nn.ModuleList(render_torch(spec, modules=modules) for spec in space.head)
            self.apply(lambda module: initialise(module, initial))

    def block(self, stage: int, layer: int, op: int) -> nn.Module:
        """The candidate operation of a layer, by its index."""
        stages = cast(list[list[list[nn.Module]]], self.stages)
        return stages[stage][layer][op]

    def start_alike(self, correlation: float) -> None:
        """Make operations of a layer start as nearly the same function, if they are of one kind.

        Args:
            correlation: Correlation of a weight with that of its model, 0 to 1
                (``nas.supernet.similar_start``).
        """
        for stage in cast(list[list[list[nn.Module]]], self.stages):
            for operations in stage:
                start_alike(operations, correlation)

    def forward(self, images: Tensor, relaxed: Relaxed) -> Tensor:
        """``(N, 3, S, S)`` to logits ``(N, classes)``."""
        x = images
        for block in self.stem:
            x = block(x)
        for s, (rows, depths) in enumerate(zip(relaxed.ops, relaxed.depths, strict=True)):
            by_depth: dict[int, Tensor] = {}
            for i, row in enumerate(rows[: max(depths)]):
                made = {op: self._made((s, i, op), x, relaxed) for op in row}
                skip = relaxed.skips.get((s, i))
                x = (
                    _mix(made, row)
                    if skip is None
                    else _mix({**made, SKIP: x}, {**row, SKIP: skip})
                )
                by_depth[i + 1] = x
            x = _mix({depth: by_depth[depth] for depth in depths}, depths)
        for block in self.tail:
            x = block(x)
        return x

    def _made(self, place: tuple[int, int, int], x: Tensor, relaxed: Relaxed) -> Tensor:
        """Output of one candidate, at the path's width if the path gives one."""
        block = self.block(*place)
        width = relaxed.widths.get(place)
        made: Tensor = block(x) if width is None else block(x, width)
        return made

    def widths(self) -> list[list[dict[str, int | None]]]:
        """Current width of every operation by stage, layer and name; None for a fixed width."""
        return [
            [
                {op: _width(self.block(s, i, index)) for index, op in enumerate(layer.ops)}
                for i, layer in enumerate(layers)
            ]
            for s, layers in enumerate(self.space.stages)
        ]

    def set_widths(
        self,
        architecture: Architecture,
        places: Places | None = None,
        *,
        keep: KeptChannels = "all",
    ) -> Mapping[nn.Parameter, Order]:
        """Give the architecture's operations its widths; the others are not changed.

        Args:
            architecture: Operations and widths.
            places: Index of the operation of every layer of the space, None where the layer is
                left out; if omitted, the architecture uses the first layers of each stage.
            keep: Which channels a new width takes.

        Returns:
            How slices of parameters were moved. The optimiser's state must be moved in the same
            way.
        """
        moved: dict[nn.Parameter, Order] = {}
        for s, stage in enumerate(architecture.stages):
            taken = range(len(stage)) if places is None else _kept(places[s])
            for i, choice in zip(taken, stage, strict=True):
                block = self.block(s, i, self.space.stages[s][i].ops.index(choice.op))
                if isinstance(block, ElasticInvertedResidual):
                    assert choice.width is not None
                    moved.update(block.set_width(choice.width, keep))
        return moved

    def cut(self, architecture: Architecture, places: Places | None = None) -> NetworkModule:
        """The network of an architecture, with copies of the weights and running statistics.

        Norms without statistics in the supernet have their initial values and must be calibrated
        (``nas.training.calibration``). An elastic operation gives its first channels.

        Args:
            architecture: Operations and widths.
            places: The layers that the architecture uses, as for ``set_widths``.
        """
        with torch.random.fork_rng(devices=[]):  # random weights that are all replaced
            network = NetworkModule(self.space.lower(architecture))
        network.to(next(self.parameters()).device)
        states = [block.state_dict() for block in self.stem]
        for s, stage in enumerate(architecture.stages):
            taken = range(len(stage)) if places is None else _kept(places[s])
            for i, choice in zip(taken, stage, strict=True):
                block = self.block(s, i, self.space.stages[s][i].ops.index(choice.op))
                if isinstance(block, ElasticInvertedResidual):
                    assert choice.width is not None
                    states.append(block.slice_parameters(choice.width))
                elif not isinstance(block, nn.Identity):
                    states.append(block.state_dict())
        states += [block.state_dict() for block in self.tail]
        for ours, state in zip(network.blocks, states, strict=True):
            missing, unexpected = ours.load_state_dict(state, strict=False)
            assert not unexpected and all("norm" in name for name in missing)
        return network.to(memory_format=torch.channels_last)

    def selections(self, computed: Sequence[Relaxed] = ()) -> Mapping[nn.Parameter, Selection]:
        """Axis and number of slices in use, for every parameter that is partly in use.

        Args:
            computed: The paths of a step. If they give widths, the widest one of an operation is in
                use, else the current width.
        """
        widest: dict[nn.Module, int] = {}
        for relaxed in computed:
            for place in relaxed.computed():
                block = self.block(*place)
                if isinstance(block, ElasticInvertedResidual):
                    width = relaxed.widths.get(place, block.width)
                    widest[block] = max(width, widest.get(block, 0))
        found: dict[nn.Parameter, Selection] = {}
        for module in self.modules():
            if isinstance(module, ElasticInvertedResidual):
                found.update(module.selections(widest.get(module)))
        return found


def fixed_supernet(
    space: SearchSpace, *, seed: int, initial: Initial = "he", alike: float = 0.0
) -> Supernet:
    """The supernet that strategies train, for a space without elastic widths: running norms,
    channels last.

    Args:
        space: Search space.
        seed: Seed of the initial weights.
        initial: Initial weights.
        alike: Correlation of the initial weights of a layer's operations; 0 for independent ones.

    Raises:
        InvalidValueError: The space has operations that contain choices.
    """
    starts = start_widths(space)
    made = Supernet(space, start_widths=starts, seed=seed, norms="running", initial=initial)
    return _started(made, alike)


def searchable_supernet(
    space: SearchSpace, *, seed: int, initial: Initial = "he", alike: float = 0.0
) -> Supernet:
    """``fixed_supernet``; for elastic widths, a supernet at the initial widths.

    Raises:
        InvalidValueError: The space has operations that contain choices.
    """
    if not has_widths(space):
        return fixed_supernet(space, seed=seed, initial=initial, alike=alike)
    made = Supernet(space, start_widths=start_widths(space), seed=seed, initial=initial)
    return _started(made, alike)


def _started(supernet: Supernet, alike: float) -> Supernet:
    """The new supernet, channels last, and with operations that start alike if that is asked."""
    supernet.to(memory_format=torch.channels_last)
    if alike:
        supernet.start_alike(alike)
    return supernet


def has_widths(space: SearchSpace) -> bool:
    """Whether any operation has elastic widths; then all norms use the batch's statistics."""
    return any(layer.widths(op) for layer in space.layers for op in layer.ops)


def require_separate(space: SearchSpace) -> None:
    """Refuse a space whose operations contain choices.

    Raises:
        InvalidValueError: The space is refused; the message names a searcher for it.
    """
    for layer in space.layers:
        for op in layer.ops:
            if not layer.widths(op) and len(layer.choices(op, every_width)) > 1:
                raise InvalidValueError(
                    f"layers of {space.name} mix several kernels, and this searcher chooses one "
                    "operation a layer; their supernet is the unified one: choose another "
                    "searcher, such as sgnas, evolution or softmax"
                )


def _check(space: SearchSpace, norms: Norms) -> None:
    if norms == "running" and has_widths(space):
        raise InvalidValueError(
            f"{space.name} has operations of elastic width, which need batch norms without running "
            "statistics: search it with tfnas"
        )
    require_separate(space)


def _kept(stage: Sequence[int | None]) -> list[int]:
    return [i for i, op in enumerate(stage) if op is not None]


def start_widths(space: SearchSpace) -> list[list[dict[str, int | None]]]:
    """Widths at the start of a search."""
    return [
        [{op: layer.start_width(op) for op in layer.ops} for layer in layers]
        for layers in space.stages
    ]


def _candidate(layer: Layer, op: str, width: int | None, modules: Modules) -> nn.Module:
    if width is None:
        block = layer.block(Choice(op))
        return nn.Identity() if block is None else render_torch(block, modules=modules)
    widest = layer.block(Choice(op, layer.widths(op)[-1]))
    if not (isinstance(widest, InvertedResidual) and widest.expand):
        raise TypeError(f"no elastic form of {widest}")
    return ElasticInvertedResidual(widest, width=width)


def _width(block: nn.Module) -> int | None:
    return block.width if isinstance(block, ElasticInvertedResidual) else None


def _mix(values: Mapping[int, Tensor], weights: Mapping[int, Weight]) -> Tensor:
    """Weighted sum; a single choice of a path is returned unchanged.

    A single weight that is a tensor counts, since choices of small probability are left out.
    """
    if len(weights) == 1:
        ((key, weight),) = weights.items()
        if not isinstance(weight, Tensor) and weight == 1:
            return values[key]
    return cast(Tensor, sum(weights[key] * value for key, value in values.items()))
