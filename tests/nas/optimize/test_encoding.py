"""Encodings of architectures under a constraint, and the exact optimum of additive scores."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latbench.cost import network_cost
from latbench.device_files import load_device
from latbench.errors import BudgetError
from latbench.tables.price_model import Breakpoint, PriceModel
from latbench.units import parse_latency_ms
from nas.latency.priced_space import PricedSpace
from nas.optimize.constraints import Constraint, Count, Latency, Limit, latency_limits
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import all_codes, nearest_new, neighbours
from nas.optimize.exact_solver import Scores, best_code
from nas.optimize.random_codes import random_code
from nas.spaces import SearchSpace, make_space
from tests.conftest import make_small_space, make_tiny_space, random_price, write_table


def _macs(space: SearchSpace, fraction: float) -> EncodedSpace:
    """The space under a budget at a fraction between the fewest and the most MACs."""
    low, high = (network_cost(space.lower(a)).macs for a in (space.smallest(), space.largest()))
    budget = low + fraction * (high - low)
    return EncodedSpace(Constraint((Limit(Count(space, "macs"), budget),)))


SPACES = {
    "small": make_small_space(),
    "tiny": make_tiny_space(),
    "nasbench-macro": make_space("nasbench-macro"),
}
FRACTIONS = (0.0, 0.05, 0.4, 1.0)
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)


@EVERY_SPACE
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_random_codes_are_feasible_and_read_back(name: str, fraction: float) -> None:
    encoded = _macs(SPACES[name], fraction)
    rng = np.random.default_rng(0)
    for _ in range(40):
        code = random_code(encoded, rng)
        made = encoded.decode(code)
        assert encoded.encode(made) == code == encoded.canonical(code)
        macs = network_cost(encoded.space.lower(made)).macs
        assert encoded.amounts(code) == pytest.approx([macs])
        assert macs <= encoded.budgets[0]
        assert encoded.load(code) == pytest.approx(macs / encoded.budgets[0])
        assert encoded.loads(np.array([code])) == pytest.approx([encoded.load(code)])


@EVERY_SPACE
def test_random_codes_are_diverse(name: str) -> None:
    encoded, rng = _macs(SPACES[name], 0.5), np.random.default_rng(1)
    assert len({random_code(encoded, rng) for _ in range(50)}) > 30


def test_different_codes_are_different_networks() -> None:
    """All 6,561 architectures. Leaving out either of two equal layers gives one network."""
    encoded = _macs(make_space("nasbench-macro"), 1.0)
    listed = all_codes(encoded, 10_000)
    assert listed is not None
    networks = {encoded.space.lower(encoded.decode(tuple(code))) for code in listed.tolist()}
    assert len(networks) == len(listed) == 9 * (3 * 7) ** 2


@pytest.mark.parametrize("fraction", [0.02, 0.3, 1.0])
def test_all_codes_are_those_reached_by_single_changes(fraction: float) -> None:
    """Every feasible encoding is found once, and then the search for new ones ends."""
    encoded, rng = _macs(SPACES["small"], fraction), np.random.default_rng(0)
    listed = all_codes(encoded, 10_000)
    assert listed is not None
    known: set[Code] = set()
    while (code := nearest_new(encoded, encoded.lightest, known, rng)) is not None:
        assert code not in known
        assert encoded.feasible(code)
        known.add(code)
    assert known == {tuple(row) for row in listed.tolist()}


def test_large_spaces_are_not_listed() -> None:
    assert all_codes(_macs(make_space("tfnas", 32, 10), 0.5), 10_000) is None


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory: pytest.TempPathFactory) -> list[PricedSpace]:
    """Two devices that disagree, one of them with a price of three pieces."""
    space, folder = make_small_space(), tmp_path_factory.mktemp("tables")
    bent = PriceModel(
        0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(6_000, 2e-6), Breakpoint(12_000, 2e-5))
    )
    first = write_table(folder / "a.sqlite", space, load_device("cpu-onnxruntime"))
    second = write_table(
        folder / "b.sqlite",
        space,
        load_device("cpu-pytorch"),
        prices=lambda spec: 0.004 / random_price(spec),
        model=bent,
    )
    return [PricedSpace(space, first), PricedSpace(space, second)]


def test_latencies_on_several_devices_are_those_of_the_tables(
    two_tables: list[PricedSpace],
) -> None:
    anything = EncodedSpace(latency_limits(two_tables, 1e3))
    everything = all_codes(anything, 10_000)
    assert everything is not None
    budget_ms = float(np.quantile(anything.loads(everything), 0.4, method="lower")) * 1.0001e3
    encoded = EncodedSpace(latency_limits(two_tables, budget_ms))
    assert len(encoded.base) == 4
    listed = all_codes(encoded, 10_000)
    assert listed is not None
    feasible = {tuple(code) for code in listed.tolist()}
    for code in everything.tolist():
        made = encoded.decode(tuple(code))
        worst_ms = max(priced.latency_ms(made) for priced in two_tables)
        assert encoded.load(tuple(code)) == pytest.approx(worst_ms / budget_ms)
        assert (tuple(code) in feasible) == (worst_ms <= budget_ms)
    assert 0 < len(feasible) < len(everything)


def test_an_infeasible_budget_is_refused_with_the_nearest(two_tables: list[PricedSpace]) -> None:
    """The nearest budget is the least latency of the slower device over all architectures."""
    everything = EncodedSpace(latency_limits(two_tables, 1e3))
    listed = all_codes(everything, 10_000)
    assert listed is not None
    nearest_ms = float(everything.loads(listed).min()) * 1e3
    with pytest.raises(BudgetError, match="out of reach") as caught:
        EncodedSpace(latency_limits(two_tables, 0.9 * nearest_ms))
    assert caught.value.nearest_ms == pytest.approx(nearest_ms)
    EncodedSpace(latency_limits(two_tables, nearest_ms * (1 + 1e-9)))
    counted = Limit(Count(two_tables[0].space, "params"), 100)
    with pytest.raises(BudgetError, match=r"parameters of 0\.0001 M is out of reach"):
        EncodedSpace(Constraint((Limit(Latency(two_tables[0]), 1e3), counted)))


def test_limits_that_exclude_each_other_are_refused_with_the_nearest(
    two_tables: list[PricedSpace],
) -> None:
    """Each limit alone is feasible; the budgets that the refusal names are feasible together."""
    macs = Count(two_tables[0].space, "macs")
    latency = Latency(two_tables[1])  # small blocks are slow on this device
    anything = EncodedSpace(Constraint((Limit(latency, 1e3), Limit(macs, 1e12))))
    codes = all_codes(anything, 10_000)
    assert codes is not None
    amounts = [anything.by_limit(tuple(code)) for code in codes.tolist()]
    least_ms, least_macs = (min(row[i][1] for row in amounts) for i in range(2))
    for limit in (Limit(latency, least_ms * 1.001), Limit(macs, least_macs * 1.001)):
        EncodedSpace(Constraint((limit,)))
    with pytest.raises(BudgetError, match="are out of reach together") as caught:
        EncodedSpace(
            Constraint((Limit(latency, least_ms * 1.001), Limit(macs, least_macs * 1.001)))
        )
    nearest_ms, nearest_m = caught.value.nearest_ms, caught.value.nearest_macs_m
    assert nearest_ms is not None and nearest_m is not None
    assert nearest_ms > least_ms * 1.001 or nearest_m * 1e6 > least_macs * 1.001
    roomier = Limit(latency, nearest_ms * 1.00001), Limit(macs, nearest_m * 1e6 * 1.00001)
    EncodedSpace(Constraint(roomier))
    said = re.search(r"ask for (.+ms) and (.+) M or more", str(caught.value))
    assert said
    enough = Limit(latency, parse_latency_ms(said[1])), Limit(macs, float(said[2]) * 1e6)
    EncodedSpace(Constraint(enough))


def _brute_force(encoded: EncodedSpace, scores: Scores) -> float:
    """The best score over all encodings of a space of fixed depth, canonical or not."""
    codes = product(*(range(len(choices)) for choices in encoded.choices))
    return max(scores.of(encoded, code) for code in codes if encoded.feasible(code))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    fraction=st.floats(0.0, 1.0, allow_subnormal=False),
    rounded=st.booleans(),
)
def test_the_exact_optimum_equals_brute_force(seed: int, fraction: float, rounded: bool) -> None:
    """Scores with and without ties, negative ones too."""
    encoded, rng = _macs(SPACES["small"], fraction), np.random.default_rng(seed)
    rows = [rng.normal(size=len(choices)) for choices in encoded.choices]
    scores = Scores.of_choices(encoded, [np.round(row) if rounded else row for row in rows])
    found = best_code(encoded, scores)
    assert encoded.feasible(found)
    assert scores.of(encoded, found) == pytest.approx(_brute_force(encoded, scores))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0, allow_subnormal=False))
def test_the_exact_optimum_holds_under_several_limits(
    two_tables: list[PricedSpace], seed: int, share: float
) -> None:
    everything = EncodedSpace(latency_limits(two_tables, 1e3))
    listed = all_codes(everything, 10_000)
    assert listed is not None
    loads, rng = everything.loads(listed) * 1e3, np.random.default_rng(seed)
    budget_ms = float(loads.min() + share * np.ptp(loads)) * (1 + 1e-9)
    encoded = EncodedSpace(latency_limits(two_tables, budget_ms))
    scores = Scores.of_choices(encoded, [rng.normal(size=len(c)) for c in encoded.choices])
    found = best_code(encoded, scores)
    assert encoded.feasible(found)
    assert scores.of(encoded, found) == pytest.approx(_brute_force(encoded, scores))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), fraction=st.floats(0.0, 1.0, allow_subnormal=False))
def test_the_exact_optimum_chooses_depths(seed: int, fraction: float) -> None:
    """No random encoding is better. Without a limit every stage has its best depth."""
    space = make_tiny_space()
    encoded, rng = _macs(space, fraction), np.random.default_rng(seed)
    scores = Scores(
        [rng.normal(size=len(choices)) for choices in encoded.choices],
        [rng.normal(size=len(layers)) for layers in encoded.stages],
    )
    found = best_code(encoded, scores)
    assert encoded.feasible(found)
    assert scores.of(encoded, found) >= _best_of_random(encoded, scores, rng) - 1e-9
    relaxed = EncodedSpace(Constraint((Limit(Count(space, "macs"), 1e12),)))
    best = best_code(relaxed, scores)
    stages = zip(relaxed.stages, scores.depths, strict=True)
    expected = sum(
        max(
            float(depths[depth - 1]) + sum(float(scores.choices[i].max()) for i in layers[:depth])
            for depth in space.depths(index)
        )
        for index, (layers, depths) in enumerate(stages)
    )
    assert scores.of(relaxed, best) == pytest.approx(expected)


def _best_of_random(encoded: EncodedSpace, scores: Scores, rng: np.random.Generator) -> float:
    return max(scores.of(encoded, random_code(encoded, rng)) for _ in range(300))


def test_the_exact_optimum_of_a_published_space() -> None:
    """18 layers with hundreds of choices: the optimum is feasible, and no change improves it."""
    encoded, rng = _macs(make_space("tfnas", 32, 10), 0.3), np.random.default_rng(0)
    rows = []
    for choices in encoded.choices:
        by_op = {choice.op: float(rng.normal()) for choice in choices}
        rows.append(np.array([by_op[c.op] + 0.002 * (c.width or 0) for c in choices]))
    scores = Scores.of_choices(encoded, rows)
    found = best_code(encoded, scores)
    best = scores.of(encoded, found)
    assert encoded.feasible(found)
    near = [
        scores.of(encoded, code) for code in neighbours(encoded, found) if encoded.feasible(code)
    ]
    assert best >= max(near) - 1e-9
