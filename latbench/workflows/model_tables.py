"""Latency tables of one model: what they are filled with, and what they predict.

A table of a search space prices blocks and is fitted on random networks. A table of a model prices
the model's segments and is fitted on the model and on chains of its segments.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from latbench.blocks import Network, Segment
from latbench.errors import InvalidValueError, MismatchError
from latbench.models.segments import Piece
from latbench.profilers import Profiler
from latbench.progress import Progress, silent
from latbench.tables import LatencyTable, Prediction, SpaceLabel, TableStore
from latbench.tables.price_model import MIN_NETWORKS
from latbench.workflows.fused_segments import join_fused, joined_where
from latbench.workflows.profiled_table import TableContents

_PREFIX = "model-"  # of a label's name, before the digest of the network
SEARCH = 0.2  # share of the time for finding fused neighbours
_SHORTEST = 0.25  # of the network, shortest chain
_LEFT_OUT_LIMIT = 0.05  # mean error of networks left out, above which the sum is not trusted


def pieces_to_price(
    profiler: Profiler,
    path: Path,
    pieces: Sequence[Piece],
    *,
    limit_s: float,
    progress: Progress = silent,
) -> tuple[Piece, ...]:
    """Pieces of a model as a table prices them: neighbours that the runtime fuses are joined.

    Args:
        profiler: Profiler of the device.
        path: Table of the model. If it exists, its networks say which neighbours were joined;
            otherwise this is measured.
        pieces: Segments of the model, in the order of execution.
        limit_s: Wall time of the whole profiling, in s; finding them takes a fifth at most, or as
            long as five passes.
        progress: Callback that reports the progress.

    Raises:
        InvalidFileError: The file is not a latency table.
        DeviceBusyError: Another process measures on the device.
        RuntimeFailure: The runtime refused a segment.
    """
    if path.exists():
        with TableStore.open(path) as store:
            known = {spec for network in store.networks("profile").values() for spec in network}
        if known:
            return joined_where(pieces, known.__contains__)
    joined = join_fused(profiler, pieces, limit_s=SEARCH * limit_s, progress=progress)
    few = len(chains(_network(joined), MIN_NETWORKS, seed=0)) < MIN_NETWORKS - 1  # and the whole
    return tuple(pieces) if few else joined


def model_contents(
    pieces: Sequence[Piece], count: int, *, whole: Sequence[Piece] | None = None
) -> TableContents:
    """Segments to price, and networks to fit the prices on: the model and chains of its segments.

    Args:
        pieces: Segments or blocks of the model, in the order of execution.
        count: Number of networks; short models have fewer.
        whole: The pieces before fused neighbours were joined, which identify the model; ``pieces``
            if None.

    Raises:
        InvalidValueError: The model has too few segments.
    """
    network = _network(pieces)
    networks = [network, *chains(network, count - 1, seed=0)]
    if len(networks) < MIN_NETWORKS:
        raise InvalidValueError(
            f"the network has {len(network)} segments, which are too few to tell apart: measure "
            "the whole with `latbench bench`"
        )
    label = model_label(whole or pieces)
    return TableContents(label, list(dict.fromkeys(network)), networks)


def _network(pieces: Sequence[Piece]) -> Network:
    return tuple(piece.segment for piece in pieces)


def chains(
    network: Network,
    count: int,
    *,
    seed: int | Sequence[int],
    without: Collection[Network] = (),
) -> list[Network]:
    """Distinct contiguous parts of a network, drawn at random, of at least a quarter of its length.

    The network itself is not among them, nor any of ``without``. Short networks have fewer than
    ``count``.
    """
    length, shortest = len(network), max(1, round(len(network) * _SHORTEST))
    ends = [(i, j) for i in range(length) for j in range(i + shortest, length + 1)]
    parts = [part for part in dict.fromkeys(network[i:j] for i, j in ends) if part != network]
    drawn = (parts[pick] for pick in np.random.default_rng(seed).permutation(len(parts)))
    return [part for part in drawn if part not in without][:count]


def part_name(whole: Network, part: Network) -> str:
    """Name of a chain in results: the places of its segments in the whole, from 1."""
    first = next(i for i in range(len(whole)) if whole[i : i + len(part)] == part)
    return f"segments {first + 1} to {first + len(part)}"


def model_label(pieces: Sequence[Piece]) -> SpaceLabel:
    """Label of the table of a model, from its pieces before fused neighbours were joined."""
    network = _network(pieces)
    digest = sha256(repr(network).encode()).hexdigest()[:8]
    last = network[-1]
    classes = last.output_shape[-1] if isinstance(last, Segment) and last.output_shape else 1
    return SpaceLabel(f"{_PREFIX}{digest}", network[0].input_size, classes)


def is_model_table(table: LatencyTable) -> bool:
    """Whether a table was filled for a model instead of a search space."""
    return table.space.name.startswith(_PREFIX)


def table_model(table: LatencyTable) -> Network:
    """The network that a table of a model was filled for.

    Raises:
        MismatchError: The table was filled for a search space.
    """
    if not is_model_table(table):
        raise MismatchError(f"{table.path} prices {table.space}, which is not one model")
    return next(iter(table.networks))  # the first that was registered


def pieces_priced_by(pieces: Sequence[Piece], table: LatencyTable) -> tuple[Piece, ...]:
    """Pieces of a model as a table prices them.

    Raises:
        MismatchError: The table does not price a segment.
    """
    joined = joined_where(pieces, table.__contains__)
    for piece in joined:
        if piece.segment not in table:
            raise MismatchError(
                f"{table.path} does not price {piece.name} ({piece.segment}): it was filled for "
                f"{table.space}; profile this model into another file"
            )
    return joined


def is_trusted(table: LatencyTable) -> bool:
    """Whether a table of a model predicts: chains left out of its fit err by at most 5 %."""
    error = table.price_model.loo_error
    return error is None or error <= _LEFT_OUT_LIMIT


def predict_model(pieces: Sequence[Piece], table: LatencyTable) -> Prediction:
    """Predict the latency of a model from the prices of its segments.

    Raises:
        MismatchError: The table does not price a segment, or its prices err by more than 5 % on
            chains left out of their fit.
    """
    network = _network(pieces_priced_by(pieces, table))
    if not is_trusted(table):
        raise MismatchError(
            f"{table.path} gives no latency: on chains left out of its fit it errs by "
            f"{table.price_model.loo_error:.1%}, more than {_LEFT_OUT_LIMIT:.0%}; profile for "
            "longer, or measure the whole with `latbench bench`"
        )
    return table.predict(network)
