"""Device profiles: what they say of a device, a runtime and a measuring protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import msgspec

from latbench.errors import InvalidValueError

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10_000)]
Precision = Literal["fp32", "fp16"]
Clock = Literal["gpu", "host"]
Cache = Literal["as-is", "cold", "shared"]
DesignName = Literal["sequential", "uniform"]

_LEAST_SHARE = 0.4  # part of min_passes in which a sequential design visits every block
IMPORTED = "imported"
"""Runtime of imported tables, which another program measured. Nothing can be run on it."""


class SweepProtocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for visits and for the end of a sweep (the ``[sweep]`` section).

    With the default values, sums of block prices agreed with the latencies of whole networks on
    shared machines; see docs/measurement.md.

    Attributes:
        warmup_calls: Minimum number of untimed calls at the start of a visit.
        hot_calls: Minimum number of timed calls that directly follow each other.
        cold_calls: Number of timed calls of a block that each follow an eviction: of the L2 cache,
            or of what the profile's ``cache`` says.
        block_dwell_ms: Duration of the hot calls to a block.
        network_dwell_ms: Duration of the hot calls to a network. It is longer than for a block,
            because a network needs several calls to load its weights into the shared cache, and one
            call without disturbance.
        min_passes: Minimum number of passes of a sweep. Intervals from fewer than 19 visits cover
            their scatter only.
        max_passes: Maximum number of passes that one call makes; a resumed sweep may have more.
        quantile: Quantile over visits of the fastest call of a visit. It is low because other
            programs on a shared machine can only add time.
        block_tolerance: Relative half width of the 95 % interval below which the estimate of a
            block counts as converged. Only the uniform design uses it.
        network_tolerance: The same limit for the summed latency of the calibration networks; in
            the sequential design, for the prediction of a typical network.
        floor_tolerance: Split-half noise of the calibration networks above which the whole sweep
            counts as noisy.
        networks: Number of calibration networks in every pass. A resumed table keeps its networks;
            new ones are added if it has fewer.
        network_visits: Number of visits to each calibration network in a pass.
        verify_visits: Number of visits to each network of a verification; 2.5 times as many are
            made on a processor if the networks take less than 2 ms.
        least_clock: Fraction of a GPU's highest clock below which a visit does not count. Lower
            this value if the clock is locked on purpose.
        warmup_ms: Minimum duration of the untimed calls, because an idle GPU lowers its clock.
        scan_passes: Number of passes over the widths of the scan for alignment classes.
        design: Rule for the blocks that a pass of a profiling visits: ``uniform`` visits all of
            them, ``sequential`` those that still matter for predicted networks.
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
    least_clock: Fraction = 0.75  # the default limit of NVBench
    warmup_ms: Milliseconds = 0.0
    scan_passes: Count = 8  # enough to find a class three times as slow, and steps of a few percent
    design: DesignName = "uniform"

    @property
    def least_visits(self) -> int:
        """Number of visits below which a block counts as noisy.

        The uniform design visits each block in all passes after it was chosen. The sequential one
        may skip it after 0.4 of ``min_passes``: 8 visits in the default 20, from which a block's
        noise can be estimated.
        """
        if self.design == "uniform":
            return self.min_passes
        return max(2, round(_LEAST_SHARE * self.min_passes))


# hosts and paths of these characters are one word for every shell
_TARGET = re.compile(r"[\w.@:/%\[\]+~-]+", re.ASCII)


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Place of a device that is not this machine (the ``[host]`` section).

    Attributes:
        ssh: Destination for the system's ``ssh``, such as ``pi@raspberrypi.local``,
            ``ssh://pi@board:2222`` or a name of ``~/.ssh/config``.
        command: Words of another command that runs a program there, instead of ``ssh``. Example:
            ``["docker", "exec", "-i", "board"]``.
        python: Python on the device that has latbench installed, such as
            ``~/latbench/bin/python``.
    """

    ssh: str | None = None
    command: tuple[str, ...] = ()
    python: str = "python3"

    def __post_init__(self) -> None:
        if (self.ssh is None) == (not self.command):
            raise ValueError("a host has either ssh or command: give one of them")
        for name, value in (("ssh", self.ssh), ("python", self.python)):
            if value is not None and (not _TARGET.fullmatch(value) or value.startswith("-")):
                raise ValueError(
                    f"{name} {value!r} is not allowed: use letters, digits and . _ ~ / @ : % + -"
                )

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """A host of values that a user gave.

        Raises:
            InvalidValueError: A value is not allowed.
        """
        try:
            return cls(**fields)
        except ValueError as error:
            raise InvalidValueError(str(error)) from error

    def __str__(self) -> str:
        return self.ssh or " ".join(self.command)

    def run_command(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Words of the command that runs the Python there with some arguments.

        Args:
            arguments: Arguments of Python, of the characters that are allowed in ``python``.
            options: Options of ssh.
        """
        words = [self.python, *arguments]
        if self.ssh is None:
            return [*self.command, *words]
        return ["ssh", *options, "--", self.ssh, " ".join(words)]


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device and the runtime on it.

    Attributes:
        name: Name of the device in tables.
        runtime: Inference runtime, a name in ``latbench.profilers.PROFILERS``.
        device: Hardware that the runtime computes on.
        batch_size: Number of images a call. Latencies are those of the whole batch.
        precision: Precision of weights and activations.
        threads: Number of threads of one call.
        options: Options that are passed to the runtime unchanged. The module of each profiler lists
            those it accepts.
        sweep: Measuring protocol.
        clock: Definition of a latency on CUDA. ``gpu`` (the default) is the time of the GPU's work
            for a call, without gaps between launches. ``host`` is the time from the call until
            its result is available.
        host: Place of the device; None if it is this machine.
        cache: State of the processor's caches before each call to a network. ``as-is`` is what the
            call before left there, as in a loop. ``cold`` evicts them, for a network that runs
            once and then sleeps. ``shared`` reads ``shared_mb`` of other data, for a network that
            runs beside other work. Latencies of different states are not compared.
        shared_mb: Other data that are read before each call, in MB of 2^20 bytes.
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
    host: Host | None = None
    cache: Cache = "as-is"
    shared_mb: Count | None = None

    def __post_init__(self) -> None:
        if self.device == "cpu" and self.clock is not None:
            raise ValueError("clock is for device cuda: leave it out")
        if self.cache != "as-is" and (self.device == "cuda" or self.threads > 1):
            raise ValueError(
                "cache is for device cpu and one thread, because one thread evicts: leave it out"
            )
        if (self.cache == "shared") != (self.shared_mb is not None):
            raise ValueError(
                'shared_mb belongs to cache = "shared": give both, such as shared_mb = 16, or none'
            )

    @property
    def condition(self) -> str | None:
        """State of the caches before each call in words; None if it is as the last call left it."""
        if self.cache == "cold":
            return "from cold caches"
        return f"after {self.shared_mb} MB of other data" if self.cache == "shared" else None

    def same_device(self, other: DeviceProfile) -> bool:
        """Whether latencies of two profiles can be compared.

        Their protocols may differ, and the address of a device may change.
        """
        return self == msgspec.structs.replace(other, sweep=self.sweep, host=self.host)
