"""Neighbouring segments that a runtime computes together; they are priced as one segment.

A runtime may fuse operators across a cut. The latency of both segments in one call is then far
below the sum of their latencies. Such neighbours are found by measuring, before the profiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from time import monotonic

from latbench.blocks import BlockSpec, Network, Segment
from latbench.measure.lock import held
from latbench.measure.samples import Interval, Samples
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import block_target
from latbench.models.joining import empty_segment, merge
from latbench.models.segments import Piece
from latbench.profilers import Profiler
from latbench.progress import Progress, silent

_FEWEST_PASSES, _PASSES = 5, 10
_LEAST_SAVED = 0.5  # of the faster neighbour's latency


def join_fused(
    profiler: Profiler,
    pieces: Sequence[Piece],
    *,
    limit_s: float = inf,
    progress: Progress = silent,
) -> tuple[Piece, ...]:
    """Join neighbours that save more than half of the faster one's latency when called together.

    With latencies T1 and T2 alone, T12 together and C of a call that computes nothing, neighbours
    are fused if T1 + T2 - T12 - C exceeds half of the smaller one at the unfavourable ends of their
    95 % intervals. Blocks of a search space are left as they are.

    Args:
        profiler: Profiler of the device.
        pieces: Segments of a model, in the order of execution.
        limit_s: Duration of the search, after which half of the passes must do.
        progress: Callback that reports the progress.

    Raises:
        DeviceBusyError: Another process measures on the device.
        RuntimeFailure: The runtime refused a segment.
    """
    segments = [piece.segment for piece in pieces if isinstance(piece.segment, Segment)]
    if len(segments) < len(pieces):
        return tuple(pieces)
    alone: list[Network] = [(segment,) for segment in segments]
    together = list(pairwise(segments))
    nothing = (empty_segment(),)
    latencies = _latencies(profiler, [nothing, *alone, *together], limit_s, progress)
    overhead_ms = latencies[nothing].high_ms
    fused = {
        merge(first, second)
        for first, second in together
        if _are_fused(
            *(latencies[n] for n in ((first,), (second,), (first, second))), overhead_ms=overhead_ms
        )
    }
    return joined_where(pieces, fused.__contains__)


def _latencies(
    profiler: Profiler, networks: Sequence[Network], limit_s: float, progress: Progress
) -> dict[Network, Interval]:
    """Latencies of short networks, visited in the same shuffled passes."""
    distinct = list(dict.fromkeys(networks))
    protocol = profiler.profile.sweep
    targets = [block_target(id_, network, protocol) for id_, network in enumerate(distinct)]
    samples = Samples()
    begin = monotonic()
    with held(profiler):
        for number in range(_PASSES):
            if number >= _FEWEST_PASSES and monotonic() - begin > limit_s:
                break

            def visited(done: int, total: int, number: int = number) -> None:
                fraction = (number + done / total) / _PASSES
                progress(fraction, "looking for segments that the runtime fuses")

            samples.add(sweep_pass(profiler, targets, number=number, on_visit=visited).visits)
    found = samples.intervals(range(len(distinct)), protocol.quantile)
    return {network: found[id_] for id_, network in enumerate(distinct)}


def _are_fused(first: Interval, second: Interval, both: Interval, *, overhead_ms: float) -> bool:
    """Whether two neighbours save more than half of the faster one, besides a call's overhead."""
    saved_ms = first.low_ms + second.low_ms - both.high_ms - overhead_ms
    return saved_ms > _LEAST_SAVED * min(first.high_ms, second.high_ms)


def joined_where(
    pieces: Sequence[Piece], is_wanted: Callable[[BlockSpec], bool]
) -> tuple[Piece, ...]:
    """Pieces of which two neighbours are joined where their common segment is wanted.

    Pairs are looked at in the order of execution; a piece is joined once at most.
    """
    found: list[Piece] = []
    left = list(pieces)
    while left:
        both = _joined(*left[:2]) if len(left) > 1 else None
        if both is not None and is_wanted(both.segment):
            found.append(both)
            del left[:2]
        else:
            found.append(left.pop(0))
    return tuple(found)


def joined_places(pieces: Sequence[Piece], joined: Sequence[Piece]) -> tuple[int, ...]:
    """Places of the pieces that were joined with the next one."""
    places, at = [], 0
    for piece in joined:
        if piece.segment != pieces[at].segment:
            places.append(at)
            at += 1
        at += 1
    return tuple(places)


def joined_like(pieces: Sequence[Piece], places: Sequence[int]) -> tuple[Piece, ...]:
    """Pieces joined at the same places as those of the same network with other widths."""
    found: list[Piece] = []
    left = iter(enumerate(pieces))
    for at, piece in left:
        both = _joined(piece, next(left)[1]) if at in places else None
        found.append(piece if both is None else both)
    return tuple(found)


def _joined(first: Piece, second: Piece) -> Piece | None:
    """One piece of two neighbours, named like the one that computes more; None for blocks."""
    if not isinstance(first.segment, Segment) or not isinstance(second.segment, Segment):
        return None
    segment = merge(first.segment, second.segment)
    first_is_main = first.segment.macs >= second.segment.macs
    return Piece(
        first.name if first_is_main else second.name, (*first.nodes, *second.nodes), segment
    )
