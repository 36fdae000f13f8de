"""Graph of a block's layers, as plain data that every renderer and cost counter reads.

A graph has one input and one output. Its nodes are in the order of execution. A node lists the
nodes it reads and the shape it produces. Shapes are ``(C, H, W)``, without the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

Shape = tuple[int, int, int]
Pointwise = Literal["relu", "relu6", "swish", "sigmoid", "hswish", "hsigmoid"]
Activation = Literal[Pointwise, "prelu"]

INPUT = "input"
NORM_EPSILON = 1e-5  # the default of PyTorch, which all reproduced papers use


def words(kind: str, *parts: str | None, input_size: int) -> str:
    """Readable name of a block, such as ``MBConv k3 s2 16-24 w48 se16 relu @32px``.

    Args:
        kind: Usual name of the kind of block in papers.
        parts: Kernel ``k``, stride ``s``, channels in and out, width ``w``, channels of
            squeeze-excite ``se``, groups ``g``, activation; None where a block has none.
        input_size: Side of the input map in pixels.
    """
    return " ".join([kind, *(part for part in parts if part), f"@{input_size}px"])


@dataclass(frozen=True, slots=True)
class Conv:
    """2-D convolution with zero padding ``padding`` on every side; square kernel."""

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Norm:
    """Batch normalisation over ``channels``."""

    channels: int


@dataclass(frozen=True, slots=True)
class Act:
    """Pointwise activation without parameters."""

    kind: Pointwise


@dataclass(frozen=True, slots=True)
class PReLU:
    """Leaky ReLU with a trained slope for each channel (He et al. 2015)."""

    channels: int


@dataclass(frozen=True, slots=True)
class Add:
    """Sum of two maps of equal shape."""


@dataclass(frozen=True, slots=True)
class Mul:
    """Product of a map and a map of equal shape or of shape ``(C, 1, 1)``."""


@dataclass(frozen=True, slots=True)
class Slice:
    """``channels`` channels of a map, from channel ``start`` on.

    The slices of a map are adjacent and in order, and together they cover the whole map
    (``GraphBuilder.split``).
    """

    start: int
    channels: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation of maps of equal size along the channels."""


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Channel shuffle (ShuffleNet, Zhang et al. 2018): channel i of group j becomes j of i."""

    groups: int


@dataclass(frozen=True, slots=True)
class AveragePool:
    """Average pooling over adjacent ``size`` x ``size`` windows; the last ones may be smaller."""

    size: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Global average pooling to ``(C, 1, 1)``."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """A ``(C, 1, 1)`` map as a vector: ends a network whose last layer is not linear."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Fully connected layer on a ``(C, 1, 1)`` map."""

    in_features: int
    out_features: int


Layer = (
    Conv
    | Norm
    | Act
    | PReLU
    | Add
    | Mul
    | Slice
    | Concat
    | Shuffle
    | AveragePool
    | Pool
    | Flatten
    | Linear
)


@dataclass(frozen=True, slots=True)
class Node:
    """A layer with the nodes it reads and the shape ``(C, H, W)`` it produces."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of execution, from ``INPUT`` to the last node."""

    input_shape: Shape
    nodes: tuple[Node, ...]

    @property
    def output(self) -> str:
        """Name of the node whose value the graph returns."""
        return self.nodes[-1].name if self.nodes else INPUT

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape if self.nodes else self.input_shape


class GraphBuilder:
    """Builds a graph layer by layer and computes the shapes."""

    def __init__(self, channels: int, size: int) -> None:
        self._input_shape: Shape = (channels, size, size)
        self._shapes: dict[str, Shape] = {INPUT: self._input_shape}
        self._nodes: list[Node] = []

    def build(self) -> Graph:
        return Graph(self._input_shape, tuple(self._nodes))

    def channels(self, x: str) -> int:
        """Number of channels of a map."""
        return self._shapes[x][0]

    def conv(
        self,
        name: str,
        x: str,
        *,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = False,
    ) -> str:
        """Add a convolution with padding ``kernel // 2`` if None; stride 1 then keeps the size.

        The convolution is depthwise if ``groups`` equals the number of channels.
        """
        channels, height, width = self._shapes[x]
        padding = kernel // 2 if padding is None else padding
        layer = Conv(channels, out_channels, kernel, stride, padding, groups, bias)
        out = tuple((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
        return self._add(name, layer, (x,), (out_channels, out[0], out[1]))

    def norm(self, name: str, x: str) -> str:
        return self._add(name, Norm(self._shapes[x][0]), (x,), self._shapes[x])

    def act(self, name: str, x: str, kind: Activation) -> str:
        layer = PReLU(self._shapes[x][0]) if kind == "prelu" else Act(kind)
        return self._add(name, layer, (x,), self._shapes[x])

    def add(self, name: str, x: str, y: str) -> str:
        return self._add(name, Add(), (x, y), self._shapes[x])

    def mul(self, name: str, x: str, gate: str) -> str:
        return self._add(name, Mul(), (x, gate), self._shapes[x])

    def split(self, names: Sequence[str], x: str, channels: Sequence[int]) -> list[str]:
        """Split a map along the channels into slices with these numbers of channels."""
        _, height, width = self._shapes[x]
        starts = [0, *accumulate(channels)]
        return [
            self._add(name, Slice(start, count), (x,), (count, height, width))
            for name, start, count in zip(names, starts, channels, strict=False)
        ]

    def concat(self, name: str, maps: Sequence[str]) -> str:
        shapes = [self._shapes[x] for x in maps]
        shape = (sum(channels for channels, _, _ in shapes), *shapes[0][1:])
        return self._add(name, Concat(), tuple(maps), shape)

    def shuffle(self, name: str, x: str, groups: int) -> str:
        return self._add(name, Shuffle(groups), (x,), self._shapes[x])

    def average_pool(self, name: str, x: str, size: int) -> str:
        channels, *sides = self._shapes[x]
        height, width = (-(-side // size) for side in sides)
        return self._add(name, AveragePool(size), (x,), (channels, height, width))

    def pool(self, name: str, x: str) -> str:
        return self._add(name, Pool(), (x,), (self._shapes[x][0], 1, 1))

    def flatten(self, name: str, x: str) -> str:
        return self._add(name, Flatten(), (x,), self._shapes[x])

    def linear(self, name: str, x: str, out_features: int) -> str:
        layer = Linear(self._shapes[x][0], out_features)
        return self._add(name, layer, (x,), (out_features, 1, 1))

    def conv_norm_act(
        self,
        name: str,
        x: str,
        *,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        activation: Activation | None = None,
    ) -> str:
        """Add a convolution, a batch norm and an optional activation."""
        x = self.conv(
            name,
            x,
            out_channels=out_channels,
            kernel=kernel,
            stride=stride,
            groups=groups,
            padding=padding,
        )
        x = self.norm(f"{name}_norm", x)
        return x if activation is None else self.act(f"{name}_act", x, activation)

    def squeeze_excite(
        self, name: str, x: str, *, channels: int, activation: Activation, gate: Activation
    ) -> str:
        """Add squeeze-excite: pool, two 1x1 convolutions with bias, gate (Hu et al. 2018)."""
        full = self._shapes[x][0]
        y = self.pool(f"{name}_pool", x)
        y = self.conv(f"{name}_reduce", y, out_channels=channels, bias=True)
        y = self.act(f"{name}_act", y, activation)
        y = self.conv(f"{name}_expand", y, out_channels=full, bias=True)
        y = self.act(f"{name}_gate", y, gate)
        return self.mul(f"{name}_scale", x, y)

    def _add(self, name: str, layer: Layer, inputs: tuple[str, ...], shape: Shape) -> str:
        self._shapes[name] = shape
        self._nodes.append(Node(name, layer, inputs, shape))
        return name


def sliced_map(node: Node) -> str | None:
    """Name of the map that a slice reads; None for every other node.

    Renderers group the slices of a map by this name and split the map once.
    """
    return node.inputs[0] if isinstance(node.layer, Slice) else None


def chain(graphs: Sequence[Graph]) -> Graph:
    """Connect graphs one after another; node ``x`` of graph ``i`` becomes ``i.x``.

    Raises:
        ValueError: The input shape of a graph differs from the output shape of the one before.
    """
    nodes: list[Node] = []
    source, shape = INPUT, graphs[0].input_shape
    for index, graph in enumerate(graphs):
        if graph.input_shape != shape:
            raise ValueError(f"block {index} reads {graph.input_shape}, but is given {shape}")
        names = {INPUT: source} | {node.name: f"{index}.{node.name}" for node in graph.nodes}
        for node in graph.nodes:
            inputs = tuple(names[name] for name in node.inputs)
            nodes.append(replace(node, name=names[node.name], inputs=inputs))
        source, shape = names[graph.output], graph.output_shape
    return Graph(graphs[0].input_shape, tuple(nodes))
