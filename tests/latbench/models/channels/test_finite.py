"""Channels are padded only where no infinity meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latbench.models import read_model
from latbench.models.agreement import largest_difference
from latbench.models.channels.groups import find_channels
from latbench.models.channels.padding import padded
from tests.latbench.models.channels.comparing import saved
from tests.latbench.models.channels.random_graphs import Network


def _widths(net: Network, x: str, folder: Path) -> list[int]:
    """Widths of the groups, which are padded and compared on extreme inputs."""
    model = read_model(saved(net, net.conv(x, 4), folder))
    channels = find_channels(model)
    plan = {group: group.width + 3 for group in channels.groups}
    assert largest_difference(model, padded(model, channels.widen(plan))) <= 1e-5
    return [group.width for group in channels.groups]


def _clipped(net: Network, x: str) -> str:
    limits = [net.constant(np.array(limit, np.float32)) for limit in (0, 6)]
    return net.add("Clip", net.add("Exp", x), *limits)


def _inverse_square(net: Network, x: str) -> str:
    return net.add("Pow", x, net.constant(np.array(-2, np.float32)))


MAPS: tuple[tuple[Callable[[Network, str], str], bool], ...] = (
    (lambda net, x: net.add("Exp", x), False),
    (lambda net, x: net.add("Reciprocal", net.add("Relu", x)), False),
    (lambda net, x: net.add("Log", net.add("Relu", x)), False),
    (lambda net, x: net.add("Div", x, net.add("Relu", x)), False),
    (_inverse_square, False),
    (lambda net, x: net.add("Neg", net.add("Exp", x)), False),
    (_clipped, True),
    (lambda net, x: net.add("Sigmoid", net.add("Exp", x)), True),
    (lambda net, x: net.add("Softmax", x, axis=3), True),
    (lambda net, x: net.add("Div", x, net.add("Clip", x, net.constant(np.float32(1)))), True),
)
"""A map of one channel, and whether it is finite."""


@pytest.mark.parametrize(("made", "finite"), MAPS)
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub"])
def test_what_meets_a_map_that_may_be_infinite_keeps_its_width(
    tmp_path: Path, made: Callable[[Network, str], str], finite: bool, op: str
) -> None:
    net = Network()
    x = net.conv("x", 8)
    x = net.add("Sigmoid", net.add(op, x, made(net, net.conv("x", 1))))
    assert _widths(net, x, tmp_path) == ([8] if finite else [])


def test_what_a_convolution_makes_of_infinities_keeps_its_width(tmp_path: Path) -> None:
    net = Network()
    maps = net.add("Exp", net.conv("x", 2))
    x = net.add("Sigmoid", net.conv(net.add("Sigmoid", net.conv(maps, 8)), 6))
    assert _widths(net, x, tmp_path) == [6]


def test_a_norm_that_is_written_as_single_operators_is_finite(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 5)
    axes = {"axes": [1], "keepdims": 1}
    apart = net.add("Sub", x, net.add("ReduceMean", x, **axes, channels=1))
    square = net.add("Pow", apart, net.constant(np.array(2, np.float32)))
    variance = net.add("ReduceMean", square, **axes, channels=1)
    least = net.constant(np.array(1e-5, np.float32))
    root = net.add("Sqrt", net.add("Add", variance, least))
    x = net.add("Relu", net.conv(net.add("Div", apart, root, channels=5), 9))
    assert _widths(net, x, tmp_path) == [9]
