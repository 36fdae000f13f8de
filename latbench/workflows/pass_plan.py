"""The targets of each pass of a profiling, by the design of its protocol."""

from __future__ import annotations

from collections.abc import Sequence

from latbench.blocks import Network
from latbench.device import SweepProtocol
from latbench.measure.designs import (
    Design,
    SequentialDesign,
    UniformDesign,
    opened_blocks,
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
        self, store: TableStore, sweep: int, protocol: SweepProtocol, typical: Sequence[Network]
    ) -> None:
        self.store, self.sweep, self.protocol = store, sweep, protocol
        self.targets = profile_targets(store, protocol)
        self._leverage = Leverage(typical, store.blocks("block"), store.alignment)

    def next_pass(self, samples: Samples, *, passes: int) -> tuple[list[Target], float]:
        """Targets of the next pass, and the expected time of later passes relative to it.

        Args:
            samples: The visits so far.
            passes: Number of passes after the next one.
        """
        design = self._design(samples)
        chosen = design.chosen(self.targets, samples, number=self.store.passes(self.sweep))
        return chosen, design.later_share(self.targets, chosen, samples, passes=passes)

    def is_converged(self, samples: Samples) -> bool:
        """Whether the visits so far make all estimates certain enough."""
        return self._design(samples).is_converged(self.targets, samples)

    def _design(self, samples: Samples) -> Design:
        if self.protocol.design == "uniform":
            return UniformDesign(self.protocol)
        fastest_ms = {id_: min(times) for id_, times in samples.hot_ms.items() if times}
        opened = sum(
            len(samples.hot_ms.get(each.id, ())) * opened_blocks(each) for each in self.targets
        )
        open_ms = 1e3 * self.store.timing(self.sweep)["open_s"] / max(1, opened)
        return SequentialDesign(self.protocol, self._leverage.mean_squares(fastest_ms), open_ms)
