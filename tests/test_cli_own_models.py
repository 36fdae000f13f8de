"""``latbench bench``, ``explain`` and ``align``: contract of their output and exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import nas
from latbench.cost import block_cost
from latbench.device_files import load_device
from latbench.errors import InvalidFileError
from latbench.models import read_model
from latbench.models.segments import cut
from latbench.workflows import fused_segments
from nas.spaces import make_space
from tests.conftest import random_price, write_table
from tests.latbench.models.small import conv_model, save
from tests.latbench.models.test_segments import residual_network
from tests.latbench.report.test_overlay import explained

COLUMNS = {
    *("model", "latency_ms", "low_ms", "high_ms", "p50_ms", "p90_ms", "p99_ms"),
    *("load_ms", "peak_mb", "ratio", "ratio_low", "ratio_high", "verdict"),
}


QUICK = """
name = "quick"
runtime = "onnxruntime"
[sweep]
network_dwell_ms = 0.1
min_passes = 1
max_passes = 1
scan_passes = 1
network_visits = 1
verify_visits = 2
networks = 6
"""


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and one of sixteen times the work."""
    large = conv_model(shape=(1, 3, 96, 96), channels=128)
    return save(conv_model(), tmp_path / "a.onnx"), save(large, tmp_path / "b.onnx")


def test_models_and_architectures_are_compared_with_the_first(
    run: Any, models: tuple[Path, Path], tmp_path: Path
) -> None:
    space = make_space("nasbench-macro", 8, 10)
    space.smallest().save(tmp_path / "c.json")
    code, out, _ = run("bench", *models, tmp_path / "c.json", "--time-limit", "100ms", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"device", "rows", "noise"}
    assert found["device"] == "cpu-onnxruntime"
    assert [row["model"] for row in found["rows"]] == ["a.onnx", "b.onnx", "c.json"]
    assert all(set(row) == COLUMNS for row in found["rows"])
    assert [row["verdict"] for row in found["rows"][:2]] == ["BASELINE", "SLOWER"]
    assert found["rows"][0]["ratio"] == 1


def test_files_are_recognised_by_their_content(
    run: Any, models: tuple[Path, Path], tmp_path: Path
) -> None:
    space = make_space("nasbench-macro", 8, 10)
    space.smallest().save(tmp_path / "c.onnx")
    named, bare = models[0].rename(tmp_path / "a.json"), models[1].rename(tmp_path / "b")
    bench = ("bench", named, bare, tmp_path / "c.onnx", "--time-limit", "100ms", "--json")
    code, out, _ = run(*bench)
    assert code == 0, out
    assert [row["model"] for row in json.loads(out)["rows"]] == ["a.json", "b", "c.onnx"]
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    code, out, _ = run("predict", tmp_path / "c.onnx", "--table", table.path, "--json")
    assert code == 0
    assert json.loads(out)["latency_ms"] > 0
    for path in (named, bare):
        code, _, err = run("predict", path, "--table", table.path)
        assert code == 2
        assert "is not an architecture" not in err
        code, _, err = run("profile", "cpu-onnxruntime", path, "--plan")
        assert "unknown search space" not in err


def test_a_slower_network_fails_a_gate_and_is_reported(
    run: Any, models: tuple[Path, Path], tmp_path: Path
) -> None:
    gate = ("--fail-if-slower", "3%", "--junit", tmp_path / "j.xml")
    code, out, _ = run("bench", *models, "--time-limit", "100ms", *gate)
    assert code == 1
    assert "SLOWER" in out
    assert "failure" in (tmp_path / "j.xml").read_text()


def _full_disk(path: Path, data: bytes | str) -> None:
    raise InvalidFileError(f"cannot write {path}: No space left on device")


def test_a_report_that_cannot_be_written_loses_no_result(
    run: Any, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json, standard output has the result alone."""
    asked = ("bench", *models, "--time-limit", "1ms", "--json", "--junit")
    code, out, _ = run(*asked, models[0] / "j.xml")  # a file stands where its folder should be
    assert (code, json.loads(out).keys()) == (2, {"error"})
    monkeypatch.setattr("latbench.report.junit.write_atomically", _full_disk)
    code, out, err = run(*asked, tmp_path / "j.xml")
    assert code == 2
    assert [row["verdict"] for row in json.loads(out)["rows"]] == ["BASELINE", "SLOWER"]
    assert "cannot write" in err
    assert err.count("\n") == 1


def test_several_devices_give_an_object_each(run: Any, models: tuple[Path, Path]) -> None:
    devices = ("--device", "cpu-onnxruntime", "--device", "cpu-openvino")
    code, out, _ = run("bench", models[0], *devices, "--time-limit", "100ms", "--json")
    assert code == 0
    assert [each["device"] for each in json.loads(out)["devices"]] == [
        "cpu-onnxruntime",
        "cpu-openvino",
    ]


def test_a_later_device_that_fails_loses_no_result(run: Any, models: tuple[Path, Path]) -> None:
    devices = ("--device", "cpu-onnxruntime", "--device", "cpu-pytorch")
    code, out, err = run("bench", models[0], *devices, "--time-limit", "1ms", "--json")
    assert code == 2
    assert [each["device"] for each in json.loads(out)["devices"]] == ["cpu-onnxruntime"]
    assert "does not load ONNX models" in err


@pytest.mark.parametrize(("ended", "exit_code"), [(KeyboardInterrupt, 130), (OSError, 2)])
def test_a_later_device_that_is_interrupted_loses_no_result(
    run: Any,
    models: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    ended: type[BaseException],
    exit_code: int,
) -> None:
    measured, calls = nas.bench, []

    def bench(*asked: Any, **named: Any) -> Any:
        calls.append(asked)
        if len(calls) == 2:
            raise ended(5, "input/output error")
        return measured(*asked, **named)

    monkeypatch.setattr(nas, "bench", bench)
    devices = ("--device", "cpu-onnxruntime", "--device", "cpu-openvino")
    code, out, _ = run("bench", models[0], *devices, "--time-limit", "1ms", "--json")
    assert code == exit_code
    assert [each["device"] for each in json.loads(out)["devices"]] == ["cpu-onnxruntime"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shape", "x=1x0x8x8"), "is not a shape"),
        (("--shape", "1x3x8x8"), "is not a shape"),
        (("--shape", "z=1x3x8x8"), "no model has an input 'z'"),
        (("--fail-if-slower", "3"), "is not a percentage"),
        (("--fail-if-slower", "-3%"), "is not a percentage"),
        (("--batch-size", "2"), "fixed batch size 1"),
        (("--device", "cpu-onnx"), "unknown device profile"),
    ],
)
def test_wrong_use_is_one_line(
    run: Any, models: tuple[Path, Path], tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    code, out, err = run("bench", models[0], *options, "--junit", tmp_path / "j.xml")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "j.xml").exists()


def test_a_network_is_explained_by_a_device_and_then_by_its_table(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a busy machine, noise may join segments of some microseconds
    monkeypatch.setattr(fused_segments, "_are_fused", lambda *latencies, overhead_ms: False)
    model, kept = save(residual_network(), tmp_path / "m.onnx"), tmp_path / "t.sqlite"
    device = ("--device", "cpu-onnxruntime", "--time-limit", "1ms")
    code, out, _ = run("explain", model, *device, "-o", kept, "--json")
    found = json.loads(out)
    assert code == 0
    assert sum(part["share"] for part in found["segments"]) == pytest.approx(1)
    assert found["segments"][0]["nodes"] == ["conv_0", "relu_1"]
    code, out, _ = run("explain", model, "--table", kept, "--json")
    assert json.loads(out) == found
    code, out, _ = run("explain", model, "--table", kept)
    assert code == 0
    assert "conv_16" in out
    assert "the whole network was measured at" in out


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_an_overlay_is_written_after_the_result(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: tuple[str, ...]
) -> None:
    """If it cannot be written, the result is printed all the same."""
    path, overlay = tmp_path / "m.onnx", tmp_path / "o.json"
    found = explained(residual_network(), path)
    monkeypatch.setattr("nas.explain", lambda *_, **__: found)
    options = ("--device", "cpu-onnxruntime", *as_json, "--overlay")
    code, out, err = run("explain", path, *options, overlay)
    assert (code, err) == (0, "")
    assert json.loads(overlay.read_text())["results"]["conv_0"]["segment"] == "conv_0"
    if not as_json:
        assert "17 of 17 nodes of the file have a latency" in out
    monkeypatch.setattr("latbench.report.overlay.write_atomically", _full_disk)
    code, out, err = run("explain", path, *options, overlay)
    assert code == 2
    assert err.startswith(f"latbench: cannot write {overlay}")
    assert err.count("\n") == 1
    assert "conv_0" in (json.loads(out)["segments"][0]["nodes"] if as_json else out)


def test_an_architecture_has_no_overlay(run: Any, tmp_path: Path) -> None:
    code, out, err = run("explain", "a.json", "--table", "t", "--overlay", tmp_path / "o.json")
    assert (code, out) == (2, "")
    assert "leave out --overlay" in err


def test_an_architecture_is_explained_by_its_spaces_table(run: Any, tmp_path: Path) -> None:
    space = make_space("nasbench-macro", 8, 10)
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    space.smallest().save(tmp_path / "a.json")
    code, out, _ = run("explain", tmp_path / "a.json", "--table", table.path, "--json")
    found = json.loads(out)
    assert code == 0
    network = space.lower(space.smallest())
    assert [part["macs_m"] for part in found["segments"]] == [
        block_cost(spec).macs / 1e6 for spec in network
    ]
    assert found["measured_ms"] is None


def test_a_model_is_aligned_or_said_to_be_left_alone(
    run: Any, models: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "faster.onnx"
    asked = ("align", models[0], "--device", "cpu-onnxruntime", "--time-limit", "1ms", "-o", output)
    code, out, _ = run(*asked, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["padded"], found["path"], found["ratio"]) == ([], None, 1)
    code, out, _ = run(*asked)
    assert code == 0
    assert "no padding pays" in out
    assert "nothing was written" in out
    assert not output.exists()


def test_an_architecture_is_exported_before_it_is_aligned(run: Any, tmp_path: Path) -> None:
    space = make_space("nasbench-macro", 8, 10)
    space.smallest().save(tmp_path / "a.json")
    asked = ("align", tmp_path / "a.json", "--device", "cpu-onnxruntime", "-o", tmp_path / "m.onnx")
    code, out, err = run(*asked)
    assert (code, out) == (2, "")
    assert "`latbench export` first" in err
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"weights: none\n", "is not an ONNX model"),
        (b"\x80\x04\x95\x10\x00.", "is not an ONNX model"),
        (None, "leaves the shape of its input x open"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "explain", "align"])
def test_a_bad_model_is_one_line_and_nothing_is_written(
    run: Any, tmp_path: Path, command: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(conv_model(shape=(1, 3, "h", "w")).SerializeToString())
    if content is not None:
        path.write_bytes(content)
    written = ("--junit" if command == "bench" else "-o", tmp_path / "t")
    code, out, err = run(command, path, "--device", "cpu-onnxruntime", *written)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("priced")
def test_a_model_is_profiled_predicted_and_verified(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # so that this process measures
    model, table = save(residual_network(), tmp_path / "m.onnx"), tmp_path / "t.sqlite"
    device = tmp_path / "quick.toml"
    device.write_text(QUICK)
    code, out, _ = run("profile", device, model, "-o", table, "--time-limit", "1ms", "--json")
    assert (code, json.loads(out)["interpolated"]) == (0, 0)
    code, out, _ = run("predict", model, "--table", table, "--json")
    assert code == 0
    expected_ms = sum(random_price(piece.segment) for piece in cut(read_model(model)))
    assert json.loads(out)["latency_ms"] == pytest.approx(expected_ms, rel=0.02)
    code, out, _ = run("verify", model, "--table", table, "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (0, True)
    assert found["rows"][0]["model"] == "m.onnx"
    assert found["rows"][0]["measured_ms"] == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--classes", 10), "leave them out for an ONNX file"),
        (("--shape", "image=1x8x8x8"), "no model has an input 'image'"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(
    run: Any, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    model = save(residual_network(), tmp_path / "m.onnx")
    code, _, err = run("profile", "cpu-onnxruntime", model, "-o", tmp_path / "t", *options)
    assert code == 2
    assert said in err
    assert not (tmp_path / "t").exists()


def test_a_space_has_no_shapes(run: Any, tmp_path: Path) -> None:
    shaped = ("--shape", "x=1x3x8x8", "-o", tmp_path / "t")
    code, _, err = run("profile", "cpu-onnxruntime", "tfnas", *shaped)
    assert code == 2
    assert "--shape is for the inputs of an ONNX model" in err


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "{model}", "--junit", "{model}"),
        ("explain", "{model}", "--device", "cpu-onnxruntime", "--overlay", "{model}"),
        ("explain", "{model}", "--device", "cpu-onnxruntime", "-o", "{new}", "--overlay", "{new}"),
        ("explain", "{model}", "--table", "{table}", "--overlay", "{table}"),
        ("align", "{model}", "--device", "cpu-onnxruntime", "-o", "{model}"),
        ("table", "export", "{table}", "-o", "{table}"),
        ("table", "show", "{table}", "--picture", "{table}"),
    ],
)
def test_no_file_that_is_read_is_overwritten(
    run: Any, tmp_path: Path, command: tuple[str, ...]
) -> None:
    space = make_space("nasbench-macro", 8, 10)
    files = {
        "model": save(residual_network(), tmp_path / "m.onnx"),
        "table": write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime")).path,
        "new": tmp_path / "new",
    }
    before = {path: path.read_bytes() for path in files.values() if path.exists()}
    code, out, err = run(*(word.format(**files) for word in command))
    assert (code, out) == (2, "")
    assert "would overwrite a file" in err
    assert {path: path.read_bytes() for path in files.values() if path.exists()} == before
