"""Black-box searchers: they keep the constraint, evaluate nothing twice, and repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latbench.blocks import BlockSpec, block_key
from latbench.cost import network_cost
from latbench.device_files import load_device
from nas.latency.priced_space import PricedSpace
from nas.optimize import enumeration
from nas.optimize.blackbox import BLACK_BOXES, one_by_one, run
from nas.optimize.blackbox.nsga2 import NSGA2Search
from nas.optimize.blackbox.variation import Variation, crossover, mutate
from nas.optimize.constraints import Constraint, Count, Limit, latency_limits
from nas.optimize.encoding import Code, EncodedSpace
from nas.optimize.enumeration import all_codes
from nas.optimize.exact_solver import Scores, best_code
from nas.optimize.random_codes import changed_choice, random_code
from nas.spaces import SearchSpace, make_space
from tests.conftest import make_mix_space, make_small_space, make_tiny_space, write_table

SPACES = {
    "small": make_small_space(),
    "tiny": make_tiny_space(),
    "nasbench-macro": make_space("nasbench-macro"),
    "mix": make_mix_space(3),
}
EVERY_BLACK_BOX = pytest.mark.parametrize("name", list(BLACK_BOXES))


def _encoded(space: SearchSpace, fraction: float) -> EncodedSpace:
    low, high = (network_cost(space.lower(a)).macs for a in (space.smallest(), space.largest()))
    budget = low + fraction * (high - low)
    return EncodedSpace(Constraint((Limit(Count(space, "macs"), budget),)))


def _score(encoded: EncodedSpace, code: Code) -> float:
    """A score that grows with the network, with interactions of layers and pairs of layers."""
    rough = sum(np.sin(3.0 * n + 5.0 * i) for i, n in enumerate(code))
    pairs = sum(np.cos(a * b + i) for i, (a, b) in enumerate(pairwise(code)))
    return encoded.load(code) + 0.05 * float(rough) + 0.02 * float(pairs)


@EVERY_BLACK_BOX
@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**31 - 1), fraction=st.floats(0.01, 1.0))
def test_every_proposal_is_feasible_and_new(
    name: str, space: str, seed: int, fraction: float
) -> None:
    """Proposals end after the last architecture of a small space."""
    encoded = _encoded(SPACES[space], fraction)
    black_box = BLACK_BOXES[name](encoded, seed=seed)
    for _ in range(30):
        code = black_box.ask()
        if code is None:
            break
        assert code not in black_box.scores
        assert code == encoded.canonical(code)
        macs = network_cost(encoded.space.lower(encoded.decode(code))).macs
        assert macs <= encoded.budgets[0]
        black_box.tell(code, _score(encoded, code))


@EVERY_BLACK_BOX
def test_a_search_ends_when_the_whole_space_is_evaluated(name: str) -> None:
    encoded = _encoded(SPACES["small"], 0.3)
    listed = all_codes(encoded, 10_000)
    assert listed is not None
    black_box = BLACK_BOXES[name](encoded, seed=1)
    run(black_box, one_by_one(lambda code: _score(encoded, code)), 1000)
    assert set(black_box.scores) == {tuple(code) for code in listed.tolist()}
    assert black_box.best[1] == max(_score(encoded, tuple(code)) for code in listed.tolist())


@pytest.fixture(scope="module")
def two_limits(tmp_path_factory: pytest.TempPathFactory) -> EncodedSpace:
    """Five networks keep both budgets, and no single change leads from one of them to the others.

    Every block is slow on one of two devices, so that most changes exceed a budget.
    """
    space, folder = SPACES["small"], tmp_path_factory.mktemp("tables")

    def price(spec: BlockSpec) -> float:
        return 1.0 if crc32(f"1{block_key(spec)}".encode()) % 2 else 0.1

    tables = [
        write_table(folder / f"{name}.sqlite", space, load_device(name), prices=prices)
        for name, prices in (("cpu-onnxruntime", price), ("cpu-pytorch", lambda s: 1.1 - price(s)))
    ]
    return EncodedSpace(latency_limits([PricedSpace(space, table) for table in tables], 2.46))


@EVERY_BLACK_BOX
@pytest.mark.parametrize("listed", [True, False])
def test_a_search_under_several_limits_reaches_every_part_of_the_space(
    name: str, listed: bool, two_limits: EncodedSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = all_codes(two_limits, 10_000)
    assert everything is not None
    if not listed:
        monkeypatch.setattr(enumeration, "LISTED", 0)
    black_box = BLACK_BOXES[name](two_limits, seed=1, variation=Variation(initial=1))
    run(black_box, one_by_one(lambda code: _score(two_limits, code)), 1000)
    assert len(black_box.scores) == len(everything) == 5


@EVERY_BLACK_BOX
@pytest.mark.parametrize("space", ["tiny", "nasbench-macro"])
def test_the_same_seed_and_scores_take_the_same_path(name: str, space: str) -> None:
    """So an interrupted search goes on bit-exactly if it gets its scores again."""
    encoded = _encoded(SPACES[space], 0.4)
    paths = []
    for seed in (3, 3, 4):
        black_box = BLACK_BOXES[name](encoded, seed=seed)
        run(black_box, one_by_one(lambda code: _score(encoded, code)), 45)
        paths.append(list(black_box.scores.items()))
    assert paths[0] == paths[1] != paths[2]


@pytest.mark.parametrize("name", [n for n in BLACK_BOXES if n not in ("random", "nsga2")])
def test_searchers_beat_random_search(name: str) -> None:
    encoded = _encoded(SPACES["nasbench-macro"], 0.5)

    def found(name: str) -> float:
        scores = []
        for seed in range(5):
            black_box = BLACK_BOXES[name](encoded, seed=seed)
            run(black_box, one_by_one(lambda code: _score(encoded, code)), 50)
            scores.append(black_box.best[1])
        return float(np.mean(scores))

    assert found(name) > found("random")


def test_the_front_of_nsga2_is_above_that_of_random_search() -> None:
    """The best score within a load, averaged over loads and seeds."""
    encoded = _encoded(SPACES["nasbench-macro"], 1.0)
    codes = all_codes(encoded, 10_000)
    assert codes is not None
    every = [encoded.load(tuple(code)) for code in codes.tolist()]
    loads = np.quantile(every, np.linspace(0.2, 1.0, 9))

    def found(name: str) -> float:
        best = []
        for seed in range(5):
            black_box = BLACK_BOXES[name](encoded, seed=seed)
            run(black_box, one_by_one(lambda code: _score(encoded, code)), 200)
            for load in loads:
                within = [x for code, x in black_box.scores.items() if encoded.load(code) <= load]
                best.append(max(within))
        return float(np.mean(best))

    assert found("nsga2") > found("random")


RATES = Variation(
    initial=3, parents=4, crossovers=0.5, mutation_rate=0.1, mutate_crossed=True, single_point=True
)


def test_a_space_of_one_layer_is_searched_with_published_rates() -> None:
    encoded = _encoded(make_mix_space(1), 1.0)
    black_box = BLACK_BOXES["evolution"](encoded, seed=2, variation=RATES)
    run(black_box, one_by_one(lambda code: _score(encoded, code)), 25)
    assert len(black_box.scores) == 25


@EVERY_BLACK_BOX
@pytest.mark.parametrize("space", SPACES)
def test_published_rates_keep_the_constraint(name: str, space: str) -> None:
    encoded = _encoded(SPACES[space], 0.3)
    black_box = BLACK_BOXES[name](encoded, seed=2, variation=RATES)
    run(black_box, one_by_one(lambda code: _score(encoded, code)), 25)
    assert all(encoded.feasible(code) for code in black_box.scores)
    assert all(code == encoded.canonical(code) for code in black_box.scores)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_a_crossover_at_a_point_takes_either_side_from_one_parent(seed: int) -> None:
    """The full budget needs no repair. Without left-out layers every encoding is canonical."""
    encoded, rng = _encoded(SPACES["mix"], 1.0), np.random.default_rng(seed)
    one, other = random_code(encoded, rng), random_code(encoded, rng)
    child = crossover(encoded, one, other, rng, variation=Variation(single_point=True))
    assert any(child == (*one[:p], *other[p:]) for p in range(1, len(one)))


def test_a_mutation_rate_is_that_of_every_decision() -> None:
    encoded, rng = _encoded(SPACES["mix"], 1.0), np.random.default_rng(0)
    code = random_code(encoded, rng)
    often = Variation(mutation_rate=0.9)
    changed = [mutate(encoded, code, rng, variation=often) for _ in range(400)]
    share = np.mean([[a != b for a, b in zip(code, m, strict=True)] for m in changed])
    assert share == pytest.approx(0.9, abs=0.05)  # the same choice may be drawn again


def test_children_of_two_parents_are_mutated_where_asked() -> None:
    encoded, rng = _encoded(SPACES["mix"], 1.0), np.random.default_rng(0)
    code = random_code(encoded, rng)
    for rate in (0.0, 0.9):
        both = Variation(mutation_rate=rate, mutate_crossed=True)
        made = [crossover(encoded, code, code, rng, variation=both) for _ in range(50)]
        assert sum(child != code for child in made) > 40
        assert crossover(encoded, code, code, rng, variation=Variation(mutation_rate=rate)) == code


def test_a_mix_of_kernels_is_changed_by_one_kernel_or_drawn_anew() -> None:
    encoded, rng = _encoded(SPACES["mix"], 1.0), np.random.default_rng(0)
    choices = [choice.kernels or () for choice in encoded.choices[0]]
    start = choices.index((3, 3, 5))
    near = {(3, 3), (3, 5), (3, 3, 3), (3, 3, 7), (3, 5, 5), (3, 5, 7)}
    near |= {(3, 3, 3, 5), (3, 3, 5, 5), (3, 3, 5, 7)}
    made = [choices[changed_choice(encoded, 0, start, rng)] for _ in range(2000)]
    assert near < set(made)
    assert sum(kernels in near for kernels in made) / 2000 == pytest.approx(0.55, abs=0.05)


@EVERY_BLACK_BOX
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_what_is_proposed_at_once_is_new_and_does_not_depend_on_who_scores(
    name: str, at_once: int
) -> None:
    encoded = _encoded(SPACES["nasbench-macro"], 0.5)

    def search(reverse: bool) -> list[tuple[Code, float]]:
        black_box = BLACK_BOXES[name](encoded, seed=1)

        def scores(codes: Sequence[Code]) -> list[float]:
            assert len(set(codes)) == len(codes) <= at_once
            assert not black_box.scores.keys() & set(codes)
            order = reversed(codes) if reverse else codes  # as when the last one is ready first
            found = {code: _score(encoded, code) for code in order}
            return [found[code] for code in codes]

        run(black_box, scores, 40, at_once=at_once)
        return list(black_box.scores.items())

    found = search(reverse=False)
    assert len(found) == 40
    assert search(reverse=True) == found


@EVERY_BLACK_BOX
def test_one_at_a_time_is_what_it_was(name: str) -> None:
    encoded = _encoded(SPACES["tiny"], 0.6)
    one, other = (BLACK_BOXES[name](encoded, seed=2) for _ in range(2))
    run(one, one_by_one(lambda code: _score(encoded, code)), 20)
    for _ in range(20):
        code = other.ask()
        if code is None:
            break
        other.tell(code, _score(encoded, code))
    assert list(one.scores.items()) == list(other.scores.items())


def test_exact_search_finds_the_optimum_of_additive_scores() -> None:
    encoded, rng = _encoded(SPACES["nasbench-macro"], 0.4), np.random.default_rng(0)
    first = [rng.normal(size=3) for _ in encoded.choices]
    # equal layers contribute equally, so that equal networks have equal scores
    layers = encoded.space.layers
    scores = Scores.of_choices(encoded, [first[layers.index(layer)] for layer in layers])
    optimum = scores.of(encoded, best_code(encoded, scores))
    black_box = BLACK_BOXES["exact"](encoded, seed=0)
    run(black_box, one_by_one(lambda code: scores.of(encoded, code)), 60)
    assert black_box.best[1] == pytest.approx(optimum)


def test_no_architecture_on_the_front_beats_another() -> None:
    encoded = _encoded(SPACES["nasbench-macro"], 0.6)
    search = NSGA2Search(encoded, seed=0)
    run(search, one_by_one(lambda code: _score(encoded, code)), 120)
    front = [(encoded.load(code), search.scores[code]) for code in search.front()]
    assert len(front) > 5
    assert front == sorted(front)
    assert all(a[1] < b[1] for a, b in pairwise(front))
    everything = [(encoded.load(code), score) for code, score in search.scores.items()]
    for load, score in everything:
        assert any(other <= load and best >= score for other, best in front)
