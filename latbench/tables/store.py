"""The latency table's file: one SQLite database, one commit a pass.

Holds what was measured, raw and for ever: targets (blocks and calibration networks), passes and
every visit's times. Beside it, never over it, what was worked out: estimates and fits, which are
written again whenever there are more visits. Killed at any moment, the file holds every finished
pass.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import numpy as np

from latbench.blocks import BlockSpec, Network, block_key, block_width, parse_block
from latbench.device import DeviceProfile
from latbench.environment import Environment
from latbench.errors import InvalidFileError
from latbench.measure.sweep import PassRecord
from latbench.measure.visit import Visit
from latbench.tables.pricing import PriceModel

T = TypeVar("T")

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x6C61746E  # "latn", in the SQLite header: tables are known by their content

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('block', 'network')),
    key TEXT NOT NULL UNIQUE,  -- canonical JSON: a block spec, or an array of them
    width INTEGER              -- elastic width of a block, in channels
);
CREATE TABLE passes (
    number INTEGER PRIMARY KEY,
    finished_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    seconds REAL NOT NULL,
    open_s REAL NOT NULL,
    calls_s REAL NOT NULL
);
CREATE TABLE visits (
    target INTEGER NOT NULL REFERENCES targets (id),
    pass INTEGER NOT NULL REFERENCES passes (number),
    hot_ns BLOB NOT NULL,      -- little-endian int64, in the order of the calls
    cold_ns BLOB NOT NULL
);
CREATE INDEX visits_by_target ON visits (target);
CREATE TABLE estimates (
    target INTEGER PRIMARY KEY REFERENCES targets (id),
    hot_ms REAL NOT NULL, hot_low_ms REAL NOT NULL, hot_high_ms REAL NOT NULL,
    cold_ms REAL, cold_low_ms REAL, cold_high_ms REAL,
    visits INTEGER NOT NULL,
    noisy INTEGER NOT NULL
);
CREATE TABLE fits (
    id INTEGER PRIMARY KEY,
    made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    price TEXT NOT NULL,       -- JSON of the price model
    floor REAL,                -- networks against themselves, two halves of the sweep
    noisy INTEGER NOT NULL     -- the floor exceeds the tolerance
);
"""


class SpaceLabel(msgspec.Struct, frozen=True):
    """Which search space a table was filled for; this package only compares labels."""

    name: str
    input_size: int
    classes: int

    def __str__(self) -> str:
        return f"{self.name} at {self.input_size} px and {self.classes} classes"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Latency of one target from its visits, in ms, with 95 % intervals.

    Attributes:
        noisy: The interval is wider than the protocol's tolerance: not to be trusted silently.
    """

    hot_ms: float
    hot_low_ms: float
    hot_high_ms: float
    cold_ms: float | None
    cold_low_ms: float | None
    cold_high_ms: float | None
    visits: int
    noisy: bool


@dataclass(frozen=True)
class StoredFit:
    """A price model with what the sweep says of itself."""

    price: PriceModel
    floor: float | None
    noisy: bool


class TableStore:
    """An open table file. Use as a context manager; opened by ``create`` or ``open``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(
        cls, path: Path, *, device: DeviceProfile, space: SpaceLabel, environment: Environment
    ) -> TableStore:
        """A new, empty table, complete from the moment that its name exists.

        Raises:
            InvalidFileError: The file cannot be created.
        """
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(unfinished)
            with closing(db):
                db.executescript(
                    f"PRAGMA application_id = {_APPLICATION_ID};"
                    f"PRAGMA user_version = {SCHEMA_VERSION}; {_SCHEMA}"
                )
                store = cls(unfinished, db)
                with db:
                    store._set("device", device)
                    store._set("space", space)
                    store._set("environment", environment)
            unfinished.replace(path)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                unfinished.unlink()
            raise InvalidFileError(f"cannot create {path}: {error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> TableStore:
        """An existing table, checked to be whole.

        Raises:
            InvalidFileError: Missing, foreign, truncated, damaged, or of a newer schema.
        """
        if not path.is_file():
            raise InvalidFileError(f"no latency table at {path}: make one with `latbench profile`")
        try:
            db = sqlite3.connect(path)
        except sqlite3.Error as error:
            raise InvalidFileError(f"cannot open {path}: {error}") from error
        try:
            if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise InvalidFileError(f"{path} is no latency table")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise InvalidFileError(
                    f"{path} has schema {version}, this latbench reads up to {SCHEMA_VERSION}: "
                    "upgrade latbench"
                )
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise InvalidFileError(f"{path} is damaged: {damage}")
        except sqlite3.DatabaseError as error:
            db.close()
            raise InvalidFileError(f"{path} is no latency table, or damaged: {error}") from error
        except InvalidFileError:
            db.close()
            raise
        return cls(path, db)

    def __enter__(self) -> TableStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # What the table is of

    @property
    def device(self) -> DeviceProfile:
        return self._get("device", DeviceProfile)

    @property
    def space(self) -> SpaceLabel:
        return self._get("space", SpaceLabel)

    @property
    def environment(self) -> Environment:
        """The environment of the last profiling run."""
        return self._get("environment", Environment)

    def record_environment(self, environment: Environment) -> None:
        with self._db:
            self._set("environment", environment)

    # Targets

    def add_targets(self, blocks: Iterable[BlockSpec], networks: Iterable[Network]) -> None:
        """Register targets; those already there keep their ids and visits."""
        rows = [("block", block_key(spec), block_width(spec)) for spec in blocks]
        rows += [("network", _network_key(network), None) for network in networks]
        with self._db:
            self._db.executemany(
                "INSERT INTO targets (kind, key, width) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                rows,
            )

    def blocks(self) -> dict[int, BlockSpec]:
        """Block specs by target id."""
        return {id_: parse_block(key) for id_, key in self._keys("block")}

    def networks(self) -> dict[int, Network]:
        """Calibration networks by target id."""
        return {id_: _parse_network(key) for id_, key in self._keys("network")}

    # Measurements

    def passes(self) -> int:
        """Number of finished passes."""
        return int(self._db.execute("SELECT count(*) FROM passes").fetchone()[0])

    def timing(self) -> dict[str, float]:
        """Seconds of all passes: in all, in opening sessions, inside timed calls."""
        row = self._db.execute(
            "SELECT total(seconds), total(open_s), total(calls_s) FROM passes"
        ).fetchone()
        return dict(zip(("seconds", "open_s", "calls_s"), row, strict=True))

    def add_pass(self, record: PassRecord) -> None:
        """Commit a finished pass, whole or not at all."""
        with self._db:
            self._db.execute(
                "INSERT INTO passes (number, seconds, open_s, calls_s) VALUES (?, ?, ?, ?)",
                (record.number, record.seconds, record.open_s, record.calls_s),
            )
            self._db.executemany(
                "INSERT INTO visits (target, pass, hot_ns, cold_ns) VALUES (?, ?, ?, ?)",
                [
                    (id_, record.number, _pack(visit.hot_ns), _pack(visit.cold_ns))
                    for id_, visit in record.visits
                ],
            )

    def visits(self) -> Iterator[tuple[int, Visit]]:
        """Target id and raw times of every visit, in the order in which they were made."""
        rows = self._db.execute(
            "SELECT target, hot_ns, cold_ns FROM visits ORDER BY pass, visits.rowid"
        )
        for target, hot, cold in rows:
            yield target, Visit(_unpack(hot), _unpack(cold))

    # What was worked out

    def set_results(self, estimates: dict[int, Estimate], fit: StoredFit) -> None:
        """Replace the estimates and add the fit that was made on them, both or neither."""
        price = msgspec.json.encode(fit.price).decode()
        with self._db:
            self._db.execute("DELETE FROM estimates")
            self._db.executemany(
                "INSERT INTO estimates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (id_, *(getattr(e, name) for name in Estimate.__slots__))
                    for id_, e in estimates.items()
                ],
            )
            self._db.execute(
                "INSERT INTO fits (price, floor, noisy) VALUES (?, ?, ?)",
                (price, fit.floor, fit.noisy),
            )

    def estimates(self) -> dict[int, Estimate]:
        """Estimates by target id."""
        rows = self._db.execute("SELECT * FROM estimates ORDER BY target")
        found = {}
        for target, *values in rows:
            named = dict(zip(Estimate.__slots__, values, strict=True))
            found[target] = Estimate(**named | {"noisy": bool(named["noisy"])})
        return found

    def fit(self) -> StoredFit | None:
        """The last fit, which is the one that prices are read with."""
        row = self._db.execute(
            "SELECT price, floor, noisy FROM fits ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        return StoredFit(msgspec.json.decode(row[0], type=PriceModel), row[1], bool(row[2]))

    # Helpers

    def _keys(self, kind: str) -> Sequence[tuple[int, str]]:
        return self._db.execute(
            "SELECT id, key FROM targets WHERE kind = ? ORDER BY id", (kind,)
        ).fetchall()

    def _set(self, key: str, value: msgspec.Struct) -> None:
        text = msgspec.json.encode(value).decode()
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def _get(self, key: str, kind: type[T]) -> T:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        try:
            return msgspec.json.decode(row[0] if row else b"", type=kind)
        except msgspec.DecodeError as error:
            raise InvalidFileError(f"{self.path} is damaged: its {key} is {error}") from error


def _network_key(network: Network) -> str:
    return f"[{','.join(block_key(spec) for spec in network)}]"


def _parse_network(key: str) -> Network:
    return tuple(parse_block(spec.decode()) for spec in _raw_list(key))


def _raw_list(key: str) -> list[bytes]:
    return [bytes(raw) for raw in msgspec.json.decode(key, type=list[msgspec.Raw])]


def _pack(times_ns: Sequence[int]) -> bytes:
    return np.asarray(times_ns, dtype="<i8").tobytes()


def _unpack(blob: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(blob, dtype="<i8").tolist())
