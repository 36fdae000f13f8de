"""What a foreign latency table becomes, and what its readers share.

A reader turns bytes into entries and judges nothing: negative latencies, repeated keys and blocks
that are unknown here are kept and counted, because whoever imports a table has to be told. What is
refused is a file that cannot be such a table at all.
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
    """Why a file is not of the format; ``read_foreign_table`` adds which file and what to do."""


class Pairs(list[tuple[object, object]]):
    """A mapping as the file has it: keys in order, repeated ones included.

    A dict would hide repetitions, and computing the hash of a hostile key may exhaust the stack.
    """


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """One priced thing of a foreign table.

    Attributes:
        key: As the file has it.
        width: Elastic width in channels, where the format has one.
        spec: The block that it prices; None if no block here is exactly that.
        latency_ms: As the file has it but for the unit: perhaps negative, infinite or NaN.
    """

    key: str
    width: int | None
    spec: BlockSpec | None
    latency_ms: float


@dataclass(frozen=True)
class ForeignTable:
    """A foreign table as it was found.

    Attributes:
        entries: In the order of the file, no block and no key with its width twice.
        base_ms: What a network takes on top of its entries; 0 where the format has none.
        space: The space whose blocks these are, where the format implies it.
        duplicates: Entries dropped because a later one has the same key or prices the same block.
        defects: What else is wrong, in words.
    """

    entries: tuple[ForeignEntry, ...]
    base_ms: float
    space: SpaceLabel | None
    duplicates: int
    defects: tuple[str, ...] = ()

    @property
    def unmapped(self) -> int:
        """Entries that price no block known here."""
        return sum(entry.spec is None for entry in self.entries)

    @property
    def not_finite(self) -> int:
        """Entries whose latency is infinite or no number."""
        return sum(not math.isfinite(entry.latency_ms) for entry in self.entries)

    @property
    def not_positive(self) -> int:
        """Entries whose latency is finite, but zero or negative."""
        return sum(-math.inf < entry.latency_ms <= 0 for entry in self.entries)


@dataclass(frozen=True)
class Importer:
    """The reader of one format.

    Attributes:
        expects: What the file should be, for messages.
        unit: The unit in which the format's own tools write.
        parse: Makes a table of a file's bytes and the milliseconds a unit; raises
            ``ForeignFormatError``.
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
    """Put a table together; of entries for the same thing the last stands, as in a dict.

    Args:
        found: Every entry of the file.
        base: Every base of the file in ms; None where the format has none.
        repeated: Repetitions that were counted already.
        space: The space that the format implies.

    Raises:
        ForeignFormatError: There is no entry, or more than any table has.
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
        ForeignFormatError: The value is no number.
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
    """A foreign value in a message: one line, cut, and containers by their kind alone."""
    if isinstance(value, bytes):
        return "bytes"
    if not isinstance(value, str | int | float | None):
        return "a mapping" if isinstance(value, Pairs) else f"a {type(value).__name__.strip('_')}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a huge number"
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
