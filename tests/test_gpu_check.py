"""The check of a GPU runs where there is none, keeps its time, and survives what its items do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.conditions import ROOT, environment
from benchmarks.gpu.plan import ITEMS, Item, allowed_s
from benchmarks.gpu.record import Record, read_record
from benchmarks.gpu.running import DONE, FAILED, TIMED_OUT, run_item
from benchmarks.gpu.table_error import with_sweep
from benchmarks.gpu.text import text_of
from benchmarks.gpu.transfers import count_events
from benchmarks.sides import Side, SideFailed
from latbench.device_files import load_device
from latbench.profilers.gpu import no_gpu

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


def check(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "-o", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


@pytest.mark.skipif(no_gpu() is None, reason="there is a GPU, and the check would take minutes")
def test_without_a_gpu_every_item_says_so(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "check.json").read_text())
    assert list(found) == [item.name for item in ITEMS]
    assert {each["status"] for each in found.values()} == {"no GPU"}
    assert done.stdout == (tmp_path / "check.txt").read_text()


def test_an_item_that_is_tried_on_the_cpu_leaves_its_findings(tmp_path: Path) -> None:
    done = check(tmp_path, "--on", "cpu", "--only", "machine")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "check.json").read_text()).values()
    assert found["status"] == DONE
    assert found["figures"]["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_an_unknown_item_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "machines")
    assert done.returncode == 2
    assert "machines" in done.stderr and "tfnas-steps" in done.stderr


def test_every_item_has_its_module() -> None:
    assert all(find_spec(f"benchmarks.gpu.{item.module}") for item in ITEMS)


def python(code: str) -> Sequence[str]:
    return [sys.executable, "-c", code]


def test_a_failed_item_leaves_the_end_of_its_output(tmp_path: Path) -> None:
    found = run_item(python("print('so far'); raise ValueError('why')"), tmp_path, "x", seconds=60)
    assert found["status"] == FAILED and found["exit_code"] == 1
    assert found["output"][0] == "so far" and found["output"][-1] == "ValueError: why"


def test_an_item_that_hangs_is_killed_and_its_findings_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen.wait

    def wait(process: subprocess.Popen[Any], timeout: float | None = None) -> int:
        while timeout is not None and not (tmp_path / "x.json").exists():
            time.sleep(0.02)  # it hangs once it has written
        return real(process, None if timeout is None else 0.0)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    record = "from benchmarks.gpu.record import Record; from pathlib import Path; import time\n"
    record += f"Record(Path({str(tmp_path / 'x.json')!r})).add('half', figure=1)\n"
    found = run_item(python(record + "time.sleep(600)"), tmp_path, "x", seconds=1)
    assert found["status"] == TIMED_OUT
    assert found["lines"] == ["half"] and found["figures"] == {"figure": 1}


def test_figures_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    record = Record(tmp_path / "x.json")
    record.add("one", rate=float("nan"), rows=[(1, float("inf"))])
    record.add("two", other={"deep": 2.0})
    assert read_record(tmp_path / "x.json") == {
        "lines": ["one", "two"],
        "figures": {"rate": None, "rows": [[1, None]], "other": {"deep": 2.0}},
    }


def test_later_items_keep_their_usual_time() -> None:
    first, second = Item("a", "a", 10, 100), Item("b", "b", 30, 100)
    assert allowed_s(first, [second], 500.0) == 100
    assert allowed_s(first, [second], 70.0) == 40
    assert allowed_s(first, [second], 35.0) == 10, "its usual time, and the later one has less"
    assert allowed_s(first, [second], 5.0) == 5


def test_items_have_time_in_the_default_budget() -> None:
    assert sum(item.usual_s for item in ITEMS) <= 8 * 60
    assert all(item.usual_s <= item.limit_s for item in ITEMS)


def test_the_text_is_short(tmp_path: Path) -> None:
    each = {"status": DONE, "seconds": 1.0, "lines": ["x" * 500] * 60}
    lines = text_of({"a": each, "b": each}).splitlines()
    assert len(lines) < 100 and max(map(len, lines)) < 250


def test_copies_and_waits_are_counted_in_a_trace() -> None:
    def copy(name: str, size: int) -> dict[str, object]:
        return {"cat": "gpu_memcpy", "name": name, "args": {"bytes": size}}

    trace = {
        "traceEvents": [
            copy("Memcpy HtoD (Pageable -> Device)", 100),
            copy("Memcpy HtoD (Pinned -> Device)", 20),
            copy("Memcpy DtoH (Device -> Pageable)", 4),
            {"cat": "kernel", "name": "gemm"},
            {"cat": "cuda_runtime", "name": "cudaStreamSynchronize"},
            {"cat": "cuda_runtime", "name": "cudaLaunchKernel"},
            {"ph": "M"},
        ]
    }
    assert count_events(trace) == {
        "HtoD copies": 2,
        "HtoD bytes": 120,
        "DtoH copies": 1,
        "DtoH bytes": 4,
        "kernels": 1,
        "cudaStreamSynchronize": 1,
    }


@pytest.mark.parametrize("name", ["cuda-pytorch-b1", "cpu-onnxruntime"])
def test_a_profile_keeps_all_but_what_is_changed_of_its_protocol(name: str, tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(with_sweep(name, {"networks": 7, "block_dwell_ms": 2}))
    changed, shipped = load_device(str(tmp_path / "d.toml")), load_device(name)
    assert (changed.sweep.networks, changed.sweep.block_dwell_ms) == (7, 2.0)
    assert changed.same_device(shipped)
    assert changed.sweep.warmup_ms == shipped.sweep.warmup_ms


SERVER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.sides import serve
def fail():
    raise MemoryError("no room")
serve({{"good": lambda: None, "bad": fail}}, {{"five": lambda: 5.0}})
"""


def test_a_side_that_fails_a_step_says_why_and_goes_on() -> None:
    side = Side(python(SERVER))
    assert side.ask("good") >= 0
    with pytest.raises(SideFailed, match="MemoryError: no room"):
        side.ask("bad")
    assert side.ask("five") == 5.0
    side.close()


def test_a_side_that_has_ended_says_so() -> None:
    side = Side(python(""))
    with pytest.raises(SideFailed, match="ended"):
        side.ask("good")
    side.close()
