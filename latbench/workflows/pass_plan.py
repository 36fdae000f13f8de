"""The targets of each pass of a profiling, by the design of its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from latbench.blocks import Network
from latbench.device import SweepProtocol
from latbench.measure.designs import (
    Design,
    SequentialDesign,
    UniformDesign,
    opened_blocks,
    untimed_ms,
)
from latbench.measure.samples import Samples
from latbench.measure.visiting import Target
from latbench.tables import TableStore
from latbench.workflows.leverage import Leverage
from latbench.workflows.profiled_table import profile_targets


class PassPlan:
    """Chooses the targets of each pass from what the table has, and says when it has enough.

    Args:
        store: Table that stores the passes. The plan is of the targets that it has now.
        sweep: Id of the profiling.
        protocol: Protocol of the profiling.
        typical: Networks like those that will be predicted.
    """

    def __init__(
        self, store: TableStore, sweep: int, *, protocol: SweepProtocol, typical: Sequence[Network]
    ) -> None:
        self.store, self.sweep, self.protocol = store, sweep, protocol
        self.targets = profile_targets(store, protocol)
        self._typical = typical

    @cached_property
    def _leverage(self) -> Leverage:
        """Leverage of the blocks, which the uniform design does not ask for."""
        blocks = self.store.blocks("block")
        return Leverage(self._typical, blocks, alignment=self.store.alignment)

    def next_pass(self, samples: Samples, *, passes: int) -> tuple[list[Target], float]:
        """Targets of the next pass, and the expected time of later passes relative to it.

        Args:
            samples: The visits so far.
            passes: Number of passes after the next one.
        """
        design = self._design(samples)
        chosen = design.chosen(self.targets, samples, number=self.network_passes(samples))
        return chosen, design.later_share(self.targets, chosen, samples, passes=passes)

    def is_converged(self, samples: Samples) -> bool:
        """Whether there are enough passes, and their visits make all estimates certain enough."""
        if self.network_passes(samples) < self.protocol.min_passes:
            return False
        return self._design(samples).is_converged(self.targets, samples)

    def network_passes(self, samples: Samples) -> int:
        """Number of complete passes over the networks so far."""
        networks = [target for target in self.targets if not target.cold]
        counts = [len(samples.hot_ms.get(each.id, ())) // each.visits for each in networks]
        return min(counts, default=0)

    def _design(self, samples: Samples) -> Design:
        if self.protocol.design == "uniform":
            return UniformDesign(self.protocol)
        fastest_ms = {id_: min(times) for id_, times in samples.hot_ms.items() if times}
        timing = self.store.timing(self.sweep)
        other_ms = 1e3 * (timing["seconds"] - timing["open_s"] - timing["calls_s"])
        visits = opened = 0
        for target in self.targets:
            count = len(samples.hot_ms.get(target.id, ()))
            visits += count
            opened += count * opened_blocks(target)
            if count:
                other_ms -= count * untimed_ms(self.protocol, fastest_ms[target.id])
        return SequentialDesign(
            self.protocol,
            self._leverage.mean_squares(fastest_ms),
            open_ms=1e3 * timing["open_s"] / max(1, opened),
            other_ms=max(0.0, other_ms) / max(1, visits),
        )
