"""Widths that meet a latency as measured: choose, measure, correct the aim, choose again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from torch import nn

from latbench.device import DeviceProfile
from latbench.measure.samples import Interval
from latbench.models import OnnxModel
from latbench.progress import Progress, silent
from latbench.workflows.apart import DIED, run_apart
from latbench.workflows.bench import Bench, bench
from nas.pruning.choice import Floats, PricedWidths, choose_widths, lost_importance
from nas.pruning.groups import PrunableGroup, PrunableModule, removed_channels
from nas.pruning.rounds import Round, read_rounds, write_rounds

_ROUNDS = 4
_CLOSE = 0.97  # of the target: a network between this and the target is close enough
_AIM = 0.99  # of the target, for the next round
_TIME_LIMIT = "40s"


Measure = Callable[[nn.Module, Progress], Bench]
"""Measures a pruned module beside the original one."""


def meet_target(
    prunable: PrunableModule,
    priced: PricedWidths,
    importances: Mapping[PrunableGroup, Floats],
    target_ms: float,
    measure: Measure,
    *,
    file: Path,
    progress: Progress = silent,
) -> list[Round]:
    """Choose widths until the measured latency is at the target or up to 3 % below it.

    Rounds of an interrupted call are read from the file; what was measured counts, also if the
    prices have changed since.

    Args:
        prunable: The module with its groups.
        priced: Latencies of all widths.
        importances: Importance of every channel of every group.
        target_ms: Latency not to exceed.
        measure: Measures a pruned module beside the original.
        file: JSON file of the rounds, written after each of them.
        progress: Callback that reports the progress.

    Raises:
        BudgetError: No widths are predicted at the target, or the whole network is.
        InvalidFileError: The file is damaged.
    """
    priced.check_target(target_ms)
    least_ms, whole_ms = priced.range_ms()
    lost = lost_importance(importances, priced.grid)
    known = read_rounds(file)
    known.rounds = [_priced_again(each, priced) for each in known.rounds]
    while not known.finished:
        aim_ms = _aim_ms(known.rounds, target_ms)
        widths = choose_widths(priced, lost, min(max(aim_ms, least_ms), whole_ms))
        removed = {
            group: removed_channels(importances[group], width) for group, width in widths.items()
        }
        number = len(known.rounds)
        progress(number / _ROUNDS, f"round {number + 1}: exporting")
        module = prunable.pruned(removed)

        def shown(fraction: float, words: str, /, number: int = number) -> None:
            progress((number + fraction) / _ROUNDS, f"round {number + 1}: {words}")

        found = _round(
            {group.name: channels for group, channels in removed.items()},
            priced.latency_ms(widths),
            measure(module, shown),
        )
        repeated = any(found.removed == each.removed for each in known.rounds)
        known.rounds.append(found)
        close = found.meets(target_ms) and found.measured.estimate_ms >= _CLOSE * target_ms
        known.finished = close or repeated or len(known.rounds) == _ROUNDS
        write_rounds(file, known)
    return known.rounds


def _priced_again(known: Round, priced: PricedWidths) -> Round:
    """A round with the latency that the present prices predict, if they are of its widths."""
    grids = priced.grid.grids
    widths = {group: group.width - len(known.removed.get(group.name, ())) for group in grids}
    has_groups = known.removed.keys() <= {group.name for group in grids}
    if not has_groups or any(widths[group] not in grids[group].candidates for group in grids):
        return known
    return msgspec.structs.replace(known, predicted_ms=priced.latency_ms(widths))


def _aim_ms(rounds: Sequence[Round], target_ms: float) -> float:
    """Predicted latency to aim at: the target corrected by the last round's error."""
    if not rounds:
        return target_ms
    last = rounds[-1]
    return _AIM * target_ms * last.predicted_ms / last.measured.high_ms


def _round(removed: dict[str, list[int]], predicted_ms: float, found: Bench) -> Round:
    whole, pruned = found.rows
    original, measured = (
        Interval(row.latency_ms, row.low_ms, row.high_ms) for row in (whole, pruned)
    )
    ratio = (pruned.ratio, pruned.ratio_low, pruned.ratio_high)
    return Round(removed, predicted_ms, measured, original, ratio)


def bench_apart(models: Sequence[OnnxModel], device: DeviceProfile, progress: Progress) -> Bench:
    """Compare models in a new process: memory and threads of a training slow down measurements."""
    return run_apart(_bench, list(models), device, died=DIED, progress=progress)


def _bench(models: list[OnnxModel], device: DeviceProfile, progress: Progress) -> Bench:
    names = ["original", "pruned"][: len(models)]
    return bench(models, device, names=names, time_limit=_TIME_LIMIT, progress=progress)
