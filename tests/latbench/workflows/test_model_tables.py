"""Tables of one model: profiled, read, verified and calibrated like those of a space."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import nas
from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError, MismatchError
from latbench.measure import visiting
from latbench.models import read_model
from latbench.models.segments import cut
from latbench.profilers import Profiler, Session
from latbench.tables import LatencyTable
from latbench.workflows.model_tables import chains, part_name, table_model
from tests.conftest import PricedSession, random_price
from tests.latbench.models.small import conv_model, save
from tests.latbench.models.test_segments import Builder, residual_network


@pytest.fixture
def model(tmp_path: Path) -> Path:
    builder = Builder()
    x = "x"
    for channels in (8, 12, 16, 8, 12, 20, 8, 16, 12):
        x = builder.conv(x, channels)
    return save(builder.build(x), tmp_path / "model.onnx")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are measured in this process, whatever was imported before."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def filled(model: Path, tmp_path: Path, quick_profile: DeviceProfile, priced: None) -> Path:
    path = tmp_path / "t.sqlite"
    nas.profile(quick_profile, model, path, time_limit="1s")
    return path


def _network(model: Path) -> Network:
    return tuple(piece.segment for piece in cut(read_model(model)))


def test_a_model_is_priced_by_its_segments(model: Path, filled: Path) -> None:
    table, network = LatencyTable.open(filled), _network(model)
    assert table_model(table) == network
    assert set(table.estimates) == set(network)
    expected_ms = sum(map(random_price, network))
    assert nas.predict(model, table).latency_ms == pytest.approx(expected_ms, rel=0.02)
    explained = nas.explain(model, table=filled)
    assert explained.predicted_ms == nas.predict(model, table).latency_ms


@pytest.mark.usefixtures("here")
def test_a_model_is_verified_by_a_fit_without_it(model: Path, filled: Path) -> None:
    table, network = LatencyTable.open(filled), _network(model)
    found = nas.verify(model, filled, random=3, seed=5)
    whole, *parts = found.networks
    assert whole.predicted == table.predict_left_out(network)
    measured_ms = table.networks[network].hot_ms
    places = list(table.networks).index(network)
    error = table.price_model.left_out_errors[places]
    assert whole.predicted.latency_ms == pytest.approx(measured_ms * (1 + error))
    assert found.names[0] == "model.onnx"
    assert found.names[1:] == tuple(
        part_name(network, part) for part in chains(network, 3, seed=5, without=table.networks)
    )
    assert len(parts) == 3
    assert found.mape < 0.02
    assert found.as_dict()["rows"][0]["model"] == "model.onnx"
    assert found.architectures == (None,) * 4


@pytest.mark.usefixtures("here")
def test_the_model_is_no_probe_of_its_own_drift(
    model: Path, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model becomes twice as slow and its parts do not: that is an error, not a drift."""
    whole = _network(model)

    def open_session(profiler: Profiler, network: Network) -> Session:
        return PricedSession(sum(map(random_price, network)) * (2 if network == whole else 1))

    monkeypatch.setattr(visiting, "open_session", open_session)
    found = nas.verify(model, filled)
    assert found.drift == pytest.approx(1, rel=1e-3)
    assert found.networks[0].error == pytest.approx(-0.5, abs=0.02)


def test_a_calibration_adds_chains_and_an_interval(model: Path, filled: Path) -> None:
    before = LatencyTable.open(filled)
    assert nas.predict(model, before).low_ms is None
    nas.calibrate(filled, networks=8)
    after = LatencyTable.open(filled)
    assert len(after.networks) > len(before.networks)
    predicted = nas.predict(model, after)
    assert predicted.low_ms is not None
    assert predicted.low_ms <= predicted.latency_ms


def test_parts_that_do_not_add_up_give_no_latency(
    model: Path, tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_session(profiler: Profiler, network: Network) -> Session:
        draw = np.random.default_rng(len(network) * 31 + len(str(network[0])))
        return PricedSession(float(draw.uniform(1, 9)))

    monkeypatch.setattr(visiting, "open_session", open_session)
    path = tmp_path / "t.sqlite"
    nas.profile(quick_profile, model, path, time_limit="1s")
    with pytest.raises(MismatchError, match="left out of its fit it errs by"):
        nas.predict(model, path)


def test_a_model_is_profiled_for_another_device_from_the_first(
    model: Path, filled: Path, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    expected = nas.forecast(quick_profile, model, time_limit="1s")
    assert expected.blocks == len(set(_network(model)))
    with pytest.raises(MismatchError, match="profile this model into another file"):
        nas.profile(
            quick_profile,
            save(residual_network(channels=24), tmp_path / "other.onnx"),
            tmp_path / "o.sqlite",
            source=filled,
        )


def test_what_does_not_belong_together_is_refused(
    model: Path, filled: Path, tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    other = save(conv_model(), tmp_path / "other.onnx")
    with pytest.raises(MismatchError, match="profile this model into another file"):
        nas.predict(other, filled)
    with pytest.raises(MismatchError, match="which is not one model"):
        space_table = tmp_path / "s.sqlite"
        nas.profile(
            quick_profile, nas.make_space("nasbench-macro", 8, 10), space_table, time_limit="1ms"
        )
        table_model(LatencyTable.open(space_table))
    with pytest.raises(InvalidValueError, match="no model has an input"):
        nas.predict(model, filled, shapes={"image": (1, 3, 8, 8)})
    with pytest.raises(InvalidValueError, match="too few to tell apart"):
        nas.profile(quick_profile, other, tmp_path / "o.sqlite")


def test_chains_are_contiguous_and_distinct_and_not_short() -> None:
    network = tuple(range(20))
    drawn = chains(network, 200, seed=1)  # type: ignore[arg-type]
    assert all(chain == tuple(range(chain[0], chain[-1] + 1)) for chain in drawn)
    assert {len(chain) for chain in drawn} == set(range(5, 20))
    assert len(set(drawn)) == len(drawn) == sum(21 - length for length in range(5, 20))
    assert chains(network, 15, seed=1) == chains(network, 15, seed=1)  # type: ignore[arg-type]
    assert len(chains(network, 15, seed=1)) == 15  # type: ignore[arg-type]
    rest = chains(network, 5, seed=1, without=drawn[:3])  # type: ignore[arg-type]
    assert len(rest) == 5
    assert not set(rest) & set(drawn[:3])
