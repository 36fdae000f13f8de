"""Verdicts on noisy devices whose latencies are known: they are true, and they come to an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from latbench.blocks import Network, block_key
from latbench.device_files import load_device
from latbench.errors import RuntimeFailure
from nas.latency.aimed_proposals import widths_of
from nas.latency.correction import Correction, correct_on_device
from nas.latency.measured_rounds import ROUNDS, MeasuredRounds, RecordFile
from nas.latency.priced_space import PricedSpace
from nas.latency.verified_rounds import read_rounds
from nas.latency.width_scaling import Fit
from nas.spaces import make_space
from tests.conftest import write_table
from tests.nas.simulated_device import NoisyDevice, correct


@pytest.fixture(scope="module")
def priced_tfnas(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    """Real depths, 32 px, prices at widths divisible by 8."""
    space = make_space("tfnas", 32, 10)
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


def _known_ms(priced: PricedSpace, seed: int) -> Callable[[Network], float]:
    """A device that is off by a few percent, and by a further part of one for every network."""
    factor = float(np.exp(0.04 * np.random.default_rng(seed).normal()))

    def latency_ms(network: Network) -> float:
        key = crc32("".join(map(block_key, network)).encode())
        own = np.exp(0.008 * np.random.default_rng(key).normal())
        return float(factor * own * priced.table.predict(network).latency_ms)

    return latency_ms


def _verified(
    priced: PricedSpace, seed: int, **conditions: float
) -> tuple[Correction[Fit], float, NoisyDevice]:
    """A verdict, the true latency of its network over the budget, and the device."""
    known_ms = _known_ms(priced, seed)
    device = NoisyDevice(known_ms, seed, **conditions)  # type: ignore[arg-type]
    architecture = priced.space.random(seed=2)
    target_ms = priced.latency_ms(architecture)
    found = correct(priced, widths_of(priced, architecture), target_ms, device)
    true_ms = device.quiet * known_ms(priced.space.lower(found.fit.architecture))
    return found, true_ms / target_ms, device


SEEDS = range(40)


@pytest.mark.parametrize(
    ("noise", "drift", "often_met"),
    [(0.01, 0.003, 0.95), (0.05, 0.006, 0.8), (0.1, 0.012, 0.0), (0.2, 0.05, 0.0)],
)
def test_a_budget_that_is_met_is_met_in_truth(
    priced_tfnas: PricedSpace, noise: float, drift: float, often_met: float
) -> None:
    """On machines from quiet to hopeless; no verdict takes longer than some minutes."""
    found = [
        _verified(priced_tfnas, seed, noise=noise, drift=drift, own_drift=drift / 2)
        for seed in SEEDS
    ]
    met = [true for verdict, true, _ in found if verdict.status == "met"]
    assert len(met) >= often_met * len(SEEDS)
    assert sum(true > 1 for true in met) <= max(1, 0.05 * len(met))
    assert all(verdict.measured_high_ms <= verdict.target_ms for verdict, _, _ in found
               if verdict.status == "met")  # fmt: skip
    assert max(device.now_s for _, _, device in found) < ROUNDS * 200


@pytest.mark.parametrize("load_at_s", [5.0, 15.0, 25.0, 60.0])
def test_a_load_that_starts_half_way_gives_an_honest_verdict(
    priced_tfnas: PricedSpace, load_at_s: float
) -> None:
    """Undecided, or met in truth, with the load or without."""
    for seed in SEEDS[:20]:
        verdict, true, device = _verified(priced_tfnas, seed, load_at_s=load_at_s, load=0.2)
        if verdict.status == "met":
            loaded = device.last_under_load
            assert true * (1.2 if loaded else 1.0) <= 1.005
        assert device.now_s < ROUNDS * 200


def test_a_machine_that_is_too_noisy_says_what_it_could_tell_apart(
    priced_tfnas: PricedSpace,
) -> None:
    verdict, _, _ = _verified(priced_tfnas, 1, noise=0.2, drift=0.08, own_drift=0.05)
    assert verdict.status == "undecided"
    assert f"tell latencies apart to {verdict.tolerance:.1%} now" in verdict.reason
    assert verdict.tolerance > 0.03


def test_an_undecided_budget_is_measured_anew(priced_tfnas: PricedSpace, tmp_path: Path) -> None:
    """By the same command, which would otherwise repeat its verdict for ever."""
    start = priced_tfnas.space.random(seed=2)
    target_ms, record = priced_tfnas.latency_ms(start), RecordFile(tmp_path / "r.json")

    def run(noise: float, drift: float) -> Correction[Fit]:
        device = NoisyDevice(
            _known_ms(priced_tfnas, 1), 1, noise=noise, drift=drift, own_drift=drift / 2
        )
        rounds = MeasuredRounds(priced_tfnas, target_ms, device, record, name="")
        return correct_on_device(priced_tfnas, widths_of(priced_tfnas, start), rounds)

    assert run(0.2, 0.08).status == "undecided"
    met = run(0.01, 0.003)
    assert met.status == "met"
    assert read_rounds(record.file) == met.history
    assert run(0.2, 0.08) == met


def test_what_is_confirmed_decides_not_what_is_selected(priced_tfnas: PricedSpace) -> None:
    """The record has the candidates of each round and the fresh measurement of the chosen one."""
    verdict, _, _ = _verified(priced_tfnas, 3)
    last = verdict.history.rounds[-1]
    assert 1 < len(last.candidates) == len(last.sweeps[0].networks)
    assert len(last.sweeps) == 1 + len(last.confirmations) > 1
    chosen = last.confirmations[-1]
    assert chosen.architecture == verdict.fit.architecture
    assert (chosen.measured_ms, chosen.status) == (verdict.measured_ms, verdict.status)
    assert chosen.measured_low_ms < chosen.measured_ms < chosen.measured_high_ms


def test_a_device_that_disappears_between_rounds_keeps_what_was_measured(
    priced_tfnas: PricedSpace, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    start = priced_tfnas.space.random(seed=2)
    target_ms = priced_tfnas.latency_ms(start)
    gone = NoisyDevice(
        _known_ms(priced_tfnas, 0), 0, fails_at=1, error=RuntimeFailure("the device is gone")
    )
    rounds = MeasuredRounds(priced_tfnas, target_ms, gone, RecordFile(file), name="")
    with pytest.raises(RuntimeFailure, match="gone"):
        correct_on_device(priced_tfnas, widths_of(priced_tfnas, start), rounds)
    kept = read_rounds(file)
    assert kept.status is None
    assert len(kept.sweeps) == 1
