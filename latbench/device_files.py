"""Files of device profiles: found by name or path, written, and trusted with the user's rights.

A profile is found by its name among the shipped ones (``device_profiles``) and the user's own, or
by its path.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from latbench.device import DeviceProfile, Host
from latbench.errors import (
    InvalidFileError,
    InvalidValueError,
    UnknownNameError,
    described,
    offence,
)
from latbench.files import config_folder, decode_text, is_hidden, read_text, write_atomically

_PACKAGE = "device_profiles"
_WHAT = "a device profile, TOML with at least name and runtime"


def of_table(profile: DeviceProfile) -> DeviceProfile:
    """The device of a table, to measure on, where it is now.

    A table may come from somebody else. So a command in it is run only if the user has a device
    profile with the same command; ``ssh`` runs nothing here.

    Raises:
        InvalidValueError: The user has no device profile with the table's command.
    """
    host = _present_host(profile)
    if host is None or not host.command or any(_own_host(name) == host for name in own_profiles()):
        return msgspec.structs.replace(profile, host=host)
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


def _present_host(profile: DeviceProfile) -> Host | None:
    """Where a device is now: tables have the host of their profiling, own profiles the newest."""
    if profile.host is None or profile.name not in own_profiles():
        return profile.host
    own = load_device(profile.name)
    return own.host if own.host is not None and own.same_device(profile) else profile.host


AnyDevice = DeviceProfile | str | Path
"""A device profile, the name of one, or the path of its file."""


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
        InvalidFileError: The file cannot be written.
    """
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
    shipped, own = shipped_profiles(), own_profiles()
    name = str(name_or_path)
    if name in shipped and name in own:
        raise InvalidFileError(
            f"{own_folder() / name}.toml has the name of a profile that comes with latbench: give "
            "file and profile another name"
        )
    if name in shipped:
        raw = resources.files(_PACKAGE).joinpath(f"{name}.toml").read_bytes()
        return _parsed(decode_text(raw, source=name, what=_WHAT), name)
    if name in own:
        file = own_folder() / f"{name}.toml"
        profile = _parsed(read_text(file, what=_WHAT), name)
        if profile.name != name:
            raise InvalidFileError(
                f"{file} has the name {profile.name!r}: give both one name, by which the device is "
                "found",
                path="$.name",
            )
        return profile
    path = Path(name_or_path)
    if path.exists():
        return _parsed(read_text(path, what=_WHAT), name)
    raise UnknownNameError("device profile", name, [*shipped, *own])


def _parsed(text: str, source: str) -> DeviceProfile:
    try:
        return msgspec.toml.decode(text, type=DeviceProfile)
    except msgspec.DecodeError as error:
        raise InvalidFileError(
            f"{source} is not a device profile: {described(error, DeviceProfile)}",
            path=offence(str(error)),
        ) from error
