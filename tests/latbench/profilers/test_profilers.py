"""What every runtime must do, for each shipped profile that can run here."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network, network_graph
from latbench.device import DeviceProfile
from latbench.device_files import load_device, shipped_profiles
from latbench.environment import Environment
from latbench.errors import InvalidValueError, RuntimeFailure
from latbench.measure.lock import held
from latbench.profilers import PROFILERS, make_profiler
from latbench.render.onnx import render_onnx

NETWORK: Network = (
    ConvBlock(3, 8, 3, 2, "relu", 16),
    InvertedResidual(8, 8, 24, 5, 1, "swish", 8, se_channels=8),
    Classifier(8, 10, 8),
)
# what to put in place of a function of the profiler's module, so that the runtime has to refuse;
# for any other runtime it is the function that renders its models
SPOILED = {
    "onnxruntime": ("_rendered", lambda network, *_: (network_graph(network), b"no model")),
    "pytorch": ("random_input", lambda _: np.zeros((1, 5, 8, 8), np.float32)),  # 5 channels
}


def _shipped() -> list[object]:
    """Names of the shipped profiles; those that need a GPU are marked."""
    profiles = map(load_device, shipped_profiles())
    marks = {"cpu": [], "cuda": [pytest.mark.gpu]}
    return [pytest.param(p.name, marks=marks[p.device]) for p in profiles]


@pytest.fixture(params=_shipped())
def runnable(request: pytest.FixtureRequest) -> str:
    profile = load_device(request.param)
    reason = PROFILERS[profile.runtime].unavailable(profile)
    if reason is not None:
        pytest.skip(reason)
    return profile.name


def _output(profile: DeviceProfile, network: Network) -> NDArray[np.float32]:
    session = make_profiler(profile).open(network)
    session.call()
    output = session.output().copy()
    session.close()
    return output


def test_networks_and_blocks_open_run_and_close(runnable: str) -> None:
    profiler = make_profiler(load_device(runnable))
    for network in (NETWORK, NETWORK[1:2]):
        session = profiler.open(network)
        session.call()
        session.call()
        session.close()


def test_runtimes_agree(runnable: str) -> None:
    """The same weights and the same image: the oracle is ONNX Runtime on the CPU."""
    profile = load_device(runnable)
    oracle = DeviceProfile("oracle", "onnxruntime", batch_size=profile.batch_size)
    tolerance = {"fp32": 1e-4, "fp16": 2e-2}[profile.precision]
    for network in (NETWORK, NETWORK[1:2]):
        expected = _output(oracle, network)
        error = np.abs(_output(profile, network) - expected).max()
        assert error < tolerance * np.abs(expected).max()


def test_a_runtime_states_its_version(runnable: str) -> None:
    profile = load_device(runnable)
    profiler = make_profiler(profile)
    assert profile.runtime in profiler.versions()
    environment = profiler.environment()
    written = msgspec.json.encode(environment)
    assert msgspec.json.decode(written, type=Environment) == environment


def test_what_a_runtime_refuses_is_translated(
    runnable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler = make_profiler(load_device(runnable))
    default = ("_rendered", lambda *_: b"no model")
    name, spoiled = SPOILED.get(profiler.profile.runtime, default)
    monkeypatch.setattr(f"{type(profiler).__module__}.{name}", spoiled)
    with pytest.raises(RuntimeFailure, match="refused"):
        profiler.open(NETWORK).call()


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [("pytorch", "torch", "nas"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_package_names_its_extra(
    runtime: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeFailure, match=rf"pip install 'latbench\[{extra}\]'"):
        make_profiler(DeviceProfile("bare", runtime))


@pytest.mark.parametrize("runtime", ["pytorch"])
def test_unknown_options_are_refused(runtime: str) -> None:
    for options in ({"chanels_last": "true"}, {"channels_last": "perhaps"}):
        with pytest.raises(InvalidValueError, match="channels_last") as caught:
            make_profiler(DeviceProfile("typo", runtime, options=options))
        assert (caught.value.path or "").startswith("$.options.chan")


@pytest.mark.parametrize("name", ["threads", "sesion.intra_op.allow_spinning"])
def test_keys_that_onnxruntime_would_not_read_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="begin with session") as caught:
        make_profiler(DeviceProfile("typo", "onnxruntime", options={name: "1"}))
    assert caught.value.path == f"$.options.{name}"
    known = {"session.intra_op.allow_spinning": "0"}
    make_profiler(DeviceProfile("known", "onnxruntime", options=known))


def test_pytorch_compiles_whole_networks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is replaced by one that notes what it is given: the real one takes a minute."""
    torch = pytest.importorskip("torch")
    compiled: list[int] = []

    def note(module: object, *_: object, **__: object) -> object:
        compiled.append(1)
        return module

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    profiler = make_profiler(DeviceProfile("c", "pytorch", options={"compile": "true"}))
    profiler.open(NETWORK[:1])
    assert not compiled
    profiler.open(NETWORK)
    assert compiled == [1]


def test_opening_draws_nothing_from_the_random_state_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_rng_state()
    make_profiler(load_device("cpu-pytorch")).open(NETWORK)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_pytorch_changes_of_the_process_is_restored() -> None:
    torch = pytest.importorskip("torch")
    tiny = torch.full((1,), 2.0**-126)

    def settings() -> tuple[int, bool]:
        return torch.get_num_threads(), bool(tiny * 0.5)

    before = settings()
    profile = msgspec.structs.replace(load_device("cpu-pytorch"), threads=before[0] + 1)
    profiler = make_profiler(profile)
    with held(profiler):
        profiler.open(NETWORK)
        assert settings() == (before[0] + 1, False)
    assert settings() == before


def test_openvino_imports_at_later_visits_what_the_first_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    profiler = make_profiler(load_device("cpu-openvino"))
    rendered: list[Network] = []

    def note(network: Network, batch_size: int) -> bytes:
        rendered.append(network)
        return render_onnx(network_graph(network), batch_size=batch_size).SerializeToString()

    monkeypatch.setattr("latbench.profilers.openvino._rendered", note)
    outputs = []
    for _ in range(2):
        session = profiler.open(NETWORK)
        session.call()
        outputs.append(session.output().copy())
        session.close()
    assert rendered == [NETWORK]
    np.testing.assert_array_equal(*outputs)


def test_openvino_keeps_no_more_than_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("latbench.profilers.openvino.memory_bytes", lambda: 8)
    profiler = make_profiler(load_device("cpu-openvino"))
    for _ in range(2):
        profiler.open(NETWORK).call()
    assert not vars(profiler)["_compiled"]


def test_openvino_is_imported_without_its_telemetry() -> None:
    """Telemetry forks a process that runs beside the first measurements."""
    pytest.importorskip("openvino_telemetry")
    code = (
        "import sys\n"
        "from latbench.device_files import load_device\n"
        "from latbench.profilers import make_profiler\n"
        "make_profiler(load_device('cpu-openvino')).versions()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
