"""On-device correction meets the target on a device that disagrees with its table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latbench.device import load_device
from latbench.errors import BudgetError, InvalidFileError
from latbench.tables import LatencyTable
from nas.latency.correction import ROUNDS, TOLERANCE, Range, Rounds, correct_on_device, widths_of
from nas.latency.priced_space import PricedSpace
from nas.latency.width_scaling import Fit, fit_exact
from nas.searchers.derivation import proposals
from nas.searchers.scored_choices import LogProbabilities
from nas.spaces import Architecture, SearchSpace, make_space
from nas.supernet.mixed_operations import start_widths
from tests.conftest import write_table


@pytest.fixture
def priced(tiny_space: SearchSpace, tiny_table: LatencyTable) -> PricedSpace:
    return PricedSpace(tiny_space, tiny_table)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_the_target_is_met_on_a_device_slower_or_faster_than_its_table(
    priced: PricedSpace, factor: float
) -> None:
    """Against a device that is off by a factor, correction does as well as knowing the factor."""
    measured: list[float] = []

    def measure_ms(architecture: Architecture) -> float:
        measured.append(factor * priced.latency_ms(architecture))
        return measured[-1]

    start = priced.space.largest()
    low_ms, high_ms = (
        fit_exact(priced, start, priced.latency_ms(start)).min_ms,
        priced.latency_ms(start),
    )
    target_ms = (low_ms + high_ms) / 2
    correction = correct_on_device(priced, widths_of(priced, start), target_ms, measure_ms)
    knowing = factor * fit_exact(priced, start, target_ms / factor).latency_ms
    assert correction.measured_ms <= target_ms
    assert correction.measured_ms >= 0.98 * knowing
    assert correction.measured_ms == pytest.approx(factor * correction.fit.latency_ms)
    assert correction.rounds == len(measured) <= ROUNDS


def test_the_closest_architecture_is_kept_where_widths_end(priced: PricedSpace) -> None:
    start = priced.space.smallest()
    target_ms = priced.latency_ms(start)
    correction = correct_on_device(
        priced, widths_of(priced, start), target_ms, lambda architecture: 3 * target_ms
    )
    assert correction.measured_ms == 3 * target_ms
    assert correction.fit.latency_ms <= target_ms * (1 + 1e-9)


def test_an_infeasible_target_is_refused_before_anything_is_measured(priced: PricedSpace) -> None:
    def measure_ms(architecture: Architecture) -> float:
        raise AssertionError

    with pytest.raises(BudgetError):
        correct_on_device(priced, widths_of(priced, priced.space.smallest()), 1e6, measure_ms)


def test_widths_grow_as_far_as_they_can(priced: PricedSpace) -> None:
    """A device twice as fast as its table leaves room that only the widest network uses."""
    start = priced.space.largest()
    high_ms = priced.latency_ms(start)

    def measure_ms(architecture: Architecture) -> float:
        return priced.latency_ms(architecture) / 2

    correction = correct_on_device(priced, widths_of(priced, start), 0.9 * high_ms, measure_ms)
    assert correction.fit.latency_ms == pytest.approx(high_ms)


@pytest.fixture(scope="module")
def priced_tfnas(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    """Real depths, 32 px, prices at widths divisible by 8."""
    space = make_space("tfnas", 32, 10)
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


def _shallow(space: SearchSpace) -> LogProbabilities:
    """Probabilities that favour one layer a stage."""
    rng = np.random.default_rng(5)
    ops = [[np.log(rng.dirichlet(np.full(8, 9.0))).tolist() for _ in ls] for ls in space.stages]
    falling = [np.arange(len(ls), 0, -1.0) ** 2 for ls in space.stages]
    return LogProbabilities(ops, [np.log(row / row.sum()).tolist() for row in falling])


def _by_depth(priced: PricedSpace, slope: float) -> Callable[[Architecture], float]:
    """A device whose error against the table grows with every layer above twelve."""

    def measure_ms(architecture: Architecture) -> float:
        off = slope * (len(architecture.choices) - 12)
        return priced.latency_ms(architecture) * (1 + off)

    return measure_ms


@pytest.mark.parametrize("slope", [0.012, -0.012])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.25, 0.6])
def test_a_search_meets_the_target_on_a_device_whose_error_depends_on_depth(
    priced_tfnas: PricedSpace, slope: float, share: float
) -> None:
    """Predictions of shallow networks are 7 % off; those of deep ones are off the other way."""
    space, log = priced_tfnas.space, _shallow(priced_tfnas.space)
    low_ms, high_ms = priced_tfnas.feasible_ms()
    target_ms = low_ms + share * (high_ms - low_ms)
    propose = proposals(priced_tfnas, log, widths=start_widths(space))
    correction = correct_on_device(priced_tfnas, propose, target_ms, _by_depth(priced_tfnas, slope))
    assert target_ms * (1 - TOLERANCE) <= correction.measured_ms <= target_ms


def test_other_operations_and_depths_are_asked_for_where_widths_end(
    priced_tfnas: PricedSpace,
) -> None:
    """The widths of the next proposal cover the aims that failed before."""
    space, log = priced_tfnas.space, _shallow(priced_tfnas.space)
    low_ms, high_ms = priced_tfnas.feasible_ms()
    target_ms = low_ms + 0.1 * (high_ms - low_ms)
    from_search = proposals(priced_tfnas, log, widths=start_widths(space))
    asked: list[tuple[float, Range, Fit]] = []

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        asked.append((aim_ms, width_range_ms, from_search(aim_ms, width_range_ms)))
        return asked[-1][2]

    correction = correct_on_device(
        priced_tfnas, propose, target_ms, lambda made: 0.6 * priced_tfnas.latency_ms(made)
    )
    assert target_ms * (1 - TOLERANCE) <= correction.measured_ms <= target_ms
    assert len(asked) == 2
    aim_ms, (least_ms, most_ms), fitted = asked[1]
    assert aim_ms > asked[0][2].max_ms
    assert (least_ms, most_ms) == (target_ms, aim_ms)
    assert fitted.min_ms <= least_ms < most_ms <= fitted.max_ms


def test_an_interrupted_correction_goes_on_to_the_same_result(
    priced_tfnas: PricedSpace, tmp_path: Path
) -> None:
    space, log = priced_tfnas.space, _shallow(priced_tfnas.space)
    low_ms, high_ms = priced_tfnas.feasible_ms()
    target_ms = low_ms + 0.1 * (high_ms - low_ms)
    device = _by_depth(priced_tfnas, 0.02)
    logged: list[int] = []

    def run(file: Path, most: int | None) -> object:
        """Land; the device fails after so many measurements."""
        left = iter(range(ROUNDS if most is None else most))

        def measure_ms(network: object) -> float:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return device(asked[-1])

        rounds = Rounds(file, priced_tfnas, measure_ms, lambda number, _: logged.append(number))
        asked: list[Architecture] = []

        def remembered(architecture: Architecture) -> float:
            asked.append(architecture)
            return rounds(architecture)

        propose = proposals(priced_tfnas, log, widths=start_widths(space))
        return correct_on_device(priced_tfnas, propose, target_ms, remembered)

    whole = run(tmp_path / "whole.json", None)
    count = len(json.loads((tmp_path / "whole.json").read_text()))
    assert count > 1
    cut = tmp_path / "cut.json"
    for _ in range(count):
        with pytest.raises(KeyboardInterrupt):
            run(cut, 0)
        try:
            found = run(cut, 1)
        except KeyboardInterrupt:
            continue
    assert found == whole
    assert run(cut, 0) == whole
    assert cut.read_text() == (tmp_path / "whole.json").read_text()
    assert logged == [*range(1, count + 1)] * 2


def test_damaged_rounds_are_refused(priced: PricedSpace, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("[{]")
    with pytest.raises(InvalidFileError, match="delete it"):
        Rounds(file, priced, lambda network: 1.0, lambda number, values: None)
