"""Device profiles: TOML files that name a device, a runtime and a measuring protocol.

A profile is found by its name among the shipped ones (``device_profiles``) and the user's own, or
by its path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec

from latbench.errors import (
    InvalidFileError,
    InvalidValueError,
    UnknownNameError,
    described,
    offence,
)
from latbench.files import config_folder, decode_text, is_hidden, read_text, write_atomically

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=10_000)]
Precision = Literal["fp32", "fp16"]
Clock = Literal["gpu", "host"]
Cache = Literal["as-is", "cold", "shared"]
DesignName = Literal["sequential", "uniform"]

_LEAST_SHARE = 0.4  # part of min_passes in which a sequential design visits every block
_PACKAGE = "device_profiles"
_WHAT = "a device profile, TOML with at least name and runtime"
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
        max_passes: Maximum number of passes of a sweep.
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

        The uniform design visits each block in all passes. The sequential one may skip it after 0.4
        of ``min_passes``: 8 visits in the default 20, from which a block's noise can be estimated.
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


def of_table(profile: DeviceProfile) -> DeviceProfile:
    """The device of a table, to measure on.

    A table may come from somebody else. So a command in it is run only if the user has a device
    profile with the same command; ``ssh`` runs nothing here.

    Raises:
        InvalidValueError: The user has no device profile with the table's command.
    """
    host = present_host(profile)
    if host is None or not host.command:
        return profile
    if any(_own_host(name) == host for name in own_profiles()):
        return profile
    raise InvalidValueError(
        f"the table says that {profile.name} is reached by the command `{host}`, which would run "
        f"here with your rights. If you trust it, save a device profile with this [host] as "
        f"{own_folder() / profile.name}.toml"
    )


def _own_host(name: str) -> Host | None:
    """Host of an own profile; None if it has none, or cannot be read."""
    try:
        return load_device(name).host
    except InvalidFileError:
        return None


def present_host(profile: DeviceProfile) -> Host | None:
    """Where a device is now: tables have the host of their profiling, own profiles the newest."""
    if profile.host is None or profile.name not in own_profiles():
        return profile.host
    own = load_device(profile.name)
    return own.host if own.host is not None and own.same_device(profile) else profile.host


AnyDevice = DeviceProfile | str | Path
"""A device profile, its shipped name, or the path of its file."""


def as_device(device: AnyDevice, *, batch_size: int | None = None) -> DeviceProfile:
    """A device profile; it is read if its name or path is given.

    Args:
        device: The profile, its name or its path.
        batch_size: Number of images a call, instead of the profile's.

    Raises:
        UnknownNameError: There is no such device profile.
        InvalidFileError: The file is not a device profile.
    """
    profile = device if isinstance(device, DeviceProfile) else load_device(device)
    if batch_size is None:
        return profile
    return msgspec.structs.replace(profile, batch_size=batch_size)


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    names = (file.name for file in resources.files(_PACKAGE).iterdir())
    return sorted(
        name.removesuffix(".toml")
        for name in names
        if name.endswith(".toml") and not is_hidden(name)
    )


def own_folder() -> Path:
    """Folder of the user's own device profiles, ``~/.config/latbench/devices``."""
    return config_folder() / "devices"


def own_profiles() -> list[str]:
    """Names of the user's own device profiles."""
    return sorted(path.stem for path in own_folder().glob("*.toml") if not is_hidden(path.name))


def write_device(profile: DeviceProfile, path: Path) -> None:
    """Write a device profile without what is the default.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.toml.encode(_given(profile)))


def _given(value: msgspec.Struct) -> dict[str, Any]:
    """Fields of a struct that differ from their defaults."""
    given = {}
    for field in msgspec.structs.fields(value):
        own = getattr(value, field.name)
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if own != default:
            given[field.name] = _given(own) if isinstance(own, msgspec.Struct) else own
    return given


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """Read a device profile by name, such as ``"cpu-onnxruntime"``, or by path.

    Raises:
        UnknownNameError: The argument is neither the name of a profile nor a file.
        InvalidFileError: The file is not a device profile, or one of the user's own has another
            name than its file.
    """
    path = Path(name_or_path)
    shipped, own = shipped_profiles(), own_profiles()
    name = str(name_or_path)
    if name in shipped:
        raw = resources.files(_PACKAGE).joinpath(f"{name}.toml").read_bytes()
        text = decode_text(raw, source=name, what=_WHAT)
    elif name in own:
        text = read_text(own_folder() / f"{name}.toml", what=_WHAT)
    elif path.exists():
        text = read_text(path, what=_WHAT)
    else:
        raise UnknownNameError("device profile", name, [*shipped, *own])
    try:
        profile = msgspec.toml.decode(text, type=DeviceProfile)
    except msgspec.DecodeError as error:
        raise InvalidFileError(
            f"{name_or_path} is not a device profile: {described(error, DeviceProfile)}",
            path=offence(str(error)),
        ) from error
    if name in own and name not in shipped and profile.name != name:
        raise InvalidFileError(
            f"{own_folder() / name}.toml has the name {profile.name!r}: give both one name, by "
            "which the device is found",
            path="$.name",
        )
    return profile
