"""Blocks: one description, the same block everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from latbench.blocks import (
    BLOCKS,
    AverageBlock,
    BlockSpec,
    Classifier,
    ConvBlock,
    GlobalAverage,
    InvertedResidual,
    MixedInvertedResidual,
    Segment,
    ShuffleUnit,
    ShuffleXception,
    block_key,
    fold_norms,
    network_graph,
    output_shape,
    parse_block,
    sub_block_order,
)
from latbench.blocks.graph import INPUT, Conv, GraphBuilder, Norm
from latbench.cost import Cost, block_cost, graph_cost, network_cost
from latbench.errors import InvalidFileError
from latbench.render.onnx import render_onnx, render_onnx_apart
from latbench.render.parameters import parameter_shapes, random_parameters
from latbench.render.torch import GraphModule, NetworkModule, load_parameters, render_torch
from nas.spaces import PLAIN, SPACES, Choice, Variant, make_space
from nas.spaces.architecture import parse_architecture
from tests.conftest import make_tiny_space

# every kind of block, every activation, with and without each part
SAMPLES: list[BlockSpec] = [
    ConvBlock(3, 16, 3, 2, "relu", 15),
    ConvBlock(16, 24, 1, 1, "relu6", 7),
    ConvBlock(8, 8, 5, 1, "hswish", 9),
    ConvBlock(8, 8, 1, 1, "hsigmoid", 4),
    ConvBlock(8, 8, 1, 1, "sigmoid", 4),
    ConvBlock(8, 16, 1, 2, None, 9),
    InvertedResidual(8, 8, 20, 3, 1, "relu", 9),
    InvertedResidual(8, 12, 33, 5, 2, "swish", 9, se_channels=16),
    InvertedResidual(16, 8, 16, 3, 1, "relu", 8, se_channels=4, expand=False),
    InvertedResidual(8, 8, 24, 5, 1, "hswish", 6, se_channels=8),
    InvertedResidual(8, 8, 24, 3, 1, "relu6", 6, groups=2),
    InvertedResidual(8, 12, 8, 3, 2, "relu6", 6, expand=False, groups=2),
    MixedInvertedResidual(8, 8, (3, 3, 5, 7), 1, "hswish", 9, se_channels=8),
    MixedInvertedResidual(8, 12, (5, 7), 2, "relu6", 7),
    MixedInvertedResidual(8, 8, (5, 5), 1, "relu6", 6, se_channels=4),
    MixedInvertedResidual(8, 12, (7,), 2, "relu6", 6),
    ConvBlock(6, 12, 3, 2, None, 7, groups=3),
    ConvBlock(8, 8, 6, 1, None, 6, groups=8, padding=0),
    InvertedResidual(8, 8, 24, 3, 1, "prelu", 6, se_channels=8),
    ShuffleUnit(8, 8, 5, 1, "relu6", 7),
    ShuffleUnit(6, 12, 3, 1, "relu6", 7),
    ShuffleUnit(8, 8, 7, 2, "relu6", 7),
    ShuffleXception(8, 8, 1, "relu6", 7),
    ShuffleXception(6, 12, 2, "relu6", 7),
    AverageBlock(5, 2, 8),
    AverageBlock(5, 2, 7),
    GlobalAverage(5, 7),
    Classifier(12, 10, 4),
]
for _file in sorted(Path(__file__).parents[1].glob("test_block_*.py")):  # of each kind's own tests
    SAMPLES += import_module(f"tests.latbench.{_file.stem}").SAMPLES
TOLERANCE = 1e-4


def _run_onnx(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"input": image})[0]
    return output


def test_every_kind_has_a_sample() -> None:
    described = {BLOCKS[kind] for kind in BLOCKS.own} - {Segment}  # segments have no layers
    assert {type(spec) for spec in SAMPLES} == described


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "unfolded"])
def test_onnx_equals_torch(spec: BlockSpec, fold: bool) -> None:
    graph = spec.graph()
    parameters = random_parameters(graph, seed=1)
    image = np.random.default_rng(2).standard_normal((2, *graph.input_shape), dtype=np.float32)
    module = render_torch(spec).eval()
    load_parameters(module, parameters)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    got = _run_onnx(render_onnx(graph, parameters, batch_size=2, fold=fold), image)
    assert np.abs(got.reshape(expected.shape) - expected).max() < TOLERANCE
    assert expected.std() > 0.01


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_a_network_for_evaluation_computes_the_same(spec: BlockSpec) -> None:
    """It has no norms, and neither its input nor the network that it was made of is changed."""
    graph = spec.graph()
    network = NetworkModule([spec]).eval()
    (block,) = network.blocks
    assert isinstance(block, GraphModule)
    load_parameters(block, random_parameters(graph, seed=1))
    image = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(2))
    shown = image.clone()
    with torch.no_grad():
        expected = network(image)
        made = network.for_evaluation()
        torch.testing.assert_close(made(shown), expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(network(image), expected, atol=0, rtol=0)
    assert torch.equal(shown, image)
    kept = [node for node in fold_norms(graph).nodes if isinstance(node.layer, Norm)]
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in made.modules()) == len(kept)
    assert not made.training


def test_norms_that_cannot_be_folded_are_kept_for_evaluation() -> None:
    """As in blocks of one's own: a norm of the input, and one of a map that others read too."""
    made = GraphBuilder(4, 6)
    x = made.act("first_act", made.norm("first_norm", INPUT), "relu")
    conv = made.conv("conv", x, out_channels=4, kernel=3)
    y = made.act("second_act", made.norm("second_norm", conv), "hswish")
    z = made.add("sum", made.add("residual", INPUT, conv), y)
    made.act("last_act", z, "relu6")
    graph = made.build()
    network = NetworkModule([ConvBlock(3, 4, 3, 1, "relu", 6)]).eval()
    block = GraphModule(graph).eval()
    load_parameters(block, random_parameters(graph, seed=1))
    network.blocks.append(block)
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(image)
        evaluated = network.for_evaluation()
        torch.testing.assert_close(evaluated(image), expected, atol=TOLERANCE, rtol=0)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in evaluated.modules()) == 2


def test_a_name_is_short_and_says_what_differs() -> None:
    assert str(InvertedResidual(16, 24, 48, 3, 2, "relu", 32, se_channels=16)) == (
        "MBConv k3 s2 16-24 w48 se16 relu @32px"
    )
    assert str(MixedInvertedResidual(8, 12, (3, 3, 7), 1, "hswish", 9)) == (
        "MixConv k3+3+7 s1 8-12 hswish @9px"
    )
    assert str(ConvBlock(8, 8, 6, 1, None, 6, groups=8, padding=0)) == "Conv k6 s1 8-8 g8 p0 @6px"
    assert len({str(spec) for spec in SAMPLES}) == len(set(SAMPLES))
    assert max(len(str(spec)) for spec in SAMPLES) <= 60
    assert not any("\n" in str(spec) or "=" in str(spec) for spec in SAMPLES)


@pytest.mark.parametrize("name", list(SPACES))
def test_blocks_of_a_space_have_names_of_their_own(name: str) -> None:
    blocks = set(make_space(name).blocks())
    assert len({str(spec) for spec in blocks}) == len(blocks)


def test_a_whole_network_renders_as_its_blocks() -> None:
    space = make_tiny_space()
    network = space.lower(space.largest())
    model = NetworkModule(network).eval()
    graph = network_graph(network)
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    got = _run_onnx(render_onnx(graph, model.parameter_values()), image)
    assert np.abs(got - expected).max() < TOLERANCE


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_a_key_is_read_back_as_its_block(spec: BlockSpec) -> None:
    assert parse_block(block_key(spec)) == spec


@pytest.mark.parametrize("text", ["", "{}", '{"block":"none"}', '{"block":"conv","x":1}', "[1"])
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(InvalidFileError):
        parse_block(text)


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_shapes_and_parameters_are_those_of_torch(spec: BlockSpec) -> None:
    graph = spec.graph()
    module = render_torch(spec)
    out = module.eval()(torch.zeros(1, *graph.input_shape))
    assert output_shape(spec) == (*out.shape[1:], 1, 1)[:3]
    assert block_cost(spec).params == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_folding_leaves_macs_and_drops_norms(spec: BlockSpec) -> None:
    folded = fold_norms(spec.graph())
    assert not any(isinstance(node.layer, Norm) for node in folded.nodes)
    assert graph_cost(folded).macs == block_cost(spec).macs


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_weights_given_apart_give_the_same_outputs(spec: BlockSpec) -> None:
    graph = fold_norms(spec.graph())
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    parameters = random_parameters(graph)
    options = ort.SessionOptions()
    options.add_external_initializers(
        list(parameters), [ort.OrtValue.ortvalue_from_numpy(v) for v in parameters.values()]
    )
    model = render_onnx_apart(graph).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": image})[0]
    np.testing.assert_array_equal(got, _run_onnx(render_onnx(graph, parameters), image))


@pytest.mark.parametrize("spec", SAMPLES, ids=block_key)
def test_a_model_in_fp16_is_the_one_in_fp32_rounded(spec: BlockSpec) -> None:
    """ONNX Runtime computes it on the CPU by way of fp32."""
    graph = spec.graph()
    parameters = random_parameters(graph)
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    expected = _run_onnx(render_onnx(graph, parameters), image)
    model = render_onnx(graph, parameters, precision="fp16")
    got = _run_onnx(model, image.astype(np.float16))
    types = {tensor.data_type for tensor in model.graph.initializer} - {onnx.TensorProto.INT64}
    assert types <= {onnx.TensorProto.FLOAT16}
    assert got.dtype == np.float16
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()


def test_random_activations_keep_their_scale() -> None:
    """Fading activations would be denormal numbers, which are slow to compute with."""
    spec = InvertedResidual(16, 16, 96, 3, 1, "swish", 8, se_channels=16)
    graph = network_graph((spec,) * 12)
    image = np.random.default_rng(0).standard_normal((1, *graph.input_shape), dtype=np.float32)
    output = _run_onnx(render_onnx(graph), image)
    assert 1e-2 < output.std() < 1e3


def test_random_parameters_have_the_declared_shapes() -> None:
    graph = InvertedResidual(8, 8, 24, 5, 1, "hswish", 6, se_channels=8).graph()
    parameters = random_parameters(graph)
    wanted = {
        f"{node.name}.{name}": shape
        for node in graph.nodes
        for name, shape in parameter_shapes(node.layer).items()
    }
    assert {name: value.shape for name, value in parameters.items()} == wanted


def test_without_expansion_the_width_is_given() -> None:
    with pytest.raises(ValueError, match="in_channels"):
        InvertedResidual(16, 8, 24, 3, 1, "relu", 8, expand=False)


def test_a_mix_has_one_depthwise_convolution_for_each_kernel() -> None:
    graph = MixedInvertedResidual(8, 8, (3, 3, 5, 7, 7, 7), 1, "relu6", 6).graph()
    convs = [node.layer for node in graph.nodes if isinstance(node.layer, Conv)]
    depthwise = [(layer.kernel, layer.groups) for layer in convs if layer.groups > 1]
    assert depthwise == [(3, 16), (5, 8), (7, 24)]


def test_gradients_of_slices_keep_the_layout_of_their_map() -> None:
    """Else all norms and activations before a shuffle unit would meet gradients of both layouts."""
    module = render_torch(ShuffleUnit(8, 8, 3, 1, "relu6", 6)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = module(x)
    (gradient,) = torch.autograd.grad(
        y, x, torch.randn(y.shape).to(memory_format=torch.channels_last)
    )
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_kernels_of_a_mix_are_in_order() -> None:
    for kernels in [(), (5, 3)]:
        with pytest.raises(ValueError, match="ascending"):
            MixedInvertedResidual(8, 8, kernels, 1, "relu6", 6)


def test_sub_blocks_are_laid_into_a_block_by_kernel() -> None:
    """A mix computed sub-block by sub-block is the block with its channels permuted."""
    kernels, channels = (7, 3, 5, 3), 4
    order = sub_block_order(kernels)
    assert order == (1, 3, 2, 0)
    spec = MixedInvertedResidual(channels, 6, tuple(sorted(kernels)), 1, "relu6", 5)
    block = render_torch(spec).eval()
    groups = {
        k: iter(block.get_submodule(f"depthwise_k{k}").weight.split(channels)) for k in (3, 5, 7)
    }
    depthwise = {i: next(groups[kernels[i]]) for i in order}
    x = torch.randn(2, channels, 5, 5)
    index = torch.cat([torch.arange(channels) + channels * order.index(i) for i in range(4)])
    expanded = F.conv2d(x, block.get_parameter("expand.weight")[index]) / (1 + 1e-5) ** 0.5
    pieces = F.relu6(expanded).split(channels, dim=1)
    mixed = [
        F.conv2d(piece, depthwise[i], padding=kernels[i] // 2, groups=channels)
        for i, piece in enumerate(pieces)
    ]
    active = F.relu6(torch.cat(mixed, 1) / (1 + 1e-5) ** 0.5)
    projected = F.conv2d(active, block.get_parameter("project.weight")[:, index])
    assert torch.allclose(block(x), projected / (1 + 1e-5) ** 0.5, atol=1e-5)


def test_blocks_that_do_not_fit_are_not_chained() -> None:
    with pytest.raises(ValueError, match="block 1"):
        network_graph((SAMPLES[0], SAMPLES[1]))


def test_costs_add_up() -> None:
    total = network_cost(SAMPLES)
    assert replace(total, peak_bytes=0) == sum((block_cost(spec) for spec in SAMPLES), Cost())
    assert total.peak_bytes > 0


@pytest.mark.parametrize(
    ("name", "variant"), [("plain", PLAIN), ("se_hswish", Variant(se=True, activation="hswish"))]
)
def test_costs_of_published_sgnas_networks(reference: Path, name: str, variant: Variant) -> None:
    space = make_space("sgnas", variant=variant)
    for sample in json.loads((reference / "sgnas" / "generate_sample.json").read_text()):
        kernels = iter(sample["layer_kernels"])
        drawn = space.architecture(
            [
                [Choice("mix", kernels=tuple(next(kernels))) for _ in layers]
                for layers in space.stages
            ]
        )
        cost = network_cost(space.lower(drawn))
        assert cost.params == sample[name]["params"]
        assert cost.conv_macs == round(sample[name]["conv_macs_m"] * 1e6)


def _cost_samples(reference: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for folder in ("tfnas", "osnaslib"):
        for sample in json.loads((reference / folder / "cost_samples.json").read_text()):
            yield folder, sample


def test_costs_of_published_networks(reference: Path) -> None:
    for folder, sample in _cost_samples(reference):
        architecture = parse_architecture(json.dumps(sample["architecture"]), source=folder)
        space = make_space(architecture.space, architecture.input_size, architecture.classes)
        cost = network_cost(space.lower(space.staged(architecture)))
        assert cost.macs / 1e6 == pytest.approx(sample["macs_m"], abs=1e-6)
        assert cost.conv_macs / 1e6 == pytest.approx(
            sample.get("conv_macs_m", cost.conv_macs / 1e6), abs=1e-6
        )
        assert cost.params / 1e6 == pytest.approx(sample["params_m"], abs=1e-6)
