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
from typing import Self, TypeVar
from weakref import finalize

import msgspec

from latbench.blocks import BlockSpec, block_key, block_width, parse_block, with_width
from latbench.device import DeviceProfile, SweepProtocol
from latbench.environment import Environment
from latbench.errors import InvalidFileError, is_read_only
from latbench.files import appear
from latbench.tables.alignment import Alignment
from latbench.tables.records import Origin, SpaceLabel

T = TypeVar("T")

SCHEMA_VERSION = 5
_MOST_CHECKED_BYTES = 64 << 20  # the check of a larger file would take longer than its reading
_APPLICATION_ID = 0x6C61746E  # "latn" in the SQLite header, which identifies a latency table

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (
    id INTEGER PRIMARY KEY,
    role TEXT NOT NULL,        -- a Role
    key TEXT NOT NULL UNIQUE,  -- canonical JSON: a block spec, or an array of them
    width INTEGER,             -- elastic width of a block, in channels
    shape TEXT                 -- the key of such a block at width 0
);
CREATE INDEX targets_by_role ON targets (role);
CREATE INDEX targets_by_shape ON targets (shape);
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY,
    purpose TEXT NOT NULL,     -- a Purpose
    detail TEXT NOT NULL,      -- what a resumed sweep must have in common with this one
    environment TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0  -- 1: complete, 2: abandoned before it was
);
CREATE TABLE passes (
    id INTEGER PRIMARY KEY,
    sweep INTEGER NOT NULL REFERENCES sweeps (id),
    number INTEGER NOT NULL,
    finished_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    seconds REAL NOT NULL,
    open_s REAL NOT NULL,
    calls_s REAL NOT NULL,
    conditions TEXT,           -- JSON of the device's Conditions after the pass
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
        self._close = finalize(self, connection.close)  # Python 3.13 warns if it is left open

    @classmethod
    def create(
        cls, path: Path, *, device: DeviceProfile, space: SpaceLabel, environment: Environment
    ) -> Self:
        """Create an empty table. The file appears at ``path`` only when it is complete.

        Raises:
            InvalidFileError: The file cannot be created, or there is one.
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
            appear(unfinished, path)
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
            if version in _CONVERSIONS:
                _convert(db, path)
            elif version < SCHEMA_VERSION:
                raise InvalidFileError(
                    f"{path} has schema {version} of an unreleased latbench: profile again"
                )
            checked = path.stat().st_size <= _MOST_CHECKED_BYTES
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0] if checked else "ok"
            if damage != "ok":
                raise InvalidFileError(f"{path} is damaged: {damage}")
        except sqlite3.DatabaseError as error:
            db.close()
            raise InvalidFileError(f"{path} is not a latency table, or damaged: {error}") from error
        except BaseException:  # a refusal, or an interrupt of a conversion
            db.close()
            raise
        return cls(path, db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._close()

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

    def record_protocol(self, sweep: SweepProtocol) -> None:
        """Record the protocol of the present run; the device is the same under any protocol."""
        with self._db:
            self._set("device", msgspec.structs.replace(self.device, sweep=sweep))

    def record_environment(self, environment: Environment) -> None:
        with self._db:
            self._set("environment", environment)

    @property
    def origin(self) -> Origin | None:
        """Source of an imported table; None if the table was measured here."""
        return self._get("origin", Origin) if self._has("origin") else None

    def record_origin(self, origin: Origin, kept: Iterable[tuple[str, int | None, float]]) -> None:
        """Record the source of an imported table, and its entries that get no price."""
        with self._db:
            self._set("origin", origin)
            self._db.executemany(
                "INSERT INTO foreign_entries VALUES (?, ?, ?)",
                [(key, width, ms if isfinite(ms) else None) for key, width, ms in kept],
            )

    @property
    def kept_entries(self) -> int:
        """Number of entries of an imported table that have no price."""
        return int(self._db.execute("SELECT count(*) FROM foreign_entries").fetchone()[0])

    @property
    def alignment(self) -> Alignment | None:
        """Width classes of the runtime; None until they are known."""
        return self._get("alignment", Alignment) if self._has("alignment") else None

    def record_alignment(self, alignment: Alignment) -> None:
        with self._db:
            self._set("alignment", alignment)

    @property
    def measured_widths(self) -> tuple[int, ...]:
        """All measured widths of the blocks that curves go through."""
        return self._get("widths", tuple[int, ...])

    def keep_widths(self) -> None:
        """Keep the list of all measured widths, after estimates have changed."""
        _keep_widths(self._db)

    def unfinished(self, key: str, kind: type[T]) -> T | None:
        """Record of unfinished work that ``record_unfinished`` kept under this key, or None."""
        return self._get(f"unfinished {key}", kind) if self._has(f"unfinished {key}") else None

    def record_unfinished(self, key: str, value: msgspec.Struct | None) -> None:
        """Keep a record of unfinished work; None removes it when the work is done."""
        with self._db:
            if value is None:
                self._db.execute("DELETE FROM meta WHERE key = ?", (f"unfinished {key}",))
            else:
                self._set(f"unfinished {key}", value)

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


def shape_key(spec: BlockSpec) -> str | None:
    """Key of a block at width 0; None if its width is not elastic."""
    return None if block_width(spec) is None else block_key(with_width(spec, 0))


def _keep_widths(db: sqlite3.Connection) -> None:
    """Keep the list of all measured widths, which would take long to collect."""
    rows = db.execute(
        "SELECT DISTINCT width FROM targets JOIN estimates ON estimates.target = targets.id "
        "WHERE role = 'block' AND width IS NOT NULL ORDER BY width"
    )
    text = msgspec.json.encode([width for (width,) in rows]).decode()
    db.execute("INSERT OR REPLACE INTO meta VALUES ('widths', ?)", (text,))


def _convert(db: sqlite3.Connection, path: Path) -> None:
    """Bring a table of an earlier schema up to date, or not at all; its measurements stay.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    try:
        with db:
            db.execute("BEGIN IMMEDIATE")  # else every change of the schema is committed at once
            version = db.execute("PRAGMA user_version").fetchone()[0]  # another may be faster
            for number in range(version, SCHEMA_VERSION):
                _CONVERSIONS[number](db)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except sqlite3.OperationalError as error:
        if not is_read_only(error):
            raise
        raise InvalidFileError(
            f"{path} is of an earlier latbench: it is converted when it is opened, and it cannot "
            "be written; copy it to a folder of your own"
        ) from error


def _drop_fits(db: sqlite3.Connection) -> None:
    """Remove the fits of a measured table; the next reader makes a new one from the visits."""
    if db.execute("SELECT 1 FROM passes LIMIT 1").fetchone():
        db.execute("DELETE FROM fits")


def _from_schema_2(db: sqlite3.Connection) -> None:
    """Price models lose two coefficients, passes get their conditions.

    The coefficients are without effect in an imported table. A measured table loses its fits.
    """
    _drop_fits(db)
    removed = "'$.price.slow_scale', '$.price.slow_copies'"
    db.execute(f"UPDATE fits SET fit = json_remove(fit, {removed})")
    db.execute("ALTER TABLE passes ADD COLUMN conditions TEXT")


def _from_schema_3(db: sqlite3.Connection) -> None:
    """Blocks get the keys of their shapes, by which large tables are read."""
    db.execute("ALTER TABLE targets ADD COLUMN shape TEXT")
    rows = db.execute("SELECT key, id FROM targets WHERE width IS NOT NULL").fetchall()
    shapes = ((shape_key(parse_block(key)), id_) for key, id_ in rows)
    db.executemany("UPDATE targets SET shape = ? WHERE id = ?", shapes)
    db.execute("CREATE INDEX targets_by_role ON targets (role)")
    db.execute("CREATE INDEX targets_by_shape ON targets (shape)")
    _keep_widths(db)


def _from_schema_4(db: sqlite3.Connection) -> None:
    """Low quantiles are at another level, so a measured table loses its fits."""
    _drop_fits(db)


_CONVERSIONS = {2: _from_schema_2, 3: _from_schema_3, 4: _from_schema_4}
