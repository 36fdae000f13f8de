"""Measurements of a latency table, one commit a pass.

The file keeps all raw measurements: the targets (blocks and whole networks), the sweeps with their
passes, and the times of every visit. Estimates and fits are stored in separate tables and replaced
when there are more visits; raw measurements are never overwritten. If the process is killed at any
moment, the file still holds every finished pass.

Only latencies of the same sweep can be compared directly. The profiling is one sweep, however often
it is resumed. Each calibration and each verification is another sweep. All sweeps visit the same
networks, so the drift between them can be estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from latbench.blocks import BlockSpec, Network, block_key, block_width, parse_block
from latbench.conditions import Conditions
from latbench.environment import Environment
from latbench.measure.sweep import PassRecord
from latbench.measure.visit import Visit
from latbench.tables.records import Estimate, Purpose, Role, StoredFit
from latbench.tables.table_file import TableFile, shape_key

_DONE, _ABANDONED = 1, 2  # how a sweep ended; 0 while it may be resumed


class TableStore(TableFile):
    """An open table file with its measurements, estimates and fits."""

    # Targets

    def add_blocks(self, blocks: Iterable[BlockSpec], role: Role = "block") -> None:
        """Register blocks; blocks that are registered already keep their ids, roles and visits."""
        self._add_targets(
            (role, block_key(spec), block_width(spec), shape_key(spec)) for spec in blocks
        )

    def add_networks(self, networks: Iterable[Network], role: Role) -> list[int]:
        """Register networks; return all their ids, including those of known networks."""
        keys = [_network_key(network) for network in networks]
        self._add_targets((role, key, None, None) for key in keys)
        find = "SELECT id FROM targets WHERE key = ?"
        return [int(self._db.execute(find, (key,)).fetchone()[0]) for key in keys]

    def _add_targets(self, rows: Iterable[tuple[Role, str, int | None, str | None]]) -> None:
        with self._db:
            self._db.executemany(
                "INSERT INTO targets (role, key, width, shape) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                rows,
            )

    def blocks(self, *roles: Role) -> dict[int, BlockSpec]:
        """Block specs by target id: those with one of the roles, or all if no role is given."""
        return {id_: parse_block(key) for id_, key in self._keys(roles or ("block", "held-out"))}

    def networks(self, *roles: Role) -> dict[int, Network]:
        """Whole networks with one of the roles, by target id."""
        return {id_: _parse_network(key) for id_, key in self._keys(roles)}

    # Measurements

    def begin_sweep(
        self,
        purpose: Purpose,
        environment: Environment,
        *,
        detail: str = "",
        within_s: float | None = None,
    ) -> int:
        """Resume the unfinished sweep of this purpose and detail, or begin a new one.

        Args:
            purpose: Purpose of the sweep.
            environment: Present state of the machine.
            detail: Text that must be equal in the sweep to resume.
            within_s: Maximum age of the last pass of the sweep to resume, in s; None for no limit.
                An older sweep is abandoned: its visits stay, and nothing is fitted on them.

        Returns:
            Id of the sweep.
        """
        row = self._db.execute(
            "SELECT sweeps.id, (julianday('now') - julianday(max(finished_at))) * 86400 "
            "FROM sweeps LEFT JOIN passes ON passes.sweep = sweeps.id "
            "WHERE purpose = ? AND detail = ? AND NOT done "
            "GROUP BY sweeps.id ORDER BY sweeps.id DESC LIMIT 1",
            (purpose, detail),
        ).fetchone()
        if row:
            if within_s is None or row[1] is None or row[1] <= within_s:
                return int(row[0])
            self._end_sweep(int(row[0]), _ABANDONED)
        taken = msgspec.json.encode(environment).decode()
        with self._db:
            cursor = self._db.execute(
                "INSERT INTO sweeps (purpose, detail, environment) VALUES (?, ?, ?)",
                (purpose, detail, taken),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish_sweep(self, sweep: int) -> None:
        """Mark a sweep as done, so that it is not resumed."""
        self._end_sweep(sweep, _DONE)

    def _end_sweep(self, sweep: int, how: int) -> None:
        with self._db:
            self._db.execute("UPDATE sweeps SET done = ? WHERE id = ?", (how, sweep))

    def profiling(self) -> int | None:
        """Id of the profiling sweep, which is never marked as done; None before it began."""
        begun = self.sweeps("profile", done=False)
        return begun[0] if begun else None

    def passes(self, sweep: int) -> int:
        """Number of finished passes of a sweep."""
        counted = self._db.execute("SELECT count(*) FROM passes WHERE sweep = ?", (sweep,))
        return int(counted.fetchone()[0])

    def timing(self, sweep: int) -> dict[str, float]:
        """Total time of a sweep's passes, and its parts in opening sessions and in timed calls."""
        row = self._db.execute(
            "SELECT total(seconds), total(open_s), total(calls_s) FROM passes WHERE sweep = ?",
            (sweep,),
        ).fetchone()
        return dict(zip(("seconds", "open_s", "calls_s"), row, strict=True))

    def conditions(self) -> list[Conditions]:
        """Conditions of the device after each pass of the profiling, where they are known."""
        rows = self._db.execute(
            "SELECT conditions FROM passes WHERE sweep = ? AND conditions IS NOT NULL "
            "ORDER BY number",
            (self.profiling(),),
        )
        return [self._decode("conditions", text, Conditions) for (text,) in rows]

    def add_pass(self, sweep: int, record: PassRecord) -> None:
        """Commit a finished pass in one transaction."""
        with self._db:
            cursor = self._db.execute(
                "INSERT INTO passes (sweep, number, seconds, open_s, calls_s, conditions) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    sweep,
                    record.number,
                    record.seconds,
                    record.open_s,
                    record.calls_s,
                    msgspec.json.encode(record.conditions).decode(),
                ),
            )
            self._db.executemany(
                "INSERT INTO visits (target, pass, hot_ns, cold_ns) VALUES (?, ?, ?, ?)",
                [
                    (id_, cursor.lastrowid, _pack(visit.hot_ns), _pack(visit.cold_ns))
                    for id_, visit in record.visits
                ],
            )

    def visits(self, sweep: int) -> Iterator[tuple[int, Visit]]:
        """Target id and raw times of every visit of a sweep, in the order of measurement."""
        return ((target, visit) for _, target, visit in self.numbered_visits(sweep))

    def numbered_visits(self, sweep: int) -> Iterator[tuple[int, int, Visit]]:
        """Number of the pass, target id and raw times of every visit of a sweep, in order."""
        rows = self._db.execute(
            "SELECT passes.number, target, hot_ns, cold_ns FROM visits "
            "JOIN passes ON passes.id = visits.pass "
            "WHERE sweep = ? ORDER BY passes.number, visits.rowid",
            (sweep,),
        )
        for number, target, hot, cold in rows:
            yield number, target, Visit(_unpack(hot), _unpack(cold))

    def purposes(self) -> dict[int, Purpose]:
        """Purpose of every sweep, by id, oldest first."""
        return dict(self._db.execute("SELECT id, purpose FROM sweeps ORDER BY id").fetchall())

    def pass_ends(self, sweep: int) -> dict[int, str]:
        """Date and time, UTC, at which each pass of a sweep ended, by the number of the pass."""
        rows = self._db.execute(
            "SELECT number, finished_at FROM passes WHERE sweep = ? ORDER BY number", (sweep,)
        )
        return dict(rows.fetchall())

    def sweeps(self, purpose: Purpose, *, done: bool = True) -> list[int]:
        """Ids of the sweeps of a purpose that are done, or not ended, oldest first."""
        rows = self._db.execute(
            "SELECT id FROM sweeps WHERE purpose = ? AND done = ? ORDER BY id", (purpose, done)
        )
        return [int(row[0]) for row in rows]

    def detail(self, sweep: int) -> str:
        """Text that a sweep has in common with those that resume it."""
        found = self._db.execute("SELECT detail FROM sweeps WHERE id = ?", (sweep,)).fetchone()
        return str(found[0])

    # Estimates and fits

    def set_results(self, estimates: dict[int, Estimate], fit: StoredFit) -> None:
        """Replace the estimates and add the fit made on them, in one transaction."""
        text = msgspec.json.encode(fit).decode()
        with self._db:
            self._db.execute("DELETE FROM estimates")
            self._db.executemany(
                "INSERT INTO estimates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (id_, *(getattr(e, name) for name in Estimate.__slots__))
                    for id_, e in estimates.items()
                ],
            )
            self._db.execute("INSERT INTO fits (fit) VALUES (?)", (text,))
            self.keep_widths()

    def set_transferred(self, estimates: Mapping[BlockSpec, Estimate]) -> None:
        """Replace the estimates that were transferred from another device's table."""
        ids = {spec: id_ for id_, spec in self.blocks().items()}
        with self._db:
            self._db.execute("DELETE FROM told")
            self._db.executemany(
                "INSERT INTO told VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (ids[spec], *(getattr(e, name) for name in Estimate.__slots__))
                    for spec, e in estimates.items()
                ],
            )

    def transferred(self) -> dict[int, Estimate]:
        """Estimates that were transferred from another device's table, by target id."""
        return self._estimates("told")

    def estimates(self, ids: Iterable[int] | None = None) -> dict[int, Estimate]:
        """Estimates by target id, of some targets or of all."""
        if ids is None:
            return self._estimates("estimates")
        find = "SELECT * FROM estimates WHERE target = ?"
        rows = (self._db.execute(find, (id_,)).fetchone() for id_ in ids)
        return {row[0]: Estimate.of_row(row[1:]) for row in rows if row}

    @property
    def most_estimates(self) -> int:
        """Number of estimates, or more: the largest id of a target that has one."""
        found = self._db.execute("SELECT max(target) FROM estimates").fetchone()[0]
        return int(found or 0)

    def unpriced(self) -> int:
        """Number of blocks that are registered but have no estimate."""
        found = self._db.execute(
            "SELECT count(*) FROM targets LEFT JOIN estimates ON estimates.target = targets.id "
            "WHERE role IN ('block', 'held-out') AND estimates.target IS NULL"
        )
        return int(found.fetchone()[0])

    @property
    def fit_id(self) -> int:
        """Id of the last fit."""
        return int(self._db.execute("SELECT max(id) FROM fits").fetchone()[0])

    def _estimates(self, name: Literal["estimates", "told"]) -> dict[int, Estimate]:
        rows = self._db.execute(f"SELECT * FROM {name} ORDER BY target")
        return {target: Estimate.of_row(values) for target, *values in rows}

    def fit(self) -> StoredFit | None:
        """The last fit, which defines the prices; None if there is none yet."""
        row = self._db.execute("SELECT fit FROM fits ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else self._decode("fit", row[0], StoredFit)

    def _keys(self, roles: Sequence[Role]) -> Sequence[tuple[int, str]]:
        marks = ", ".join("?" * len(roles))
        return self._db.execute(
            f"SELECT id, key FROM targets WHERE role IN ({marks}) ORDER BY id", tuple(roles)
        ).fetchall()


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
