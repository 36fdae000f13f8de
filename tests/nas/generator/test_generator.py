"""Generators reproduce published weights, expectations equal enumeration, budgets are kept."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from latbench.cost import block_cost, network_cost
from latbench.device_files import load_device
from latbench.errors import BudgetError, InvalidFileError, MismatchError, UnknownNameError
from latbench.tables import SpaceLabel
from latbench.tables.price_model import Breakpoint, PriceModel
from nas.generator import (
    Generator,
    GeneratorLabel,
    Kind,
    PlaneCosts,
    PlaneLimit,
    Request,
    answering_space,
    answers,
    count_costs,
    import_generator,
    latency_costs,
    load_generator,
    raw_answers,
    save_generator,
)
from nas.generator.generator import KINDS
from nas.generator.kernel_multisets import (
    MultisetProbabilities,
    multiset_index,
    multisets_of,
    nearest_choices,
)
from nas.generator.network import GeneratorNetwork
from nas.generator.planes import SubBlocks, plane_of
from nas.generator.repair import BAND, EDGE, into_band, least_within, load_of
from nas.latency.priced_space import PricedSpace, space_label
from nas.spaces import Architecture, Choice, SearchSpace, Variant, make_space
from nas.spaces.rows import inverted_residuals
from nas.spaces.sgnas import KERNEL_MULTISETS, KERNELS, SKIP, kernels_of
from tests.conftest import make_mix_space, make_tiny_fixed_space, write_table

PATHS = [(first, *rest) for first in range(3) for rest in itertools.product(range(4), repeat=5)]


def random_costs(seed: int, *, layers: int = 2, pieces: int = 1) -> PlaneCosts:
    """Costs that grow with the number of active sub-blocks, with one or more sums."""
    rng = np.random.default_rng(seed)
    kernel = {3: 1.0, 5: 1.4, 7: 2.1}
    size = rng.uniform(0.5, 3.0, (layers, 1, 1))
    active = np.array([sum(kernel[k] for k in multiset) + 0.7 for multiset in KERNEL_MULTISETS])
    addends = size * active[None, :, None] * rng.uniform(0.9, 1.1, (layers, 83, pieces))
    return PlaneCosts("latency", rng.uniform(0.5, 2.0, pieces), addends)


def conditioned(
    space: SpaceLabel, *, layers: int, seed: int = 0, devices: tuple[str, ...] = ("d",)
) -> Generator:
    torch.manual_seed(seed)
    label = GeneratorLabel(
        1, "conditioned", space, 0.0, 1.0, ("latency", "macs", "params"), devices, (0.5,)
    )
    priors = torch.zeros(1, layers, 6, 4)
    priors[..., 1] = 1.0
    return Generator(label, priors.flatten(2)).eval()


# Costs of unified blocks


def test_probabilities_of_counts_equal_enumeration() -> None:
    """Over all 3 * 4^5 outcomes of a layer, for two layers of two generators at once."""
    rng = torch.Generator().manual_seed(0)
    p = torch.rand(2, 2, 6, 4, generator=rng, dtype=torch.float64)
    p[..., 0, 3] = 0
    p /= p.sum(-1, keepdim=True)
    expected = torch.zeros(2, 2, 83, dtype=torch.float64)
    for path in PATHS:
        mass = torch.ones(2, 2, dtype=torch.float64)
        for sub_block, choice in enumerate(path):
            mass *= p[..., sub_block, choice]
        expected[..., multiset_index(path)] += mass
    found = MultisetProbabilities()(p)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, dtype=torch.float64))


def test_expected_latency_equals_enumeration_and_is_not_additive(tmp_path: Path) -> None:
    """The oracle sums over all paths the probability times the predicted latency."""
    space = make_mix_space(1)
    priced = PricedSpace(space, write_table(tmp_path / "t", space, load_device("cpu-onnxruntime")))
    costs = latency_costs(priced)
    p = torch.rand(1, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p[0, 0, 3] = 0
    p /= p.sum(-1, keepdim=True)
    expected, seen = 0.0, {}
    for path in PATHS:
        kernels = tuple(sorted(kernels_of(path)))
        if kernels not in seen:
            found = space.architecture(
                [[type(space.smallest().choices[0])("mix", kernels=kernels)]]
            )
            seen[kernels] = priced.latency_ms(found)
        expected += seen[kernels] * float(np.prod([p[0, i, c] for i, c in enumerate(path)]))
    assert float(costs.expected(MultisetProbabilities()(p))) == pytest.approx(expected, rel=1e-12)


def test_the_expectation_of_certain_choices_is_their_cost() -> None:
    costs = random_costs(0, layers=3, pieces=2)
    choices = np.array([PATHS[7], PATHS[1500], PATHS[3071]])
    p = torch.nn.functional.one_hot(torch.from_numpy(choices), 4).double()
    assert float(costs.expected(MultisetProbabilities()(p))) == pytest.approx(
        costs.of(multisets_of(choices)), rel=1e-12
    )


def test_the_gradient_of_the_expectation_is_right() -> None:
    costs = random_costs(1, layers=2, pieces=2)
    logits = torch.randn(1, 2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: costs.expected(MultisetProbabilities()(x.softmax(-1))), (logits,), fast_mode=True
    )


def test_a_pieced_latency_is_what_the_table_predicts(tmp_path: Path) -> None:
    space = make_mix_space(2)
    model = PriceModel(
        0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(2000.0, 1e-5), Breakpoint(4000.0, 1e-4))
    )
    table = write_table(tmp_path / "t", space, load_device("cpu-onnxruntime"), model=model)
    priced = PricedSpace(space, table)
    costs = latency_costs(priced)
    assert len(costs.base) == 3
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = space.random(rng)
        counts = np.array([KERNEL_MULTISETS.index(choice.kernels) for choice in drawn.choices])
        assert costs.of(counts) == pytest.approx(priced.latency_ms(drawn), rel=1e-12)


@pytest.mark.parametrize("slope", [-1e-4, 1e-4])
def test_the_feasible_range_of_costs_equals_enumeration(tmp_path: Path, slope: float) -> None:
    """All 6,889 networks of two layers, also if fast blocks have many weights."""
    space = make_mix_space(2)
    model = PriceModel(0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(9e3, 8e-5), Breakpoint(11e3, 1e-4)))
    table = write_table(
        tmp_path / "t",
        space,
        load_device("cpu-onnxruntime"),
        model=model,
        prices=lambda spec: 5.0 + slope * block_cost(spec).weight_bytes,
    )
    costs = latency_costs(PricedSpace(space, table))
    every = [costs.of(np.array(o)) for o in itertools.product(range(83), repeat=2)]
    assert costs.feasible_range == pytest.approx((min(every), max(every)), rel=1e-12)
    assert (costs.of(costs.cheapest()), costs.of(costs.costliest())) == costs.feasible_range


@pytest.mark.parametrize("variant", [Variant(), Variant(se=True, activation="hswish")], ids=str)
def test_macs_and_parameters_are_those_of_the_network(variant: Variant) -> None:
    space = make_space("sgnas", 224, 1000, variant)
    macs, params = count_costs(space, "macs"), count_costs(space, "params")
    drawn = space.random(np.random.default_rng(3))
    counts = np.array([KERNEL_MULTISETS.index(choice.kernels) for choice in drawn.choices])
    cost = network_cost(space.lower(drawn))
    assert macs.of(counts) == pytest.approx(cost.conv_macs / 1e6, rel=1e-12)
    assert params.of(counts) == pytest.approx(cost.params / 1e6, rel=1e-12)
    assert macs.feasible_range[0] == pytest.approx(
        network_cost(space.lower(space.smallest())).conv_macs / 1e6
    )
    assert macs.feasible_range[1] == pytest.approx(
        network_cost(space.lower(space.largest())).conv_macs / 1e6
    )


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (make_space("tfnas", 32, 10), "widths"),
        (replace(make_space("proxylessnas"), elastic_depth=True), "depths"),
        (make_tiny_fixed_space(), "unified blocks"),
    ],
    ids=["tfnas", "depth", "mixed"],
)
def test_spaces_with_more_to_choose_are_refused(space: SearchSpace, reason: str) -> None:
    with pytest.raises(MismatchError, match=reason):
        count_costs(space, "macs")


# Spaces of separate operations


def uneven_space() -> SearchSpace:
    """Two layers with four operations, and one with two operations between them."""
    space = make_tiny_fixed_space()
    make_layer = inverted_residuals(("k3_e1", "k3_e2", "k3_e4", "skip"), "relu6")
    narrow = inverted_residuals(("k3_e4", "skip"), "relu6")
    first = (make_layer(8, 12, 2, 8), narrow(12, 12, 1, 4))
    return replace(space, name="uneven", stages=(first, (make_layer(12, 16, 1, 4),)))


def networks_of(space: SearchSpace) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(layer.ops)) for layer in space.layers)))


def of_ops(space: SearchSpace, ops: tuple[int, ...]) -> Architecture:
    left = iter(ops)
    return space.architecture(
        [[Choice(layer.ops[next(left)]) for layer in layers] for layers in space.stages]
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("proxylessnas", (21, 1, 7)),
        ("fbnet-s", (22, 1, 9)),
        ("fbnet-l", (22, 1, 9)),
        ("spos", (20, 1, 4)),
        ("mobilefacenet", (15, 1, 7)),
        ("nasbench-macro", (8, 1, 3)),
        ("sgnas", (19, 6, 4)),
        ("sgnas-proxyless", (21, 6, 4)),
    ],
)
def test_every_space_of_fixed_depth_has_its_plane(name: str, shape: tuple[int, ...]) -> None:
    """Random networks belong to the space, and costs of outcomes equal those of the networks."""
    space = make_space(name)
    plane, costs = plane_of(space), count_costs(space, "params")
    assert plane.allowed.shape == shape
    assert len(space.stages) > 1
    rng = np.random.default_rng(0)
    found = []
    for _ in range(20):
        choices = plane.random(rng)
        outcomes = plane.outcomes_of(choices)
        made = plane.chosen(choices)
        assert space.lower(made) == space.lower(plane.architecture(outcomes))
        params_m = network_cost(space.lower(made)).params / 1e6
        assert costs.of(outcomes) == pytest.approx(params_m, rel=1e-12)
        found.append(costs.place(params_m))
    assert (
        max(found) - min(found) > 0.3
    )  # random preferences spread the costs over the feasible range


def test_expected_cost_of_operations_equals_enumeration() -> None:
    """Layers with fewer operations give probability 0 to the missing ones."""
    space = uneven_space()
    plane, costs = plane_of(space), count_costs(space, "macs")
    logits = torch.randn(3, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = plane.masked(logits).softmax(-1)
    assert p[1, 0, 2:].tolist() == [0, 0]
    expected = 0.0
    for ops in networks_of(space):
        mass = float(np.prod([p[layer, 0, op] for layer, op in enumerate(ops)]))
        expected += mass * network_cost(space.lower(of_ops(space, ops))).conv_macs / 1e6
    assert float(costs.expected(plane.probabilities(p))) == pytest.approx(expected, rel=1e-12)


def test_answers_of_operations_change_the_fewest_layers() -> None:
    """Compared with all networks of the space in the band of an answer."""
    space = uneven_space()
    plane, costs = plane_of(space), count_costs(space, "params")
    rng = np.random.default_rng(0)
    networks = [np.array(ops) for ops in networks_of(space)]
    answered = 0
    for _ in range(30):
        scores = rng.normal(size=(3, 1, 4))
        chosen = plane.decode(torch.from_numpy(scores)).numpy()
        limits = [PlaneLimit(costs, costs.of(networks[int(rng.integers(len(networks)))]) * 1.002)]
        made = into_band(plane, limits, scores=scores, chosen=chosen)
        keys = [
            (int((ops != chosen[:, 0]).sum()), -float(scores[range(3), 0, ops].sum()))
            for ops in networks
            if 1 / BAND + EDGE <= load_of(limits, ops) <= 1 - EDGE
        ]
        assert made is not None
        key = (int((made != chosen).sum()), -float(scores[range(3), 0, made[:, 0]].sum()))
        assert key == pytest.approx(min(keys))
        answered += key[0] > 0
    assert answered > 10


@pytest.mark.parametrize("name", ["proxylessnas", "nasbench-macro"])
def test_answers_of_operations_keep_to_their_budgets_and_rise_with_them(name: str) -> None:
    space = make_space(name)
    plane, costs = plane_of(space), count_costs(space, "macs")
    label = GeneratorLabel(
        1, "conditioned", space_label(space), 0.0, 1.0, ("macs",), (), (0.5,), "operations"
    )
    torch.manual_seed(0)
    priors = plane.one_hot(torch.from_numpy(plane.random(np.random.default_rng(0))))[None]
    generator = Generator(label, priors).eval()
    low, high = costs.feasible_range
    budgets = [low * (1 - place) + high * place for place in (0, 0.1, 0.3, 0.5, 0.8, 1)]
    found = answers(generator, space, [Request((PlaneLimit(costs, b),)) for b in budgets])
    taken = [network_cost(space.lower(a.architecture)).conv_macs / 1e6 for a in found]
    assert all(cost <= budget * (1 + 1e-9) for cost, budget in zip(taken, budgets, strict=True))
    assert taken == sorted(taken)
    assert all(a.changes is not None for a in found[1:])
    assert taken[3] > 0.9 * budgets[3]


def test_a_file_names_the_plane_of_its_generator(tmp_path: Path) -> None:
    """Old files, which name no plane, have sub-blocks."""
    space = make_space("nasbench-macro")
    plane = plane_of(space)
    label = GeneratorLabel(
        1, "conditioned", space_label(space), 0.0, 1.0, ("macs",), (), (0.5,), "operations"
    )
    made = Generator(label, torch.eye(3)[None, [0, 1, 2, 0, 1, 2, 0, 1]]).eval()
    save_generator(made, tmp_path / "g")
    read = load_generator(tmp_path / "g")
    assert read.label.plane == "operations"
    assert answering_space(read, None) == space
    request = Request((PlaneLimit(count_costs(space, "macs"), 60.0),))
    assert torch.equal(read([request]), made([request]))
    assert read([request]).shape == (1, *plane.allowed.shape)
    mixed = conditioned(space_label(make_space("sgnas", 32, 10)), layers=19)
    save_generator(mixed, tmp_path / "mixed")
    old = (tmp_path / "mixed").read_bytes().replace(b',\\"plane\\":\\"sub-blocks\\"', b"")
    assert len(old) < len((tmp_path / "mixed").read_bytes())
    size = int.from_bytes(old[:8], "little") - (len((tmp_path / "mixed").read_bytes()) - len(old))
    (tmp_path / "old").write_bytes(size.to_bytes(8, "little") + old[8:])
    assert load_generator(tmp_path / "old").label == mixed.label
    with pytest.raises(InvalidFileError, match="damaged"):
        answering_space(Generator(label, torch.eye(3)[None, [0] * 7]), None)


# Changes


def test_nearest_choices_equal_enumeration() -> None:
    rng = np.random.default_rng(0)
    scores, chosen = rng.normal(size=(6, 4)), np.array([2, 3, 0, 1, 1, 3])
    best: dict[int, tuple[int, float]] = {}
    for path in PATHS:
        place = multiset_index(path)
        changed = int((np.array(path) != chosen).sum())
        key = (changed, -float(scores[range(6), path].sum()))
        best[place] = min(best.get(place, key), key)
    changes, score, choices = nearest_choices(scores, chosen)
    for place, (changed, lost) in best.items():
        assert (changes[place], score[place]) == (changed, pytest.approx(-lost))
        assert multiset_index(choices[place].tolist()) == place
        assert int((choices[place] != chosen).sum()) == changed
        assert scores[range(6), choices[place]].sum() == pytest.approx(-lost)


def _brute_force(
    scores: np.ndarray, chosen: np.ndarray, limits: list[PlaneLimit]
) -> tuple[int, float] | None:
    """Fewest changes and least loss of score over all pairs of multisets."""
    found = [nearest_choices(*row) for row in zip(scores, chosen, strict=True)]
    best = None
    for counts in itertools.product(range(83), repeat=2):
        load = load_of(limits, np.array(counts))
        if not 1 / BAND + EDGE <= load <= 1 - EDGE:
            continue
        changed = sum(int(f[0][c]) for f, c in zip(found, counts, strict=True))
        key = (changed, -sum(float(f[1][c]) for f, c in zip(found, counts, strict=True)))
        best = key if best is None else min(best, key)
    return best


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), place=st.floats(0.1, 0.9), pieces=st.integers(1, 2))
def test_the_fewest_changes_are_found(seed: int, place: float, pieces: int) -> None:
    """Compared with brute force: few or many changes, one or two sums, one or two budgets."""
    costs = random_costs(seed, pieces=pieces)
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(2, 6, 4))
    plane = SubBlocks(make_mix_space(2))
    chosen = plane.decode(torch.from_numpy(scores)).numpy()
    low, high = costs.feasible_range
    limits = [PlaneLimit(costs, low + place * (high - low))]
    if seed % 2:
        limits.append(
            PlaneLimit(random_costs(seed + 1), 0.8 * random_costs(seed + 1).feasible_range[1])
        )
    made = into_band(plane, limits, scores=scores, chosen=chosen)
    expected = _brute_force(scores, chosen, limits)
    if made is None or expected is None:
        assert made is None
        assert expected is None
        return
    assert 1 / BAND < load_of(limits, multisets_of(made)) <= 1
    assert int((made != chosen).sum()) == expected[0]
    score = scores[np.arange(2)[:, None], np.arange(6), made].sum()
    assert score == pytest.approx(-expected[1], abs=1e-3)


def test_least_cost_under_another_budget_equals_enumeration() -> None:
    first, second = random_costs(0, pieces=2), random_costs(5)
    low, high = second.feasible_range
    limits = [
        PlaneLimit(first, first.feasible_range[1]),
        PlaneLimit(second, low + 0.01 * (high - low)),
    ]
    counts, least = least_within(limits)
    allowed = [
        np.array(c)
        for c in itertools.product(range(83), repeat=2)
        if second.of(np.array(c)) <= limits[1].budget
    ]
    assert least == pytest.approx(min(first.of(c) for c in allowed), rel=1e-5)
    assert second.of(counts) <= limits[1].budget


# Answers


@settings(max_examples=3)
@given(seed=st.integers(0, 1000), pieces=st.integers(1, 2))
def test_answers_keep_to_their_budgets_and_rise_with_them(seed: int, pieces: int) -> None:
    """Over random costs and budgets, in one call and from call to call."""
    space = make_mix_space(2)
    costs = random_costs(seed, pieces=pieces)
    generator = conditioned(space_label(space), layers=2, seed=seed)
    low, high = costs.feasible_range
    rng = np.random.default_rng(seed)
    budgets = [low, *rng.uniform(low, high, 3).tolist(), high]
    requests = [Request((PlaneLimit(costs, budget),), "d") for budget in budgets]
    together = answers(generator, space, requests)
    alone = [answers(generator, space, [request])[0] for request in requests[:2]]
    assert [a.architecture for a in alone] == [a.architecture for a in together[:2]]
    taken = [_cost(costs, answer.architecture) for answer in together]
    assert all(cost <= budget for cost, budget in zip(taken, budgets, strict=True))
    by_budget = [cost for _, cost in sorted(zip(budgets, taken, strict=True))]
    assert by_budget == sorted(by_budget)


def _cost(costs: PlaneCosts, architecture: object) -> float:
    kernels = [tuple(sorted(c.kernels)) for c in architecture.choices]  # type: ignore[attr-defined]
    return costs.of(np.array([KERNEL_MULTISETS.index(k) for k in kernels]))


def test_answers_of_a_real_space_are_within_a_percent() -> None:
    """Nineteen layers leave no gaps, so every budget but the extreme ones is nearly used up."""
    space = make_space("sgnas")
    costs = count_costs(space, "macs")
    generator = conditioned(space_label(space), layers=19)
    low, high = costs.feasible_range
    budgets = [low + place * (high - low) for place in (0.15, 0.4, 0.7)]
    found = answers(generator, space, [Request((PlaneLimit(costs, b),)) for b in budgets])
    for budget, answer in zip(budgets, found, strict=True):
        assert 0.99 * budget <= _cost(costs, answer.architecture) <= budget


def test_two_budgets_hold_together() -> None:
    space = make_space("sgnas")
    macs, params = count_costs(space, "macs"), count_costs(space, "params")
    generator = conditioned(space_label(space), layers=19)
    limits = (PlaneLimit(macs, 330.0), PlaneLimit(params, 3.6))
    (answer,) = answers(generator, space, [Request(limits)])
    loads = [_cost(limit.costs, answer.architecture) / limit.budget for limit in limits]
    assert 0.99 <= max(loads) <= 1


def test_two_budgets_that_exclude_each_other_are_refused_with_the_nearest() -> None:
    space = make_mix_space(2)
    generator = conditioned(space_label(space), layers=2)
    first = random_costs(0)
    opposed = PlaneCosts("macs", first.base, first.addends.max() - first.addends)
    limits = (
        PlaneLimit(first, first.feasible_range[0] * 1.01),
        PlaneLimit(opposed, opposed.feasible_range[0] * 1.01),
    )
    with pytest.raises(BudgetError, match="no architecture keeps to") as caught:
        answers(generator, space, [Request(limits, "d")])
    nearest = caught.value.nearest_ms
    assert nearest is not None
    eased = PlaneLimit(first, min(nearest * 1.0001, first.feasible_range[1]))
    (answer,) = answers(generator, space, [Request((eased, limits[1]), "d")])
    assert _cost(first, answer.architecture) <= eased.budget
    assert _cost(opposed, answer.architecture) <= limits[1].budget


def test_infeasible_budgets_are_refused_with_the_nearest() -> None:
    space = make_mix_space(2)
    generator = conditioned(space_label(space), layers=2)
    macs = count_costs(space, "macs")
    for budget, nearest in ((macs.feasible_range[0] / 2, 0), (macs.feasible_range[1] * 2, 1)):
        with pytest.raises(BudgetError, match="out of reach") as caught:
            answers(generator, space, [Request((PlaneLimit(macs, budget),))])
        assert caught.value.as_dict()["nearest_macs_m"] == macs.feasible_range[nearest]
    latency = random_costs(0)
    with pytest.raises(BudgetError) as caught:
        answers(generator, space, [Request((PlaneLimit(latency, 1e-3),), "d")])
    assert caught.value.nearest_ms == latency.feasible_range[0]


def test_unknown_devices_and_kinds_are_refused() -> None:
    space = make_mix_space(2)
    generator = conditioned(space_label(space), layers=2)
    costs = random_costs(0)
    with pytest.raises(UnknownNameError, match="adapt"):
        generator([Request((PlaneLimit(costs, 5.0),), "elsewhere")])
    label = GeneratorLabel(1, "published", space_label(space), 270, 450, ("macs",), (), (360.0,))
    published = Generator(label, generator.priors)
    with pytest.raises(MismatchError, match="--target-macs"):
        published([Request((PlaneLimit(costs, 5.0),), "d")])


def test_a_request_is_given_the_prior_of_nearest_cost() -> None:
    """With several budgets the one that a prior exceeds most counts."""
    costs = random_costs(3)
    cheap, dear = costs.cheapest(), costs.costliest()
    space = SpaceLabel("sgnas", 32, 100)
    label = GeneratorLabel(1, "conditioned", space, 0.0, 1.0, ("latency", "macs"), ("d",), (0, 1))
    kernels = [[KERNEL_MULTISETS[place] for place in counts] for counts in (cheap, dear)]
    rows = [
        [
            [KERNELS.index(k) for k in multiset] + [SKIP] * (6 - len(multiset))
            for multiset in network
        ]
        for network in kernels
    ]
    priors = F.one_hot(torch.tensor(rows), 4).flatten(2)
    made = Generator(label, priors)
    low, high = costs.feasible_range
    macs = replace(costs, kind="macs")
    near_low, near_high = (PlaneLimit(costs, low + p * (high - low)) for p in (0.2, 0.8))
    macs_low = PlaneLimit(macs, low + 0.2 * (high - low))
    asked = [Request(each, "d") for each in ((near_low,), (near_high,), (near_high, macs_low))]
    assert made.nearest_priors(asked).tolist() == [0, 1, 0]


def test_adding_a_device_does_not_change_the_others() -> None:
    space = make_mix_space(2)
    generator = conditioned(space_label(space), layers=2, devices=("a", "b"))
    wider = generator.with_device("c")
    requests = [Request((PlaneLimit(random_costs(0), 5.0),), name) for name in ("a", "b")]
    assert torch.equal(wider(requests), generator(requests))
    assert torch.equal(wider.devices[2], generator.devices.mean(0))
    with pytest.raises(MismatchError, match="already"):
        wider.with_device("a")


# The network and its files


def test_the_output_of_a_new_network_depends_on_its_budget() -> None:
    """Logits at the ends of the published range differ, by 2.4 in the mean of seeds."""
    priors = F.one_hot(torch.ones(1, 21, 6, dtype=torch.int64), 4).flatten(2).float()
    ends = torch.tensor([[0.0], [1.0]]).expand(-1, 10)
    differences = []
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            low, high = GeneratorNetwork(10)(ends, priors, torch.zeros(2, dtype=torch.int64))
        differences.append(float((high - low).std()))
    assert min(differences) > 0.5
    assert max(differences) < 20
    assert float(np.mean(differences)) == pytest.approx(2.4, abs=1.5)


@pytest.mark.parametrize("kind", ["latency", "macs", "params"])
def test_a_request_tells_the_network_where_its_budget_lies(kind: Kind) -> None:
    """A place in the feasible range, clipped to the trained one, and a mark for each kind."""
    made = conditioned(space_label(make_mix_space()), layers=2)
    made.label = msgspec.structs.replace(made.label, low=0.2, high=0.8)
    costs = replace(random_costs(0), kind=kind)
    low, high = costs.feasible_range
    seen: list[torch.Tensor] = []
    made.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    places = [0.1, 0.2, 0.5, 0.7, 0.9]
    device = "d" if kind == "latency" else None
    made([Request((PlaneLimit(costs, low + x * (high - low)),), device) for x in places])
    known = seen[0][:, : 2 * len(KINDS)].reshape(len(places), len(KINDS), 2)
    at = KINDS.index(kind)
    assert known[:, at, 0].tolist() == pytest.approx([0.2, 0.2, 0.5, 0.7, 0.8])
    assert (known[:, at, 1] == 1).all()
    others = [number for number in range(len(KINDS)) if number != at]
    assert not known[:, others].any()
    features = seen[0][:, 2 * len(KINDS) :]
    wanted = made.devices[0] if device else torch.zeros_like(made.devices[0])
    assert torch.equal(features, wanted.expand_as(features))


@pytest.mark.parametrize(("layers", "plane"), [(1, 24), (3, 24), (19, 24), (7, 8)])
def test_constant_maps_follow_from_their_border(layers: int, plane: int) -> None:
    """The short computation equals that on the whole plane."""
    torch.manual_seed(0)
    network = GeneratorNetwork(5)
    conditions = torch.randn(3, 5)
    whole = network.hc_head(conditions[:, :, None, None].expand(-1, -1, layers, plane))
    torch.testing.assert_close(network.condition_planes(conditions, layers, plane), whole)


def test_the_published_generator_reproduces_published_answers(
    reference: Path, tmp_path: Path
) -> None:
    """Kernels, conv MACs and parameters are equal, in both variants, after save and load."""
    folder = reference / "sgnas"
    made = import_generator(folder / "generator_imagenet.npz", folder / "prior_pool_imagenet.json")
    save_generator(made, tmp_path / "generator")
    generator = load_generator(tmp_path / "generator")
    (sample,) = json.loads((folder / "generate_sample.json").read_text())
    for key, variant in (("plain", Variant()), ("se_hswish", Variant(True, "hswish"))):
        space = make_space("sgnas", 224, 1000, variant)
        request = Request((PlaneLimit(count_costs(space, "macs"), sample["target_macs_m"]),))
        (answer,) = raw_answers(generator, space, [request])
        kernels = [list(choice.kernels or ()) for choice in answer.architecture.choices]
        assert kernels == sample["layer_kernels"]
        cost = network_cost(space.lower(answer.architecture))
        assert cost.conv_macs / 1e6 == pytest.approx(sample[key]["conv_macs_m"], rel=1e-9)
        assert cost.params == sample[key]["params"]


def test_budgets_in_one_batch_are_answered_as_alone(reference: Path) -> None:
    folder = reference / "sgnas"
    generator = import_generator(
        folder / "generator_imagenet.npz", folder / "prior_pool_imagenet.json"
    )
    space = answering_space(generator, None)
    macs = count_costs(space, "macs")
    requests = [Request((PlaneLimit(macs, float(m)),)) for m in (450, 270, 320, 320)]
    together = raw_answers(generator, space, requests)
    assert together == [raw_answers(generator, space, [request])[0] for request in requests]


def test_a_generator_file_is_known_by_its_content(tmp_path: Path) -> None:
    space = make_space("sgnas", 32, 10)
    made = conditioned(space_label(space), layers=19, devices=("a", "b"))
    path = tmp_path / "g.txt"
    save_generator(made, path)
    read = load_generator(path)
    assert read.label == made.label
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in made.state_dict().items())
    whole = path.read_bytes()
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, content in (
        ("missing", None),
        ("cut", whole[:-100]),
        ("empty", b""),
        ("text", b"{}"),
        ("header", b"\xff" * 64),
        ("foreign", (tmp_path / "other.safetensors").read_bytes()),
        ("label", whole.replace(b'\\"conditioned\\"', b'\\"conditionex\\"')),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InvalidFileError) as caught:
            load_generator(file)
        assert "\n" not in caught.value.message


def test_a_generator_of_other_layers_than_its_space_has_is_refused() -> None:
    label = space_label(make_space("sgnas", 32, 10))
    with pytest.raises(InvalidFileError, match="damaged"):
        answering_space(conditioned(label, layers=18), None)


def test_files_that_are_no_generator_are_refused(reference: Path, tmp_path: Path) -> None:
    folder = reference / "sgnas"
    weights, prior = folder / "generator_imagenet.npz", folder / "prior_pool_imagenet.json"
    for text, error in (
        ("[", InvalidFileError),
        ("[1]", InvalidFileError),
        ('{"320": [[1, 0]]}', InvalidFileError),
        ('{"360": "x"}', InvalidFileError),
        ("{}", InvalidFileError),
        (f'{{"320": [[{10**400}]]}}', InvalidFileError),
        ('{"5": []}', MismatchError),
    ):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(error):
            import_generator(weights, tmp_path / "p.json")
    np.savez(tmp_path / "w.npz", other=np.zeros(3, dtype=np.float32))
    np.savez(tmp_path / "o.npz", other=np.array([{}], dtype=object))
    (tmp_path / "t.npz").write_bytes(weights.read_bytes()[:5000])
    for name in ("w.npz", "o.npz", "t.npz", "missing.npz"):
        with pytest.raises(InvalidFileError):
            import_generator(tmp_path / name, prior)


class _Runs:
    """A class whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.folder),)


def test_weights_as_torch_saves_them_are_read_like_npz(reference: Path, tmp_path: Path) -> None:
    """Plain files, checkpoints, and models trained in parallel. No code of a file is run."""
    folder = reference / "sgnas"
    prior = folder / "prior_pool_imagenet.json"
    expected = import_generator(folder / "generator_imagenet.npz", prior).state_dict()
    with np.load(folder / "generator_imagenet.npz") as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    checkpoint = {"state_dict": {f"module.{name}": v for name, v in state.items()}, "epoch": 3}
    for content in (state, checkpoint):
        torch.save(content, tmp_path / "best.pth")
        found = import_generator(tmp_path / "best.pth", prior).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    wrong = {
        "other": {"other.weight": torch.zeros(4)},
        "list": [torch.zeros(4)],
        "attack": {"state_dict": _Runs(tmp_path / "trace")},
    }
    for name, content in wrong.items():
        torch.save(content, tmp_path / name)
    torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)
    (tmp_path / "cut").write_bytes((tmp_path / "best.pth").read_bytes()[:-2000])
    (tmp_path / "empty").touch()
    for name in (*wrong, "old", "cut", "empty"):
        with pytest.raises(InvalidFileError, match=rf"{name} is not .*npz or a \.pth") as caught:
            import_generator(tmp_path / name, prior)
        assert "\n" not in caught.value.message
    assert not (tmp_path / "trace").exists()
