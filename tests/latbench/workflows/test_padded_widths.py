"""Widths that are worth measuring."""

from __future__ import annotations

from pathlib import Path

from latbench.device import DeviceProfile
from latbench.models import read_model
from latbench.profilers import make_profiler
from latbench.workflows.padded_widths import PaddingSearch, candidate_widths, named
from tests.latbench.models.channels.random_graphs import Network
from tests.latbench.models.small import save


def test_candidates_are_multiples_that_are_not_much_wider() -> None:
    assert candidate_widths(83) == [84, 88, 96]
    assert candidate_widths(20) == [24]
    assert candidate_widths(6) == [8]
    assert candidate_widths(64) == []
    assert candidate_widths(1370) == [1372, 1376]


def test_plans_pad_all_groups_to_one_multiple_and_differ(
    tmp_path: Path, quick_profile: DeviceProfile
) -> None:
    net = Network()
    x = net.conv(net.conv(net.conv("x", 20), 83), 6)
    x = net.conv(net.conv(x, 9, groups=3), 4)
    model = named(read_model(save(net.build(x, rank=4), tmp_path / "m.onnx")))
    search = PaddingSearch(make_profiler(quick_profile), model)
    found = [{group.width: width for group, width in plan.items()} for plan in search.uniform()]
    assert found == [
        {83: 84, 9: 12},
        {20: 24, 83: 88, 9: 12},
        {20: 24, 83: 96, 9: 12},
    ]
