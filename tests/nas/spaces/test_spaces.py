"""Search spaces and architectures."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from latbench.blocks import (
    AverageBlock,
    ConvBlock,
    InvertedResidual,
    block_key,
    block_width,
    network_graph,
)
from latbench.cost import network_cost
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, UnknownNameError
from latbench.render.onnx import render_onnx
from latbench.render.torch import NetworkModule
from nas.latency.priced_space import space_label
from nas.spaces import (
    SPACES,
    Architecture,
    Choice,
    Variant,
    distinct_random,
    every_width,
    make_space,
    read_architecture,
    space_of,
    spread_networks,
)
from nas.spaces.architecture import parse_architecture
from nas.spaces.identity import space_digest
from tests.conftest import make_small_space

NAMES = list(SPACES)
SIZES = [None, 32]


def test_tfnas_prices_the_published_number_of_blocks() -> None:
    space = make_space("tfnas")
    assert space.searchable_blocks() == 2802
    assert space.searchable_blocks(lambda layer, op: layer.widths(op)) == 21_954


def test_tfnas_is_the_table_of_the_paper() -> None:
    space = make_space("tfnas")
    widest = space.lower(space.largest())
    shapes = [(b.input_size, b.in_channels, b.out_channels, b.stride) for b in widest[2:-2]]  # type: ignore[attr-defined]
    assert shapes[:3] == [(112, 16, 24, 2), (56, 24, 24, 1), (56, 24, 40, 2)]
    assert shapes[-1] == (7, 192, 320, 1)
    assert len(shapes) == 18
    layer = space.stages[1][0]
    se = layer.block(Choice("k5_e6_se", 144))
    assert isinstance(se, InvertedResidual)
    assert (se.se_channels, se.kernel, se.activation) == (48, 5, "swish")
    assert (layer.widths("k3_e3")[0], layer.widths("k3_e6")[-1]) == (48, 192)


def test_sgnas_is_the_network_of_the_paper() -> None:
    space = make_space("sgnas")
    assert [len(stage) for stage in space.stages] == [2, 4, 4, 4, 4, 1]
    assert space.size() == 83**19
    strides = [i for i, layer in enumerate(space.layers) if layer.stride == 2]  # type: ignore[attr-defined]
    assert strides == [0, 2, 6, 14]
    small = make_space("sgnas", 32)
    assert small.stem[1].input_size == small.layers[1].input_size == 32  # type: ignore[attr-defined]


def test_a_mix_costs_the_same_in_any_order() -> None:
    space = make_space("sgnas", 32, 10)
    first, second = (
        [[Choice("mix", kernels=k)] * len(s) for s in space.stages] for k in ((7, 3), (3, 7))
    )
    assert space.architecture(first) != space.architecture(second)
    assert space.lower(space.architecture(first)) == space.lower(space.architecture(second))


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        (Choice("mix"), "kernels"),
        (Choice("mix", kernels=()), "kernels"),
        (Choice("mix", kernels=(3, 4)), "kernels"),
        (Choice("mix", kernels=(3,) * 7), "kernels"),
        (Choice("mix", 8, (3,)), "width"),
        (Choice("k3_e6"), "op"),
    ],
)
def test_a_mix_that_does_not_fit_is_named(choice: Choice, field: str) -> None:
    space = make_space("sgnas", 32, 10)
    stages = [list(stage) for stage in space.smallest().stages]
    stages[1][2] = choice
    with pytest.raises(LatbenchError) as caught:
        space.architecture(stages)
    assert caught.value.path == f"$.stages[1][2].{field}"


def test_variants_are_written_and_read_back() -> None:
    variant = Variant(se=True, activation="hswish")
    drawn = make_space("sgnas", 32, 10, variant).smallest()
    read = parse_architecture(drawn.to_json(), source="drawn")
    assert space_of(read).variant == variant
    with pytest.raises(InvalidValueError, match="no variants"):
        make_space("proxylessnas", variant=variant)


def test_equal_spaces_have_equal_digests_and_others_do_not() -> None:
    space = make_small_space()
    first, *others = space.stages
    edited = (
        replace(space, elastic_depth=True),
        replace(space, stages=(first[::-1], *others)),
        replace(space, stages=(first[:1], (*first[1:], *others[0]), *others[1:])),
        replace(space, stem=space.stem[:0]),
        replace(space, head=space.head[:0]),
        space.only(lambda op: op != "k5"),
    )
    digests = {space_digest(each) for each in (space, *edited)}
    digests |= {space_digest(make_space(name, 64, 10)) for name in NAMES}
    assert len(digests) == 1 + len(edited) + len(NAMES)
    assert space_digest(make_small_space()) in digests


def test_below_64_px_the_stem_keeps_the_resolution() -> None:
    assert [make_space("tfnas", size).stem[1].input_size for size in (224, 64, 32)] == [112, 32, 32]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_from_another_process_has_the_same_text(name: str) -> None:
    """Also of its blocks, which are the keys of tables."""
    space = make_space(name)
    drawn = space.random(np.random.default_rng(0))
    copy = pickle.loads(pickle.dumps(drawn))
    assert copy.to_json() == drawn.to_json()
    for spec in space.lower(drawn):
        assert block_key(pickle.loads(pickle.dumps(spec))) == block_key(spec)
    label = space_label(space)
    assert msgspec.json.encode(pickle.loads(pickle.dumps(label))) == msgspec.json.encode(label)


@cache
def _macs_of_extremes(name: str, size: int | None) -> tuple[int, ...]:
    space = make_space(name, size)
    return tuple(network_cost(space.lower(a)).macs for a in (space.smallest(), space.largest()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
@given(seed=st.integers(0, 2**31))
def test_random_architectures_fit_and_lie_between_the_extremes(
    name: str, size: int | None, seed: int
) -> None:
    space = make_space(name, size)
    drawn = space.random(np.random.default_rng(seed))
    least, most = _macs_of_extremes(name, size)
    assert least <= network_cost(space.lower(drawn)).macs <= most
    assert parse_architecture(drawn.to_json(), source="drawn") == drawn


@pytest.mark.parametrize("name", NAMES)
def test_every_random_network_is_made_of_priced_blocks(name: str) -> None:
    space = make_space(name, 32)
    blocks = set(space.blocks(every_width))
    for network in spread_networks(space, 6, seed=0):
        assert blocks.issuperset(network)


@pytest.mark.parametrize("name", NAMES)
def test_a_random_network_is_the_same_in_onnx_and_torch(name: str) -> None:
    space = make_space(name, 32, 10)
    network = space.lower(space.random(np.random.default_rng(5)))
    module = NetworkModule(network).eval()
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    model = render_onnx(network_graph(network), module.parameter_values(), batch_size=2)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": image})[0]
    assert got.shape == expected.shape == (2, 10)
    assert np.abs(got - expected).max() < 1e-3 * expected.std()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_macs_are_what_torch_counts(name: str, size: int | None) -> None:
    space = make_space(name, size)
    random = space.random(np.random.default_rng(1))
    for network in map(space.lower, [random] if size else [space.smallest(), space.largest()]):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            image = torch.zeros(1, 3, space.input_size, space.input_size)
            NetworkModule(network).eval()(image)
        assert counter.get_total_flops() == 2 * network_cost(network).macs


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_op_is_refused_with_its_path(name: str) -> None:
    space = make_space(name, 32, 10)
    stages = [list(stage) for stage in space.smallest().stages]
    stages[-1][0] = Choice("k9_e9")
    with pytest.raises(UnknownNameError) as caught:
        space.architecture(stages)
    assert caught.value.path == f"$.stages[{len(stages) - 1}][0].op"
    assert caught.value.choices == list(space.stages[-1][0].ops)


@pytest.mark.parametrize("name", NAMES)
def test_flat_layers_are_read_where_depth_is_fixed(name: str) -> None:
    space = make_space(name, 32, 10)
    drawn = space.largest()
    plain = drawn.as_dict()
    plain["layers"] = [choice for stage in plain.pop("stages") for choice in stage]  # type: ignore[attr-defined]
    read = parse_architecture(msgspec.json.encode(plain), source="flat")
    if space.elastic_depth:
        with pytest.raises(InvalidFileError, match="stages") as caught:
            space.check(space.staged(read))
        assert caught.value.path == "$.layers"
        return
    assert space.staged(read) == drawn
    if len(space.stages) > 1:  # one stage with all layers is no flat list
        plain["stages"] = [plain.pop("layers")]
        with pytest.raises(InvalidFileError) as caught:
            space.check(space.staged(parse_architecture(msgspec.json.encode(plain), source="x")))
        assert caught.value.path == "$.stages"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("proxylessnas", 7**21),
        ("fbnet-s", 9**22),
        ("fbnet-l", 9**22),
        ("spos", 4**20),
        ("mobilefacenet", 7**15),
        ("sgnas", 83**19),
        ("sgnas-proxyless", 83**21),
        ("nasbench-macro", 3**8),
    ],
)
def test_spaces_have_the_published_sizes(name: str, size: int) -> None:
    assert make_space(name).size() == size


def test_published_spaces_are_the_published_rows(reference: Path) -> None:
    """Shapes of every layer, operations in order, stem and head channels."""
    published = json.loads((reference / "osnaslib" / "spaces.json").read_text())["spaces"]
    for name, rows in published.items():
        space = make_space(name)
        if name != "sgnas-proxyless":
            assert all(list(layer.ops) == rows["ops_in_order"] for layer in space.layers)
        largest = [spec.graph() for spec in space.lower(space.largest())]
        inner = largest[len(space.stem) : len(largest) - len(space.head)]
        shapes = [(g.input_shape, g.output_shape) for g in inner]
        assert [[i[0], o[0], -(-i[1] // o[1])] for i, o in shapes] == rows[
            "searchable_in_out_stride"
        ]
        fixed = [*largest[: len(space.stem)], *largest[len(largest) - len(space.head) :]]
        published_fixed = [
            row[1:3] for row in rows["first"] + rows["last"] if row[0] != "global_average"
        ]
        got = [[g.input_shape[0], g.output_shape[0]] for g in fixed]
        assert got[: len(published_fixed) - 1] == published_fixed[:-1]


def test_a_skip_is_the_cheapest_that_changes_the_shape() -> None:
    layers = make_space("mobilefacenet").layers
    assert layers[0].block(Choice("skip")) == AverageBlock(64, 2, 56)
    assert layers[1].block(Choice("skip")) is None
    assert layers[5].block(Choice("skip")) == ConvBlock(64, 128, 1, 2, None, 28)


def test_spread_networks_span_the_sizes_and_repeat() -> None:
    space = make_space("tfnas", 32, 10)
    networks = spread_networks(space, 12, seed=0)
    params = [network_cost(n).params for n in networks]
    assert params == sorted(params)
    assert params[-1] > 2 * params[0]
    assert networks == spread_networks(space, 12, seed=0)


def test_spread_networks_are_shallow_and_deep_in_turn_and_some_have_any_widths() -> None:
    space = make_space("tfnas", 32, 10)
    networks = spread_networks(space, 32, seed=0)
    depths = [len(network) for network in networks]
    assert np.mean(depths[::2]) > np.mean(depths[1::2]) + 2
    odd = [any((block_width(spec) or 0) % 4 for spec in network) for network in networks]
    assert [number for number in range(32) if odd[number]] == [
        number for number in range(32) if number % 8 in (3, 6)
    ]


def test_random_networks_are_drawn_again_until_they_differ() -> None:
    """A small space gives all of its networks, though fewer than asked for."""
    space = make_small_space()
    # either of two equal layers may be left out: 3 * (1 + 2 + 4) * 3 * 3 networks
    every = distinct_random(space, 500, np.random.default_rng(0))
    networks = {space.lower(architecture) for architecture in every}
    assert len(networks) == len(every) == 189
    rng = np.random.default_rng(1)
    some = list(networks)[:150]
    others = distinct_random(space, 30, rng, without=some)
    assert len({space.lower(architecture) for architecture in others} - set(some)) == 30
    assert distinct_random(space, 3, rng, without=networks) == []


def test_distinct_random_networks_are_those_of_plain_draws() -> None:
    space = make_space("tfnas", 32, 10)
    rng = np.random.default_rng(5)
    plain = [space.random(rng) for _ in range(6)]
    assert distinct_random(space, 6, np.random.default_rng(5)) == plain


def _tfnas(**changes: object) -> dict[str, object]:
    plain = make_space("tfnas", 32, 10).smallest().as_dict()
    return plain | changes


@pytest.mark.parametrize(
    ("place", "value", "path"),
    [
        ((0, 0, "op"), "k7_e3", "$.stages[0][0].op"),
        ((2, 0, "width"), 7, "$.stages[2][0].width"),
        ((1, 0, "width"), None, "$.stages[1][0].width"),
    ],
)
def test_a_choice_that_does_not_fit_is_named(
    place: tuple[int, int, str], value: object, path: str
) -> None:
    plain = _tfnas()
    stage, layer, field = place
    plain["stages"][stage][layer][field] = value  # type: ignore[index]
    with pytest.raises(LatbenchError) as caught:
        _check(plain)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "changes",
    [{"stages": []}, {"format": 2}, {"colour": "red"}, {"input_size": "big"}, {"classes": None}],
)
def test_a_file_without_an_architecture_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidFileError):
        _check(_tfnas(**changes))


def test_an_architecture_of_another_space_is_refused_though_its_operations_are_known() -> None:
    """The two FBNet spaces have equal operations and depths. Flat lists are refused too."""
    small, large = make_space("fbnet-s", 32, 10), make_space("fbnet-l", 32, 10)
    drawn = large.smallest()
    plain = drawn.as_dict()
    plain["layers"] = [choice for stage in plain.pop("stages") for choice in stage]  # type: ignore[attr-defined]
    flat = parse_architecture(msgspec.json.encode(plain), source="flat")
    for use in (
        lambda: small.check(drawn),
        lambda: small.lower(drawn),
        lambda: small.check(small.staged(flat)),
    ):
        with pytest.raises(InvalidFileError, match="fbnet-s, not fbnet-l") as caught:
            use()
        assert caught.value.path == "$.space"
    assert large.staged(flat) == drawn


def test_a_stage_that_is_too_deep_is_refused() -> None:
    plain = _tfnas()
    plain["stages"][5] *= 2  # type: ignore[index]
    with pytest.raises(InvalidFileError, match="depth is 1 here"):
        _check(plain)


def _check(plain: dict[str, object]) -> None:
    parsed = parse_architecture(msgspec.json.encode(plain), source="test")
    make_space(parsed.space, parsed.input_size, parsed.classes).check(parsed)


def test_unknown_spaces_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tfnas'"):
        make_space("tfnass")
    with pytest.raises(InvalidValueError, match="input size"):
        make_space("tfnas", 4)
    with pytest.raises(InvalidValueError, match="classes"):
        make_space("tfnas", 32, -1)


def test_a_file_is_read_and_a_foreign_one_refused(tmp_path: Path) -> None:
    drawn: Architecture = make_space("tfnas").smallest()
    path = tmp_path / "a.txt"  # known by its content
    path.write_text(drawn.to_json())
    assert read_architecture(path) == drawn
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InvalidFileError):
        read_architecture(path)
    with pytest.raises(InvalidFileError, match="cannot read"):
        read_architecture(tmp_path / "absent.json")
