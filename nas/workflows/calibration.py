"""Calibration of a table at whole networks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import inf
from typing import Any

from latbench.errors import LatbenchWarning
from latbench.profilers import profiler_of_table
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable, StoredFit
from latbench.tables.price_model import PriceModel
from latbench.units import as_duration_s
from latbench.workflows import network_errors
from nas.workflows.drawn_networks import draw_networks
from nas.workflows.inputs import AnyTable

_STREAM = 2  # gives other networks than ``verify`` draws with the same seed


@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """Prices of a table before and after a calibration.

    Attributes:
        fit: New prices.
        before: Price model before the calibration.
    """

    fit: StoredFit
    before: PriceModel

    def as_dict(self) -> dict[str, Any]:
        """Errors before and after as plain JSON values."""
        price = self.fit.price
        return {
            "networks": price.networks,
            "loo_error": price.loo_error,
            "max_loo_error": max(map(abs, price.left_out_errors)),
            "loo_error_before": self.before.loo_error,
            "interval_half_width": price.half_width(),
            "floor": self.fit.floor,
        }


def calibrate(
    table: AnyTable,
    *,
    networks: int = 24,
    seed: int = 0,
    widths: str = "efficient",
    time_limit: str | float | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Measure more random networks, and fit the prices of a table to them too.

    Predictions then come with a 90 % interval. A call that was interrupted goes on with its
    networks; after one that was not, the same seed gives others. An open table keeps its old
    prices: open it again to use the new ones. Calibrate before you train in the same process:
    memory and threads left by a training slow down the measurements.

    Args:
        table: A latency table of this machine, or its path.
        networks: Number of networks to add; for a table of a model, of chains of its segments.
        seed: Seed of the networks; ``verify`` draws other networks with the same seed.
        widths: Widths of the networks: ``efficient``, or ``any`` width with a price.
        time_limit: Time to measure, as text such as ``"2min"`` or in seconds. Each network is
            visited at least once. None makes all visits that the device profile asks for.
        progress: Callback with the fraction done and a short description.

    Raises:
        MismatchError: The table is for another device, machine or version of the runtime.
        MissingExtraError: The device's runtime is not installed.
        DeviceBusyError: Another process measures on the device.
    """
    limit_s = inf if time_limit is None else as_duration_s(time_limit)
    with Phases(progress, [Phase("prepare"), Phase("calibrate", share=20.0)]) as phases:
        phases["prepare"](0.0, "reading the table")
        path = table.path if isinstance(table, LatencyTable) else table
        opened = LatencyTable.open(path)  # with the networks that were added since it was opened
        profiler = profiler_of_table(opened.device)
        seeds, known = [seed, _STREAM], opened.networks
        drawn = draw_networks(opened, networks, seeds, widths, without=known)
        if not drawn:
            warnings.warn(
                f"the prices were fitted on all networks of {opened.space.name} that can be drawn: "
                "nothing is measured, and they are fitted again",
                LatbenchWarning,
                stacklevel=2,
            )
        fit = network_errors.calibrate(
            profiler,
            opened,
            [each.network for each in drawn],
            limit_s=limit_s,
            progress=phases["calibrate"],
        )
    return Calibration(fit, opened.price_model)
