"""Verification of a table at whole networks, with its verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from latbench.blocks import Network
from latbench.errors import InvalidValueError
from latbench.models.torch_modules import Example, is_torch_module, require_example
from latbench.profilers import Profiler, profiler_of_table
from latbench.progress import Phase, Phases, Progress, silent
from latbench.tables import LatencyTable
from latbench.units import as_duration_s
from latbench.workflows import network_errors
from latbench.workflows.model_tables import (
    is_model_table,
    pieces_priced_by,
)
from latbench.workflows.network_errors import Verification
from latbench.workflows.network_sweep import require_device
from latbench.workflows.table_checks import open_table
from nas.latency.priced_space import PricedSpace
from nas.spaces import Architecture
from nas.workflows.drawn_networks import NamedNetwork, draw_networks
from nas.workflows.inputs import (
    AnyArchitecture,
    AnyTable,
    OwnModel,
    Shapes,
    as_architecture,
    as_list,
    as_pieces,
    is_own_model,
    require_no_shapes,
)

_OTHER_NETWORKS = {
    False: "profile a larger space, or choose --widths any",
    True: "verify the model itself",
}

_SUMMARY = (
    "mape",
    "bias",
    "max_error",
    "kendall_tau",
    "drift",
    "mape_drift_corrected",
    "max_error_drift_corrected",
    "coverage",
    "interval_width",
    "spread",
    "floor",
    "passed",
)


@dataclass(frozen=True, repr=False)
class VerifiedArchitectures(Verification):
    """Measured latencies of networks against a table's predictions; errors are fractions.

    Attributes:
        architectures: Architecture of each network; None for an ONNX model and parts of it.
        names: Name of each network in printed results.
        tolerance: Mean absolute error that is allowed.
    """

    architectures: tuple[Architecture | None, ...]
    names: tuple[str, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the mean error is within the tolerance."""
        return self.mape <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """One row per network, and the verdict, as plain JSON values."""
        rows = [
            ({"architecture": architecture.as_dict()} if architecture else {"model": name})
            | {
                "predicted_ms": row.predicted.latency_ms,
                "low_ms": row.predicted.low_ms,
                "high_ms": row.predicted.high_ms,
                "measured_ms": row.measured.estimate_ms,
                "measured_low_ms": row.measured.low_ms,
                "measured_high_ms": row.measured.high_ms,
                "error": row.error,
                "error_drift_corrected": row.error_drift_corrected,
            }
            for architecture, name, row in zip(
                self.architectures, self.names, self.networks, strict=True
            )
        ]
        return {"rows": rows} | {name: getattr(self, name) for name in _SUMMARY}


# long because it describes every argument
def verify(
    networks: AnyArchitecture | OwnModel | Sequence[AnyArchitecture | OwnModel],
    table: AnyTable,
    *,
    random: int = 0,
    seed: int = 0,
    widths: str = "efficient",
    tolerance: float = 0.05,
    shapes: Shapes | None = None,
    example: Example | None = None,
    time_limit: str | float | None = None,
    progress: Progress = silent,
) -> VerifiedArchitectures:
    """Measure whole networks on the table's device, and compare with what the table predicts.

    If torch is loaded, a separate process measures: memory and threads left by a training would
    slow down the measurements. The prices of a model's table are fitted on the model too; its
    prediction here comes from a fit without it.

    Args:
        networks: Architectures of the table's space, ONNX models, paths of files of either, or
            torch modules; several or one.
        table: A latency table of this machine, or its path.
        random: Number of random networks to measure as well; for a table of a model, chains of its
            segments.
        seed: Seed of the random networks.
        widths: Widths of the random networks: ``efficient``, or ``any`` width with a price.
        tolerance: Mean absolute error that is allowed, a fraction.
        shapes: Shapes of inputs that an ONNX file leaves open, by name of the input.
        example: Input of the torch modules, of the table's batch size.
        time_limit: Time to measure, as text such as ``"2min"`` or in seconds. Each network is
            visited at least once. None makes all visits that the device profile asks for.
        progress: Callback with the fraction done and a short description.

    Raises:
        InvalidValueError: There is nothing to verify.
        MismatchError: The table is for another device, machine, space or model, or its prices were
            fitted on one of the networks.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
    """
    asked_for = as_list(networks)
    if not asked_for and not random:
        raise InvalidValueError("nothing to verify: name networks, or give --random N")
    limit_s = inf if time_limit is None else as_duration_s(time_limit)
    with Phases(progress, [Phase("prepare"), Phase("measure", share=20.0)]) as phases:
        phases["prepare"](0.0, "reading the table")
        opened = open_table(table)
        profiler = profiler_of_table(opened.device)
        if is_torch_module(networks):
            asked_for = [networks]  # some are iterable
        require_example(asked_for, example)
        if not any(map(is_own_model, asked_for)):
            require_no_shapes(shapes)
        named = [
            _named(each, number, opened, shapes, example=example)
            for number, each in enumerate(asked_for, start=1)
        ]
        if random:
            named += _drawn(named, opened, random=random, seed=seed, widths=widths)
        asked = [each.network for each in named]
        measured = _measure(profiler, opened, asked, limit_s=limit_s, progress=phases["measure"])
    return VerifiedArchitectures(
        **vars(measured),
        architectures=tuple(each.architecture for each in named),
        names=tuple(each.name for each in named),
        tolerance=tolerance,
    )


def _drawn(
    named: Sequence[NamedNetwork], table: LatencyTable, *, random: int, seed: int, widths: str
) -> list[NamedNetwork]:
    """Random networks that the prices were not fitted on and that were not named.

    Raises:
        InvalidValueError: There are none, and no network was named.
    """
    known = {*table.networks, *(each.network for each in named)}
    drawn = draw_networks(table, random, seed, widths, without=known)
    if not drawn and not named:
        raise InvalidValueError(
            f"the prices were fitted on every network of {table.space.name} that can be "
            f"drawn, so none can verify them: {_OTHER_NETWORKS[is_model_table(table)]}"
        )
    return drawn


def _named(
    asked: AnyArchitecture | OwnModel,
    number: int,
    table: LatencyTable,
    shapes: Shapes | None,
    *,
    example: Example | None,
) -> NamedNetwork:
    """A network to verify.

    Raises:
        MismatchError: The table does not price it.
    """
    name = Path(asked).name if isinstance(asked, str | Path) else f"network {number}"
    if is_own_model(asked):
        own = example if is_torch_module(asked) else None
        batch_size = table.device.batch_size
        pieces = as_pieces(asked, shapes=shapes, batch_size=batch_size, example=own)
        priced = pieces_priced_by(pieces, table)
        return NamedNetwork(name, tuple(piece.segment for piece in priced))
    found, space = as_architecture(asked)  # type: ignore[arg-type]
    PricedSpace(space, table)
    return NamedNetwork(name, space.lower(found), found)


def _measure(
    profiler: Profiler,
    table: LatencyTable,
    networks: Sequence[Network],
    *,
    limit_s: float,
    progress: Progress,
) -> Verification:
    """Measure here, or in a new process if this one may have trained, which would slow it down."""
    require_device(profiler, table)
    if sys.modules.get("torch") is not None:  # None: its import is blocked
        return network_errors.verify_apart(table.path, networks, limit_s=limit_s, progress=progress)
    return network_errors.verify(profiler, table, networks, limit_s=limit_s, progress=progress)
