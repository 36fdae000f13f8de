"""What every runtime must do, for each shipped profile that can run here."""

from __future__ import annotations

import pytest

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, Network, network_graph
from latbench.device import load_profile, shipped_profiles
from latbench.errors import RuntimeFailure
from latbench.profilers import PROFILERS, make_profiler

NETWORK: Network = (
    ConvBlock(3, 8, 3, 2, "relu", 16),
    InvertedResidual(8, 8, 24, 5, 1, "swish", 8, se_channels=8),
    Classifier(8, 10, 8),
)


@pytest.fixture(params=shipped_profiles())
def runnable(request: pytest.FixtureRequest) -> str:
    profile = load_profile(request.param)
    reason = PROFILERS[profile.runtime].unavailable(profile)
    if reason is not None:
        pytest.skip(reason)
    return profile.name


def test_networks_and_blocks_open_run_and_close(runnable: str) -> None:
    profiler = make_profiler(load_profile(runnable))
    for network in (NETWORK, NETWORK[1:2]):
        session = profiler.open(network)
        session.call()
        session.call()
        session.close()


def test_a_runtime_states_its_version(runnable: str) -> None:
    profile = load_profile(runnable)
    assert profile.runtime in make_profiler(profile).versions()


def test_what_a_runtime_refuses_is_translated(
    runnable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler = make_profiler(load_profile(runnable))

    monkeypatch.setattr(
        "latbench.profilers.onnxruntime._rendered",
        lambda network, _: (network_graph(network), b"no model"),
    )
    with pytest.raises(RuntimeFailure, match="refused"):
        profiler.open(NETWORK)
