"""Conversion of a graph to ``torch.nn.Module``, for training and for the PyTorch runtime.

The parameters of a module are named as in ``latbench.render.parameters``. A network is the list of
its blocks, so parameter ``x`` of block ``i`` is ``blocks.i.x``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import BlockSpec, Graph, Network, fold_norms
from latbench.blocks.graph import (
    INPUT,
    NORM_EPSILON,
    Act,
    Add,
    AveragePool,
    Concat,
    Conv,
    Flatten,
    Layer,
    Linear,
    Mul,
    Node,
    Norm,
    Pool,
    PReLU,
    Shuffle,
    sliced_map,
)
from latbench.render.parameters import Parameters, fold_values


class _Add(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class _Mul(nn.Module):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate


class _Split(nn.Module):
    """All slices of a map at once. The gradient is one concatenation in the map's layout."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.sizes, dim=1)


class _Concat(nn.Module):
    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


class _PReLU(nn.Module):
    def __init__(self, layer: PReLU) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((layer.channels, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope.flatten())


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "hswish": nn.Hardswish,
    "hsigmoid": nn.Hardsigmoid,
}


_COUNTER = "num_batches_tracked"  # of a batch norm, which nothing reads
_FRESH = (Conv, Norm, Concat, Add, Linear)  # layers whose output is no view of another map
_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid)


class ConvModule(nn.Conv2d):
    """A convolution of a graph."""

    def __init__(self, layer: Conv) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=layer.bias,
        )


Modules = Mapping[type[Layer], Callable[[Any], nn.Module]]
"""Constructors of modules, by kind of layer."""

_MODULES: Modules = {
    Conv: ConvModule,
    Norm: lambda layer: nn.BatchNorm2d(layer.channels, eps=NORM_EPSILON),
    Act: lambda layer: _ACTIVATIONS[layer.kind](),
    Add: lambda layer: _Add(),
    Mul: lambda layer: _Mul(),
    Concat: lambda layer: _Concat(),
    PReLU: _PReLU,
    Shuffle: lambda layer: nn.ChannelShuffle(layer.groups),
    AveragePool: lambda layer: nn.AvgPool2d(layer.size, ceil_mode=True),
    Flatten: lambda layer: nn.Flatten(),
    Pool: lambda layer: nn.AdaptiveAvgPool2d(1),
    Linear: lambda layer: _Linear(layer.in_features, layer.out_features),
}


@dataclass(frozen=True)
class _Step:
    """A call of a module: its output, its inputs, and the inputs that no later call reads."""

    names: list[str]
    module: nn.Module
    inputs: tuple[str, ...]
    done: list[str]


class GraphModule(nn.Module):
    """Module of a graph: reads ``(N, C, H, W)`` and returns the value of the last node.

    Args:
        graph: Layers of the module.
        modules: Constructors that replace the usual ones for some kinds of layers. They make
            modules that compute the same, or norms without parameters as in supernets.
        in_place: Whether an activation overwrites what it reads, where nothing else reads that and
            a layer of this graph has just made it. It saves memory and time.
    """

    def __init__(
        self, graph: Graph, *, modules: Modules | None = None, in_place: bool = False
    ) -> None:
        super().__init__()
        make = {**_MODULES, **(modules or {})}
        self.graph = graph
        overwritten = _made_once(graph) if in_place else set()
        last = {name: node.name for node in graph.nodes for name in node.inputs}
        self._steps: list[_Step] = []
        for split, nodes in groupby(graph.nodes, key=sliced_map):
            if split is not None:
                slices = list(nodes)
                module: nn.Module = _Split([node.shape[0] for node in slices])
                self._add([node.name for node in slices], module, slices[-1], last)
                continue
            for node in nodes:
                module = make[type(node.layer)](node.layer)
                if isinstance(module, _IN_PLACE) and node.inputs[0] in overwritten:
                    module.inplace = True
                self._add([node.name], module, node, last)

    def _add(self, names: list[str], module: nn.Module, node: Node, last: dict[str, str]) -> None:
        self.add_module(names[0], module)
        done = [name for name in dict.fromkeys(node.inputs) if last[name] == node.name]
        self._steps.append(_Step(names, module, node.inputs, done))

    def forward(self, x: Tensor) -> Tensor:
        values = {INPUT: x}
        for step in self._steps:
            made = step.module(*[values[name] for name in step.inputs])
            if len(step.names) == 1:
                values[step.names[0]] = made
            else:
                values.update(zip(step.names, made, strict=True))
            for name in step.done:  # free the memory for the next map
                del values[name]
        return values[self.graph.output]


def _made_once(graph: Graph) -> set[str]:
    """Maps that a layer makes anew and only one other layer reads."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    made = {node.name for node in graph.nodes if isinstance(node.layer, _FRESH)}
    return {name for name in made if readers[name] == 1}


class NetworkModule(nn.Module):
    """Whole network as a list of blocks: maps ``(N, 3, H, W)`` to ``(N, classes)``.

    See ``GraphModule`` for ``modules``.
    """

    def __init__(self, network: Network, *, modules: Modules | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(render_torch(spec, modules=modules) for spec in network)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def parameter_values(self) -> Parameters:
        """Parameters and running statistics, under the names that ``network_graph`` uses."""
        return {
            name.removeprefix("blocks."): value.detach().cpu().numpy()
            for name, value in _values(self).items()
        }

    def for_evaluation(self) -> nn.Sequential:
        """A network that computes the same in evaluation mode, faster; it cannot be trained.

        Batch norms are folded into convolutions, and activations overwrite what they read. The
        other parameters may be shared.
        """
        blocks = [cast(GraphModule, block) for block in self.blocks]
        values = {
            f"{i}.{name}": value
            for i, block in enumerate(blocks)
            for name, value in fold_values(block.graph, _values(block)).items()
        }
        made = folded_sequence([block.graph for block in blocks], values, in_place=True)
        return made.to(memory_format=torch.channels_last)


def folded_sequence(
    graphs: Iterable[Graph], values: Mapping[str, Tensor], *, in_place: bool = False
) -> nn.Sequential:
    """Graphs in a row with their norms folded, in evaluation mode.

    Args:
        graphs: The graphs, norms not yet folded.
        values: Parameters of the folded graphs, which are shared; ``x`` of graph ``i`` is ``i.x``.
        in_place: As in ``GraphModule``.
    """
    with torch.device("meta"):  # no random values, which are replaced at once
        made = nn.Sequential(*(GraphModule(fold_norms(g), in_place=in_place) for g in graphs))
    counters = {n: torch.tensor(0) for n in made.state_dict() if n.endswith(_COUNTER)}
    made.load_state_dict({**counters, **values}, assign=True)
    return made.requires_grad_(False).eval()


def _values(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics by name."""
    state = module.state_dict()
    return {name: value for name, value in state.items() if not name.endswith(_COUNTER)}


def render_torch(spec: BlockSpec, *, modules: Modules | None = None) -> GraphModule:
    """Module of one block; see ``GraphModule`` for ``modules``."""
    return GraphModule(spec.graph(), modules=modules)


def load_parameters(module: GraphModule, parameters: Parameters) -> None:
    """Copy parameters by name into a module; the names must match exactly."""
    state = {name: torch.from_numpy(value.copy()) for name, value in parameters.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith(_COUNTER)] + unexpected
    if wrong:
        raise ValueError(f"parameters do not fit the module: {', '.join(wrong)}")
