"""Device profiles: what is measured with, and how. One TOML file each.

A profile is found by name among those that are shipped (``device_profiles``), or by path.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from latbench.errors import InvalidFileError, UnknownNameError, offence
from latbench.files import decode_text, is_hidden, read_text

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10_000)]
Precision = Literal["fp32", "fp16"]
Clock = Literal["gpu", "host"]

_PACKAGE = "device_profiles"
_WHAT = "a device profile, TOML with at least name and runtime"
IMPORTED = "imported"
"""The runtime of tables that were measured by another program: nothing runs on it."""


class SweepProtocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How visits are made and when to stop (the ``[sweep]`` section).

    The defaults are those under which sums of block prices were found to agree with whole
    networks on shared machines; see docs/measurement.md.

    Attributes:
        warmup_calls: Untimed calls at the start of a visit, at least.
        hot_calls: Timed calls one after another, at least.
        cold_calls: Timed calls, each after writing a buffer of the L2 cache's size.
        block_dwell_ms: Hot calls to a block go on for this long.
        network_dwell_ms: Hot calls to a network go on for this long: a network needs some calls
            to gather its weights in the shared cache, and a quiet moment among them.
        min_passes: Passes before a sweep may stop; below, an interval says nothing.
        max_passes: Passes after which a sweep stops.
        quantile: Quantile over visits of a visit's fastest call: low, because a shared machine
            only ever adds time.
        block_tolerance: Half width of the 95 % interval, relative, below which a block's
            estimate counts as converged.
        network_tolerance: The same for the sum over the calibration networks.
        floor_tolerance: Disagreement of the calibration networks with themselves, between two
            halves of the sweep, above which the whole sweep is called noisy.
        networks: Calibration networks in every shuffle. Where a table is gone on with, its
            networks stay, and new ones join if it has fewer.
        network_visits: Visits to each of them a pass.
        verify_visits: Visits to each network of a verification.
        least_clock: Fraction of a GPU's highest clock below which a visit does not count. Lower it
            where the clock is locked on purpose.
        warmup_ms: Untimed calls go on for this long: an idle GPU has lowered its clock.
        scan_passes: Passes over the widths by which a runtime's alignment classes are found.
    """

    warmup_calls: Count = 2
    hot_calls: Count = 3
    cold_calls: Count = 3
    block_dwell_ms: Milliseconds = 0.5
    network_dwell_ms: Milliseconds = 30.0
    min_passes: Count = 20
    max_passes: Count = 60
    quantile: Fraction = 0.05
    block_tolerance: Fraction = 0.02
    network_tolerance: Fraction = 0.01
    floor_tolerance: Fraction = 0.03
    networks: Annotated[int, msgspec.Meta(ge=6, le=1000)] = 16
    network_visits: Count = 3
    verify_visits: Count = 60
    least_clock: Fraction = 0.75  # as NVBench drops samples by default
    warmup_ms: Milliseconds = 0.0
    scan_passes: Count = 8  # enough for a class three times as slow, and for steps of some percent


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device and the runtime on it.

    Attributes:
        name: What tables call the device.
        runtime: Inference runtime, a name in ``latbench.profilers.PROFILERS``.
        device: What the runtime computes on.
        batch_size: Images a call; latencies are of the whole batch.
        precision: Of weights and activations.
        threads: Threads of one call.
        options: Passed to the runtime as they stand; each profiler says which it knows.
        sweep: The measuring protocol.
        clock: What a latency is on CUDA. ``gpu``, where none is named: the GPU's work on a call,
            without gaps between launches. ``host``: from the call until its result is there.
    """

    name: str
    runtime: str
    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: Count = 1
    precision: Precision = "fp32"
    threads: Count = 1
    options: dict[str, str] = msgspec.field(default_factory=dict)
    sweep: SweepProtocol = msgspec.field(default_factory=SweepProtocol)
    clock: Clock | None = None

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.clock is not None:
            raise ValueError("clock is for device cuda: leave it out")

    def same_device(self, other: DeviceProfile) -> bool:
        """Whether latencies of the two may be compared: all but the protocol is equal."""
        return self == msgspec.structs.replace(other, sweep=self.sweep)


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    names = (file.name for file in resources.files(_PACKAGE).iterdir())
    return sorted(
        name.removesuffix(".toml")
        for name in names
        if name.endswith(".toml") and not is_hidden(name)
    )


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Read a device profile by shipped name, such as ``"cpu-onnxruntime"``, or by path.

    Raises:
        UnknownNameError: Neither a shipped profile nor a file.
        InvalidFileError: The file is no device profile.
    """
    path = Path(name_or_path)
    shipped = shipped_profiles()
    name = str(name_or_path)
    if name in shipped:
        raw = resources.files(_PACKAGE).joinpath(f"{name}.toml").read_bytes()
        text = decode_text(raw, source=name, what=_WHAT)
    elif path.exists():
        text = read_text(path, what=_WHAT)
    else:
        raise UnknownNameError("device profile", name, shipped)
    try:
        return msgspec.toml.decode(text, type=DeviceProfile)
    except msgspec.DecodeError as error:
        raise InvalidFileError(
            f"{name_or_path} is no device profile: {error}", path=offence(str(error))
        ) from error
