"""``nas.bench`` and ``nas.explain`` of torch modules, beside files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from latbench.blocks import Network
from latbench.device import DeviceProfile
from latbench.errors import InvalidValueError
from latbench.models import read_model
from latbench.profilers import make_profiler
from latbench.tables import LatencyTable
from latbench.workflows import bench as workflow
from latbench.workflows import network_errors
from latbench.workflows.footprint import Footprint
from latbench.workflows.network_errors import Verification
from tests.conftest import write_table
from tests.latbench.models.small import conv_model, save

needs_exporter = pytest.mark.skipif(
    find_spec("onnxscript") is None, reason="onnxscript is not installed"
)
IMAGE = torch.rand(2, 3, 8, 8)


def _module() -> torch.nn.Sequential:
    layers = [torch.nn.Conv2d(3, 16, 3), *(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))]
    return torch.nn.Sequential(*layers)


def test_modules_are_compared_with_files_under_distinct_names(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence of layers is one network, although it can be iterated."""
    module, path = _module(), save(conv_model(), tmp_path / "m.onnx")
    monkeypatch.setattr(workflow, "read_module", lambda *_, **__: read_model(path))
    monkeypatch.setattr(workflow, "measure_footprint", lambda *_, **__: Footprint(5.0, 40.0))
    found = nas.bench([module, path, module], quick_profile, example=IMAGE, time_limit="1ms")
    assert [row.model for row in found.rows] == ["Sequential (1)", "m.onnx", "Sequential (2)"]
    alone = nas.bench(module, quick_profile, example=IMAGE, time_limit="1ms")
    assert [row.model for row in alone.rows] == ["Sequential"]


@needs_exporter
def test_a_module_is_explained_at_the_batch_size_of_its_example(
    quick_profile: DeviceProfile,
) -> None:
    found = nas.explain(_module(), quick_profile, example=IMAGE, time_limit="1ms")
    assert [part.macs_m for part in found.segments] == pytest.approx(
        [2 * 36 * 16 * 3 * 9 / 1e6] + 3 * [2 * 36 * 16 * 16 * 9 / 1e6]
    )


@pytest.mark.parametrize("work", [nas.bench, nas.explain])
def test_a_module_needs_an_example_and_a_file_has_its_own(
    tmp_path: Path, quick_profile: DeviceProfile, work: object
) -> None:
    path = save(conv_model(), tmp_path / "m.onnx")
    with pytest.raises(InvalidValueError, match="Sequential is a torch module"):
        work(_module(), quick_profile)  # type: ignore[operator]
    with pytest.raises(InvalidValueError, match="there is no module"):
        work(path, quick_profile, example=IMAGE)  # type: ignore[operator]


def _verify_here(path: Path, networks: Sequence[Network], **rest: Any) -> Verification:
    table = LatencyTable.open(path)
    return network_errors.verify(make_profiler(table.device), table, networks, **rest)


@needs_exporter
def test_a_module_is_profiled_predicted_and_verified_like_its_file(
    tmp_path: Path, quick_profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latbench.workflows.model_tables._LEFT_OUT_LIMIT", 10.0)  # however noisy
    monkeypatch.setattr(network_errors, "verify_apart", _verify_here)
    module, image = _module(), IMAGE[:1]
    table = nas.profile(
        quick_profile, module, tmp_path / "t.sqlite", example=image, time_limit="1ms"
    )
    torch.onnx.export(module.eval(), (image,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    ours = nas.predict(module, table, example=image)
    assert ours == nas.predict(tmp_path / "m.onnx", table)
    verified = nas.verify(module, table, example=image, tolerance=10.0)
    assert [row.predicted.latency_ms > 0 for row in verified.networks] == [True]
    with pytest.raises(InvalidValueError, match="torch module"):
        nas.predict(module, table)
    with pytest.raises(InvalidValueError):
        nas.profile(quick_profile, module, tmp_path / "u.sqlite", example=IMAGE)


def test_what_would_be_ignored_is_refused(tmp_path: Path, quick_profile: DeviceProfile) -> None:
    """Shapes of an architecture; a file, or another batch, where nothing is measured."""
    space = nas.make_space("nasbench-macro", 8, 10)
    table = write_table(tmp_path / "t.sqlite", space, quick_profile)
    drawn, shapes = space.smallest(), {"x": (1, 3, 8, 8)}
    for work in (
        lambda: nas.predict(drawn, table, shapes=shapes),
        lambda: nas.verify(drawn, table, shapes=shapes),
        lambda: nas.explain(drawn, quick_profile, shapes=shapes),
    ):
        with pytest.raises(InvalidValueError, match="--shape is for the inputs of an ONNX model"):
            work()
    with pytest.raises(InvalidValueError, match="leave out the output"):
        nas.explain(drawn, table=table, output=tmp_path / "o.sqlite")
    with pytest.raises(InvalidValueError, match="latencies of 1 images a call"):
        nas.explain(drawn, table=table, batch_size=8)
