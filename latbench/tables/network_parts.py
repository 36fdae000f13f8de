"""A network's predicted latency divided among its blocks."""

from __future__ import annotations

from dataclasses import dataclass

from latbench.blocks import BlockSpec, Network
from latbench.tables.table import LatencyTable


@dataclass(frozen=True)
class Part:
    """What one block adds to the latency of a network.

    Attributes:
        block: The block; None for the time that a network pays once.
        latency_ms: Its share of the latency in ms; all shares add up to the prediction.
        low_ms: Lower end of the 95 % interval of its price, with the same part of the excess.
        high_ms: Upper end of that interval.
        source: Origin of the price; empty for the time that a network pays once.
    """

    block: BlockSpec | None
    latency_ms: float
    low_ms: float
    high_ms: float
    source: str


def network_parts(table: LatencyTable, network: Network) -> list[Part]:
    """Divide the predicted latency of a network among its blocks, in the order of execution.

    The weights of a network that do not fit into the caches cost time. This excess is divided by
    the blocks' share of the footprint.

    Raises:
        MismatchError: The table does not price one of the blocks.
    """
    prices = [table.price(spec) for spec in network]
    sizes = [table.footprint_bytes(spec) for spec in network]
    model, total_bytes = table.price_model, sum(sizes)
    sum_ms = sum(price.price_ms for price in prices)
    excess_ms = model.network_latency_ms(sum_ms, total_bytes) - sum_ms - model.network_ms
    parts = []
    for spec, price, size in zip(network, prices, sizes, strict=True):
        more_ms = excess_ms * size / total_bytes if total_bytes else 0.0
        ends = (price.price_ms + more_ms, price.low_ms + more_ms, price.high_ms + more_ms)
        parts.append(Part(spec, *ends, price.source))
    if model.network_ms:
        parts.append(Part(None, model.network_ms, model.network_ms, model.network_ms, ""))
    return parts
