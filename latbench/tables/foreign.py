"""Import of a foreign table: prices are taken over unchanged, defects are kept and counted."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from latbench.blocks import BlockSpec
from latbench.device import IMPORTED, DeviceProfile
from latbench.environment import unknown_environment
from latbench.errors import InvalidFileError
from latbench.files import appear
from latbench.tables.importers import ForeignTable
from latbench.tables.price_model import PriceModel
from latbench.tables.records import Estimate, Origin, SpaceLabel, StoredFit
from latbench.tables.store import TableStore

_NEVER_OVER = "{} exists: an import never writes over a file"


def import_table(
    foreign: ForeignTable,
    path: Path,
    *,
    origin: Origin,
    device: str,
    included: Iterable[BlockSpec] = (),
) -> None:
    """Write a foreign table as a latency table.

    Imported prices have no visits and are used unchanged. The base time is added once a network.
    Entries that match no known block or an included one, or whose latency is not a number, are
    stored separately.

    Args:
        foreign: Content of the foreign file.
        path: File of the new table.
        origin: Source of the foreign table.
        device: Name for the device; any text.
        included: Blocks whose time is part of the base time.

    Raises:
        InvalidFileError: A file exists at ``path`` already, or it cannot be written.
    """
    if path.exists():
        raise InvalidFileError(_NEVER_OVER.format(path))
    free = dict.fromkeys(included)
    latencies_ms: dict[BlockSpec, float] = {}
    kept = []
    for each in foreign.entries:
        if each.spec is None or each.spec in free or not math.isfinite(each.latency_ms):
            kept.append((each.key, each.width, each.latency_ms))
        else:
            latencies_ms[each.spec] = each.latency_ms
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with TableStore.create(
            unfinished,
            device=DeviceProfile(name=device, runtime=IMPORTED),
            space=foreign.space or SpaceLabel(origin.format, 0, 0),
            environment=unknown_environment(device),
        ) as store:
            store.record_origin(origin, kept)
            store.add_blocks(free, "included")
            store.add_blocks(latencies_ms)
            ids = {spec: id_ for id_, spec in store.blocks("block").items()}
            store.set_results(
                {ids[spec]: _as_it_stands(ms) for spec, ms in latencies_ms.items()},
                StoredFit(PriceModel(0.0, 1.0, 0.0, foreign.base_ms)),
            )
        appear(unfinished, path)  # when it is complete
    except FileExistsError as error:
        raise InvalidFileError(_NEVER_OVER.format(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _as_it_stands(latency_ms: float) -> Estimate:
    """Estimate with a value only; its interval has no width."""
    hot = (latency_ms, latency_ms, latency_ms)
    return Estimate(*hot, None, None, None, visits=0, noisy=False)
