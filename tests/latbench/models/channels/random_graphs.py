"""Random small networks with everything that ties widths together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE = 4


class Draw(Protocol):
    """Source of random choices."""

    def integer(self, low: int, high: int) -> int: ...


class Network:
    """A model built node by node; tensors are ``(N, C, 4, 4)``."""

    def __init__(self, *, channels: int = 3, dtype: Any = np.float32, opset: int = 17) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.dtype, self.opset = np.dtype(dtype), opset
        self.element = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.channels = {"x": channels}
        self.rng = np.random.default_rng(0)

    def constant(self, value: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int, positive: bool = False) -> str:
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:]))) if len(shape) > 1 else 0.5
        value = scale * self.rng.standard_normal(shape)
        return self.constant((0.5 + np.abs(value) if positive else value).astype(self.dtype))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        return self.several(op, *inputs, channels=[channels], **attributes)[0]

    def several(
        self, op: str, *inputs: str, channels: list[int | None], **attributes: Any
    ) -> list[str]:
        names = [f"{op.lower()}{len(self.nodes)}_{k}" for k in range(len(channels))]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        for name, count in zip(names, channels, strict=True):
            self.channels[name] = count or self.channels.get(inputs[0], 0)
        return names

    def conv(
        self, x: str, channels: int, *, kernel: int = 1, groups: int = 1, bias: bool = True
    ) -> str:
        weight = self.weight(channels, self.channels[x] // groups, kernel, kernel)
        more = [self.weight(channels)] if bias else []
        pads = [kernel // 2] * 4
        return self.add("Conv", x, weight, *more, channels=channels, group=groups, pads=pads)

    def depthwise(self, x: str, *, bias: bool = True) -> str:
        count = self.channels[x]
        return self.conv(x, count, kernel=3, groups=count, bias=bias)

    def norm(self, x: str) -> str:
        shape = self.channels[x]
        parameters = [self.weight(shape, positive=place == 3) for place in range(4)]
        return self.add("BatchNormalization", x, *parameters)

    def squeeze_excite(self, x: str, inner: int) -> str:
        gate = self.add("Relu", self.conv(self.add("GlobalAveragePool", x), inner))
        return self.add("Mul", x, self.add("Sigmoid", self.conv(gate, self.channels[x])))

    def shuffle(self, x: str, groups: int = 2) -> str:
        count = self.channels[x]
        apart = self.integers(0, groups, count // groups, SIDE, SIDE)
        turned = self.add(
            "Transpose", self.add("Reshape", x, apart), perm=[0, 2, 1, 3, 4], channels=count
        )
        return self.add("Reshape", turned, self.integers(0, count, SIDE, SIDE), channels=count)

    def halves(self, x: str) -> list[str]:
        half = self.channels[x] // 2
        return self.several("Split", x, self.integers(half, half), channels=[half, half], axis=1)

    def cut(self, x: str) -> list[str]:
        """Halves as exporters of older opsets write them."""
        half, axis = self.channels[x] // 2, self.integers(1)
        limits = [self.integers(place * half) for place in range(3)]
        return [
            self.add("Slice", x, begin, end, axis, channels=half) for begin, end in pairwise(limits)
        ]

    def linear(self, x: str, *, inputs: int, outputs: int, transposed: bool = True) -> str:
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        weight = self.weight(*shape)
        return self.add(
            "Gemm", x, weight, self.weight(outputs), transB=int(transposed), channels=outputs
        )

    def build(self, output: str, *, rank: int, batch: int | str = 1) -> ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["y"], name="last"))
        shape = [batch, self.channels["x"], SIDE, SIDE]
        read = helper.make_tensor_value_info("x", self.element, shape)
        sizes = [f"y{axis}" for axis in range(rank)]
        given = helper.make_tensor_value_info("y", self.element, sizes)
        graph = helper.make_graph(self.nodes, "random", [read], [given], self.weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )


def _pointwise(net: Network, x: str, draw: Draw) -> str:
    op = ("Relu", "HardSwish", "Sigmoid", "Tanh", "Elu", "Softplus")[draw.integer(0, 5)]
    return net.add(op, x)


def _swish(net: Network, x: str, draw: Draw) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def _slopes(net: Network, x: str, draw: Draw) -> str:
    return net.add("PRelu", x, net.weight(net.channels[x], 1, 1))


def _scaled(net: Network, x: str, draw: Draw) -> str:
    shape = (net.channels[x], 1, 1) if draw.integer(0, 1) else (1, net.channels[x], 1, 1)
    scaled = net.add("Mul", x, net.weight(*shape))
    return net.add("Div", net.add("Add", scaled, net.weight(*shape)), net.weight(1, positive=True))


def _residual(net: Network, x: str, draw: Draw) -> str:
    inner = net.add("HardSwish", net.conv(x, draw.integer(2, 9), kernel=3))
    return net.add("Add", x, net.conv(inner, net.channels[x], bias=False))


def _inverted(net: Network, x: str, draw: Draw) -> str:
    inner = net.add("HardSwish", net.norm(net.conv(x, draw.integer(2, 12), bias=False)))
    inner = net.add("Sigmoid", net.depthwise(inner, bias=bool(draw.integer(0, 1))))
    inner = net.squeeze_excite(inner, draw.integer(2, 5))
    return net.add("Add", net.conv(inner, net.channels[x]), x)


def _branches(net: Network, x: str, draw: Draw) -> str:
    parts = [net.conv(x, draw.integer(1, 5)), x, net.add("Relu", net.conv(x, draw.integer(2, 5)))]
    joined = net.add("Concat", *parts, axis=1, channels=sum(net.channels[part] for part in parts))
    return net.norm(joined)


def _twice(net: Network, x: str, draw: Draw) -> str:
    """Cheap channels beside the channels that they are made of, as in GhostNet."""
    both = [x, net.depthwise(x)]
    return net.add("Concat", *both, axis=1, channels=2 * net.channels[x])


def _groups(net: Network, x: str, draw: Draw) -> str:
    groups = draw.integer(2, 3)
    before = net.conv(x, groups * draw.integer(1, 4))
    return net.conv(before, groups * draw.integer(1, 4), kernel=3, groups=groups)


def _shuffle_unit(net: Network, x: str, draw: Draw) -> str:
    """Two units of ShuffleNetV2, the first of which changes the width."""
    half = draw.integer(2, 8)
    parts = [net.conv(x, half), net.add("Relu", net.conv(net.depthwise(net.conv(x, half)), half))]
    x = net.shuffle(net.add("Concat", *parts, axis=1, channels=2 * half))
    for _ in range(draw.integer(1, 2)):
        kept, changed = net.halves(x)
        changed = net.add("Relu", net.conv(net.depthwise(net.conv(changed, half)), half))
        x = net.shuffle(net.add("Concat", kept, changed, axis=1, channels=2 * half))
    return x


def _partial(net: Network, x: str, draw: Draw) -> str:
    """Half of the channels take a residual block, as in cross-stage partial networks."""
    half = draw.integer(2, 5)
    kept, changed = net.halves(net.conv(x, 2 * half))
    changed = net.add("Add", changed, net.conv(net.add("Relu", net.conv(changed, half)), half))
    return net.add("Concat", kept, changed, axis=1, channels=2 * half)


def _attention_of_pixels(net: Network, x: str, draw: Draw) -> str:
    return net.add("Mul", x, net.add("Sigmoid", net.conv(x, 1)))


def _pooled(net: Network, x: str, draw: Draw) -> str:
    op = ("MaxPool", "AveragePool")[draw.integer(0, 1)]
    return net.add(op, x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _transposed(net: Network, x: str, draw: Draw) -> str:
    channels = draw.integer(2, 6)
    weight = net.weight(net.channels[x], channels, 3, 3)
    bias = net.weight(channels)
    return net.add("ConvTranspose", x, weight, bias, channels=channels, pads=[1] * 4)


def _rows(net: Network, x: str, draw: Draw) -> str:
    """Channels last, through two matrix products, as in ConvNeXt."""
    count, hidden = net.channels[x], draw.integer(2, 9)
    rows = net.add("Transpose", x, perm=[0, 2, 3, 1])
    wide = net.add("MatMul", rows, net.weight(count, hidden), channels=hidden)
    wide = net.add("Tanh", net.add("Add", wide, net.weight(hidden)))
    narrow = net.add("MatMul", wide, net.weight(hidden, count), channels=count)
    return net.add("Add", x, net.add("Transpose", narrow, perm=[0, 3, 1, 2]))


def _sliced(net: Network, x: str, draw: Draw) -> str:
    half = draw.integer(2, 5)
    x, axis = net.conv(x, 2 * half), net.integers(1)
    first = net.add("Slice", x, net.integers(0), net.integers(half), axis, channels=half)
    end = net.integers(2**62) if draw.integer(0, 1) else net.integers(2 * half)
    second = net.add("Slice", x, net.integers(-half), end, axis, channels=half)
    return net.add("Mul", first, net.add("Sigmoid", second))


def _gated_by_mean(net: Network, x: str, draw: Draw) -> str:
    """Squeeze-excite as exporters write it: a mean of pixels and two matrix products."""
    count, hidden = net.channels[x], draw.integer(2, 5)
    mean = net.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    gate = net.linear(mean, inputs=count, outputs=hidden, transposed=bool(draw.integer(0, 1)))
    gate = net.linear(net.add("Relu", gate), inputs=hidden, outputs=count)
    gate = net.add("HardSigmoid", net.add("Unsqueeze", gate, net.integers(2, 3)))
    return net.add("Mul", gate, x)


def _resampled(net: Network, x: str, draw: Draw) -> str:
    """Pixels are repeated, a border is added, and pooling brings the size back."""
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.add("Resize", net.conv(x, draw.integer(2, 6)), "", scales, mode="nearest")
    x = net.add("Pad", x, net.integers(0, 0, 0, 0, 0, 0, 2, 2))
    return net.add("MaxPool", x, kernel_shape=[4, 4], strides=[2, 2])


def _sized(net: Network, x: str, draw: Draw) -> str:
    """Sizes that are read at run time: an expanded gate, resized pixels, half of the channels."""
    half = draw.integer(2, 4)
    x = net.conv(x, 2 * half)
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), 2 * half))
    shape = net.add("Shape", x)
    x = net.add("Mul", x, net.add("Expand", gate, shape))
    channels = net.add("Slice", shape, net.integers(0), net.integers(2), net.integers(0))
    sizes = net.add("Concat", channels, net.integers(2 * SIDE, 2 * SIDE), axis=0)
    x = net.add("Resize", x, "", "", sizes, mode="nearest", channels=2 * half)
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    count = net.add("Gather", shape, net.integers(1))
    middle, axis = net.add("Div", count, net.integers(2)), net.integers(1)
    return net.add("Slice", x, net.integers(0), middle, axis, channels=half)


def _halves_apart(net: Network, x: str, draw: Draw) -> str:
    """Two halves pass different operators and meet again, in either order or shuffled."""
    half = draw.integer(2, 5)
    x = net.conv(x, 2 * half)
    x = net.shuffle(x) if draw.integer(0, 1) else x
    parts = net.cut(x) if draw.integer(0, 1) else net.halves(x)
    first, second = draw.integer(0, len(DETOURS) - 1), draw.integer(0, len(DETOURS) - 2)
    second += second >= first
    parts = [DETOURS[op](net, part) for op, part in zip((first, second), parts, strict=True)]
    parts = parts[::-1] if draw.integer(0, 1) else parts
    x = net.add("Concat", *parts, axis=1, channels=2 * half)
    return net.shuffle(x) if draw.integer(0, 1) else x


def _shuffled_concatenation(net: Network, x: str, draw: Draw) -> str:
    """A channel of two convolutions is twice in a concatenation, which is shuffled."""
    count = 3 * draw.integer(2, 4)
    first, second = net.conv(x, count), net.conv(x, count)
    both = net.add("Concat", first, second, axis=1, channels=2 * count)
    both = net.shuffle(both, groups=draw.integer(2, 3))
    groups = 3 if draw.integer(0, 1) else 1
    total = net.add("Relu", net.add("Add", first, second))
    return net.add("Add", net.conv(both, 6, groups=groups), net.conv(total, 6))


def _scaled_by_an_exponential(net: Network, x: str, draw: Draw) -> str:
    """A factor that overflows, so that the channels keep their number."""
    factor = net.add("Exp", net.conv(net.add("Tanh", x) if draw.integer(0, 1) else x, 1))
    return net.add("Sigmoid", net.add("Mul", x, factor))


def _norm_of_channels(net: Network, x: str, draw: Draw) -> str:
    """A softmax over channels, which keeps their width."""
    return net.add("Softmax", net.conv(x, draw.integer(2, 5)), axis=1)


DETOURS: tuple[Callable[[Network, str], str], ...] = (
    lambda net, x: x,
    lambda net, x: net.add("Relu", x),
    lambda net, x: net.add("Sigmoid", x),
    lambda net, x: net.add("Mul", x, net.constant(np.array(-2, net.dtype))),
    lambda net, x: net.add("Mul", x, net.constant(np.array(3, net.dtype))),
    lambda net, x: net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    lambda net, x: net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
    lambda net, x: net.add("Mul", x, net.add("Sigmoid", net.conv("x", 1))),
)
"""Operators between two halves of the channels and their concatenation."""

STEPS: tuple[Callable[[Network, str, Draw], str], ...] = (
    *(_pointwise, _swish, _slopes, _scaled, _residual, _inverted, _branches, _twice, _groups),
    *(_shuffle_unit, _partial, _attention_of_pixels, _pooled, _transposed, _norm_of_channels),
    *(_rows, _sliced, _gated_by_mean, _resampled, _sized),
    *(_halves_apart, _shuffled_concatenation, _scaled_by_an_exponential),
)


def random_network(draw: Draw, *, steps: int, dtype: Any = np.float32) -> Network:
    """A convolution and some random steps; the last tensor is ``net.nodes[-1].output[0]``."""
    net = Network(dtype=dtype)
    x = net.conv("x", draw.integer(2, 9), kernel=3)
    for _ in range(steps):
        x = STEPS[draw.integer(0, len(STEPS) - 1)](net, x, draw)
    return net


def with_head(net: Network, draw: Draw, *, batch: int | str = 1) -> ModelProto:
    """The model of a network that ends in pixels, in classes, or in classes behind a flattening."""
    x = net.nodes[-1].output[0]
    count, kind = net.channels[x], draw.integer(0, 3)
    if kind == 0:
        return net.build(x, rank=4, batch=batch)
    if kind == 1:
        return net.build(net.conv(x, 5), rank=4, batch=batch)
    inputs = count * SIDE * SIDE if kind == 2 else count
    x = x if kind == 2 else net.add("GlobalAveragePool", x)
    hidden = net.linear(net.add("Flatten", x), inputs=inputs, outputs=draw.integer(2, 9))
    hidden = net.add("Sigmoid", hidden)
    transposed = bool(draw.integer(0, 1))
    last = net.linear(hidden, inputs=net.channels[hidden], outputs=3, transposed=transposed)
    return net.build(last, rank=2, batch=batch)
