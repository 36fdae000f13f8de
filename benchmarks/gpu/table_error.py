"""A profile of a space on the GPU through the command line, and whole networks verified by it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from benchmarks.gpu.conditions import Conditions, latbench
from benchmarks.gpu.record import Record

_PROFILE_S = 120.0
_VERIFY_S = 50.0  # for starting twice, and for verifying
_NETWORKS = 12
# a session on a GPU takes long to open: fewer visits than usual to networks, so that there is time
# for a dozen of them
_SWEEP = {"networks": 12, "network_visits": 2, "verify_visits": 10}
_TINY_SWEEP = {"networks": 6, "network_visits": 1, "verify_visits": 2, "max_passes": 4}


def run(conditions: Conditions, record: Record, device: str) -> None:
    """Profile for two minutes or as long as there is time, then verify random networks."""
    space, sweep = ["tfnas", "--input-size", "224"], _SWEEP
    if conditions.tiny:
        space, sweep, device = ["nasbench-macro"], _TINY_SWEEP, "cpu-onnxruntime"
    shape = f"{' '.join(space)}, {device}"
    path = conditions.folder / "device.toml"
    path.write_text(with_sweep(device, sweep))
    table: Path = conditions.folder / "table.sqlite"
    most = 8.0 if conditions.tiny else _PROFILE_S
    seconds = max(8.0, min(most, conditions.seconds_left - _VERIFY_S))
    done = latbench(
        "profile", path, *space, "-o", table, "--time-limit", f"{seconds:.0f}s",
        timeout_s=conditions.seconds_left,
    )  # fmt: skip
    visits = done["passes"] * done["measured"] if "passes" in done else None
    each_ms = f"{done['seconds'] / visits * 1e3:.1f} ms a visit" if visits else "visits unknown"
    record.add(
        f"{shape}: {done['measured']} blocks measured, {done['interpolated']} interpolated, "
        f"{done['noisy']} noisy, {done['seconds']:.0f} s, {done.get('passes')} passes, {each_ms}; "
        f"{_percent('leave-one-out', done.get('loo_error'))}, "
        f"{_percent('floor', done.get('floor'))}, held out {done['heldout_error']}",
        profile=done,
    )
    count = (2 if conditions.seconds_left > 2 * _VERIFY_S else 1) * _NETWORKS
    found = latbench(
        "verify", "--table", table, "--random", str(count), "--seed", "1",
        timeout_s=conditions.seconds_left,
    )  # fmt: skip
    rows = found.pop("rows")
    measured = [row["measured_ms"] for row in rows]
    record.add(
        f"{len(rows)} networks of {min(measured):.3f} to {max(measured):.3f} ms: "
        f"{_percent('mape', found['mape'])}, {_percent('bias', found['bias'])}, "
        f"{_percent('largest', found['max_error'])}, {_percent('floor', found['floor'])}, "
        f"tau {found['kendall_tau']}, drift {found['drift']}, "
        f"{_percent('drift taken out', found['mape_drift_corrected'])}",
        verify=found,
        rows=[{k: v for k, v in row.items() if k != "architecture"} for row in rows],
    )


def with_sweep(name: str, sweep: Mapping[str, int]) -> str:
    """The shipped profile of a name, as TOML, with some values of its protocol changed."""
    text = resources.files("device_profiles").joinpath(f"{name}.toml").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.split(" ")[0] not in sweep]
    if "[sweep]" not in lines:
        lines.append("[sweep]")
    place = lines.index("[sweep]") + 1
    lines[place:place] = [f"{key} = {value}" for key, value in sweep.items()]
    return "\n".join(lines) + "\n"


def _percent(what: str, value: float | None) -> str:
    return f"{what} {value:.2%}" if value is not None else f"{what} -"
