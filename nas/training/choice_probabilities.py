"""Probabilities of operations and depths after every epoch of a relaxed search, in a run folder.

``probabilities.jsonl`` has one JSON line for each epoch. Reports draw them; no search reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from nas.spaces import SearchSpace

FILE = "probabilities.jsonl"
LEFT_OUT = "left out"  # name of the choice to leave a layer out
_DIGITS = 5


class ChoiceProbabilities(msgspec.Struct, frozen=True):
    """Probabilities after one epoch.

    Attributes:
        phase: Name of the training in metrics.
        epoch: The epoch, counted from 0 as in metrics.
        ops: Probability of each operation, by stage and layer.
        depths: Probability of each depth, by stage.
    """

    phase: str
    epoch: int
    ops: tuple[tuple[dict[str, float], ...], ...]
    depths: tuple[dict[str, float], ...]


def log_probabilities(
    folder: Path,
    space: SearchSpace,
    phase: str,
    epoch: int,
    *,
    ops: Sequence[Sequence[Sequence[float]]],
    depths: Sequence[Sequence[float]],
) -> None:
    """Append the probabilities of an epoch to the file of a run folder.

    Args:
        folder: The run folder.
        space: Space of the choices.
        phase: Name of the training in metrics.
        epoch: The epoch, counted from 0.
        ops: Probabilities of the operations, by stage and layer; one more in a row is that of
            leaving the layer out.
        depths: Probabilities of the depths that each stage may have.
    """
    line = ChoiceProbabilities(
        phase,
        epoch,
        tuple(
            tuple(
                _named((*layer.ops, LEFT_OUT), row) for layer, row in zip(layers, rows, strict=True)
            )
            for layers, rows in zip(space.stages, ops, strict=True)
        ),
        tuple(_named(space.depths(stage), row) for stage, row in enumerate(depths)),
    )
    path = folder / FILE
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")  # by a killed process
    with path.open("ab") as file:
        file.write(b"\n" * cut + msgspec.json.encode(line) + b"\n")


def _named(names: Iterable[object], row: Sequence[float]) -> dict[str, float]:
    return {str(name): round(value, _DIGITS) for name, value in zip(names, row, strict=False)}


def read_probabilities(folder: Path) -> list[ChoiceProbabilities]:
    """Probabilities of all epochs of a run, in order; empty for a run without them.

    A killed process may leave half a line, or an epoch that was trained once more: half lines are
    left out, and the last line of an epoch counts.
    """
    path = folder / FILE
    found: dict[tuple[str, int], ChoiceProbabilities] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            known = msgspec.json.decode(line, type=ChoiceProbabilities)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        found[known.phase, known.epoch] = known
    return sorted(found.values(), key=lambda each: each.epoch)
