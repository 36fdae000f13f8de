"""A latency table as the rest of the program reads it: prices of blocks, latencies of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from latbench.blocks import BlockSpec, Network, block_key
from latbench.cost import BYTES_PER_FLOAT, block_cost
from latbench.device import DeviceProfile
from latbench.environment import Environment
from latbench.errors import InvalidFileError, MismatchError
from latbench.tables.pricing import PriceModel
from latbench.tables.store import Estimate, SpaceLabel, StoredFit, TableStore


@dataclass(frozen=True)
class Prediction:
    """Predicted latency of a network in ms; the interval is null until one was calibrated."""

    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None


@dataclass(frozen=True)
class TableCheck:
    """What ``table check`` found.

    Attributes:
        entries: Priced blocks.
        negative: Keys of blocks whose price is not positive.
        noisy: Keys of blocks whose interval is wider than the tolerance.
        unpriced: Blocks that were registered but have no measurement yet.
        stale: What differs between the table's environment and the present one.
    """

    entries: int
    negative: tuple[str, ...]
    noisy: tuple[str, ...]
    unpriced: int
    stale: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not (self.negative or self.noisy or self.unpriced or self.stale)


class LatencyTable:
    """Prices of blocks on one device, read from a table file.

    Attributes:
        path: The file.
        device: The device profile that was measured.
        space: The search space whose blocks these are.
        environment: The machine at the last profiling run.
        estimates: What was measured, by block.
        networks: The calibration networks, with what was measured on them.
        fit: The price model with the sweep's floor.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: DeviceProfile,
        space: SpaceLabel,
        environment: Environment,
        estimates: dict[BlockSpec, Estimate],
        networks: dict[Network, Estimate],
        unpriced: int,
        fit: StoredFit,
    ) -> None:
        self.path = path
        self.device = device
        self.space = space
        self.environment = environment
        self.estimates = estimates
        self.networks = networks
        self.unpriced = unpriced
        self.fit = fit
        price = fit.price
        self._prices_ms = {
            spec: price.block_price_ms(e.cold_ms or e.hot_ms, e.hot_ms)
            for spec, e in estimates.items()
        }

    @classmethod
    def open(cls, path: Path) -> LatencyTable:
        """Read a table file.

        Raises:
            InvalidFileError: The file is no table, is damaged, or has no fitted prices yet.
        """
        with TableStore.open(path) as store:
            fit = store.fit()
            if fit is None:
                raise InvalidFileError(
                    f"{path} has no prices yet: its profiling was stopped early; "
                    "run the same `latbench profile` command again"
                )
            by_id = store.estimates()
            blocks = store.blocks()
            return cls(
                path,
                device=store.device,
                space=store.space,
                environment=store.environment,
                estimates={spec: by_id[id_] for id_, spec in blocks.items() if id_ in by_id},
                networks={n: by_id[id_] for id_, n in store.networks().items() if id_ in by_id},
                unpriced=sum(id_ not in by_id for id_ in blocks),
                fit=fit,
            )

    @property
    def price_model(self) -> PriceModel:
        return self.fit.price

    def __contains__(self, spec: BlockSpec) -> bool:
        return spec in self._prices_ms

    def price_ms(self, spec: BlockSpec) -> float:
        """Price of a block in ms, without the terms that a network pays once.

        Raises:
            MismatchError: The table does not price this block.
        """
        try:
            return self._prices_ms[spec]
        except KeyError:
            raise MismatchError(
                f"{self.path} does not price {block_key(spec)}: it was filled for {self.space}, at "
                "widths divisible by 8; `latbench fit` brings an architecture to priced widths"
            ) from None

    def price_interval_ms(self, spec: BlockSpec) -> tuple[float, float]:
        """Prices in ms at the ends of the block's measured 95 % interval."""
        e, price = self.estimates[spec], self.price_model
        low = price.block_price_ms(e.cold_low_ms or e.hot_low_ms, e.hot_low_ms)
        high = price.block_price_ms(e.cold_high_ms or e.hot_high_ms, e.hot_high_ms)
        return low, high

    def predict(self, network: Iterable[BlockSpec]) -> Prediction:
        """Latency of a whole network, for the whole batch.

        Raises:
            MismatchError: The table does not price one of its blocks.
        """
        prices_ms, parameters = 0.0, 0
        for spec in network:
            prices_ms += self.price_ms(spec)
            parameters += block_cost(spec).params
        latency_ms = self.price_model.network_latency_ms(prices_ms, parameters * BYTES_PER_FLOAT)
        return Prediction(latency_ms)

    def require_space(self, space: SpaceLabel) -> None:
        """Refuse to price another space's networks.

        Raises:
            MismatchError: The labels differ.
        """
        if space != self.space:
            raise MismatchError(f"{self.path} prices {self.space}, not {space}")

    def check(self, now: Environment | None) -> TableCheck:
        """Look for entries that are not to be trusted.

        Args:
            now: The present environment, or None where the device cannot run here.
        """
        return TableCheck(
            entries=len(self._prices_ms),
            negative=self._keys(lambda spec: self._prices_ms[spec] <= 0),
            noisy=self._keys(lambda spec: self.estimates[spec].noisy),
            unpriced=self.unpriced,
            stale=tuple(now.differences(self.environment)) if now else (),
        )

    def _keys(self, wanted: Callable[[BlockSpec], bool]) -> tuple[str, ...]:
        return tuple(block_key(spec) for spec in self._prices_ms if wanted(spec))
