"""Foreign latency tables in memory, and functions that their readers share.

A reader converts bytes to entries and checks only the format. Negative latencies, repeated keys and
unknown blocks are kept and counted, so that they can be reported to the user. A file is refused
only if it cannot be a table of the format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from latbench.blocks import BlockSpec
from latbench.errors import InvalidFileError
from latbench.files import decode_text
from latbench.tables.records import SpaceLabel

Unit = Literal["ms", "s"]
MS_PER: dict[Unit, float] = {"ms": 1.0, "s": 1e3}

_MAX_ENTRIES = 500_000  # fourteen times the largest published table
_SHOWN = 60  # characters of a foreign text in a message: it may be of any length


class ForeignFormatError(Exception):
    """Reason why a file does not have the format; ``read_foreign_table`` adds file and advice."""


class Pairs(list[tuple[object, object]]):
    """A mapping as in the file: keys in order, including repeated ones.

    A dict would hide repeated keys, and hashing a malicious key may exhaust the stack.
    """


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """One entry of a foreign table.

    Attributes:
        key: Key as in the file.
        width: Elastic width in channels, if the format has widths.
        spec: Block that the entry prices; None if no known block is exactly equal.
        latency_ms: Latency of the file, converted to ms; it may be negative, infinite or NaN.
    """

    key: str
    width: int | None
    spec: BlockSpec | None
    latency_ms: float


@dataclass(frozen=True)
class ForeignTable:
    """Content of a foreign table.

    Attributes:
        entries: Entries in the order of the file, without duplicates.
        base_ms: Time of a network in addition to its entries; 0 if the format has none.
        space: Search space of the blocks, if the format implies it.
        duplicates: Number of entries dropped because a later one has the same key or block.
        defects: Other defects, in words.
    """

    entries: tuple[ForeignEntry, ...]
    base_ms: float
    space: SpaceLabel | None
    duplicates: int
    defects: tuple[str, ...] = ()

    @property
    def unmapped(self) -> int:
        """Number of entries that match no known block."""
        return sum(entry.spec is None for entry in self.entries)

    @property
    def not_finite(self) -> int:
        """Number of entries whose latency is infinite or not a number."""
        return sum(not math.isfinite(entry.latency_ms) for entry in self.entries)

    @property
    def not_positive(self) -> int:
        """Number of entries whose latency is finite, but zero or negative."""
        return sum(-math.inf < entry.latency_ms <= 0 for entry in self.entries)


@dataclass(frozen=True)
class Importer:
    """Reader of one format.

    Attributes:
        expects: Description of a correct file, for messages.
        unit: Unit that the format's own tools write.
        parse: Function that makes a table from a file's bytes and the number of milliseconds per
            unit; raises ``ForeignFormatError``.
    """

    expects: str
    unit: Unit
    parse: Callable[[bytes, float], ForeignTable]


def make_table(
    found: Iterable[ForeignEntry],
    *,
    base: Sequence[float] | None = None,
    repeated: int = 0,
    space: SpaceLabel | None = None,
) -> ForeignTable:
    """Make a table; among entries with the same key or block, the last one is kept.

    Args:
        found: All entries of the file.
        base: All base times of the file in ms; None if the format has none.
        repeated: Number of repetitions that were counted already.
        space: Search space that the format implies.

    Raises:
        ForeignFormatError: There are no entries, or more than any real table has.
    """
    total = 0
    by_identity: dict[object, ForeignEntry] = {}
    for entry in found:
        total += 1
        identity: object = (entry.key, entry.width) if entry.spec is None else entry.spec
        by_identity[identity] = entry
        if total > _MAX_ENTRIES:
            raise ForeignFormatError(f"it has more than {_MAX_ENTRIES:,} entries")
    if not by_identity:
        raise ForeignFormatError("it has no entries")
    base_ms = 0.0
    defects: list[str] = []
    if base is not None:
        repeated += max(0, len(base) - 1)
        base_ms = base[-1] if base else math.nan
        if not (base_ms > 0 and math.isfinite(base_ms)):
            state = f"is {base_ms:g} ms" if base else "is missing"
            defects.append(f"the base {state}: latencies of networks are sums of entries alone")
            base_ms = 0.0
    return ForeignTable(
        entries=tuple(by_identity.values()),
        base_ms=base_ms,
        space=space,
        duplicates=total - len(by_identity) + repeated,
        defects=tuple(defects),
    )


def milliseconds(value: object, ms_per_unit: float, *, key: str) -> float:
    """A latency of the file in ms.

    Raises:
        ForeignFormatError: The value is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ForeignFormatError(f"{shown(key)} has {shown(value)} where a latency should be")
    try:
        return float(value) * ms_per_unit
    except OverflowError:
        return math.inf


def read_text(raw: bytes) -> str:
    """The text of a file.

    Raises:
        ForeignFormatError: It is text of another encoding than UTF-8, or no text.
    """
    try:
        return decode_text(raw, source="it", what="text")
    except InvalidFileError as error:
        raise ForeignFormatError(error.message) from error


def shown(value: object) -> str:
    """Text of a foreign value for a message: one short line; containers by their type only."""
    if isinstance(value, bytes):
        return "bytes"
    if not isinstance(value, str | int | float | None):
        return "a mapping" if isinstance(value, Pairs) else f"a {type(value).__name__.strip('_')}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a huge number"
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
