"""Estimates of the blocks of a large table, read from its file when they are needed.

A table of a profiling has about a thousand measured blocks, which are read at once. Imported tables
may have every width of every block: a million of them take eight seconds to read, and a prediction
needs twenty.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote
from weakref import finalize

from latbench.blocks import BlockSpec, block_key, parse_block
from latbench.errors import InvalidFileError
from latbench.tables.records import Estimate
from latbench.tables.width_curves import Knots

AT_ONCE = 5000
"""Largest number of estimates that are read at once."""

_CHECK_EVERY_S = 0.1  # for a newer fit; a check takes half as long as a query
_KEYS = 500  # largest number of keys in a query; SQLite allows 999 or more
_COLUMNS = ", ".join(f"estimates.{name}" for name in Estimate.__slots__)
_JOINED = "FROM targets JOIN estimates ON estimates.target = targets.id"


class StoredEstimates(Knots, Mapping[BlockSpec, Estimate]):
    """The estimates in a table's file, of one fit.

    Args:
        path: File of the table.
        fit: Id of the fit. If there is a newer one, its estimates may be others.
        widths: All measured widths.
    """

    def __init__(self, path: Path, fit: int, widths: tuple[int, ...]) -> None:
        self._path, self._fit, self._widths = path, fit, widths
        self._db: sqlite3.Connection | None = None
        self._check_s = 0.0
        self._known: dict[BlockSpec, Estimate | None] = {}
        self._all: dict[BlockSpec, Estimate] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredEstimates, (self._path, self._fit, self._widths)

    def __getitem__(self, spec: BlockSpec) -> Estimate:
        found = self._find(spec)
        if found is None:
            raise KeyError(spec)
        return found

    def get(self, spec: BlockSpec, default: Any = None) -> Any:
        found = self._find(spec)
        return default if found is None else found

    def __contains__(self, spec: object) -> bool:
        return self._find(spec) is not None  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[BlockSpec]:
        return iter(self._everything())

    def __len__(self) -> int:
        return len(self._everything())

    def of_shape(self, shape: BlockSpec) -> dict[int, Estimate]:
        rows = self._rows(
            f"SELECT targets.width, {_COLUMNS} {_JOINED} "
            "WHERE shape = ? AND role = 'block' ORDER BY targets.width",
            block_key(shape),
        )
        return {width: Estimate.of_row(values) for width, *values in rows}

    def shapes(self) -> list[BlockSpec]:
        rows = self._rows(
            f"SELECT shape {_JOINED} WHERE shape IS NOT NULL AND role = 'block' "
            "GROUP BY shape ORDER BY min(targets.id)"
        )
        return [parse_block(key) for (key,) in rows]

    def widths(self) -> tuple[int, ...]:
        return self._widths

    def _find(self, spec: BlockSpec) -> Estimate | None:
        if self._all is not None:
            return self._all.get(spec)
        if spec not in self._known:
            self.read((spec,))
        return self._known[spec]

    def read(self, specs: Iterable[BlockSpec]) -> None:
        """Read the estimates of several blocks with one query, and keep them."""
        if self._all is not None:
            return
        by_key = {block_key(spec): spec for spec in specs if spec not in self._known}
        keys = list(by_key)
        for start in range(0, len(keys), _KEYS):
            part = keys[start : start + _KEYS]
            rows = self._rows(
                f"SELECT targets.key, {_COLUMNS} {_JOINED} "
                # with a plus, SQLite cannot choose the index of roles and read nearly all blocks
                f"WHERE key IN ({', '.join('?' * len(part))}) AND +role IN ('block', 'held-out')",
                *part,
            )
            found = {key: Estimate.of_row(values) for key, *values in rows}
            self._known |= {by_key[key]: found.get(key) for key in part}

    def _everything(self) -> dict[BlockSpec, Estimate]:
        if self._all is None:
            rows = self._rows(
                f"SELECT targets.key, {_COLUMNS} {_JOINED} WHERE role IN ('block', 'held-out') "
                "ORDER BY role, targets.id"
            )
            self._all = {parse_block(key): Estimate.of_row(values) for key, *values in rows}
        return self._all

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Rows of a query.

        Raises:
            InvalidFileError: The file is gone, damaged, or has a newer fit.
        """
        try:
            if self._db is None:
                address = f"file:{quote(str(self._path.resolve()))}?mode=ro"
                self._db = sqlite3.connect(address, uri=True, check_same_thread=False)
                finalize(self, self._db.close)
            if monotonic() >= self._check_s:
                newest = self._db.execute("SELECT max(id) FROM fits").fetchone()[0]
                if newest != self._fit:
                    raise InvalidFileError(
                        f"{self._path} was fitted again since it was opened: open it once more"
                    )
                self._check_s = monotonic() + _CHECK_EVERY_S
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise InvalidFileError(f"cannot read {self._path}: {error}") from error
