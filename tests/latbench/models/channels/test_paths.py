"""Channels stand for others only if they took the same path through the network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from latbench.models import read_model
from latbench.models.channels.groups import find_channels
from latbench.models.channels.padding import padded_file
from tests.latbench.models.channels.comparing import compare, pad_and_compare, saved
from tests.latbench.models.channels.random_graphs import DETOURS, SIDE, Network
from tests.latbench.models.small import save


def _joined(net: Network, parts: list[str]) -> str:
    return net.add("Concat", *parts, axis=1, channels=sum(net.channels[part] for part in parts))


@pytest.mark.parametrize("cut", [Network.halves, Network.cut], ids=["Split", "Slice"])
def test_halves_that_pass_different_operators_keep_their_channels(
    cut: Callable[[Network, str], list[str]], tmp_path: Path
) -> None:
    for first, second in pairwise((*DETOURS, DETOURS[0])):
        net = Network()
        x = net.conv("x", 6)
        parts = cut(net, net.shuffle(x))
        x_joined = _joined(net, [second(net, parts[1]), first(net, parts[0])])
        path = saved(net, net.conv(x_joined, 4), tmp_path)
        assert pad_and_compare(path, more=2) == {x: (6, 8)}


def test_parts_of_different_sizes_keep_their_channels(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6)
    parts = net.several("Split", x, net.integers(4, 2), channels=[4, 2], axis=1)
    path = saved(net, net.conv(_joined(net, [parts[0], net.add("Relu", parts[1])]), 4), tmp_path)
    assert pad_and_compare(path, more=3) == {x: (6, 9)}


@pytest.mark.parametrize("groups", [1, 3])
def test_a_channel_that_is_twice_in_a_tensor_keeps_both_places(tmp_path: Path, groups: int) -> None:
    """The order of the two in a shuffle depends on the width."""
    net = Network()
    first, second = net.conv("x", 6), net.conv("x", 6)
    total = net.add("Relu", net.add("Add", first, second))
    shuffled = net.shuffle(_joined(net, [first, second]), groups=3)
    x = net.add("Add", net.conv(shuffled, 6, groups=groups), net.conv(total, 6))
    path = saved(net, net.conv(x, 4), tmp_path)
    model = read_model(path)
    channels = find_channels(model)
    group = next(each for each in channels.groups if each.tensor == first)
    widths = [width for width in (9, 12) if channels.fits({group: width})]
    for width in widths:
        compare(path, model, channels, {group: width})
    assert widths == [9, 12]


def test_a_channel_that_is_added_to_itself_in_another_order_is_left_alone(tmp_path: Path) -> None:
    """The shuffle makes one channel of several slots that nothing distinguishes."""
    net = Network()
    x = net.conv("x", 6)
    path = saved(net, net.conv(net.add("Add", x, net.shuffle(x)), 4), tmp_path)
    assert find_channels(read_model(path)).groups == ()


def test_the_halves_of_a_gated_unit_stay_pairs(tmp_path: Path) -> None:
    net = Network()
    x = net.conv("x", 6)
    values, gates = net.halves(x)
    gated = net.add("Mul", values, net.add("Sigmoid", gates))
    path = saved(net, net.conv(_joined(net, [gated, gates, values]), 4), tmp_path)
    assert pad_and_compare(path, more=3) == {}
    assert pad_and_compare(path, more=4) == {x: (6, 10)}


def test_single_channels_that_are_split_off_are_left_alone(tmp_path: Path) -> None:
    for joined in (True, False):
        net = Network()
        x = net.conv("x", 4)
        parts = net.several("Split", x, net.integers(1, 1, 1, 1), channels=[1] * 4, axis=1)
        if joined:
            parts[0] = net.add("Softmax", parts[0], axis=3, channels=1)
            x = net.conv(_joined(net, parts), 4)
        else:
            x = net.add("Mul", net.add("Add", *parts[:2]), net.add("Sub", *parts[2:]))
        assert pad_and_compare(saved(net, x, tmp_path)) == {}


def test_a_constant_of_higher_rank_adds_a_dimension(tmp_path: Path) -> None:
    for op, value in (("Pow", 2), ("Mul", 3), ("Div", 3)):
        net = Network()
        x = net.conv("x", 8)
        y = net.add(op, x, net.constant(np.full((1, 1, 1, 1, 1), value, np.float32)))
        y = net.add("Squeeze", net.add("Relu", y), net.integers(0))
        assert pad_and_compare(saved(net, net.conv(y, 4), tmp_path)) == {x: (8, 13)}


def test_channels_that_are_interpolated_are_left_alone(tmp_path: Path) -> None:
    net = Network()
    sizes = net.integers(1, 16, 2 * SIDE, 2 * SIDE)
    x = net.add("Resize", net.conv("x", 8), "", "", sizes, mode="nearest", channels=16)
    assert pad_and_compare(saved(net, net.conv(x, 4), tmp_path)) == {}


def test_an_initializer_that_is_an_output_stays(tmp_path: Path) -> None:
    net = Network()
    built = net.build(net.conv(net.add("Relu", net.conv("x", 6)), 4), rank=4)
    weight = built.graph.initializer[0]
    given = helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
    built.graph.output.append(given)
    path = save(built, tmp_path / "m.onnx")
    channels = find_channels(read_model(path))
    file = padded_file(path, channels.widen(dict.fromkeys(channels.groups, 8)))
    onnx.checker.check_model(file, full_check=True)
    kept = next(each for each in file.graph.initializer if each.name == weight.name)
    assert kept == weight


def test_new_constants_get_names_that_are_free(tmp_path: Path) -> None:
    """A weight of two readers is copied, also in a file that was padded before."""
    net = Network()
    shared = net.weight(6, 6, 1, 1)
    net.weight(6, 6, 1, 1)
    net.weights[-1].name = f"{shared}.aligned"
    x = net.add("Conv", net.conv("x", 6), shared, channels=6)
    x = net.add("Conv", x, f"{shared}.aligned", channels=6)
    x = net.add("Conv", x, shared, channels=6)
    path = saved(net, net.conv(x, 4), tmp_path)
    model = read_model(path)
    channels = find_channels(model)
    plan = dict(zip(channels.groups, (8, 9, 10, 11), strict=True))
    file = compare(path, model, channels, plan)
    names = [each.name for each in file.graph.initializer]
    assert len(set(names)) == len(names)
