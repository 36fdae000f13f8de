"""The table that a profiling fills: its file, its machine, its networks and its targets.

Profiling and transfer both fill it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latbench.blocks import BlockSpec, Network
from latbench.device import SweepProtocol
from latbench.environment import Environment
from latbench.errors import MismatchError
from latbench.measure.visiting import Target, block_target, network_target
from latbench.profilers import Profiler
from latbench.tables import SpaceLabel, TableStore
from latbench.workflows.recorded_passes import renew_environment


@dataclass(frozen=True)
class TableContents:
    """What a latency table is filled with.

    Attributes:
        label: Label of the search space or of the model.
        blocks: Blocks to price. Among blocks that differ only in width, some are measured and the
            others are interpolated.
        networks: Networks to fit the prices on, made of ``blocks`` only.
        typical: Networks like those that will be predicted. They say how much the error of a block
            matters. Without any, ``networks`` do.
    """

    label: SpaceLabel
    blocks: Sequence[BlockSpec]
    networks: Sequence[Network]
    typical: Sequence[Network] = ()


def open_or_create(path: Path, profiler: Profiler, space: SpaceLabel) -> TableStore:
    """Open the table at ``path`` for this device and space; create it if it does not exist.

    Raises:
        InvalidFileError: The file is not a latency table.
        MismatchError: The table belongs to another device or space.
    """
    if not path.exists():
        environment = profiler.environment()
        return TableStore.create(
            path, device=profiler.profile, space=space, environment=environment
        )
    store = TableStore.open(path)
    try:
        if not profiler.profile.same_device(store.device):
            raise MismatchError(
                f"{path} is a table of {store.device.name}, not of {profiler.profile.name} as it "
                "is now: choose another file"
            )
        if store.space != space:
            raise MismatchError(f"{path} prices {store.space}, not {space}: choose another file")
    except MismatchError:
        store.close()
        raise
    return store


def begin_profiling(store: TableStore, profiler: Profiler) -> int:
    """Begin or resume the profiling sweep, and record the present environment and protocol.

    Returns:
        Id of the sweep.

    Raises:
        MismatchError: The table has visits from another machine or version.
    """
    environment = profiler.environment()
    _require_same_machine(store, environment)
    renew_environment(store, environment)
    store.record_protocol(profiler.profile.sweep)
    return store.begin_sweep("profile", environment)


def _require_same_machine(store: TableStore, now: Environment) -> None:
    """Check that new visits come from the same machine and runtime version as earlier ones.

    Raises:
        MismatchError: The table has visits from another machine or version.
    """
    differences = now.differences(store.environment)
    if differences and store.profiling() is not None:
        raise MismatchError(
            f"{store.path} was measured elsewhere ({'; '.join(differences)}), and visits are not "
            "pooled: choose another file"
        )


def join_networks(store: TableStore, networks: Sequence[Network]) -> None:
    """Register the networks of a profiling.

    A table that already has networks keeps them and their measurements, because prices are fitted
    on them and drift is measured with them. If it has fewer than ``networks``, new ones are added
    to reach the same number.
    """
    kept = store.networks("profile")
    known = set(store.networks("profile", "calibration", "verification").values())
    fresh = [network for network in dict.fromkeys(networks) if network not in known]
    lacking = min(len(fresh), max(0, len(networks) - len(kept)))
    spread = np.linspace(0, len(fresh) - 1, lacking).round().astype(int)
    store.add_networks([fresh[i] for i in spread], "profile")


def profile_targets(
    store: TableStore, protocol: SweepProtocol, *, blocks: Collection[BlockSpec] | None = None
) -> list[Target]:
    """All targets of a profiling pass: the registered blocks, or some of them, and the networks."""
    visits = protocol.network_visits
    return block_targets(store, protocol, blocks=blocks) + [
        network_target(id_, network, protocol, visits=visits)
        for id_, network in store.networks("profile").items()
    ]


def block_targets(
    store: TableStore, protocol: SweepProtocol, *, blocks: Collection[BlockSpec] | None = None
) -> list[Target]:
    """Targets of the registered blocks, or of those among ``blocks``."""
    return [
        block_target(id_, (spec,), protocol)
        for id_, spec in store.blocks().items()
        if blocks is None or spec in blocks
    ]
