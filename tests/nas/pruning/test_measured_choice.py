"""Rounds of a pruning: the measured latency meets the target, also after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from torch import nn

from latbench.errors import BudgetError, InvalidFileError
from latbench.progress import Progress, silent
from nas.pruning.measured_choice import meet_target
from nas.pruning.rounds import Round, Rounds, best_round, read_rounds, write_rounds
from tests.nas.pruning.test_choice import random_problem

ERROR = 0.004  # half width of intervals


class Machine:
    """Measures a module, which is its removed channels here, at a factor of the prediction."""

    def __init__(self, priced: Any, factor: float) -> None:
        self.priced, self.factor, self.calls = priced, factor, 0

    def pruned(self, removed: dict[Any, list[int]]) -> Any:
        return {group: group.width - len(channels) for group, channels in removed.items()}

    def measure(self, module: nn.Module, progress: Progress) -> Any:
        self.calls += 1
        whole_ms = self.priced.range_ms()[1]
        own_ms = self.priced.latency_ms(module)
        rows = [row(self.factor * ms, own_ms / whole_ms) for ms in (whole_ms, own_ms)]
        return SimpleNamespace(rows=rows)


def row(ms: float, ratio: float) -> Any:
    """Latency of a network as `bench` gives it."""
    return SimpleNamespace(
        latency_ms=ms,
        low_ms=ms * (1 - ERROR),
        high_ms=ms * (1 + ERROR),
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
    )


Meet = Callable[..., list[Round]]


def meet(seed: int, share: float, factor: float, file: Path, **changed: Any) -> Any:
    priced, importances = random_problem(seed)
    machine = Machine(priced, factor)
    low_ms, high_ms = priced.range_ms()
    target_ms = low_ms + share * (high_ms - low_ms)
    measure = changed.get("measure", machine.measure)
    rounds = meet_target(machine, priced, importances, target_ms, measure, file=file)  # type: ignore[arg-type]
    return rounds, target_ms, machine


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [0.95, 1.0, 1.04, 1.1])
def test_the_measured_latency_meets_the_target(tmp_path: Path, seed: int, factor: float) -> None:
    rounds, target_ms, _ = meet(seed, 0.6, factor, tmp_path / "rounds.json")
    best = best_round(rounds, target_ms)
    assert best.meets(target_ms) and best.measured.high_ms <= target_ms
    assert best.predicted_ms == max(r.predicted_ms for r in rounds if r.meets(target_ms))
    assert len(rounds) <= 4


def test_a_target_that_no_network_meets_is_missed(tmp_path: Path) -> None:
    rounds, target_ms, _ = meet(0, 0.02, 1.5, tmp_path / "rounds.json")
    best = best_round(rounds, target_ms)
    assert not best.meets(target_ms)
    assert best.measured.high_ms == min(each.measured.high_ms for each in rounds)


def test_rounds_that_were_interrupted_go_on(tmp_path: Path) -> None:
    whole, _, _ = meet(2, 0.5, 1.1, tmp_path / "whole.json")
    assert len(whole) > 1
    priced, _ = random_problem(2)
    machine = Machine(priced, 1.1)

    def stopping(module: Any, progress: Progress) -> Any:
        if machine.calls == 1:
            raise KeyboardInterrupt
        return machine.measure(module, progress)

    with pytest.raises(KeyboardInterrupt):
        meet(2, 0.5, 1.1, tmp_path / "cut.json", measure=stopping)
    found, _, resumed = meet(2, 0.5, 1.1, tmp_path / "cut.json")
    assert found == whole and resumed.calls == len(whole) - 1
    again, _, finished = meet(2, 0.5, 1.1, tmp_path / "cut.json")
    assert again == whole and finished.calls == 0


def test_what_was_measured_counts_where_prices_have_changed(tmp_path: Path) -> None:
    """A round that was predicted by a rough table is predicted by the present one."""
    file = tmp_path / "rounds.json"
    whole, _, _ = meet(2, 0.5, 1.1, file)
    known = read_rounds(file)
    rough = [msgspec.structs.replace(each, predicted_ms=9.0) for each in known.rounds[:1]]
    write_rounds(file, Rounds(rough))
    found, _, resumed = meet(2, 0.5, 1.1, file)
    assert found == whole and resumed.calls == len(whole) - 1


def test_a_network_below_the_target_has_nothing_to_lose(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="nothing to remove"):
        meet(0, 1.2, 1.0, tmp_path / "rounds.json")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text('{"rounds": [1]}')
    with pytest.raises(InvalidFileError, match="rounds of a pruning"):
        meet(0, 0.5, 1.0, tmp_path / "rounds.json")


def test_progress_never_falls(tmp_path: Path) -> None:
    priced, importances = random_problem(3)
    machine = Machine(priced, 1.05)
    seen: list[float] = []
    low_ms, high_ms = priced.range_ms()
    meet_target(
        machine,  # type: ignore[arg-type]
        priced,
        importances,
        (low_ms + high_ms) / 2,
        machine.measure,
        file=tmp_path / "rounds.json",
        progress=lambda fraction, words: seen.append(fraction),
    )
    assert seen == sorted(seen) and silent(1.0, "") is None
