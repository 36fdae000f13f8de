"""The unified supernet is the published block, and every path of it is its rendered network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latbench.blocks import Classifier, ConvBlock
from latbench.errors import InvalidValueError
from nas.spaces import SearchSpace, Variant, make_space
from nas.spaces.sgnas import KERNELS, SKIP, SUB_BLOCKS, MixLayer, architecture_of, path_of
from nas.supernet.depthwise import depthwise
from nas.supernet.unified_blocks import UnifiedBlock
from nas.supernet.unified_supernet import UnifiedSupernet


def make_unified_space() -> SearchSpace:
    """Three layers in two stages, the second layer with a residual; 8 px."""
    stem = ConvBlock(3, 4, 3, 1, "relu6", 8)
    stages = ((MixLayer(4, 6, 2, 8), MixLayer(6, 6, 1, 4)), (MixLayer(6, 8, 1, 4),))
    head = (ConvBlock(8, 12, 1, 1, "relu6", 4), Classifier(12, 5, 4))
    return SearchSpace("tiny", 8, 5, (stem,), stages, head, elastic_depth=False)


def make_supernet(*, seed: int = 0) -> UnifiedSupernet:
    """With gains, biases and running statistics that all differ."""
    supernet = UnifiedSupernet(make_unified_space(), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.weight, 0.5), (module.bias, -0.5)):
                nn.init.uniform_(value, low, low + 1, generator=rng)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
    return supernet


PATHS = [
    [[0, 0, 0, 0, 0, 0], [1, 2, 0, 1, 0, 2], [2, 2, 2, 2, 2, 2]],
    [[2, SKIP, 0, SKIP, 1, 0], [SKIP, SKIP, 1, 1, SKIP, SKIP], [0, 1, SKIP, SKIP, SKIP, SKIP]],
    [[SKIP, SKIP, 2, SKIP, SKIP, SKIP], [0, *[SKIP] * 5], [*[SKIP] * 5, 1]],
]

WIDE_PATHS = PATHS[0], [[2, 1, SKIP, 0, SKIP, 0], [SKIP, 0, SKIP, 1, 2, 2], [0, 2, *[SKIP] * 4]]


def one_hot(path: list[list[int]]) -> Tensor:
    return F.one_hot(torch.tensor(path), SKIP + 1).float()


@pytest.mark.parametrize("case", ["res", "s2"])
def test_it_is_the_published_block(reference: Path, case: str) -> None:
    """Weights, input and outputs of the published code, by path and by probabilities."""
    golden = {
        name.removeprefix(f"{case}_"): torch.from_numpy(value)
        for name, value in np.load(reference / "sgnas" / "golden_unified_block.npz").items()
        if name.startswith(f"{case}_")
    }
    stride = 1 if case == "res" else 2
    block = UnifiedBlock(MixLayer(8, golden["path_y"].shape[1], stride, 9)).eval()
    load_published(block, {k.removeprefix("sd/"): v for k, v in golden.items()})
    with torch.no_grad():
        by_path = block(golden["x"], golden["path_choice"].tolist())
        by_probability = block(golden["x"], golden["arch_p"].view(SUB_BLOCKS, SKIP + 1))
    torch.testing.assert_close(by_path, golden["path_y"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_probability, golden["arch_y"], rtol=1e-4, atol=1e-5)


def load_published(block: UnifiedBlock, published: dict[str, Tensor]) -> None:
    state = block.state_dict()

    def norm(ours: str, theirs: str, part: slice = slice(None)) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{ours}.{key}"].copy_(published[f"{theirs}.{key}"][part])

    for b in range(SUB_BLOCKS):
        part = slice(8 * b, 8 * b + 8)
        state[f"sub_blocks.{b}.expand.weight"].copy_(published["point_wise.conv.weight"][part])
        norm(f"sub_blocks.{b}.expand_norm", "point_wise.bn", part)
        for c in range(SKIP):
            theirs = f"depthwise.blocks.{b}.blocks.{c}"
            state[f"sub_blocks.{b}.choices.{c}.weight"].copy_(published[f"{theirs}.conv.weight"])
            norm(f"sub_blocks.{b}.choices.{c}.norm", f"{theirs}.bn")
        state[f"sub_blocks.{b}.project.weight"].copy_(
            published["point_wise_1.conv.weight"][:, part]
        )
        norm(f"norms.{b}", f"sbn.{b}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [8, 4, 2])
def test_a_path_is_its_rendered_network(path: list[list[int]], training: bool, size: int) -> None:
    """Outputs, gradients of the image and, after a training step, running statistics."""
    supernet = make_supernet().train(training)
    network = supernet.cut(path).train(training)
    images = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(1))
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    expected = network(theirs)
    got = supernet(ours, path)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    after = supernet.cut(path).state_dict()
    for name, value in network.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept_pixels", [0, 8])
@pytest.mark.parametrize("size", [8, 4])
def test_gradients_of_weights_are_those_of_the_network(
    kept_pixels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folded norm, the fast depthwise gradient, maps computed anew: they change nothing."""
    monkeypatch.setattr("nas.supernet.fused.KEPT_PIXELS", kept_pixels)
    path = PATHS[1]
    supernet = make_supernet().train()
    network = supernet.cut(path).train()
    images = torch.randn(6, 3, size, size)
    for model, arguments in ((supernet, (images, path)), (network, (images,))):
        model(*arguments).square().sum().backward()
    for layer, row in enumerate(path):
        block = supernet.layers[layer]
        theirs = dict(network.blocks[1 + layer].named_parameters())
        order = sorted((b for b, c in enumerate(row) if c != SKIP), key=lambda b: row[b])
        subs = [block.sub_blocks[b] for b in order]
        ours = {
            "expand.weight": torch.cat([s.expand.weight.grad for s in subs]),
            "expand_norm.weight": torch.cat([s.expand_norm.weight.grad for s in subs]),
            "project.weight": torch.cat([s.project.weight.grad for s in subs], dim=1),
            "project_norm.bias": block.norms[SUB_BLOCKS - len(order)].bias.grad,
        }
        for c in {row[b] for b in order}:
            grads = [block.sub_blocks[b].choices[c].weight.grad for b in order if row[b] == c]
            ours[f"depthwise_k{KERNELS[c]}.weight"] = torch.cat(grads)
        for name, grad in ours.items():
            torch.testing.assert_close(grad, theirs[name].grad, rtol=2e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_path_is_its_one_hot_probabilities(
    path: list[list[int]], frozen: bool, training: bool
) -> None:
    supernet = make_supernet().train(training).requires_grad_(not frozen)
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(supernet(images, path), supernet(images, one_hot(path)))


@pytest.mark.parametrize("size", [8, 2])
def test_frozen_weights_change_no_gradient_of_probabilities(size: int) -> None:
    """The fast form for frozen weights and the general one agree."""
    supernet = make_supernet().eval()
    images = torch.randn(3, 3, size, size)
    logits = torch.randn(3, SUB_BLOCKS, SKIP + 1) * 3
    found = []
    for frozen in (False, True):
        supernet.requires_grad_(not frozen)
        probabilities = logits.softmax(-1).requires_grad_()
        output = supernet(images, probabilities)
        output.square().sum().backward()
        found.append((output.detach(), probabilities.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_soft_mode_sums_choices_and_rounds_the_skips_half_to_even() -> None:
    """Against the definition, spelled out for one layer."""
    block = make_supernet().layers[1].eval()
    p = torch.zeros(SUB_BLOCKS, SKIP + 1)
    p[:, 0] = 1
    p[1] = torch.tensor([0.2, 0.3, 0.0, 0.5])
    p[4] = torch.tensor([0.0, 0.009, 0.491, 0.5])  # 0.009 is not computed
    p[5] = torch.tensor([0.1, 0.2, 0.2, 0.5])
    x = torch.randn(2, 6, 4, 4)
    total: Tensor | float = 0.0
    for b, row in enumerate(p.tolist()):
        sub = block.sub_blocks[b]
        wide = F.relu6(sub.expand_norm(sub.expand(x)))
        for c in range(SKIP):
            if row[c] > 0.01:
                choice = sub.choices[c]
                y = F.conv2d(wide, choice.weight, padding=KERNELS[c] // 2, groups=6)
                total = total + row[c] * sub.project(F.relu6(choice.norm(y)))
    expected = block.norms[2](total) + x  # 1.5 skips round to 2
    torch.testing.assert_close(block(x, p), expected, rtol=1e-4, atol=1e-5)


def test_what_a_path_skips_gets_no_gradient() -> None:
    supernet = make_supernet().train()
    path = PATHS[1]
    supernet(torch.randn(4, 3, 8, 8), path).sum().backward()
    for block, row in zip(supernet.layers, path, strict=True):
        for sub, choice in zip(block.sub_blocks, row, strict=True):
            touched = {name for name, p in sub.named_parameters() if p.grad is not None}
            if choice == SKIP:
                assert not touched
            else:
                assert {name.split(".")[1] for name in touched if "choices" in name} == {
                    str(choice)
                }
        switched = [norm.weight.grad is not None for norm in block.norms]
        assert switched == [skips == row.count(SKIP) for skips in range(SUB_BLOCKS)]


def test_a_layer_keeps_a_sub_block() -> None:
    block = make_supernet().layers[0]
    with pytest.raises(ValueError, match="keep at least one"):
        block(torch.randn(1, 4, 8, 8), [SKIP] * SUB_BLOCKS)


def test_architectures_and_paths_go_both_ways() -> None:
    space = make_unified_space()
    architecture = architecture_of(space, PATHS[1])
    assert [choice.kernels for choice in architecture.choices] == [(7, 3, 5, 3), (5, 5), (3, 5)]
    assert architecture_of(space, path_of(architecture)) == architecture


@pytest.mark.parametrize("name", ["sgnas", "sgnas-proxyless"])
def test_it_is_built_from_any_space_of_unified_blocks(name: str) -> None:
    space = make_space(name, 32, 10)
    supernet = UnifiedSupernet(space, seed=0).eval()
    path = path_of(space.random(np.random.default_rng(0)))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            supernet(images, path), supernet.cut(path).eval()(images), rtol=1e-3, atol=1e-5
        )


def test_other_spaces_are_refused(tiny_space: SearchSpace) -> None:
    with pytest.raises(InvalidValueError, match="unified blocks"):
        UnifiedSupernet(tiny_space, seed=0)
    with pytest.raises(InvalidValueError, match="squeeze-excite"):
        UnifiedSupernet(make_space("sgnas", 32, 10, Variant(se=True)), seed=0)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4, 7, 8, 33])
def test_depthwise_gradients_are_those_of_torch(kernel: int, stride: int, size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, size, size, generator=rng).to(memory_format=torch.channels_last)
    weight = torch.randn(5, 1, kernel, kernel, generator=rng)
    found = []
    for function in (depthwise, lambda x, w, s: F.conv2d(x, w, None, s, kernel // 2, 1, 5)):
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = function(*inputs, stride)
        y.backward(torch.sin(torch.arange(y.numel())).view_as(y))
        found.append([y, *(value.grad for value in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_paths_that_start_alike_are_the_same_function() -> None:
    """At correlation 1, whatever the kernels and however many sub-blocks; residual layers pass."""
    supernet = UnifiedSupernet(make_unified_space(), seed=0).train()
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def difference() -> float:
        """Difference of two paths' logits, relative to their spread over images."""
        one, other = (supernet(images, path).detach() for path in WIDE_PATHS)
        return float((one - other).abs().max() / one.std(dim=0).mean())

    assert difference() > 0.3
    supernet.start_alike(1.0)
    assert difference() < 0.01


def test_a_correlated_start_keeps_the_spread_of_weights() -> None:
    supernet = UnifiedSupernet(make_space("sgnas-proxyless", 32, 10), seed=0)
    last = supernet.layers[-1]
    assert isinstance(last, UnifiedBlock)
    before = [sub.expand.weight.std() for sub in last.sub_blocks]
    supernet.start_alike(0.5)
    after = [sub.expand.weight.flatten() for sub in last.sub_blocks]
    spread = torch.stack([weights.std() for weights in after])
    torch.testing.assert_close(spread, torch.stack(before), rtol=0.02, atol=0)
    found = torch.corrcoef(torch.stack(after))
    torch.testing.assert_close(found[0, 1:], torch.full((SUB_BLOCKS - 1,), 0.5), atol=0.02, rtol=0)
