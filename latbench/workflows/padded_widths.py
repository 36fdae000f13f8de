"""Choice of the widths of padded channels, by measuring.

Whole networks are measured first, with all groups padded to multiples of 4, 8, 16 or 32: kernels
depend on the widths on both sides of a convolution, so one group alone may gain nothing. From the
fastest of them, the width of one group at a time is changed and priced by the segments that it
touches. All segments before and after all changes are visited in one interleaved sweep. Changes
that save time are made, and a group that is not faster than without its padding loses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np
import onnx
from numpy.typing import NDArray

from latbench.blocks import BlockSpec
from latbench.errors import InvalidFileError
from latbench.measure.sweep import fraction_done, sweep_pass
from latbench.measure.visiting import Target
from latbench.models import OnnxModel
from latbench.models.channels.groups import ChannelGroup, Channels, find_channels
from latbench.models.channels.padding import padded
from latbench.models.segments import Piece, cut
from latbench.profilers import Profiler
from latbench.progress import Progress
from latbench.tables.comparison import signed_rank_test
from latbench.workflows.side_by_side import fastest_ms, visit_in_turn

Plan = dict[ChannelGroup, int]
"""New widths of the groups that become wider."""

Floats = NDArray[np.float64]

_MULTIPLES = (4, 8, 16, 32)  # channels that kernels of CPUs and GPUs compute at once
_WIDEST = 1.25  # times the width: beyond it, padding costs more than kernels gain
_FEW = 8  # channels that may be added to any width
_ROUNDS = 3  # changes that meet in one segment are made in different rounds
_MIN_PASSES, _MAX_PASSES = 8, 60  # enough to choose; the choice is compared again
_UNSEEN = 0.005  # relative loss that counts as none where a group becomes narrower
_LEAST_GAIN = 0.01  # of the touched segments, that a wider group must bring
_SIGNIFICANCE = 0.05
_WHOLE = 0.35  # share of the time for whole networks


@dataclass(frozen=True)
class _Trial:
    """Another width of one group, and the segments that it changes."""

    group: ChannelGroup
    width: int
    places: frozenset[int]
    before: tuple[BlockSpec, ...]
    after: tuple[BlockSpec, ...]


def named(model: OnnxModel) -> OnnxModel:
    """The model with a name for every node, by which its segments find it."""
    proto = onnx.load_model_from_string(model.graph)
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return replace(model, graph=proto.SerializeToString())


def candidate_widths(width: int) -> list[int]:
    """Wider widths that are worth measuring, ascending."""
    rounded = {-(-width // multiple) * multiple for multiple in _MULTIPLES}
    return sorted(
        wide
        for wide in rounded
        if wide > width and (wide <= _WIDEST * width or wide - width < _FEW)
    )


class PaddingSearch:
    """Widths of padded channels for one model on one device.

    Args:
        profiler: Profiler of the device.
        model: The model; its nodes have names.
    """

    def __init__(self, profiler: Profiler, model: OnnxModel) -> None:
        self.profiler, self.model = profiler, model
        self.channels: Channels = find_channels(model)
        self.candidates = _candidates(self.channels)

    def pad(self, plan: Mapping[ChannelGroup, int]) -> OnnxModel:
        """The model with the widths of a plan."""
        return padded(self.model, self.channels.widen(plan)) if plan else self.model

    def uniform(self) -> list[Plan]:
        """Different plans that pad every group to multiples of one number, as far as it may be."""
        plans: list[Plan] = []
        for multiple in _MULTIPLES:
            plan: Plan = {}
            for group, widths in self.candidates.items():
                allowed = [w for w in widths if w <= -(-group.width // multiple) * multiple]
                if allowed:
                    plan[group] = allowed[-1]
            if plan and not self.channels.fits(plan):
                plan = self._fitting(plan)
            if plan and plan not in plans:
                plans.append(plan)
        return plans

    def _fitting(self, plan: Plan) -> Plan:
        """The groups of a plan that fit together, in the order of the model."""
        found: Plan = {}
        for group, width in plan.items():
            if self.channels.fits({**found, group: width}):
                found[group] = width
        return found

    def run(self, *, limit_s: float, progress: Progress) -> list[Plan]:
        """Search for so many seconds; plans to compare with the model as a whole, best last.

        Raises:
            RuntimeFailure: The runtime refused a network.
        """
        plans: list[Plan] = [{}, *self.uniform()]
        if len(plans) == 1:
            return []
        networks = [self.pad(plan) for plan in plans]

        def first(fraction: float, words: str, /) -> None:
            progress(_WHOLE * fraction, f"whole networks, {words}")

        fastest = fastest_ms(
            visit_in_turn(
                self.profiler,
                networks,
                limit_s=_WHOLE * limit_s,
                least_passes=_MIN_PASSES,
                progress=first,
            )
        )
        del networks
        ratios = np.median(fastest / fastest[0], axis=1)
        start = plans[int(np.argmin(ratios))]
        found = [start] if start else []
        refined = self._refine(start, (1 - _WHOLE) * limit_s, progress)
        return found + ([refined] if refined and refined != start else [])

    def _refine(self, plan: Plan, limit_s: float, progress: Progress) -> Plan:
        """Change the width of one group at a time, in rounds, by the prices of segments."""
        begin = monotonic()
        for number in range(_ROUNDS):
            left_s = limit_s - (monotonic() - begin)
            if left_s <= 0:
                break

            def shown(fraction: float, words: str, /, number: int = number) -> None:
                done = (number + fraction) / _ROUNDS
                progress(_WHOLE + (1 - _WHOLE) * done, f"round {number + 1}, {words}")

            trials = self._trials(plan)
            better = _chosen(trials, self._price(trials, left_s / (_ROUNDS - number), shown), plan)
            if not better:
                break
            changed = {**plan, **better}
            changed = {group: width for group, width in changed.items() if width > group.width}
            if not self.channels.fits(changed):
                break
            plan = changed
        return plan

    def _trials(self, plan: Plan) -> list[_Trial]:
        """All single changes of a plan; those that touch different segments are cut together."""
        try:
            pieces = cut(self.pad(plan))
        except InvalidFileError:
            return []  # several inputs or outputs: whole networks have to do
        touched = {group: _places(group, pieces) for group in self.candidates}
        trials = []
        for batch in _batches(plan, self.candidates, touched):
            changed = {**plan, **batch}
            wider = {group: width for group, width in changed.items() if width > group.width}
            if not self.channels.fits(wider):
                continue
            after = cut(self.pad(wider))
            if len(after) != len(pieces):
                continue
            for group, width in batch.items():
                places = frozenset(
                    place
                    for place in touched[group]
                    if after[place].segment != pieces[place].segment
                )
                if places:
                    trials.append(
                        _Trial(
                            group,
                            width,
                            places,
                            tuple(pieces[place].segment for place in sorted(places)),
                            tuple(after[place].segment for place in sorted(places)),
                        )
                    )
        return trials

    def _price(
        self, trials: Sequence[_Trial], limit_s: float, progress: Progress
    ) -> dict[BlockSpec, Floats]:
        """Fastest call in ms in every pass, by segment."""
        segments = list(
            dict.fromkeys(spec for trial in trials for spec in (*trial.before, *trial.after))
        )
        dwell_ms = self.profiler.profile.sweep.block_dwell_ms
        targets = [
            Target(index, (spec,), visits=1, dwell_ms=dwell_ms, cold=False)
            for index, spec in enumerate(segments)
        ]
        rows: list[Floats] = []
        begin = monotonic()
        while targets and len(rows) < _MAX_PASSES:

            def visited(done: int, total: int, made: int = len(rows)) -> None:
                spent_s = monotonic() - begin
                by_passes_s = spent_s * (_MIN_PASSES / (made + done / total) - 1)
                progress(
                    fraction_done(spent_s, max(limit_s - spent_s, by_passes_s, 0.0)),
                    f"{len(targets)} segments, pass {made + 1}",
                )

            row = np.zeros(len(targets))
            taken = sweep_pass(self.profiler, targets, number=len(rows), on_visit=visited).visits
            for index, visit in taken:
                row[index] = min(visit.hot_ns) / 1e6
            rows.append(row)
            spent_s = monotonic() - begin
            if len(rows) >= _MIN_PASSES and spent_s >= limit_s:
                break
        return {spec: np.array([row[index] for row in rows]) for index, spec in enumerate(segments)}


def _candidates(channels: Channels) -> dict[ChannelGroup, list[int]]:
    """Widths that fit the model, by group; groups without any are left out."""
    found: dict[ChannelGroup, list[int]] = {}
    for multiple in _MULTIPLES:
        wanted = {}
        for group in channels.groups:
            width = -(-group.width // multiple) * multiple
            if width in candidate_widths(group.width) and width not in found.get(group, ()):
                wanted[group] = width
        together = not wanted or channels.fits(wanted)
        for group, width in wanted.items():
            if together or channels.fits({group: width}):
                found.setdefault(group, []).append(width)
    return found


def _places(group: ChannelGroup, pieces: Sequence[Piece]) -> frozenset[int]:
    return frozenset(
        place for place, piece in enumerate(pieces) if not group.nodes.isdisjoint(piece.nodes)
    )


def _batches(
    plan: Plan,
    candidates: Mapping[ChannelGroup, Sequence[int]],
    touched: Mapping[ChannelGroup, frozenset[int]],
) -> Iterator[Plan]:
    """Other widths of groups, each once; the groups of a batch touch different segments."""
    batches: list[tuple[Plan, set[int]]] = []
    for group, widths in candidates.items():
        for width in (group.width, *widths):
            if width == plan.get(group, group.width):
                continue
            for batch, places in batches:
                if places.isdisjoint(touched[group]) and group not in batch:
                    break
            else:
                batch, places = {}, set()
                batches.append((batch, places))
            batch[group] = width
            places |= touched[group]
    return (batch for batch, _ in batches)


def _chosen(trials: Sequence[_Trial], prices: Mapping[BlockSpec, Floats], plan: Plan) -> Plan:
    """Changes to make together: the best ones, of which no two touch the same segment."""
    scored = []
    for trial in trials:
        before = np.sum([prices[spec] for spec in trial.before], axis=0)
        after = np.sum([prices[spec] for spec in trial.after], axis=0)
        ratio = float(np.median(after / before))
        saved_ms = float(np.median(before - after))
        if trial.width < plan.get(trial.group, trial.group.width):
            if ratio <= 1 + _UNSEEN:
                scored.append((saved_ms + _UNSEEN * float(np.median(before)), trial))
        elif ratio < 1 - _LEAST_GAIN and signed_rank_test(np.log(after / before)) < _SIGNIFICANCE:
            scored.append((saved_ms, trial))
    made: Plan = {}
    busy: set[int] = set()
    for _, trial in sorted(scored, key=lambda each: each[0], reverse=True):
        if trial.group not in made and busy.isdisjoint(trial.places):
            made[trial.group] = trial.width
            busy |= trial.places
    return made
