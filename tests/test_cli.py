"""The command line: contracts of output, exit codes and errors."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from latbench.blocks import BlockSpec, Network
from latbench.cost import block_cost, network_cost
from latbench.device import DeviceProfile
from latbench.environment import current_environment
from latbench.errors import MismatchError
from latbench.measure.lock import FOLDER_VARIABLE
from latbench.profilers import make_profiler
from latbench.tables import LatencyTable, TableStore
from latbench.units import format_ms
from nas.latency.aimed_proposals import widths_of
from nas.latency.correction import correct_on_device
from nas.latency.measured_rounds import Measure, MeasuredRounds, RecordFile
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.latency.width_scaling import METHODS, fit_exact
from nas.searchers import SEARCHERS
from nas.spaces import Variant, load_architecture, make_space, space_of
from nas.spaces.tfnas import STAGES
from tests.conftest import (
    make_small_space,
    make_tiny_space,
    profile_space,
    random_price,
    write_table,
)
from tests.nas.simulated_device import exactly

ROOT = Path(__file__).parents[1]


def _priced(path: Path) -> PricedSpace:
    """The space of a table with its prices, at every width."""
    opened = LatencyTable.open(path)
    return PricedSpace(labelled_space(opened.space), opened)


@pytest.fixture
def table(tmp_path: Path, tfnas_table: bytes) -> Path:
    path = tmp_path / "tfnas.sqlite"
    path.write_bytes(tfnas_table)
    return path


@pytest.fixture
def architecture(tmp_path: Path, run: Any) -> Path:
    path = tmp_path / "a.json"
    code, _, _ = run(
        "spaces", "tfnas", "--draw", "random", "--seed", 1, "--input-size", 32, "--classes", 10,
        "-o", path,
    )  # fmt: skip
    assert code == 0
    return path


@pytest.fixture
def few_stages(tmp_path: Path, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of TF-NAS with three of its six stages, for searches that train on it."""
    monkeypatch.setattr("nas.spaces.tfnas.STAGES", STAGES[:3])
    return write_table(tmp_path / "few.sqlite", make_space("tfnas", 32, 10), profile).path


def _json(run: Any, *args: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(*args, "--json")
    result: dict[str, Any] = json.loads(out)
    return code, result


def test_devices_and_spaces(run: Any) -> None:
    _, result = _json(run, "devices")
    by_name = {device["name"]: device for device in result["devices"]}
    assert by_name["cpu-onnxruntime"]["available"] is True
    assert by_name["cpu-onnxruntime"]["reason"] is None
    _, result = _json(run, "spaces")
    assert result["spaces"][0]["blocks"] == 2802
    assert "2802" in run("spaces", "tfnas")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("spaces", "tfnas", "-o", "a.json"), "-o needs --draw"),
        (("spaces", "--draw", "random"), "--draw needs a space"),
        (("profile", "cpu-onnxruntime", "tfnas"), "needs -o TABLE"),
        (("pack", "images"), "Missing option '-o'"),
        (("train", "a.json", "--data", "digits"), "Missing option '-o'"),
        (("search", "spos", "--data", "digits"), "Missing option '-o'"),
    ],
)
def test_options_that_are_missing_are_named(
    run: Any, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_drawing_is_a_function_of_the_seed(run: Any) -> None:
    draws = [_json(run, "spaces", "tfnas", "--draw", "random", "--seed", s)[1] for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_cost_predict_and_fit(run: Any, architecture: Path, table: Path, tmp_path: Path) -> None:
    _, cost = _json(run, "cost", architecture)
    assert 0 < cost["conv_macs_m"] < cost["macs_m"]
    _, predicted = _json(run, "predict", architecture, "--table", table)
    assert predicted["low_ms"] is None
    target = predicted["latency_ms"]
    for method in ("exact", "greedy"):
        out = tmp_path / f"{method}.json"
        code, fitted = _json(
            run, "fit", architecture, "--table", table, "--target", f"{target}ms",
            "--method", method, "-o", out,
        )  # fmt: skip
        assert code == 0
        assert fitted["latency_ms"] <= fitted["target_ms"] == pytest.approx(target)
        assert json.loads(out.read_text()) == fitted["architecture"]


def test_verifying_draws_networks_that_differ_and_are_new(
    run: Any, tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space has few networks, and the prices were fitted on six of them."""
    space, table = make_small_space(), tmp_path / "small.sqlite"
    monkeypatch.setattr("nas.latency.priced_space.make_space", lambda *label: space)
    profiler = make_profiler(quick_profile)
    assert profile_space(profiler, table, space, time_limit_s=1e-3).blocks
    fitted = LatencyTable.open(table).networks
    measured: list[Network] = []

    def verify(*arguments: Any, limit_s: float, **rest: Any) -> Any:
        assert limit_s == 90
        measured.extend(arguments[-1])
        raise MismatchError("measured enough")

    for where in ("verify", "verify_apart"):  # in this process, or in one without torch
        monkeypatch.setattr(f"latbench.workflows.network_errors.{where}", verify)
    _, _, err = run("verify", "--random", 200, "--time-limit", "90s", "--table", table)
    assert len(set(measured)) == len(measured) == 189 - len(fitted)
    assert not set(measured) & set(fitted)
    assert f"200 networks were asked for, and small has {len(measured)}" in err
    monkeypatch.setattr("nas.workflows.drawn_networks.distinct_random", lambda *args, **kwargs: [])
    code, refused = _json(run, "verify", "--random", 3, "--table", table)
    assert (code, refused["error"]["kind"]) == (2, "invalid-value")


def test_table_commands(run: Any, table: Path, tmp_path: Path) -> None:
    assert "price" in run("table", "show", table)[1]
    code, checked = _json(run, "table", "check", table)
    assert code == 1  # the synthetic table names no onnxruntime: it is stale
    assert (checked["entries"], checked["negative"], checked["noisy"]) == (2806, 0, 0)
    for kind in ("json", "csv", "parquet"):
        out = tmp_path / f"table.{kind}"
        assert run("table", "export", table, "--format", kind, "-o", out)[0] == 0
    assert len(json.loads((tmp_path / "table.json").read_text())["entries"]) == 2806
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2807


@pytest.mark.parametrize("price_ms", [0.0, -1.0])
def test_a_table_whose_prices_are_not_positive_is_shown(
    run: Any, tmp_path: Path, profile: DeviceProfile, price_ms: float
) -> None:
    """Foreign tables have such entries; single ones, and all of a curve over width."""
    path, space = tmp_path / "t.sqlite", make_tiny_space()

    def prices(spec: BlockSpec) -> float:
        return price_ms if getattr(spec, "in_channels", 0) == 16 else random_price(spec)

    write_table(path, space, profile, prices=prices)
    code, out, _ = run("table", "show", path, "--curves", 200, "--worst", 300)
    assert code == 0
    assert f"{format_ms(price_ms)} to {format_ms(price_ms)}" in out
    assert "\u2581" in out
    write_table(tmp_path / "all.sqlite", space, profile, prices=lambda spec: price_ms)
    assert run("table", "show", tmp_path / "all.sqlite")[0] == 0
    code, checked = _json(run, "table", "check", path)
    assert (code, checked["negative"] > 0) == (1, True)


@pytest.mark.parametrize(
    ("name", "negative", "key"),
    [("latency_gpu", 88, "titan_rtx_b32_ms"), ("latency_cpu", 84, "xeon_gold_6130_b1_ms")],
)
def test_published_tables_are_imported_with_their_defects(
    run: Any, reference: Path, tmp_path: Path, name: str, negative: int, key: str
) -> None:
    made = tmp_path / "imported.sqlite"
    file = reference / "tfnas" / f"{name}.pkl"
    asked = ["table", "import", file, "--format", "tfnas", "-o", made, "--device", "Titan"]
    code, found = _json(run, *asked)
    assert (code, found["entries"], found["negative"]) == (0, 36_480, negative)
    code, checked = _json(run, "table", "check", made)
    assert (code, checked["entries"], checked["negative"]) == (1, 36_480, negative)
    opened, path = LatencyTable.open(made), tmp_path / "a.json"
    for sample in json.loads((reference / "tfnas" / "cost_samples.json").read_text()):
        path.write_text(json.dumps(sample["architecture"]))
        assert _predicted(path, opened) == pytest.approx(sample[key], rel=1e-6)
    assert _json(run, "predict", path, "--table", made)[1]["latency_ms"] == _predicted(path, opened)
    code, refused = _json(run, "calibrate", made)
    assert code == 2
    assert "imported" in refused["error"]["message"]
    code, refused = _json(run, *asked)
    assert code == 2
    assert "exists" in refused["error"]["message"]


def test_a_table_is_compared_and_drawn(run: Any, tmp_path: Path, tiny_table: LatencyTable) -> None:
    table, picture = tiny_table.path, tmp_path / "curves.png"
    code, out, _ = run("table", "show", table, "--picture", picture)
    assert code == 0
    assert "█" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("table", "show", table, "--picture", tmp_path / "curves.doc")[0] == 2
    code, refused = _json(run, "table", "diff", table, table)
    assert code == 2
    assert "no measured block" in refused["error"]["message"]


def test_a_device_is_checked_for_noise(run: Any) -> None:
    code, found = _json(run, "devices", "--check", "cpu-onnxruntime", "--duration", "1s")
    assert code == 0
    (row,) = found["devices"]
    assert row["name"] == "cpu-onnxruntime"
    assert row["tolerance"] > 0
    assert all(target["latency_ms"] > 0 for target in row["targets"])
    assert _json(run, "devices", "--check", "cpu-onnxruntim")[0] == 2


def test_a_transfer_is_given_its_time_limit(
    run: Any, tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits_s: list[float] = []

    def transfer(*args: Any, time_limit_s: float, **rest: Any) -> Any:
        limits_s.append(time_limit_s)
        raise MismatchError("asked enough")

    monkeypatch.setattr("nas.workflows.space_profiling.transfer", transfer)
    asked = [
        "profile",
        "cpu-onnxruntime",
        "tfnas",
        "--input-size",
        32,
        "--classes",
        10,
        "--from",
        table,
    ]
    run(*asked, "-o", tmp_path / "new.sqlite", "--time-limit", "90s")
    assert limits_s == [90.0]
    code, refused = _json(run, *asked, "--plan")
    assert (code, refused["error"]["kind"]) == (2, "invalid-value")
    assert "--from" in refused["error"]["message"]


def test_a_plan_measures_nothing(run: Any, tmp_path: Path) -> None:
    small = ["--input-size", 32, "--classes", 10]
    code, plan = _json(run, "profile", "cpu-onnxruntime", "tfnas", *small, "--plan")
    assert (code, plan["blocks"]) == (0, 21_958)
    assert 0 < plan["measured"] < 0.12 * plan["blocks"]
    assert plan["minutes"] > 0
    assert run("profile", "cpu-onnxruntime", "tfnas")[0] == 2


def test_the_target_that_a_refusal_suggests_is_accepted(
    run: Any, architecture: Path, table: Path
) -> None:
    for target in ("0.01ms", "99s"):
        _, refused = _json(run, "fit", architecture, "--table", table, "--target", target)
        suggested = refused["error"]["message"].split()[-1]
        code, fitted = _json(run, "fit", architecture, "--table", table, "--target", suggested)
        assert code == 0
        assert fitted["latency_ms"] <= fitted["target_ms"]


def test_bare_commands_show_their_help(run: Any) -> None:
    for command in ([], ["table"]):
        code, out, _ = run(*command)
        assert (code, out.splitlines()[0].split()[0]) == (0, "Usage:")


WRONG = [
    ("spaces tfnas --input-size 0", "invalid-value", "input size 0"),
    ("spaces tfnas --classes 0", "invalid-value", "0 classes"),
    ("profil", "unknown-name", "did you mean 'profile'"),
    ("spaces tfna", "unknown-name", "did you mean 'tfnas'"),
    ("profile cpu-onnx tfnas -o {tmp}/x", "unknown-name", "cpu-onnxruntime"),
    ("profile cpu-onnxruntime tfnas -o {tmp}/x --time-limit 3", "invalid-value", "unit"),
    ("profile cpu-onnxruntime tfnas -o {table}", "mismatch", "32 px"),
    (
        "profile cpu-onnxruntime-mt tfnas --input-size 32 --classes 10 -o {table}",
        "mismatch",
        "cpu-onnxruntime",
    ),
    ("profile cpu-onnxruntime tfnas -o {arch}", "invalid-file", "not a latency table"),
    ("predict {arch} --table {tmp}/absent", "invalid-file", "latbench profile"),
    ("predict {arch} --table {arch}", "invalid-file", "not a latency table"),
    ("predict {table} --table {table}", "invalid-file", "not an architecture"),
    ("predict {big} --table {table}", "mismatch", "224 px"),
    ("fit {arch} --table {table} --target 15", "invalid-value", "unit"),
    ("fit {arch} --table {table} --target 1ms", "infeasible-budget", "nearest"),
    (
        "search tfnas --table {table} --target 0.01ms --data digits -o {tmp}/r",
        "infeasible-budget",
        "nearest",
    ),
    (
        "search tfnas --searcher tf-nas --table {table} --target 9ms --data digits -o {tmp}/r",
        "unknown-name",
        "tfnas",
    ),
    ("search tfnas --table {table} --target 9ms --data digit -o {tmp}/r", "unknown-name", "digits"),
    ("search tfnas --table {table} --data digits -o {tmp}/r", "invalid-value", "name a budget"),
    (
        "search tfnas --table {table} --target 9ms --max-macs 3M --data digits -o {tmp}/r",
        "invalid-value",
        "leave out --max-macs",
    ),
    (
        "search tfnas --table {table} --max-params 3T --data digits -o {tmp}/r",
        "invalid-value",
        "unit",
    ),
    ("train {big} --data digits -o {tmp}/r", "mismatch", "10 classes"),
    ("train {arch} --data fashion-mnist --data-dir {tmp} -o {tmp}/r", "invalid-file", "--data-dir"),
    ("evaluate {tmp} --data digits", "invalid-file", "holds no run"),
    ("verify --table {table}", "invalid-value", "--random"),
    ("verify --random 1 --table {table} --tolerance nan", "invalid-value", "finite"),
    (
        "search tfnas --table {table} --target 9ms --confidence nan --data digits -o {tmp}/r",
        "invalid-value",
        "finite",
    ),
    ("profile tfnas -o {tmp}/n", "invalid-value", "Missing DEVICE"),
    ("profile cpu-onnxruntime -o {tmp}/n", "unknown-name", "search space"),
    ("devices --check cpu-onnxruntime --add a --ssh b", "invalid-value", "two commands"),
    ("verify {big} --table {table}", "mismatch", "224 px"),
    ("cost", "invalid-value", "--help"),
    ("cost {tmp}/absent.json", "invalid-file", "cannot read"),
    ("spaces --draw random", "invalid-value", "space"),
    ("export {arch} --weights {arch} -o {tmp}/m.onnx", "invalid-file", "weights"),
]


@pytest.mark.parametrize(("command", "kind", "says"), WRONG)
def test_wrong_use_is_one_line_and_writes_nothing(
    run: Any, architecture: Path, table: Path, tmp_path: Path, command: str, kind: str, says: str
) -> None:
    big = tmp_path / "big.json"
    big.write_text(make_space("tfnas").smallest().to_json())
    places = {"tmp": tmp_path, "table": table, "arch": architecture, "big": big}
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    filled = command.format(**places).split()
    code, out, err = run(*filled)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert says in err
    code, out, _ = run(*filled, "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (2, kind)
    if kind == "unknown-name":
        assert error["choices"]
    if kind == "infeasible-budget":
        assert error["nearest_ms"] > 0
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_an_architecture_that_does_not_fit_is_refused_with_its_path(
    run: Any, architecture: Path
) -> None:
    whole = architecture.read_text()
    for path, change in {
        "$.stages[1][0].width": lambda plain: plain["stages"][1][0].update(width=3),
        "$.stages[0][0].colour": lambda plain: plain["stages"][0][0].update(colour="red"),
        "$.stages": lambda plain: plain.pop("stages"),
        "$.space": lambda plain: plain.update(space="tfnat"),
        "$.input_size": lambda plain: plain.update(input_size=0),
        "$.classes": lambda plain: plain.update(classes=-1),
    }.items():
        plain = json.loads(whole)
        change(plain)
        architecture.write_text(json.dumps(plain))
        code, result = _json(run, "cost", architecture)
        assert code == 2
        assert result["error"]["path"] == path


def test_a_reader_that_has_seen_enough_is_no_error(table: Path) -> None:
    python = shlex.quote(sys.executable)
    command = f"{python} -m cli table show --json {shlex.quote(str(table))} | head -c 10"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ('{"device":', "")


CORE_ONLY = """
import json, sys
for name in ("torch", "torchvision", "sklearn", "scipy", "tensorboard", "safetensors"):
    sys.modules[name] = None  # importing it fails, as if it were not installed
import cli
codes = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["latbench", *command]
    try:
        cli.main()
    except SystemExit as ended:
        codes.append(ended.code or 0)
sys.exit(codes[0] if len(codes) == 1 else json.dumps(codes))
"""


def _core_only(*commands: list[object], home: Path) -> subprocess.CompletedProcess[str]:
    """Commands, all in one process; the exit codes of several are on standard error."""
    return subprocess.run(
        [sys.executable, "-c", CORE_ONLY, json.dumps([[str(w) for w in c] for c in commands])],
        capture_output=True,
        text=True,
        cwd=home,  # another folder, and no home to speak of
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), FOLDER_VARIABLE: str(home)},
        check=False,
    )


def test_profile_and_verify_without_torch(tmp_path: Path, architecture: Path) -> None:
    """The main journey on a core-only install: the whole space, one rough pass."""
    device = tmp_path / "device.toml"
    device.write_text(
        'name = "quick"\nruntime = "onnxruntime"\n'
        "[sweep]\nwarmup_calls = 1\nhot_calls = 1\ncold_calls = 1\nblock_dwell_ms = 0\n"
        "network_dwell_ms = 1\nverify_visits = 2\nnetworks = 6\nscan_passes = 1\n"
    )
    table = tmp_path / "t.sqlite"
    small = ["--input-size", 32, "--classes", 10]
    verify: list[object] = ["verify", "--random", 2, "--table", table, "--json", "--tolerance"]
    done = _core_only(
        ["profile", device, "tfnas", *small, "-o", table, "--time-limit", "1s", "--json"],
        [*verify, 100],
        ["devices", "--json"],
        ["spaces", "--json"],
        ["cost", architecture, "--json"],
        ["predict", architecture, "--table", table, "--json"],
        home=tmp_path,
    )
    assert done.stderr.split("\n")[-2] == "[0, 0, 0, 0, 0, 0]", done.stderr
    result, verdict, *_, predicted = map(json.loads, done.stdout.splitlines())
    assert result["blocks"] == result["measured"] + result["interpolated"] == 21_958
    assert result["measured"] < 0.12 * result["blocks"]
    assert result["heldout_error"] is not None
    assert len(verdict["rows"]) == 2
    assert verdict["mape"] >= 0
    assert predicted["latency_ms"] == _predicted(architecture, LatencyTable.open(table))
    target = f"{predicted['latency_ms']}ms"
    done = _core_only(
        [*verify, 0],
        ["fit", architecture, "--table", table, "--target", target],
        ["table", "show", table],
        home=tmp_path,
    )
    assert done.stderr.split("\n")[-2] == "[1, 0, 0]", done.stderr
    assert json.loads(done.stdout.splitlines()[0])["passed"] is False


def _predicted(architecture: Path, table: LatencyTable) -> float:
    arch = load_architecture(architecture)
    return table.predict(space_of(arch).lower(arch)).latency_ms


def test_commands_that_need_torch_name_the_extra(tmp_path: Path, architecture: Path) -> None:
    done = _core_only(["train", architecture, "--data", "digits", "-o", "r"], home=tmp_path)
    assert done.returncode == 2
    assert "latbench[nas]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_search_train_evaluate_export(
    run: Any, tmp_path: Path, few_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second journey, as short as it can be, on real images."""
    target = sum(_priced(few_stages).feasible_ms()) / 3
    code, result = _json(
        run, "search", "tfnas", "--table", few_stages, "--target", f"{target}ms",
        "--data", "digits", "--images", 16, "--epochs", 2, "--batch-size", 8,
        "--set", "held_out=0.5",
        "-o", tmp_path / "search",
    )  # fmt: skip
    assert code == 0
    found = result["results"][0]
    assert target * 0.995 <= found["latency_ms"] <= target
    (file,) = (tmp_path / "search" / "architectures").iterdir()
    assert json.loads(file.read_text()) == found["architecture"]
    again = _json(
        run, "search", "tfnas", "--table", few_stages, "--target", f"{target}ms",
        "--data", "digits", "--images", 16, "--epochs", 2, "--batch-size", 8,
        "--set", "held_out=0.5", "--seed", 1,
        "-o", tmp_path / "search",
    )  # fmt: skip
    assert again[0] == 2
    assert "seed" in again[1]["error"]["message"]
    run_folder = tmp_path / "train"
    code, trained = _json(
        run, "train", file, "--data", "digits", "--images", 64, "--epochs", 1, "-o", run_folder
    )
    assert code == 0
    assert _json(run, "evaluate", run_folder, "--data", "digits") == (0, trained)
    model = tmp_path / "m.onnx"
    weights = run_folder / "weights.safetensors"
    code, _ = _json(run, "export", file, "--weights", weights, "-o", model)
    assert code == 0
    assert model.stat().st_size > 100_000


def test_a_measured_fit_scales_by_the_method_that_was_asked_for(
    run: Any, tmp_path: Path, architecture: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that takes 8 % longer than its table says."""

    def slower(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 1.08 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", slower)
    priced = _priced(table)
    arch = load_architecture(architecture)
    reach = fit_exact(priced, arch, 0.0, clamp=True)
    target = (reach.min_ms + reach.max_ms) / 2
    made = {}
    for method in METHODS:
        code, fitted = _json(
            run, "fit", architecture, "--table", table, "--target", f"{target!r}ms",
            "--method", method, "--measured",
        )  # fmt: skip
        assert code == 0
        rounds = MeasuredRounds(
            priced, target, slower(priced.table), RecordFile(tmp_path / f"{method}.json"), name=""
        )
        propose = widths_of(priced, arch, scale=METHODS[method])
        found = correct_on_device(priced, propose, rounds, scale=METHODS[method])
        assert fitted["architecture"] == found.fit.architecture.as_dict()
        assert fitted["measured_ms"] == found.measured_ms
        made[method] = found.fit.architecture
    assert made["exact"] != made["greedy"]


def _short_search(table: Path, target_ms: float, output: Path) -> list[Any]:
    """Arguments of a search of two epochs on a few digits."""
    return [
        "search", "tfnas", "--table", table, "--target", f"{target_ms}ms", "--data", "digits",
        "--images", 16, "--epochs", 2, "--batch-size", 8, "--set", "held_out=0.5", "-o", output,
    ]  # fmt: skip


def test_a_search_ends_with_what_is_measured(
    run: Any, tmp_path: Path, few_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that takes 8 % longer than its table says."""
    priced = _priced(few_stages)
    target = sum(priced.feasible_ms()) / 3

    def slower(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 1.08 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", slower)
    asked = _short_search(few_stages, target, tmp_path / "search")
    code, out, _ = run(*asked, "--measured")
    assert code == 0
    assert "measured" in out.splitlines()[0]
    code, result = _json(run, *asked, "--measured")
    assert code == 0
    found = result["results"][0]
    assert target * 0.99 <= found["measured_ms"] <= target
    assert found["measured_ms"] == pytest.approx(1.08 * found["latency_ms"])
    (file,) = (tmp_path / "search" / "architectures").iterdir()
    assert json.loads(file.read_text()) == found["architecture"]
    reach = fit_exact(priced, load_architecture(file), target, clamp=True)
    middle = 1.08 * (reach.min_ms + reach.max_ms) / 2
    code, fitted = _json(
        run, "fit", file, "--table", few_stages, "--target", f"{middle}ms", "--measured"
    )
    assert code == 0
    assert 0.99 * middle <= fitted["measured_ms"] <= middle


def test_a_budget_that_is_not_met_ends_with_exit_code_1(
    run: Any, tmp_path: Path, few_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both names of the option; the result is printed and written all the same."""
    target = sum(_priced(few_stages).feasible_ms()) / 3

    def far_slower(opened: LatencyTable) -> Measure:
        return exactly(lambda network: 10 * opened.predict(network).latency_ms)

    monkeypatch.setattr("nas.latency.correction.measurer", far_slower)
    asked = _short_search(few_stages, target, tmp_path / "search")
    code, found = _json(run, *asked, "--until-verified")
    (result,) = found["results"]
    assert (code, result["status"]) == (1, "missed")
    assert result["measured_low_ms"] <= result["measured_ms"] <= result["measured_high_ms"]
    assert "above the budget" in result["reason"]
    code, out, _ = run(*asked, "--measured")
    assert code == 1
    assert "missed: " in out
    (file,) = (tmp_path / "search" / "architectures").iterdir()
    reach = fit_exact(_priced(few_stages), load_architecture(file), target, clamp=True)
    middle = (reach.min_ms + reach.max_ms) / 2
    asked = ["fit", file, "--table", few_stages, "--target", f"{middle}ms", "--until-verified"]
    code, fitted = _json(run, *asked)
    assert (code, fitted["status"]) == (1, "missed")
    code, out, _ = run(*asked)
    assert code == 1
    assert "missed: " in out


def test_a_search_with_a_confidence_says_what_it_leaves_unused(
    run: Any, tmp_path: Path, few_stages: Path
) -> None:
    """On a calibrated table; others are refused before anything is written."""
    target = sum(_priced(few_stages).feasible_ms()) / 3
    asked = [
        "search", "tfnas", "--table", few_stages, "--target", f"{target}ms", "--data", "digits",
        "--images", 16, "--epochs", 2, "--batch-size", 8, "--set", "held_out=0.5",
        "-o", tmp_path / "run", "--confidence", 0.95,
    ]  # fmt: skip
    code, refused = _json(run, *asked)
    assert (code, refused["error"]["kind"]) == (2, "invalid-value")
    assert "calibrate" in refused["error"]["message"]
    assert not (tmp_path / "run").exists()
    ratios = [0.95 + 0.1 * number / 38 for number in range(39)]
    with TableStore.open(few_stages) as store:
        fit = store.fit()
        assert fit is not None
        errors = tuple(1 / ratio - 1 for ratio in ratios)
        price = msgspec.structs.replace(fit.price, left_out_errors=errors)
        calibrated = msgspec.structs.replace(fit, price=price, calibrated=True)
        store.set_results(store.estimates(), calibrated)
    code, found = _json(run, *asked)
    assert code == 0
    (result,) = found["results"]
    margin = ratios[37] - 1
    assert result["confidence"] == 0.95
    assert result["upper_ms"] == pytest.approx((1 + margin) * result["latency_ms"])
    assert 0.99 * target <= result["upper_ms"] <= target
    assert result["unused_ms"] == pytest.approx(target - result["latency_ms"])
    assert result["unused"] == pytest.approx(1 - result["latency_ms"] / target)
    (file,) = (tmp_path / "run" / "architectures").iterdir()
    latency_ms = _priced(few_stages).latency_ms(load_architecture(file))
    assert result["latency_ms"] == pytest.approx(latency_ms)
    code, out, _ = run(*asked)
    assert code == 0
    assert out.splitlines()[0].split()[:4] == ["target", "predicted", "at", "0.95"]
    asked = ["fit", file, "--table", few_stages, "--target", f"{target}ms", "--confidence", 0.95]
    code, out, _ = run(*asked)
    assert code == 0
    assert "with a confidence of 0.95" in out
    code, other = _json(run, *asked[:-1], 0.9)
    assert code == 0
    assert other["unused_ms"] < result["unused_ms"] * 1.05


def test_measuring_on_another_machine_is_refused_before_anything_is_done(
    run: Any, tmp_path: Path, profile: DeviceProfile, architecture: Path
) -> None:
    table, here = tmp_path / "foreign.sqlite", current_environment({})
    there = msgspec.structs.replace(here, cpu="another CPU", gpu=None)
    write_table(table, make_space("tfnas", 32, 10), profile, environment=there)
    target = sum(_priced(table).feasible_ms()) / 3
    asked = ["--table", table, "--target", f"{target}ms", "--measured"]
    for command in (
        ["search", "tfnas", *asked, "--data", "digits", "-o", tmp_path / "run"],
        ["fit", architecture, *asked, "-o", tmp_path / "fitted.json"],
    ):
        code, refused = _json(run, *command)
        assert code == 2
        assert "another CPU" in refused["error"]["message"]
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "fitted.json").exists()


@pytest.mark.parametrize("searcher", [n for n in SEARCHERS if SEARCHERS[n].several_devices])
def test_tables_of_different_networks_are_not_searched_together(
    run: Any, tmp_path: Path, profile: DeviceProfile, searcher: str
) -> None:
    """One space at two input sizes, numbers of classes or variants."""
    spaces = {
        "px": ("nasbench-macro", 8, 10, Variant()),
        "large": ("nasbench-macro", 16, 10, Variant()),
        "many": ("nasbench-macro", 8, 12, Variant()),
        "plain": ("sgnas", 16, 10, Variant()),
        "se": ("sgnas", 16, 10, Variant(se=True)),
    }
    for name, label in spaces.items():
        write_table(tmp_path / f"{name}.sqlite", make_space(*label), profile)
    for one, other in (("px", "large"), ("large", "px"), ("px", "many"), ("plain", "se")):
        paths = [tmp_path / f"{name}.sqlite" for name in (one, other)]
        tables = [word for path in paths for word in ("--table", path)]
        code, refused = _json(
            run, "search", spaces[one][0], "--searcher", searcher, *tables, "--data", "digits",
            "--target", "100ms", "-o", tmp_path / "run",
        )  # fmt: skip
        assert (code, refused["error"]["kind"]) == (2, "mismatch")
        assert "tables of one space" in refused["error"]["message"]
        assert f"{other}.sqlite" in refused["error"]["message"]
    assert not (tmp_path / "run").exists()


def test_results_have_no_column_that_is_empty(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    """Searches without probabilities have no argmax."""
    table = tmp_path / "t.sqlite"
    write_table(table, make_space("nasbench-macro", 8, 10), profile)
    target = _priced(table).feasible_ms()[1]
    code, out, _ = run(
        "search", "nasbench-macro", "--searcher", "random", "--table", table, "--data", "digits",
        "--images", 40, "--epochs", 1, "--batch-size", 16, "--set", "evaluations=2",
        "--target", f"{target}ms", "-o", tmp_path / "run",
    )  # fmt: skip
    assert code == 0
    header, row = out.splitlines()[:2]
    assert header.rstrip().endswith("supernet's accuracy")
    assert row.rstrip().endswith("%")


def test_a_search_is_of_the_variant_that_its_table_prices(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    table = tmp_path / "plain.sqlite"
    write_table(table, make_space("sgnas", 16, 10), profile)
    for option in (["--se"], ["--activation", "hswish"]):
        code, refused = _json(
            run, "search", "sgnas", "--searcher", "random", "--table", table, *option,
            "--data", "digits", "--target", "100ms", "-o", tmp_path / "run",
        )  # fmt: skip
        assert (code, refused["error"]["kind"]) == (2, "mismatch")
        assert " ".join(option) in refused["error"]["message"]
    assert not (tmp_path / "run").exists()


def test_two_tables_of_one_device_make_no_generator(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    """A generator knows devices by name: the second table would take the place of the first."""
    tables: list[object] = []
    for name in "ab":
        write_table(tmp_path / name, make_space("nasbench-macro", 8, 10), profile)
        tables += ["--table", tmp_path / name]
    code, refused = _json(
        run, "search", "nasbench-macro", "--searcher", "sgnas", *tables, "--data", "digits",
        "-o", tmp_path / "run",
    )  # fmt: skip
    assert (code, refused["error"]["kind"]) == (2, "mismatch")
    assert "one table a device" in refused["error"]["message"]
    assert not (tmp_path / "run").exists()


def test_a_search_holds_its_targets_on_two_devices(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    """Results in the order asked; what no architecture reaches is refused, and nothing written."""
    space = make_space("nasbench-macro", 8, 10)
    tables: list[object] = []
    for name, factor in (("a", 1.0), ("b", 1.5)):
        path = tmp_path / f"{name}.sqlite"
        write_table(path, space, profile, prices=lambda s, f=factor: f * random_price(s))  # type: ignore[misc]
        tables += ["--table", path]
    slower = _priced(tmp_path / "b.sqlite")
    low_ms, high_ms = slower.feasible_ms()
    targets = [low_ms + share * (high_ms - low_ms) for share in (0.8, 0.2)]
    asked = [
        "search", "nasbench-macro", "--searcher", "evolution", *tables, "--data", "digits",
        "--images", 40, "--epochs", 1, "--batch-size", 16, "--set", "evaluations=3",
    ]  # fmt: skip
    for target in targets:
        asked += ["--target", f"{target}ms"]
    code, result = _json(run, *asked, "-o", tmp_path / "search")
    assert code == 0
    assert [r["target_ms"] for r in result["results"]] == pytest.approx(targets)
    assert all(low_ms <= r["latency_ms"] <= r["target_ms"] for r in result["results"])
    assert _json(run, *asked, "-o", tmp_path / "search") == (0, result)
    code, refused = _json(run, *asked, "--target", f"{low_ms / 2}ms", "-o", tmp_path / "other")
    assert code == 2
    assert refused["error"]["nearest_ms"] == pytest.approx(low_ms)
    assert not (tmp_path / "other").exists()


def test_a_search_under_counts_shows_them_and_is_not_resumed_under_others(
    run: Any, tmp_path: Path, profile: DeviceProfile
) -> None:
    space, table = make_space("nasbench-macro", 8, 10), tmp_path / "t.sqlite"
    write_table(table, space, profile)
    low, high = (network_cost(space.lower(a)) for a in (space.smallest(), space.largest()))
    macs_m, params_m = ((getattr(low, k) + getattr(high, k)) / 2e6 for k in ("macs", "params"))
    asked = [
        "search", "nasbench-macro", "--searcher", "random", "--table", table, "--data", "digits",
        "--images", 40, "--epochs", 1, "--batch-size", 16, "--set", "evaluations=3",
        "--max-params", f"{params_m}M", "-o", tmp_path / "search",
    ]  # fmt: skip
    limited = [*asked, "--max-macs", f"{macs_m * 1e3}K"]
    code, result = _json(run, *limited)
    assert code == 0
    (found,) = result["results"]
    assert found["target_ms"] is None
    assert found["latency_ms"] > 0
    assert found["macs_m"] <= macs_m
    assert found["params_m"] <= params_m
    assert _json(run, *limited) == (0, result)
    code, refused = _json(run, *asked)
    assert (code, refused["error"]["kind"]) == (2, "mismatch")
    assert "max_macs" in refused["error"]["message"]
    code, refused = _json(run, *asked, "--max-macs", f"{low.macs / 2e6}M", "-o", tmp_path / "no")
    assert code == 2
    assert refused["error"]["nearest_macs_m"] == pytest.approx(low.macs / 1e6)
    assert not (tmp_path / "no").exists()


def test_help_is_quick_because_it_imports_nothing_slow() -> None:
    code = (
        "import sys, cli; slow = ('torch', 'numpy', 'onnxruntime', 'rich');"
        "print(*(name for name in slow if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


@pytest.fixture
def mixed(tmp_path: Path, profile: DeviceProfile) -> tuple[Path, Path]:
    """A generator of small images that knows one device, and that device's table."""
    import torch

    from nas.generator import Generator, GeneratorLabel, device_of, save_generator

    space = make_space("sgnas", 32, 10)
    table = write_table(
        tmp_path / "mix.sqlite", space, profile, prices=lambda b: block_cost(b).conv_macs / 1e6
    )
    label = GeneratorLabel(
        1, "conditioned", table.space, 0.1, 0.9, ("latency", "macs"), (device_of(table),), (0.5,)
    )
    torch.manual_seed(0)
    save_generator(Generator(label, torch.eye(4).repeat(1, 19, 6)[:, ::4]), tmp_path / "g")
    return tmp_path / "g", table.path


def test_generated_networks_keep_to_their_budgets(
    run: Any, mixed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Latencies by the table, MACs, both together; files; in the order asked."""
    generator, table = mixed
    asked = ("--target", "60ms", "--target", "40ms")
    code, result = _json(run, "generate", generator, "--table", table, *asked, "-o", tmp_path / "o")
    rows = result["architectures"]
    assert code == 0
    assert [row["target"] for row in rows] == [60.0, 40.0]
    assert all(0.99 * row["target"] <= row["latency_ms"] <= row["target"] for row in rows)
    _, predicted = _json(run, "predict", tmp_path / "o" / "60ms.json", "--table", table)
    assert predicted["latency_ms"] == pytest.approx(rows[0]["latency_ms"])
    _, result = _json(run, "generate", generator, "--target-macs", 44)
    (row,) = result["architectures"]
    assert 0.99 * 44 <= row["conv_macs_m"] <= 44
    assert row["latency_ms"] is None
    _, both = _json(
        run, "generate", generator, "--table", table, "--target", "60ms", "--target-macs", 40
    )
    (row,) = both["architectures"]
    assert row["latency_ms"] <= 60
    assert row["conv_macs_m"] <= 40
    assert row["targets"] == {"latency": 60.0, "macs": 40.0}
    assert "budget" in run("generate", generator, "--target-macs", 44, "--raw")[1]
    assert _json(run, "generator", "show", generator)[1]["kinds"] == ["latency", "macs"]


def test_a_generator_of_operations_answers_as_any_other(
    run: Any, profile: DeviceProfile, tmp_path: Path
) -> None:
    """Under latency and MACs, on a space whose layers are one operation each."""
    import torch

    from nas.generator import Generator, GeneratorLabel, device_of, save_generator

    table = write_table(
        tmp_path / "t",
        make_space("nasbench-macro"),
        profile,
        prices=lambda b: block_cost(b).conv_macs / 1e6,
    )
    label = GeneratorLabel(
        1, "conditioned", table.space, 0.1, 0.9, ("latency", "macs"), (device_of(table),),
        (0.5,), "operations",
    )  # fmt: skip
    save_generator(Generator(label, torch.eye(3)[None, [1, 2, 1, 1, 2, 1, 1, 1]]), tmp_path / "g")
    _, result = _json(
        run, "generate", tmp_path / "g", "--table", table.path, "--target", "60ms",
        "--target-macs", 70,
    )  # fmt: skip
    (row,) = result["architectures"]
    assert 0.8 * 60 <= row["latency_ms"] <= 60
    assert {c["op"] for s in row["architecture"]["stages"] for c in s} <= {
        "identity", "k3_e3", "k5_e6",
    }  # fmt: skip
    assert _json(run, "generator", "show", tmp_path / "g")[1]["plane"] == "operations"
    assert "chooses operations" in run("generator", "show", tmp_path / "g")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--target 15ms"),
        (("--target", "15ms"), "--table"),
        (("--target-macs", "5000"), "nearest"),
        (("--target-macs", "nan"), "positive"),
        (("--target-params", "5"), "--target-macs"),
        (("--target-macs", "50", "--target-macs", "60", "--target", "60ms"), "as many"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    run: Any, mixed: tuple[Path, Path], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run("generate", mixed[0], *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_published_weights_are_imported(run: Any, reference: Path, tmp_path: Path) -> None:
    folder = reference / "sgnas"
    code, _, _ = run(
        "generator", "import", "--weights", folder / "generator_imagenet.npz",
        "--prior", folder / "prior_pool_imagenet.json", "-o", tmp_path / "g",
    )  # fmt: skip
    assert code == 0
    zoo = ("--target-macs", 365, "--target-macs", 320, "--target-macs", 275)
    _, result = _json(
        run, "generate", tmp_path / "g", *zoo, "--raw", "--se", "--activation", "hswish"
    )
    found = [(round(r["conv_macs_m"]), round(r["params_m"], 1)) for r in result["architectures"]]
    assert found == [(373, 6.0), (326, 5.5), (281, 4.7)]
    code, result = _json(run, "generate", tmp_path / "g", "--target", "15ms")
    assert code == 2
    assert result["error"]["kind"] == "mismatch"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupt_during_an_import_ends_at_once(tmp_path: Path, number: str) -> None:
    """Modules written in C may crash if an exception is raised in the middle of their import."""
    (tmp_path / "interrupted.py").write_text(
        f"import signal\nsignal.raise_signal(signal.{number})\nprint('imported')\n"
    )
    (tmp_path / "main.py").write_text(
        "import sys, cli\n"
        "cli._run = lambda: __import__('interrupted')\n"
        "sys.argv[1:] = ['devices']\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "latbench: interrupted\n"
