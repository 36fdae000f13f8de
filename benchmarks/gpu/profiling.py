"""A profile of a space on the GPU through the command line, and whole networks verified by it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.conditions import Conditions, latbench
from benchmarks.gpu.record import Record
from latbench.device import shipped_profiles

_PROFILE_S = 120.0
_VERIFY_S = 35.0  # for starting twice, and for verifying
_NETWORKS = 12
_B1 = """\
name = "cuda-pytorch-b1"
runtime = "pytorch"
device = "cuda"
batch_size = 1
precision = "fp32"
"""


def run(conditions: Conditions, record: Record, device: str) -> None:
    """Profile for two minutes or as long as there is time, then verify random networks."""
    space, shape = ["tfnas", "--input-size", "224"], f"tfnas, 224 px, {device}"
    if conditions.tiny:
        device, space, shape = "cpu-onnxruntime", ["nasbench-macro"], "nasbench-macro, CPU"
    elif device not in shipped_profiles():
        path = conditions.folder / f"{device}.toml"
        path.write_text(_B1)
        device = str(path)
    table: Path = conditions.folder / "table.sqlite"
    table.unlink(missing_ok=True)
    seconds = max(10.0, min(_PROFILE_S, conditions.seconds_left - _VERIFY_S))
    done = latbench(
        "profile", device, *space, "-o", table, "--time-limit", f"{seconds:.0f}s",
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
    count = 24 if conditions.seconds_left > 2 * _VERIFY_S else _NETWORKS
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


def _percent(what: str, value: float | None) -> str:
    return f"{what} {value:.2%}" if value is not None else f"{what} -"
