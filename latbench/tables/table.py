"""A latency table for readers: prices of blocks and latencies of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from latbench.blocks import BlockSpec, Network, block_key
from latbench.conditions import Conditions
from latbench.cost import block_cost
from latbench.device import DeviceProfile
from latbench.environment import Environment
from latbench.errors import InvalidFileError, MismatchError
from latbench.tables.estimation import can_work_out, work_out
from latbench.tables.price_model import PriceModel
from latbench.tables.records import (
    Estimate,
    Origin,
    Prediction,
    Price,
    SpaceLabel,
    StoredFit,
    TableCheck,
)
from latbench.tables.store import TableStore
from latbench.tables.stored_estimates import AT_ONCE, StoredEstimates
from latbench.tables.width_curves import Curves, Knots


class LatencyTable:
    """Prices of blocks on one device, read from a table file.

    Attributes:
        path: File of the table.
        device: Device profile that was measured.
        space: Search space that the blocks belong to.
        environment: State of the machine at the last profiling run.
        estimates: Measured estimates, by block.
        networks: Measured estimates of the networks that prices were fitted on, by network.
        curves: Estimates over width.
        fit: Price model with its quality measures.
        conditions: Temperature and clock of the device after each pass of the profiling, where they
            are known.
        verified: Those of ``networks`` that were measured to verify them or their budgets.
        origin: Source of an imported table; None if the table was measured here.
        kept: Number of imported entries without a price, because they match no known block or
            their latency is not a number.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: DeviceProfile,
        space: SpaceLabel,
        environment: Environment,
        estimates: Mapping[BlockSpec, Estimate],
        networks: dict[Network, Estimate],
        curves: Curves,
        included: frozenset[BlockSpec],
        fit: StoredFit,
        origin: Origin | None,
        kept: int = 0,
        verified: frozenset[Network] = frozenset(),
        conditions: Sequence[Conditions] = (),
        unpriced: Callable[[], int] = lambda: 0,
    ) -> None:
        self.path = path
        self.device = device
        self.space = space
        self.environment = environment
        self.estimates = estimates
        self.networks = networks
        self.curves = curves
        self.fit = fit
        self.origin = origin
        self.kept = kept
        self.verified = verified
        self.conditions = tuple(conditions)
        self._included = included
        self._unpriced = unpriced
        self._doubt = fit.held_out_p95 or 0.0
        self._prices_ms: dict[BlockSpec, float | None] = dict.fromkeys(included, 0.0)
        self._footprints_bytes: dict[BlockSpec, float] = {}
        self._estimates: dict[BlockSpec, Estimate | None] = {}

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a table file.

        Raises:
            InvalidFileError: The file is not a latency table, is damaged, or has no prices yet.
        """
        path = Path(path)
        with TableStore.open(path) as store:
            fit = store.fit()
            if fit is None and (store.most_estimates or can_work_out(store)):
                fit = work_out(store, store.device.sweep)  # of an earlier schema, or killed before
            if fit is None:
                raise InvalidFileError(
                    f"{path} has no prices yet: its profiling was stopped early; "
                    "run the same `latbench profile` command again"
                )
            estimates, knots = _block_estimates(store)
            # in the order of the fit, for its left-out errors
            networks = store.networks("profile") | store.networks("calibration", "verification")
            by_id = store.estimates(networks)
            return cls(
                path,
                device=store.device,
                space=store.space,
                environment=store.environment,
                estimates=estimates,
                networks={n: by_id[id_] for id_, n in networks.items() if id_ in by_id},
                curves=Curves(store.alignment, knots),
                included=frozenset(store.blocks("included").values()),
                fit=fit,
                origin=store.origin,
                kept=store.kept_entries,
                verified=frozenset(store.networks("verification").values()),
                conditions=store.conditions(),
                unpriced=partial(_unpriced, path),
            )

    def __repr__(self) -> str:
        blocks = f"{len(self.estimates)} blocks measured"
        return f"LatencyTable({str(self.path)!r}: {self.space} on {self.device.name}, {blocks})"

    @property
    def price_model(self) -> PriceModel:
        return self.fit.price

    def __contains__(self, spec: BlockSpec) -> bool:
        return self._price_ms(spec) is not None

    def price_ms(self, spec: BlockSpec) -> float:
        """Price of a block in ms, without the time that a network pays once.

        Raises:
            MismatchError: The table does not price this block.
        """
        found = self._price_ms(spec)
        if found is None:
            raise MismatchError(
                f"{self.path} does not price {spec}: it was filled for {self.space}"
            )
        return found

    def _price_ms(self, spec: BlockSpec) -> float | None:
        if spec not in self._prices_ms:
            e = self._estimate(spec)
            self._prices_ms[spec] = None if e is None else self._at(spec, e.cold_ms, e.hot_ms)
        return self._prices_ms[spec]

    def _estimate(self, spec: BlockSpec) -> Estimate | None:
        """Measured or interpolated estimate of a block; None if there is none."""
        if spec not in self._estimates:
            self._estimates[spec] = self.estimates.get(spec) or self.curves.between(spec)
        return self._estimates[spec]

    def read_ahead(self, specs: Iterable[BlockSpec]) -> None:
        """Read the estimates of many blocks that will be asked for, all at once."""
        if isinstance(self.estimates, StoredEstimates):
            self.estimates.read(spec for spec in specs if spec not in self._prices_ms)

    def footprint_bytes(self, spec: BlockSpec) -> float:
        """Cache space that a priced block needs between two calls of its network, in bytes."""
        if spec not in self._footprints_bytes:
            e = self._estimate(spec) if self.price_model.fill_bytes_per_ms else None
            self._footprints_bytes[spec] = self.price_model.footprint_bytes(
                block_cost(spec).weight_bytes, e.hot_ms if e else 0.0
            )
        return self._footprints_bytes[spec]

    def price(self, spec: BlockSpec) -> Price:
        """Price of a block with its interval and its source.

        The interval of an interpolated price also includes the interpolation error: the error that
        95 % of the held-out widths stay below.

        Raises:
            MismatchError: The table does not price this block.
        """
        middle_ms = self.price_ms(spec)
        if spec in self._included:
            return Price(middle_ms, middle_ms, middle_ms, "included")
        measured = self.estimates.get(spec)
        e = self._estimate(spec)
        assert e is not None, "a price comes from an estimate"
        doubt_ms = 0.0 if measured else self._doubt * middle_ms
        return Price(
            middle_ms,
            min(middle_ms, max(0.0, self._at(spec, e.cold_low_ms, e.hot_low_ms) - doubt_ms)),
            self._at(spec, e.cold_high_ms, e.hot_high_ms) + doubt_ms,
            self._source(measured) if measured else "interpolated",
            e.noisy,
        )

    def _is_noisy(self, spec: BlockSpec) -> bool:
        estimate = self._estimate(spec)
        return estimate is not None and estimate.noisy and spec not in self._included

    def _source(self, estimate: Estimate) -> Literal["measured", "transferred", "imported"]:
        if estimate.visits:
            return "measured"
        return "imported" if self.origin else "transferred"

    def _at(self, spec: BlockSpec, cold_ms: float | None, hot_ms: float) -> float:
        """Price of a block with these latencies; the hot latency replaces a missing cold one."""
        model = self.price_model
        counted = model.near_ms_per_byte != 0  # counting takes longer than all else
        return model.block_price_ms(
            cold_ms,
            hot_ms,
            weight_bytes=block_cost(spec).weight_bytes if counted else 0,
        )

    def predict(self, network: Iterable[BlockSpec]) -> Prediction:
        """Predict the latency of a whole network, for the whole batch, with its 90 % interval.

        Left-out errors of 100 % and more bound nothing: the interval is then None.

        Raises:
            MismatchError: The table does not price one of its blocks.
        """
        specs = tuple(network)
        self.read_ahead(specs)
        prices_ms = sum(self.price_ms(spec) for spec in specs)
        counted = specs if self.price_model.knees else ()  # counting takes longer than all else
        footprint_bytes = sum(self.footprint_bytes(spec) for spec in counted)
        return self._predicted(self.price_model.network_latency_ms(prices_ms, footprint_bytes))

    def predict_left_out(self, network: Network) -> Prediction:
        """Predict the latency of a network that the prices were fitted on, by a fit without it.

        Raises:
            MismatchError: The prices were not fitted on this network.
        """
        errors = dict(zip(self.networks, self.price_model.left_out_errors, strict=True))
        if network not in errors:
            raise MismatchError(f"{self.path} was not fitted on this network")
        return self._predicted(self.networks[network].hot_ms * (1 + errors[network]))

    def _predicted(self, latency_ms: float) -> Prediction:
        """A latency with its 90 % interval."""
        half_width = self.price_model.half_width() if self.fit.calibrated else None
        if half_width is None or half_width >= 1:
            return Prediction(latency_ms)
        return Prediction(latency_ms, latency_ms / (1 + half_width), latency_ms / (1 - half_width))

    def require_space(self, space: SpaceLabel) -> None:
        """Check that the table belongs to this space.

        Raises:
            MismatchError: The table belongs to another space.
        """
        if space != self.space:
            raise MismatchError(f"{self.path} prices {self.space}, not {space}")

    def check(self, now: Environment | None) -> TableCheck:
        """Find unreliable entries.

        Args:
            now: The present environment; None if the device cannot run here.
        """
        origin = self.origin
        between = (spec for spec in self.curves.between_specs() if spec not in self.estimates)
        return TableCheck(
            entries=len(self.estimates) + self.kept,
            unmapped=origin.unmapped if origin else 0,
            not_finite=origin.not_finite if origin else 0,
            duplicates=origin.duplicates if origin else 0,
            negative=_keys(spec for spec in self.estimates if self.price_ms(spec) <= 0),
            noisy=_keys(spec for spec in (*self.estimates, *between) if self._is_noisy(spec)),
            unpriced=self._unpriced(),
            stale=tuple(now.differences(self.environment)) if now else (),
        )

    def as_dict(self) -> dict[str, Any]:
        """The table's description and its measured entries as plain JSON values."""
        from latbench.tables.formats import describe, entries

        return describe(self) | {"entries": entries(self)}

    def export(self, path: str | Path, file_format: str = "json") -> None:
        """Write the table for other programs.

        Args:
            path: File to write; an existing file is replaced.
            file_format: ``json``, ``csv`` or ``parquet``. Each has one row for every priced block,
                with latencies in ms.

        Raises:
            UnknownNameError: No such format.
            MissingExtraError: The format needs a package that is not installed.
            InvalidFileError: The file cannot be written.
        """
        from latbench.tables.formats import write_table

        write_table(self, Path(path), file_format)

    def to_dataframe(self, *, interpolated: bool = False) -> Any:
        """Convert to a pandas data frame with one row for every priced block, latencies in ms.

        Args:
            interpolated: Whether to add rows for widths between measured ones. Their measured
                columns are empty.

        Returns:
            A ``pandas.DataFrame`` with the columns ``latbench.tables.formats.COLUMNS``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from latbench.tables.formats import to_dataframe

        return to_dataframe(self, interpolated=interpolated)


def _block_estimates(
    store: TableStore,
) -> tuple[Mapping[BlockSpec, Estimate], Mapping[BlockSpec, Estimate] | Knots]:
    """Estimates of all measured blocks, and those that curves may use.

    Held-out widths only check the curves. The estimates of a large table stay in its file.
    """
    if store.most_estimates > AT_ONCE:
        stored = StoredEstimates(store.path, store.fit_id, store.measured_widths)
        return stored, stored
    by_id = store.estimates()
    measured, held_out = (
        {spec: by_id[id_] for id_, spec in store.blocks(role).items() if id_ in by_id}
        for role in ("block", "held-out")
    )
    return measured | held_out, measured


def _unpriced(path: Path) -> int:
    """Number of blocks that are registered but not measured yet."""
    with TableStore.open(path) as store:
        return store.unpriced()


def _keys(specs: Iterable[BlockSpec]) -> tuple[str, ...]:
    return tuple(block_key(spec) for spec in specs)
