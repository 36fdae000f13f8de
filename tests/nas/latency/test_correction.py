"""Verified budgets on devices whose latencies are known: exact ones, noisy ones, loaded ones."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from latbench.blocks import Network
from latbench.device_files import load_device
from latbench.errors import BudgetError, InvalidFileError
from latbench.measure.swept_networks import SweptNetworks
from latbench.progress import Progress
from latbench.tables import LatencyTable
from latbench.workflows.verdict_sweep import SweepRule
from nas.latency.aimed_proposals import Range, widths_of
from nas.latency.budget_aims import LEAST
from nas.latency.correction import Correction, correct_on_device
from nas.latency.measured_rounds import (
    ROUNDS,
    Measure,
    MeasuredRounds,
    RecordFile,
    RecordInTable,
)
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import read_rounds
from nas.latency.width_scaling import Fit, fit_exact
from nas.searchers.derivation import proposals
from nas.searchers.scored_choices import LogProbabilities
from nas.spaces import SearchSpace, make_space
from nas.supernet.mixed_operations import start_widths
from tests.conftest import make_small_space, write_table
from tests.nas.simulated_device import NoisyDevice, correct, exactly, slower_by

DEVICE = "cpu-onnxruntime"


@pytest.fixture
def priced(tiny_space: SearchSpace, tiny_table: LatencyTable) -> PricedSpace:
    return PricedSpace(tiny_space, tiny_table)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.2])
def test_the_target_is_met_on_a_device_slower_or_faster_than_its_table(
    priced: PricedSpace, factor: float
) -> None:
    """Against a device that is off by a factor, correction does as well as knowing the factor."""
    start = priced.space.largest()
    low_ms, high_ms = (
        fit_exact(priced, start, priced.latency_ms(start)).min_ms,
        priced.latency_ms(start),
    )
    target_ms = (low_ms + high_ms) / 2
    correction = correct(priced, widths_of(priced, start), target_ms, slower_by(priced, factor))
    knowing = factor * fit_exact(priced, start, target_ms / factor).latency_ms
    assert correction.measured_ms <= target_ms
    assert correction.measured_ms >= 0.98 * knowing
    assert correction.measured_ms == pytest.approx(factor * correction.fit.latency_ms)
    assert correction.status == "met"
    assert correction.rounds <= ROUNDS


def test_the_closest_architecture_is_kept_where_widths_end(priced: PricedSpace) -> None:
    start = priced.space.smallest()
    target_ms = priced.latency_ms(start)
    measure = exactly(lambda network: 3 * target_ms)
    correction = correct(priced, widths_of(priced, start), target_ms, measure)
    assert correction.status == "missed"
    assert "above the budget" in correction.reason
    assert correction.measured_ms == 3 * target_ms
    assert correction.fit.latency_ms <= target_ms * (1 + 1e-9)


def test_an_infeasible_target_is_refused_before_anything_is_measured(priced: PricedSpace) -> None:
    device = NoisyDevice(lambda network: 1.0, seed=0, fails_at=0)
    with pytest.raises(BudgetError):
        correct(priced, widths_of(priced, priced.space.smallest()), 1e6, device)


def test_widths_grow_as_far_as_they_can(priced: PricedSpace) -> None:
    """A device twice as fast as its table leaves room, and nothing wider could use it."""
    start = priced.space.largest()
    high_ms = priced.latency_ms(start)

    target_ms = 0.9 * high_ms
    correction = correct(priced, widths_of(priced, start), target_ms, slower_by(priced, 0.5))
    assert correction.fit.latency_ms == pytest.approx(high_ms)
    assert correction.status == "met"
    assert correction.measured_ms < LEAST * target_ms
    assert "nothing else to propose" in correction.reason


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


def _by_depth(priced: PricedSpace, slope: float) -> Measure:
    """A device whose error against the table grows with every layer above twelve."""
    fixed = len(priced.space.stem) + len(priced.space.head)

    def latency_ms(network: Network) -> float:
        off = slope * (len(network) - fixed - 12)
        return priced.table.predict(network).latency_ms * (1 + off)

    return exactly(latency_ms)


def _target_ms(priced: PricedSpace, share: float) -> float:
    low_ms, high_ms = priced.feasible_ms()
    return low_ms + share * (high_ms - low_ms)


@pytest.mark.parametrize("slope", [0.012, -0.012])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.25, 0.6])
def test_a_search_meets_the_target_on_a_device_whose_error_depends_on_depth(
    priced_tfnas: PricedSpace, slope: float, share: float
) -> None:
    """Predictions of shallow networks are 7 % off; those of deep ones are off the other way."""
    space, log = priced_tfnas.space, _shallow(priced_tfnas.space)
    target_ms = _target_ms(priced_tfnas, share)
    propose = proposals(priced_tfnas, log, widths=start_widths(space))
    correction = correct(priced_tfnas, propose, target_ms, _by_depth(priced_tfnas, slope))
    assert correction.status == "met"
    assert LEAST * target_ms <= correction.measured_ms <= target_ms


def test_other_operations_and_depths_are_asked_for_where_widths_end(
    priced_tfnas: PricedSpace,
) -> None:
    """The widths of the next proposal cover the aims that failed before."""
    space, log = priced_tfnas.space, _shallow(priced_tfnas.space)
    target_ms = _target_ms(priced_tfnas, 0.1)
    from_search = proposals(priced_tfnas, log, widths=start_widths(space))
    asked: list[tuple[float, Range, Fit]] = []

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        asked.append((aim_ms, width_range_ms, from_search(aim_ms, width_range_ms)))
        return asked[-1][2]

    correction = correct(priced_tfnas, propose, target_ms, slower_by(priced_tfnas, 0.6))
    assert correction.status == "met"
    assert len(asked) > 1
    aim_ms, (least_ms, most_ms), fitted = asked[-1]
    assert aim_ms > asked[0][2].max_ms
    assert least_ms <= target_ms < aim_ms <= most_ms
    assert fitted.min_ms <= least_ms < most_ms <= fitted.max_ms


def test_a_space_with_nothing_nearer_to_its_budget_meets_it(tmp_path: Path) -> None:
    """All networks of a small space are known, so what is left of the budget is known too."""
    space = make_small_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, load_device(DEVICE)))
    every = [space.smallest(), space.largest(), *(space.random(seed=s) for s in range(99))]
    by_ms = {priced.latency_ms(each): each for each in every}
    known = sorted(by_ms.items())

    def propose(aim_ms: float, width_range_ms: Range) -> Fit:
        below = [(ms, each) for ms, each in known if ms <= aim_ms]
        if not below:
            raise BudgetError("too fast")
        return Fit(aim_ms, below[-1][0], below[-1][0], below[-1][0], below[-1][1])

    gaps = [(b[0] / a[0], a[0], b[0]) for a, b in itertools.pairwise(known)]
    gap, below_ms, above_ms = max(gaps)
    assert gap > 1.06
    target_ms = 1.1 * (below_ms * above_ms) ** 0.5
    correction = correct(priced, propose, target_ms, slower_by(priced, 1.1))
    assert correction.status == "met"
    assert correction.measured_ms == pytest.approx(1.1 * below_ms)
    assert "of the budget is left" in correction.reason


@pytest.mark.parametrize("in_table", [True, False])
def test_an_interrupted_correction_goes_on_to_the_same_result(
    tmp_path: Path, tfnas_table: bytes, *, in_table: bool
) -> None:
    """In a file, which stays, or in the table, which forgets it at the end."""
    path = tmp_path / "t.sqlite"
    path.write_bytes(tfnas_table)
    priced = PricedSpace(make_space("tfnas", 32, 10), LatencyTable.open(path))
    target_ms = _target_ms(priced, 0.1)
    propose = proposals(priced, _shallow(priced.space), widths=start_widths(priced.space))
    device = _by_depth(priced, 0.02)
    logged: list[int] = []

    def run(name: str, most: int) -> Correction[Fit]:
        left = iter(range(most))

        def measure(*arguments: object) -> object:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return device(*arguments)  # type: ignore[arg-type]

        file = RecordFile(tmp_path / f"{name}.json")
        rounds = MeasuredRounds(
            priced,
            target_ms,
            measure,  # type: ignore[arg-type]
            RecordInTable(path, name) if in_table else file,
            name=name,
            log=lambda number, _: logged.append(number),
        )
        return correct_on_device(priced, propose, rounds)

    whole = run("whole", 99)
    sweeps = len(whole.history.sweeps)
    assert whole.rounds > 1
    assert logged == [*range(1, whole.rounds + 1)]
    for _ in range(sweeps):
        with pytest.raises(KeyboardInterrupt):
            run("cut", 0)
        try:
            found = run("cut", 1)
        except KeyboardInterrupt:
            continue
    assert found == whole
    if in_table:
        assert RecordInTable(path, "cut").load() is None
        with pytest.raises(KeyboardInterrupt):
            run("cut", 0)
    else:
        assert run("cut", 0) == whole
        texts = [(tmp_path / f"{name}.json").read_text() for name in ("cut", "whole")]
        assert texts[0] == texts[1]


def test_a_killed_correction_goes_on_from_its_file(
    priced_tfnas: PricedSpace, tmp_path: Path
) -> None:
    """SIGKILL in the second sweep, in the middle of a round."""
    device = _by_depth(priced_tfnas, 0.02)
    propose = widths_of(priced_tfnas, priced_tfnas.space.largest())
    file = RecordFile(tmp_path / "r.json")
    target_ms = 0.8 * priced_tfnas.latency_ms(priced_tfnas.space.largest())

    def run(measure: Measure, record: RecordFile) -> Correction[Fit]:
        rounds = MeasuredRounds(priced_tfnas, target_ms, measure, record, name="")
        return correct_on_device(priced_tfnas, propose, rounds)

    child = os.fork()
    if child == 0:

        def killed(
            networks: Sequence[Network], rule: SweepRule, progress: Progress
        ) -> SweptNetworks:
            if rule.earlier:
                os.kill(os.getpid(), signal.SIGKILL)
            return device(networks, rule, progress)

        run(killed, file)
        os._exit(0)  # not reached
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(read_rounds(file.file).sweeps) == 1
    assert run(device, file) == run(device, RecordFile(tmp_path / "whole.json"))


def test_damaged_rounds_are_refused(priced: PricedSpace, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text("[{]")
    with pytest.raises(InvalidFileError, match="delete it"):
        MeasuredRounds(priced, 1.0, slower_by(priced, 1.0), RecordFile(file), name="")
