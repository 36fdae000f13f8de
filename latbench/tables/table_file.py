"""File format of a latency table: one SQLite database with a schema, a version and a description.

The description says what was measured: device profile, search space, environment, width classes,
and the source of an imported table. ``latbench.tables.store`` reads and writes the measurements.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from latbench.device import DeviceProfile
from latbench.environment import Environment
from latbench.errors import InvalidFileError
from latbench.tables.alignment import Alignment
from latbench.tables.records import Origin, SpaceLabel

T = TypeVar("T")

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x6C61746E  # "latn" in the SQLite header, which identifies a latency table

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (
    id INTEGER PRIMARY KEY,
    role TEXT NOT NULL,        -- a Role
    key TEXT NOT NULL UNIQUE,  -- canonical JSON: a block spec, or an array of them
    width INTEGER              -- elastic width of a block, in channels
);
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL,     -- a Purpose
    detail TEXT NOT NULL,      -- what a resumed sweep must have in common with this one
    environment TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE passes (
    id INTEGER PRIMARY KEY,
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    number INTEGER NOT NULL,
    finished_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    seconds REAL NOT NULL,
    open_s REAL NOT NULL,
    calls_s REAL NOT NULL,
    UNIQUE (sweep, number)
);
CREATE TABLE visits (
    target INTEGER NOT NULL REFERENCES targets (id),
    pass INTEGER NOT NULL REFERENCES passes (id),
    hot_ns BLOB NOT NULL,      -- little-endian int64, in the order of the calls
    cold_ns BLOB NOT NULL
);
CREATE INDEX visits_by_pass ON visits (pass);
CREATE TABLE estimates (
    target INTEGER PRIMARY KEY REFERENCES targets (id),
    hot_ms REAL NOT NULL, hot_low_ms REAL NOT NULL, hot_high_ms REAL NOT NULL,
    cold_ms REAL, cold_low_ms REAL, cold_high_ms REAL,
    visits INTEGER NOT NULL,
    noisy INTEGER NOT NULL
);
CREATE TABLE told (                -- estimates from another table, for blocks not measured here
    target INTEGER PRIMARY KEY REFERENCES targets (id),
    hot_ms REAL NOT NULL, hot_low_ms REAL NOT NULL, hot_high_ms REAL NOT NULL,
    cold_ms REAL, cold_low_ms REAL, cold_high_ms REAL,
    visits INTEGER NOT NULL,
    noisy INTEGER NOT NULL
);
CREATE TABLE foreign_entries (
    key TEXT NOT NULL,         -- as the foreign table has it
    width INTEGER,
    latency_ms REAL            -- null where it is no number
);
CREATE TABLE fits (
    id INTEGER PRIMARY KEY,
    made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    fit TEXT NOT NULL          -- JSON of a StoredFit
);
"""


class TableFile:
    """An open table file and its description, made by ``create`` or ``open``.

    Use it as a context manager.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(
        cls, path: Path, *, device: DeviceProfile, space: SpaceLabel, environment: Environment
    ) -> Self:
        """Create an empty table. The file appears at ``path`` only when it is complete.

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
                    f"PRAGMA user_version = {SCHEMA_VERSION}; BEGIN; {_SCHEMA} COMMIT;"
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
    def open(cls, path: Path) -> Self:
        """Open an existing table and check that it is not damaged.

        Raises:
            InvalidFileError: The file is missing, not a latency table, truncated or damaged, or
                has a newer schema.
        """
        if not path.is_file():
            raise InvalidFileError(f"no latency table at {path}: make one with `latbench profile`")
        try:
            db = sqlite3.connect(path)
        except sqlite3.Error as error:
            raise InvalidFileError(f"cannot open {path}: {error}") from error
        try:
            if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise InvalidFileError(f"{path} is not a latency table")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise InvalidFileError(
                    f"{path} has schema {version}, this latbench reads up to {SCHEMA_VERSION}: "
                    "upgrade latbench"
                )
            if version < SCHEMA_VERSION:
                raise InvalidFileError(
                    f"{path} has schema {version} of an unreleased latbench: profile again"
                )
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise InvalidFileError(f"{path} is damaged: {damage}")
        except sqlite3.DatabaseError as error:
            db.close()
            raise InvalidFileError(f"{path} is not a latency table, or damaged: {error}") from error
        except InvalidFileError:
            db.close()
            raise
        return cls(path, db)

    def __enter__(self) -> Self:
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

    @property
    def device(self) -> DeviceProfile:
        return self._get("device", DeviceProfile)

    @property
    def space(self) -> SpaceLabel:
        return self._get("space", SpaceLabel)

    @property
    def environment(self) -> Environment:
        """The environment of the last profiling run, with the remarks of all sweeps."""
        return self._get("environment", Environment)

    def record_environment(self, environment: Environment) -> None:
        with self._db:
            self._set("environment", environment)

    @property
    def origin(self) -> Origin | None:
        """Source of an imported table; None if the table was measured here."""
        return self._get("origin", Origin) if self._has("origin") else None

    def record_origin(self, origin: Origin, kept: Iterable[tuple[str, int | None, float]]) -> None:
        """Record the source of an imported table, and its entries that match no known block."""
        with self._db:
            self._set("origin", origin)
            self._db.executemany(
                "INSERT INTO foreign_entries VALUES (?, ?, ?)",
                [(key, width, ms if isfinite(ms) else None) for key, width, ms in kept],
            )

    @property
    def kept_entries(self) -> int:
        """Number of entries of an imported table that match no known block."""
        return int(self._db.execute("SELECT count(*) FROM foreign_entries").fetchone()[0])

    @property
    def alignment(self) -> Alignment | None:
        """Width classes of the runtime; None until they are known."""
        return self._get("alignment", Alignment) if self._has("alignment") else None

    def record_alignment(self, alignment: Alignment) -> None:
        with self._db:
            self._set("alignment", alignment)

    def _set(self, key: str, value: msgspec.Struct) -> None:
        text = msgspec.json.encode(value).decode()
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def _has(self, key: str) -> bool:
        found = self._db.execute("SELECT 1 FROM meta WHERE key = ?", (key,)).fetchone()
        return found is not None

    def _get(self, key: str, kind: type[T]) -> T:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return self._decode(key, row[0] if row else b"", kind)

    def _decode(self, what: str, text: str | bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise InvalidFileError(f"{self.path} is damaged: its {what} is {error}") from error
