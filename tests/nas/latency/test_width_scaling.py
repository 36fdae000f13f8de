"""Prices of choices, width scaling, derivation: never above the target.

Runtimes that ran earlier in this process flush denormals, so none are drawn.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latbench.blocks import BlockSpec
from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.errors import BudgetError, MismatchError
from latbench.tables import LatencyTable, Origin
from latbench.tables.foreign import import_table
from latbench.tables.importers import read_foreign_table
from latbench.tables.price_model import Breakpoint, PriceModel
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Relaxed, expected_latency_ms, one_hot
from nas.latency.width_options import SHAPE_TOLERANCE
from nas.latency.width_scaling import fit_exact, fit_greedy, width_range_ms
from nas.searchers.derivation import architecture_at, derive, most_probable
from nas.searchers.scored_choices import LogProbabilities
from nas.spaces import Architecture, Choice, Layer, SearchSpace, make_space
from nas.spaces.architecture import parse_architecture
from nas.supernet.mixed_operations import start_widths
from tests.conftest import make_tiny_space, write_table

# none, and one under which small networks of the tiny space are flat and large ones are not
MODELS = [
    PriceModel(0.0, 1.0, 0.0, 0.25),
    PriceModel(0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(20e3, 4e-6), Breakpoint(30e3, 6e-6))),
]


@pytest.fixture(scope="module", params=MODELS, ids=["additive", "with cache term"])
def priced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    space = make_tiny_space()
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    device = load_device("cpu-onnxruntime")
    return PricedSpace(space, write_table(path, space, device, model=request.param))


@pytest.fixture(scope="module")
def priced_tfnas(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    space = make_space("tfnas", 32, 10)
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


def _all_architectures(space: SearchSpace) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every (depths, operation indices of all layers, absent ones included)."""
    depths = product(*(range(1, len(layers) + 1) for layers in space.stages))
    ops = list(product(*(range(len(layer.ops)) for layer in space.layers)))
    return [(d, o) for d in depths for o in ops]


def test_expected_latency_equals_enumeration(
    tiny_space: SearchSpace, tmp_path: Path, profile: DeviceProfile
) -> None:
    """The sum over all 1,024 pairs of depths and operations."""
    table = write_table(tmp_path / "t.sqlite", tiny_space, profile)
    priced = PricedSpace(tiny_space, table)
    rng = np.random.default_rng(0)
    p = [[rng.dirichlet(np.ones(8)) for _ in layers] for layers in tiny_space.stages]
    beta = [rng.dirichlet(np.ones(len(layers))) for layers in tiny_space.stages]
    widths = start_widths(tiny_space)
    relaxed = Relaxed(
        tuple(tuple(dict(enumerate(map(float, row))) for row in rows) for rows in p),
        tuple(dict(enumerate(map(float, row), start=1)) for row in beta),
    )
    flat = [row for rows in p for row in rows]
    total = probability = 0.0
    for depths, ops in _all_architectures(tiny_space):
        weight = float(np.prod([b[d - 1] for b, d in zip(beta, depths, strict=True)]))
        weight *= float(np.prod([row[o] for row, o in zip(flat, ops, strict=True)]))
        left = iter(ops)
        stages = []
        for s, layers in enumerate(tiny_space.stages):
            names = [layer.ops[next(left)] for layer in layers][: depths[s]]
            stages.append([Choice(n, widths[s][i][n]) for i, n in enumerate(names)])
        total += weight * priced.latency_ms(tiny_space.architecture(stages))
        probability += weight
    assert probability == pytest.approx(1)
    assert expected_latency_ms(priced, relaxed, widths) == pytest.approx(total, rel=1e-12)


def test_a_one_hot_expectation_is_the_prediction(priced: PricedSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = priced.space.random(rng)
        widths = start_widths(priced.space)
        for s, stage in enumerate(drawn.stages):
            for i, choice in enumerate(stage):
                assert choice.width is not None
                widths[s][i][choice.op] = choice.width
        expected = expected_latency_ms(priced, one_hot(priced.space, drawn), widths)
        assert expected == pytest.approx(priced.latency_ms(drawn))


@given(seed=st.integers(0, 10_000), where=st.floats(0, 1, allow_subnormal=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("fit", [fit_exact, fit_greedy])
def test_a_fit_keeps_operations_and_depths_and_is_never_above(
    priced: PricedSpace, fit: object, seed: int, where: float
) -> None:
    start = priced.space.random(np.random.default_rng(seed))
    low, high = _reach(priced, start)
    target = low + where * (high - low)
    fitted = fit(priced, start, target)  # type: ignore[operator]
    assert fitted.latency_ms <= target * (1 + 1e-12)
    assert fitted.latency_ms == pytest.approx(priced.latency_ms(fitted.architecture))
    assert (fitted.min_ms, fitted.max_ms) == (low, high)
    assert [[c.op for c in s] for s in fitted.architecture.stages] == [
        [c.op for c in s] for s in start.stages
    ]


def test_the_exact_fit_is_the_best_of_all_near_the_shape(priced: PricedSpace) -> None:
    """Compared with all widths, on networks of the tiny space."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        start = priced.space.random(rng)
        low, high = _reach(priced, start)
        target = (low + high) / 2
        fitted = fit_exact(priced, start, target)
        best = _best_near_the_shape(priced, fitted.architecture, start, target)
        assert fitted.latency_ms >= best * (1 - 2e-4)


def _best_near_the_shape(
    priced: PricedSpace, fitted: object, start: object, target: float
) -> float:
    layers = [
        (layer, choice)
        for stage, row in zip(start.stages, priced.space.stages, strict=True)  # type: ignore[attr-defined]
        for choice, layer in zip(stage, row, strict=False)
    ]
    scales = [
        new.width / old.width
        for new, (_, old) in zip(fitted.choices, layers, strict=True)  # type: ignore[attr-defined]
    ]
    common = float(np.median(scales))
    options = [
        [w for w in priced.widths(layer, c.op) if abs(w / c.width / common - 1) <= SHAPE_TOLERANCE]
        or [min(priced.widths(layer, c.op), key=lambda w: abs(w - common * c.width))]
        for layer, c in layers
    ]
    best = 0.0
    for widths in product(*options):
        sums = priced.base_ms + sum(
            priced.addend_ms(layer, Choice(c.op, w))
            for (layer, c), w in zip(layers, widths, strict=True)
        )
        if sums.max() <= target:
            best = max(best, float(sums.max()))
    return best


def test_infeasible_targets_are_refused_with_the_nearer_bound(priced: PricedSpace) -> None:
    start = priced.space.random(np.random.default_rng(1))
    low, high = _reach(priced, start)
    for target, nearest in ((low * 0.9, low), (high * 1.1, high)):
        for fit in (fit_exact, fit_greedy):
            with pytest.raises(BudgetError) as caught:
                fit(priced, start, target)
            assert caught.value.nearest_ms == nearest
    assert fit_greedy(priced, start, high * 1.1, clamp=True).latency_ms == pytest.approx(high)
    assert fit_greedy(priced, start, low * 0.9, clamp=True).latency_ms == pytest.approx(low)


def test_the_exact_fit_is_close_on_real_depths(priced_tfnas: PricedSpace) -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        start = priced_tfnas.space.random(rng)
        low, high = _reach(priced_tfnas, start)
        target = low + 0.5 * (high - low)
        assert fit_exact(priced_tfnas, start, target).latency_ms > target * 0.999


Sample = dict[str, Any]
Samples = list[tuple[PricedSpace, Architecture, Sample]]


@pytest.fixture(scope="module")
def samples(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The published samples: first architectures, on imported tables of every integer width."""
    folder, tables = tmp_path_factory.mktemp("published"), {}
    found = []
    for sample in json.loads((reference / "tfnas" / "fit_samples.json").read_text()):
        name = sample["table"]
        if name not in tables:
            tables[name] = _published(reference / "tfnas" / name, folder / name)
        start = parse_architecture(json.dumps(sample["architecture"]), source=name)
        found.append((tables[name], start, sample))
    return found


def test_the_published_samples_are_fitted_within_two_hundredths_of_a_percent(
    samples: Samples,
) -> None:
    """Infeasible ones are refused with their bound."""
    for priced, start, sample in samples:
        target = sample["target_ms"]
        if sample["feasible"] == "yes":
            fitted = fit_exact(priced, start, target)
            assert target * (1 - 2e-4) <= fitted.latency_ms <= target
            assert (fitted.min_ms, fitted.max_ms) == pytest.approx(
                (sample["min_ms"], sample["max_ms"])
            )
        else:
            with pytest.raises(BudgetError) as caught:
                fit_exact(priced, start, target)
            bound = sample["min_ms"] if target < sample["min_ms"] else sample["max_ms"]
            assert caught.value.nearest_ms == pytest.approx(bound)


def test_the_greedy_fit_is_the_published_one(samples: Samples) -> None:
    """Except that its last step is kept if the target is above the maximum."""
    for priced, start, sample in samples:
        fitted = fit_greedy(priced, start, sample["target_ms"], clamp=True)
        if sample["feasible"].startswith("target not reached"):
            assert sample["reference_ms"] < fitted.latency_ms
            assert fitted.latency_ms == pytest.approx(sample["max_ms"])
        else:
            assert fitted.latency_ms == pytest.approx(sample["reference_ms"], rel=5e-6)


def test_the_last_stages_move_by_single_channels(samples: Samples) -> None:
    """Steps depend only on the layers that move. A stage of one layer moves by single channels,
    and ends at the last channel below the target."""
    for priced, start, sample in samples:
        if sample["feasible"] != "yes":
            continue
        fitted = fit_greedy(priced, start, sample["target_ms"])
        stages = [list(stage) for stage in fitted.architecture.stages]
        (last,) = stages[-1]
        assert last.width is not None
        layer = priced.space.stages[-1][0]
        if last.width < layer.widths(last.op)[-1]:
            stages[-1] = [Choice(last.op, last.width + 1)]
            assert priced.latency_ms(priced.space.architecture(stages)) > sample["target_ms"]


def test_the_exact_fit_is_never_worse_than_the_greedy_one(
    samples: Samples, priced: PricedSpace, priced_tfnas: PricedSpace
) -> None:
    """On the published samples, and on random networks of tables with many widths and with few."""
    rng = np.random.default_rng(7)
    for published, start, sample in samples:
        _assert_no_worse(published, start, sample["target_ms"])
    tables = {id(published): published for published, _, _ in samples}.values()
    for drawn in (*tables, priced, priced_tfnas):
        for _ in range(10):
            start = drawn.space.random(rng)
            low, high = _reach(drawn, start)
            _assert_no_worse(drawn, start, low + rng.random() * (high - low))


def _assert_no_worse(priced: PricedSpace, start: Architecture, target_ms: float) -> None:
    exact = fit_exact(priced, start, target_ms, clamp=True).latency_ms
    greedy = fit_greedy(priced, start, target_ms, clamp=True).latency_ms
    low, _ = _reach(priced, start)
    assert greedy <= exact <= max(target_ms, low) * (1 + 1e-12)


def _published(file: Path, path: Path) -> PricedSpace:
    space = make_space("tfnas", 224, 1000)
    foreign = read_foreign_table(file, "tfnas")
    origin = Origin("tfnas", file.name, 0, 0, 0, ())
    included = (*space.stem, *space.head)
    import_table(foreign, path, device="published", origin=origin, included=included)
    return PricedSpace(space, LatencyTable.open(path))


@pytest.fixture(scope="module")
def opposed(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    """The tiny space where fast blocks have many weights, and weights beyond 30 kB are slow."""

    def prices(spec: BlockSpec) -> float:
        return 2.0 - 5e-5 * block_cost(spec).weight_bytes

    space, path = make_tiny_space(), tmp_path_factory.mktemp("tables") / "t.sqlite"
    model = PriceModel(0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(30e3, 4e-5), Breakpoint(34e3, 8e-5)))
    device = load_device("cpu-onnxruntime")
    return PricedSpace(space, write_table(path, space, device, prices=prices, model=model))


def _latencies_ms(priced: PricedSpace, rows: list[list[Choice]]) -> np.ndarray:
    """Latency of every combination of one choice a layer, of the layers of all stages."""
    layers = [layer for layers in priced.space.stages for layer in layers]
    sums = priced.base_ms[None]
    for layer, choices in zip(layers, rows, strict=True):
        addends = np.array([priced.addend_ms(layer, c) if c else 0 * sums[0] for c in choices])
        sums = (sums[:, None] + addends[None]).reshape(-1, len(priced.base_ms))
    return sums.max(axis=1)


def _every_choice(priced: PricedSpace, layer: Layer) -> list[Choice]:
    return [Choice(op, width) for op in layer.ops for width in priced.widths(layer, op)]


def test_the_feasible_range_of_a_space_equals_enumeration(
    priced: PricedSpace, opposed: PricedSpace
) -> None:
    """All 102,144 architectures of the tiny space; one of its layers may be left out."""
    for each in (priced, opposed):
        first, second, last = [_every_choice(each, layer) for layer in each.space.layers]
        latencies_ms = _latencies_ms(each, [first, [*second, None], last])  # type: ignore[list-item]
        assert len(latencies_ms) == 32 * (56 + 1) * 56
        assert each.feasible_ms() == pytest.approx((latencies_ms.min(), latencies_ms.max()))


def test_the_feasible_range_of_an_architecture_equals_enumeration(
    priced: PricedSpace, opposed: PricedSpace
) -> None:
    rng = np.random.default_rng(3)
    for each in (priced, opposed):
        for _ in range(20):
            drawn = each.space.random(rng)
            rows: list[list[Any]] = []
            for stage, layers in zip(drawn.stages, each.space.stages, strict=True):
                rows += [
                    [Choice(c.op, w) for w in each.widths(layer, c.op)]
                    for c, layer in zip(stage, layers, strict=False)
                ]
                rows += [[None]] * (len(layers) - len(stage))
            latencies_ms = _latencies_ms(each, rows)
            low, high = _reach(each, drawn)
            assert (low, high) == pytest.approx((latencies_ms.min(), latencies_ms.max()))
            assert fit_exact(each, drawn, low).latency_ms == pytest.approx(low)
            assert fit_greedy(each, drawn, low).latency_ms == pytest.approx(low)


def test_the_nearest_target_of_a_refusal_is_feasible(opposed: PricedSpace) -> None:
    widths = start_widths(opposed.space)
    log = LogProbabilities(
        [[[np.log(1 / 8)] * 8 for _ in layers] for layers in opposed.space.stages],
        [np.log(_rising(len(layers))).tolist() for layers in opposed.space.stages],
    )
    with pytest.raises(BudgetError) as caught:
        derive(opposed, log, widths=widths, target_ms=0.9 * opposed.feasible_ms()[0])
    nearest_ms = caught.value.nearest_ms
    assert nearest_ms is not None
    for elastic in (True, False):
        found = derive(opposed, log, widths=widths, target_ms=nearest_ms, elastic=elastic)
        assert found.latency_ms == pytest.approx(nearest_ms)


def test_the_derived_architecture_near_the_least_latency_equals_enumeration(
    opposed: PricedSpace,
) -> None:
    """The oracle is the most probable of all operations and depths whose widths meet the target."""
    space, rng = opposed.space, np.random.default_rng(4)
    least_ms = opposed.feasible_ms()[0]
    widths = start_widths(space)
    for _ in range(2):
        log = LogProbabilities(
            [[np.log(rng.dirichlet(np.ones(8))).tolist() for _ in ls] for ls in space.stages],
            [np.log(rng.dirichlet(np.ones(len(ls)))).tolist() for ls in space.stages],
        )
        target_ms = least_ms * 1.02
        reaching = {}
        for depths, ops in _all_architectures(space):
            left = iter(ops)
            rows = [[next(left) for _ in layers] for layers in space.stages]
            kept = [row[:depth] for row, depth in zip(rows, depths, strict=True)]
            options = [
                [(layer, layer.ops[op])]
                for layers, row in zip(space.stages, kept, strict=True)
                for layer, op in zip(layers, row, strict=False)
            ]
            if opposed.fastest(options)[1] <= target_ms <= opposed.slowest(options)[1]:
                score = sum(
                    log.choice(s, i)[op] for s, row in enumerate(kept) for i, op in enumerate(row)
                ) + sum(log.depths[s][len(row) - 1] for s, row in enumerate(kept))
                reaching[tuple(map(tuple, kept))] = score
        fitted = derive(opposed, log, widths=widths, target_ms=target_ms)
        assert fitted.latency_ms <= target_ms
        chosen = tuple(
            tuple(layer.ops.index(c.op) for layer, c in zip(layers, stage, strict=False))
            for layers, stage in zip(space.stages, fitted.architecture.stages, strict=True)
        )
        assert reaching[chosen] == pytest.approx(max(reaching.values()))


def test_efficient_widths_are_those_that_no_wider_one_beats(
    tiny_space: SearchSpace, tmp_path: Path, profile: DeviceProfile
) -> None:
    """If every second width is slow, only the fast widths remain."""

    def prices(spec: object) -> float:
        width = getattr(spec, "width", 0)
        return 0.1 + 1e-4 * width + (1.0 if width % 16 else 0.0)

    table = write_table(tmp_path / "t.sqlite", tiny_space, profile, prices=prices)
    every = PricedSpace(tiny_space, table)
    efficient = PricedSpace(tiny_space, table, efficient=True)
    layer = tiny_space.stages[0][1]
    assert every.widths(layer, "k3_e6") == tuple(range(64, 129, 8))
    assert efficient.widths(layer, "k3_e6") == tuple(range(64, 129, 16))


def test_a_table_of_another_space_is_refused(tiny_table: LatencyTable) -> None:
    with pytest.raises(MismatchError, match="prices tiny"):
        PricedSpace(make_space("tfnas"), tiny_table)


def test_the_derived_architecture_meets_the_target_if_the_most_probable_does_not(
    priced_tfnas: PricedSpace,
) -> None:
    """Probabilities favour the largest network, and only small networks meet the target."""
    space = priced_tfnas.space
    log_ops = [[np.log(np.arange(1, 9) / 36).tolist() for _ in ls] for ls in space.stages]
    log_depths = [np.log(_rising(len(ls))).tolist() for ls in space.stages]
    widths = start_widths(space)
    low, high = priced_tfnas.feasible_ms()
    for share in (0.0, 0.05, 0.3, 0.6):
        target = low + share * (high - low)
        log = LogProbabilities(log_ops, log_depths)
        fitted = derive(priced_tfnas, log, widths=widths, target_ms=target)
        assert target * 0.995 <= fitted.latency_ms <= target * (1 + 1e-9)


def test_a_feasible_target_keeps_the_most_probable_architecture(priced_tfnas: PricedSpace) -> None:
    space = priced_tfnas.space
    rng = np.random.default_rng(0)
    log_ops = [[np.log(rng.dirichlet(np.ones(8))).tolist() for _ in ls] for ls in space.stages]
    log_depths = [np.log(rng.dirichlet(np.ones(len(ls)))).tolist() for ls in space.stages]
    widths = start_widths(space)
    log = LogProbabilities(log_ops, log_depths)
    wanted = architecture_at(space, most_probable(log), widths)
    low, high = _reach(priced_tfnas, wanted)
    fitted = derive(priced_tfnas, log, widths=widths, target_ms=(low + high) / 2)
    assert [c.op for c in fitted.architecture.choices] == [c.op for c in wanted.choices]


def _rising(count: int) -> np.ndarray:
    ramp = np.arange(1.0, count + 1)
    return ramp / ramp.sum()


def _reach(priced: PricedSpace, architecture: object) -> tuple[float, float]:
    rows = [
        (layer, choice)
        for stage, layers in zip(architecture.stages, priced.space.stages, strict=True)  # type: ignore[attr-defined]
        for choice, layer in zip(stage, layers, strict=False)
    ]
    return width_range_ms(priced, rows)
