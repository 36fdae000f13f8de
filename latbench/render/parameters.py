"""Parameters of a graph: names, shapes, scaled random values, batch-norm folding.

Names follow PyTorch: ``{node}.weight``, ``{node}.bias``, ``{node}.running_mean`` and
``{node}.running_var``. A state dict of a rendered PyTorch module can therefore be used as the
parameters of the ONNX model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latbench.blocks.graph import (
    NORM_EPSILON,
    Conv,
    Graph,
    Layer,
    Linear,
    Norm,
    PReLU,
)
from latbench.blocks.norm_folding import foldable_norms

Array = NDArray[np.float32]
Parameters = Mapping[str, Array]

_POOL_SIZE = 1 << 21  # floats (8 MiB): more than the largest layer of the spaces here


def parameter_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters, including running statistics."""
    if isinstance(layer, Conv):
        weight = (layer.out_channels, layer.in_channels // layer.groups, layer.kernel, layer.kernel)
        return {"weight": weight} | ({"bias": (layer.out_channels,)} if layer.bias else {})
    if isinstance(layer, PReLU):
        return {"slope": (layer.channels, 1, 1)}  # as ONNX broadcasts it
    if isinstance(layer, Linear):
        return {"weight": (layer.out_features, layer.in_features), "bias": (layer.out_features,)}
    if isinstance(layer, Norm):
        names = ("weight", "bias", "running_mean", "running_var")
        return dict.fromkeys(names, (layer.channels,))
    return {}


@lru_cache(maxsize=2)
def _pool(seed: int) -> Array:
    pool = np.random.default_rng(seed).standard_normal(_POOL_SIZE, dtype=np.float32)
    pool.setflags(write=False)
    return pool


def random_input(shape: tuple[int, ...], *, seed: int = 0) -> Array:
    """Array of normally distributed numbers. It may be shared, so it must not be modified."""
    pool, size = _pool(seed), prod(shape)
    return pool[:size].reshape(shape) if size <= len(pool) else np.resize(pool, shape)


def random_parameters(graph: Graph, *, seed: int = 0) -> dict[str, Array]:
    """Random parameters that keep the scale of activations through the network.

    Values are slices of one shared array of normal numbers, so a block can be rendered in about a
    millisecond. The scale matters for timing: if activations shrink from layer to layer, they
    become denormal numbers, and computing with these is slow.
    """
    pool, cursor = _pool(seed), 0

    def cut(shape: tuple[int, ...]) -> Array:
        nonlocal cursor
        size = prod(shape)
        if cursor + size > len(pool):
            cursor = 0
        values = pool[cursor : cursor + size] if size <= len(pool) else np.resize(pool, size)
        cursor += size
        return values.reshape(shape)

    parameters: dict[str, Array] = {}
    for node in graph.nodes:
        for name, shape in parameter_shapes(node.layer).items():
            values = cut(shape)
            if name == "weight" and len(shape) > 1:
                values = values * np.float32(sqrt(2.0 / prod(shape[1:])))  # He et al. 2015
            elif name == "weight":
                values = 1.0 + np.float32(0.1) * values
            elif name == "slope":
                values = np.float32(0.25) + np.float32(0.1) * values  # 0.25 is the initial value
            elif name == "running_var":
                values = 1.0 + np.float32(0.1) * np.abs(values)
            else:
                values = np.float32(0.1) * values
            parameters[f"{node.name}.{name}"] = values
    return parameters


def fold_parameters(graph: Graph, parameters: Parameters) -> dict[str, Array]:
    """Parameters with which ``fold_norms(graph)`` computes the same outputs as ``graph``."""
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in parameters.items()}
    return fold_values(graph, arrays)


def fold_values(graph: Graph, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for arrays or tensors, wherever they are.

    With scale s = weight / sqrt(running_var + epsilon), the folded convolution has weight w s
    and bias (b - running_mean) s + norm bias. A concatenated convolution uses its slice of s.
    """
    folded = dict(values)
    for norm, sources in foldable_norms(graph).items():
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (folded.pop(f"{norm}.{name}") for name in names)
        scale = weight / (variance + NORM_EPSILON) ** 0.5
        shift = bias - mean * scale
        start = 0
        for source in sources:
            conv, stop = source.name, start + source.shape[0]
            own = scale[start:stop]
            folded[f"{conv}.weight"] = folded[f"{conv}.weight"] * own[:, None, None, None]
            before = folded.get(f"{conv}.bias", 0.0)
            folded[f"{conv}.bias"] = before * own + shift[start:stop]
            start = stop
    return folded
