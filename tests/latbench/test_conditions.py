"""Conditions are read from the system's files, and throttled passes are made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from latbench.conditions import Conditions, in_words, read_conditions
from latbench.device import DeviceProfile
from latbench.measure import sweep
from latbench.measure.sweep import sweep_pass
from latbench.measure.visiting import block_target
from latbench.profilers import base, make_profiler
from latbench.tables import LatencyTable
from latbench.workflows.bench import bench
from nas.spaces import SearchSpace
from tests.conftest import profile_space
from tests.latbench.models.small import conv_model, save


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_a_desktop(tmp_path: Path) -> None:
    cpu = "devices/system/cpu"
    files = {
        "class/thermal/thermal_zone0/temp": "41000",
        "class/thermal/thermal_zone1/temp": "56500",
        f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "3000000",
        f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "2000000",
        f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3",
        f"{cpu}/cpu0/thermal_throttle/package_throttle_count": "4",
        "class/thermal/cooling_device0/type": "Processor",
        "class/thermal/cooling_device0/cur_state": "0",
        "class/thermal/cooling_device1/type": "Fan",
        "class/thermal/cooling_device1/cur_state": "2",
    }
    found = read_conditions(_write(tmp_path, files))
    assert (found.temperature_c, found.clock_mhz, found.throttled) == (56.5, 2500.0, 7)
    assert found.limits == ()


@pytest.mark.parametrize(
    ("word", "limits"), [("0x50000", 0), ("50000", 0), ("0x5000d", 3), ("8", 1), ("none", 0)]
)
def test_a_raspberry_pi(tmp_path: Path, word: str, limits: int) -> None:
    """Bits of the upper half report earlier limits, which do not count."""
    path = "devices/platform/soc/soc:firmware/get_throttled"
    assert len(read_conditions(_write(tmp_path, {path: word})).limits) == limits


def test_a_cooling_device_limits_the_clock(tmp_path: Path) -> None:
    kind = "class/thermal/cooling_device0"
    files = {f"{kind}/type": "cpufreq-cpu0", f"{kind}/cur_state": "1"}
    found = read_conditions(_write(tmp_path, files))
    assert found.spoilt_since(Conditions()) == "cooling limits the clock (cpufreq-cpu0)"


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = read_conditions(tmp_path)
    assert (found.temperature_c, found.clock_mhz, found.throttled) == (None, None, None)
    assert found.spoilt_since(found) is None


@pytest.mark.parametrize(("hot", "made", "spoilt"), [(0, 1, False), (2, 3, False), (9, 3, True)])
def test_throttled_passes_are_made_again(
    monkeypatch: pytest.MonkeyPatch,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
    hot: int,
    made: int,
    spoilt: bool,
) -> None:
    """After some passes a device that stays hot is believed, with a remark."""
    passes: list[int] = []
    counts = iter(range(100))

    def now() -> Conditions:
        return Conditions(throttled=next(counts) if len(passes) <= hot else 100)

    def begin() -> Conditions:
        passes.append(0)
        return now()

    profiler = make_profiler(quick_profile)
    monkeypatch.setattr(profiler, "begin", begin)
    monkeypatch.setattr(profiler, "conditions", now)
    monkeypatch.setattr(sweep, "_COOLING_S", 0.0)
    targets = [block_target(0, (tiny_space.blocks()[0],), quick_profile.sweep)]
    record = sweep_pass(profiler, targets, number=0)
    assert len(passes) == made
    assert (record.spoilt is not None) == spoilt
    assert len(record.visits) == 1


def test_a_limit_that_stays_is_waited_for_once_and_said(
    monkeypatch: pytest.MonkeyPatch, quick_profile: DeviceProfile, tmp_path: Path
) -> None:
    """As under a power supply that is too weak."""
    pauses: list[float] = []
    held = Conditions(limits=("the voltage is too low: use a stronger power supply",))
    monkeypatch.setattr(base, "read_conditions", lambda: held)
    monkeypatch.setattr(sweep, "sleep", pauses.append)
    model = save(conv_model(), tmp_path / "model.onnx")
    found = bench([model], quick_profile, time_limit="1ms")
    assert len(pauses) == 2
    assert found.noise.throttled == held.limits[0]
    assert found.noise.verdict == "noisy"


@pytest.mark.usefixtures("priced")
def test_conditions_are_kept_with_the_passes(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    quick_profile: DeviceProfile,
    tiny_space: SearchSpace,
) -> None:
    degrees = iter(range(20, 1000))  # before and after each pass
    monkeypatch.setattr(
        base, "read_conditions", lambda: Conditions(next(degrees) // 2 + 30.0, clock_mhz=2400.0)
    )
    path = tmp_path / "t.sqlite"
    profile_space(make_profiler(quick_profile), path, tiny_space, time_limit_s=30)
    found = LatencyTable.open(path).conditions
    assert [each.temperature_c for each in found] == [40.0 + n for n in range(len(found))]
    assert in_words(found[:3]) == "40 to 42 °C, 2400 MHz"
    assert in_words([Conditions()]) == ""


def test_a_throttled_pass_is_kept_if_its_repetition_is_out_of_time(
    monkeypatch: pytest.MonkeyPatch, quick_profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    """Targets may be left out once the time is up; an empty pass would replace a whole one."""
    counts = iter(range(100))
    profiler = make_profiler(quick_profile)
    for name in ("begin", "conditions"):
        monkeypatch.setattr(profiler, name, lambda: Conditions(throttled=next(counts)))
    cooled: list[float] = []
    monkeypatch.setattr(sweep, "sleep", cooled.append)
    blocks = tiny_space.blocks()[:3]
    targets = [block_target(id_, (spec,), quick_profile.sweep) for id_, spec in enumerate(blocks)]
    record = sweep_pass(profiler, targets, number=0, may_skip=lambda id_: bool(cooled))
    assert len(cooled) == 1
    assert len(record.visits) == 3
    assert record.spoilt is not None and profiler.spoilt == record.spoilt
