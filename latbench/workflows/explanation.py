"""Where the milliseconds of a network go: prices of its segments beside the measured whole.

Segments measured alone add up to more than the network: each call has its own overhead, and inside
a network weights are cold. So segments are profiled like the blocks of a search space: one sweep
visits them, the network and chains of its segments, and prices are fitted on the last two.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from latbench.blocks import BlockSpec, Segment
from latbench.cost import Cost, block_cost
from latbench.device import DeviceProfile
from latbench.device_files import AnyDevice, as_device
from latbench.errors import InvalidValueError
from latbench.models import OnnxModel, require_inputs
from latbench.models.segments import Piece, cut, misaligned_channels
from latbench.models.torch_modules import Example, is_torch_module, require_example
from latbench.profilers import make_profiler
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.tables import LatencyTable, Price
from latbench.units import as_duration_s
from latbench.workflows.bench import AnyModel, read_any
from latbench.workflows.model_tables import (
    SEARCH,
    is_trusted,
    model_contents,
    pieces_priced_by,
    pieces_to_price,
)
from latbench.workflows.profiling import profile
from latbench.workflows.table_checks import open_table

_NEAR_LEAST = 2.0  # times the cheapest segment, below which a latency is mostly overhead
_CACHES = 8  # times the L2 cache, above which weights are read from memory
_GOOD = 0.75  # quantile of the segments' rates that a slow one is compared with
_FAR_BELOW = 0.4  # of that rate
_WORTH_ADVICE = 0.01  # share of a segment that advice is given for


@dataclass(frozen=True)
class SegmentLatency:
    """Part of a network's latency.

    Attributes:
        name: Name of the segment's main operator, or of the block.
        nodes: Names of its nodes; empty for a block.
        latency_ms: Price of the segment inside the network.
        low_ms: Lower end of its 95 % interval.
        high_ms: Upper end of its 95 % interval.
        share: Part of the sum over segments.
        macs_m: Multiply-accumulates of the whole batch, in millions.
        gmacs_per_s: Rate of multiply-accumulates, in 10^9 a second; None for a block that an
            imported table counts within its base time.
        gbytes_per_s: Rate at which weights and outputs are moved, in 10^9 bytes a second; every
            number counts as four bytes. None as above.
        advice: What is wrong with the segment; None if nothing was found.
    """

    name: str
    nodes: tuple[str, ...]
    latency_ms: float
    low_ms: float
    high_ms: float
    share: float
    macs_m: float
    gmacs_per_s: float | None
    gbytes_per_s: float | None
    advice: str | None


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """Latency of a network by segment.

    Attributes:
        predicted_ms: Latency according to the prices of the segments; None if the prices err by
            more than 5 % on chains that were left out of their fit.
        measured_ms: Measured latency of the whole network; None if the table does not have it.
        measured_low_ms: Lower end of its 95 % interval.
        measured_high_ms: Upper end of its 95 % interval.
        segments: Parts in the order of execution.
        left_out_error: Mean error of chains of segments that were left out of the fit.
    """

    predicted_ms: float | None
    measured_ms: float | None
    measured_low_ms: float | None
    measured_high_ms: float | None
    segments: tuple[SegmentLatency, ...]
    left_out_error: float | None


def explain(
    model: AnyModel,
    device: AnyDevice | None = None,
    *,
    table: LatencyTable | str | Path | None = None,
    output: str | Path | None = None,
    example: Example | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    time_limit: str | float = "2min",
    progress: Progress = silent,
) -> Explanation:
    """Say where the latency of a network comes from.

    Args:
        model: An ONNX model, the path of its file, a torch module, or a network of block specs.
        device: A device profile, its name or its path; the network is measured there.
        table: Instead of a device, a table that prices the network's segments or blocks.
        output: With a device, path of the latency table of the segments; the same call resumes
            from it. By default the table is not kept.
        example: Input of a torch module, which is exported in evaluation mode: a tensor, or
            several as a tuple or by name of the argument.
        shapes: Shapes of inputs that a file leaves open, by name of the input.
        batch_size: Number of images a call, for a file that leaves its first dimension open and
            for a network of block specs.
        time_limit: Duration of the measurement, as text such as ``"2min"`` or in seconds.
        progress: Callback that reports the progress.

    Raises:
        InvalidFileError: The file is not an ONNX model, or cannot be cut into segments.
        InvalidValueError: Neither or both of device and table are given; an output or another batch
            size with a table; or a torch module cannot be exported.
        MismatchError: The table does not price the network.
        RuntimeFailure: The runtime refused a segment.
        DeviceBusyError: Another process measures on the device.
    """
    if (device is None) == (table is None):
        raise InvalidValueError("give a device to measure on, or a table to read, and not both")
    if table is not None and output is not None:
        raise InvalidValueError("nothing is measured with a table: leave out the output (-o)")
    require_example([model], example)
    if table is not None:
        opened = open_table(table)
        if batch_size not in (None, opened.device.batch_size):
            raise InvalidValueError(
                f"the table has latencies of {opened.device.batch_size} images a call: leave out "
                "the batch size, or profile with it"
            )
        pieces = _pieces(model, shapes, batch_size, example=example, device=opened.device)
        return _explain(pieces, opened)
    assert device is not None
    profiled = as_device(device, batch_size=batch_size)
    pieces = _pieces(model, shapes, batch_size, example=example, device=profiled)
    limit_s = as_duration_s(time_limit)
    if output is not None:
        return _measure(pieces, profiled, Path(output), limit_s, progress)
    with tempfile.TemporaryDirectory() as folder:
        return _measure(pieces, profiled, Path(folder) / "segments.sqlite", limit_s, progress)


def _pieces(
    model: AnyModel,
    shapes: Mapping[str, tuple[int, ...]] | None,
    batch_size: int | None,
    *,
    example: Example | None,
    device: DeviceProfile,
) -> tuple[Piece, ...]:
    """Segments of an ONNX model, or blocks of a network."""
    if batch_size is None and not is_torch_module(model):  # a module has that of its example
        batch_size = device.batch_size
    read = read_any(model, shapes, batch_size, example=example)
    if isinstance(read, OnnxModel):
        require_inputs(shapes or {}, [read])
        return cut(read)
    return tuple(Piece(f"{at}: {spec}", (), spec) for at, spec in enumerate(read, start=1))


def _measure(
    pieces: Sequence[Piece],
    device: DeviceProfile,
    path: Path,
    limit_s: float,
    progress: Progress,
) -> Explanation:
    """Profile the segments of a network into a table, and explain the network by it."""
    # each segment is of interest by itself, not only in predictions
    sweep = msgspec.structs.replace(device.sweep, design="uniform")
    profiler = make_profiler(msgspec.structs.replace(device, sweep=sweep))
    parts = [Phase("join", seconds=SEARCH * limit_s), Phase("profile", seconds=limit_s)]
    with Phases(progress, parts) as phases:
        joined = pieces_to_price(profiler, path, pieces, limit_s=limit_s, progress=phases["join"])
        contents = model_contents(joined, device.sweep.networks, whole=pieces)
        made = profile(profiler, path, contents, time_limit_s=limit_s, progress=phases["profile"])
        if made.interrupted:
            raise KeyboardInterrupt
        return _explain(pieces, LatencyTable.open(path))


def _explain(pieces: Sequence[Piece], table: LatencyTable) -> Explanation:
    pieces = pieces_priced_by(pieces, table)
    network = tuple(piece.segment for piece in pieces)
    prices = [table.price(spec) for spec in network]
    total_ms = sum(price.price_ms for price in prices)
    costs = [_batch_cost(spec, table.device.batch_size) for spec in network]
    rates = [_rates(cost, price) for cost, price in zip(costs, prices, strict=True)]
    good = np.quantile([rate for rate in rates if rate], _GOOD, axis=0).tolist()
    least_ms = min(price.price_ms for price, rate in zip(prices, rates, strict=True) if rate)
    measured = table.networks.get(network)
    return Explanation(
        table.predict(network).latency_ms if is_trusted(table) else None,
        measured.hot_ms if measured else None,
        measured.hot_low_ms if measured else None,
        measured.hot_high_ms if measured else None,
        tuple(
            SegmentLatency(
                piece.name,
                piece.nodes,
                price.price_ms,
                price.low_ms,
                price.high_ms,
                price.price_ms / total_ms,
                cost.macs / 1e6,
                rate[0] if rate else None,
                rate[1] if rate else None,
                _advice(
                    spec,
                    rate,
                    good,
                    near_least=price.price_ms < _NEAR_LEAST * least_ms,
                    l2_bytes=table.environment.l2_bytes,
                )
                if rate and price.price_ms >= _WORTH_ADVICE * total_ms
                else None,
            )
            for piece, spec, cost, price, rate in zip(
                pieces, network, costs, prices, rates, strict=True
            )
        ),
        table.price_model.loo_error,
    )


Rates = tuple[float, float]
"""Achieved 10^9 multiply-accumulates and bytes a second."""


def _batch_cost(spec: BlockSpec, batch_size: int) -> Cost:
    """Cost of a block for the batch that is priced; a segment is counted so already."""
    cost = block_cost(spec)
    if isinstance(spec, Segment):
        return cost
    return replace(
        cost,
        conv_macs=batch_size * cost.conv_macs,
        linear_macs=batch_size * cost.linear_macs,
        activation_bytes=batch_size * cost.activation_bytes,
    )


def _rates(cost: Cost, price: Price) -> Rates | None:
    """Rates of a block; None for one without a price of its own."""
    if price.source == "included":
        return None
    seconds = max(price.price_ms, 1e-6) / 1e3
    moved = cost.weight_bytes + cost.activation_bytes
    return cost.macs / seconds / 1e9, moved / seconds / 1e9


def _advice(
    spec: BlockSpec, rate: Rates, good: Sequence[float], *, near_least: bool, l2_bytes: int
) -> str | None:
    """The likeliest cause of a low rate; None if the rate is not low.

    Args:
        spec: The block.
        rate: Its rates.
        good: Rates of the faster blocks.
        near_least: Whether its latency is near that of the fastest block.
        l2_bytes: L2 cache of the device; 0 if unknown.
    """
    shares = [own / max(top, 1e-9) for own, top in zip(rate, good, strict=True)]
    if max(shares) >= _FAR_BELOW:
        return None
    if isinstance(spec, Segment):
        odd = misaligned_channels(spec)
        if odd:
            return f"channels {', '.join(map(str, odd))} are not multiples of 4: round them up"
    if near_least:
        return "it is mostly the overhead of a call: merge it with a neighbour"
    if isinstance(spec, Segment) and {"Transpose", "Reshape"} & set(spec.operators.split()):
        return "it changes the layout of its data"
    if l2_bytes and block_cost(spec).weight_bytes > _CACHES * l2_bytes:
        return "its weights exceed the caches and are read from memory"
    return f"it reaches {shares[0]:.0%} of the fast segments' rate of multiply-accumulates"
