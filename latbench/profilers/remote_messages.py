"""Messages between this machine and a device elsewhere, and how they lie in a stream of bytes.

The device's side is ``latbench.serve``. It writes ``MARK`` first, because a login shell may print
something before it starts. Every message then is its length as four bytes, most significant first,
and MessagePack of one of the structs below. A message is limited in size, is decoded as data of a
known type, and nothing in it is executed.

The client asks, the server answers in the order of the requests. Several requests may be on their
way. ``Beat`` may come before any answer, and means that the server is at work.
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, TypeAlias

import msgspec

from latbench.conditions import Conditions
from latbench.device import DeviceProfile
from latbench.environment import Environment

PROTOCOL = 3
MARK = b"\nlatbench serves\n"
MAX_MESSAGE_BYTES = 32 << 20
CHUNK_BYTES = 8 << 20  # of the weights of a model, which are sent in several messages
LENGTH_BYTES = 4

Nanoseconds = Annotated[int, msgspec.Meta(ge=1, le=86_400 * 10**9)]  # no call takes a day
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base class of all messages; the class's name is on the wire."""


# What the client asks


class Open(Message, frozen=True):
    """Prepare the profiler of a device profile. Answer: ``Opened``.

    Attributes:
        profile: Device profile without its host.
        client: Name of the client, for whoever finds the device busy.
    """

    profile: DeviceProfile
    client: str


class Hold(Message, frozen=True):
    """Take the lock of the device. Answer: ``Done``, or ``Failed`` if another process has it."""


class Release(Message, frozen=True):
    """Give the lock of the device back. Answer: ``Done``."""


class AskEnvironment(Message, frozen=True):
    """Answer: ``EnvironmentNow``."""


class AskLoad(Message, frozen=True):
    """Answer: ``LoadNow``, from the last ``Begin`` with ``meter`` on."""


class AddNetwork(Message, frozen=True):
    """Register a network of blocks or segments. No answer.

    Attributes:
        number: Number of the network in later messages of this connection.
        blocks: Canonical JSON of each block spec.
    """

    number: int
    blocks: tuple[str, ...]


class TensorHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Name, shape and NumPy type of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class AddModel(Message, frozen=True):
    """Register an ONNX model whose weights follow in ``AddWeights``. No answer."""

    number: int
    name: str
    graph: bytes
    inputs: tuple[TensorHeader, ...]
    weights: tuple[TensorHeader, ...]


class AddWeights(Message, frozen=True):
    """Bytes of a weight of the model that was registered last, from an offset on. No answer."""

    number: int
    name: str
    offset: int
    data: bytes


class Forget(Message, frozen=True):
    """Free a model that the client needs no more. No answer."""

    number: int


class VisitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One visit: the network's number, the duration of its hot calls, whether cold calls follow."""

    number: int
    dwell_ms: float
    cold: bool


class Begin(Message, frozen=True):
    """Prepare for visits, such as by warming up. Answer: ``ConditionsNow``.

    Attributes:
        meter: Whether the load of the machine counts from here.
    """

    meter: bool = False


class Visits(Message, frozen=True):
    """Make visits, and answer when all are made: ``Taken``."""

    requests: tuple[VisitRequest, ...]


class AskConditions(Message, frozen=True):
    """Answer: ``ConditionsNow``."""


class AskFootprint(Message, frozen=True):
    """Measure how long a network takes to open and how much memory. Answer: ``FootprintNow``."""

    number: int


class AskNoise(Message, frozen=True):
    """Check the noise of the device for so many seconds. Answer: ``NoiseNow``."""

    seconds: float


Request: TypeAlias = (
    Open
    | Hold
    | Release
    | AskEnvironment
    | AskLoad
    | AddNetwork
    | AddModel
    | AddWeights
    | Forget
    | Begin
    | Visits
    | AskConditions
    | AskFootprint
    | AskNoise
)


# What the server answers


class Welcome(Message, frozen=True):
    """First message of a server."""

    protocol: int
    latbench: str
    python: str


class Beat(Message, frozen=True):
    """The server is at work.

    Attributes:
        done: Fraction of the present request, for progress.
        words: What it does.
    """

    done: float = 0.0
    words: str = ""


class Failed(Message, frozen=True):
    """A request that could not be followed.

    Attributes:
        kind: Kind of the error, as in ``LatbenchError.kind``.
        message: Its message.
    """

    kind: str
    message: str


class Done(Message, frozen=True):
    """A request was followed."""


class Opened(Message, frozen=True):
    """The profiler is ready.

    Attributes:
        versions: Versions of the runtime and its libraries.
    """

    versions: dict[str, str]


class EnvironmentNow(Message, frozen=True):
    """State of the machine and the software."""

    environment: Environment


class ConditionsNow(Message, frozen=True):
    """Conditions, and the remarks of the profiler so far."""

    conditions: Conditions
    remarks: tuple[str, ...] = ()


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Processors in use by others, idle ones, and all of them."""

    others: float
    idle: float
    cores: int


class LoadNow(Message, frozen=True):
    """Load since ``Begin``; None where the system does not count it."""

    load: Load | None


class TakenVisit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Raw times of a visit.

    Attributes:
        hot_ns: Durations of the hot calls, at least one.
        cold_ns: Durations of the cold calls.
        open_s: Time to open and close the session.
        distrust: Reason why the visit does not count; None if it counts.
    """

    hot_ns: Annotated[tuple[Nanoseconds, ...], msgspec.Meta(min_length=1)]
    cold_ns: tuple[Nanoseconds, ...]
    open_s: Amount
    distrust: str | None = None


class Taken(Message, frozen=True):
    """All visits of a request, in its order."""

    visits: tuple[TakenVisit, ...]


class FootprintNow(Message, frozen=True):
    """Time to open a network in ms, and memory that it takes in 10^6 bytes."""

    load_ms: Amount
    peak_mb: Amount


class NoiseNow(Message, frozen=True):
    """Result of a noise check, as the fields of ``NoiseCheck``."""

    fields: dict[str, Any]


Answer: TypeAlias = (
    Welcome
    | Beat
    | Failed
    | Done
    | Opened
    | EnvironmentNow
    | ConditionsNow
    | LoadNow
    | Taken
    | FootprintNow
    | NoiseNow
)


def packed(message: Request | Answer) -> bytes:
    """A message as it lies in the stream.

    Raises:
        ValueError: The message is longer than ``MAX_MESSAGE_BYTES``.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is too long")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def unpacked(body: bytes) -> Answer:
    """An answer of the server.

    Raises:
        ValueError: It is no message, or a number in it is not finite.
    """
    plain = msgspec.msgpack.decode(body)
    if not _is_finite(plain):
        raise ValueError("a number is not finite")
    answer: Answer = msgspec.convert(plain, Answer)
    return answer


def _is_finite(value: object) -> bool:
    """Whether all numbers of plain data are finite."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or isfinite(value)
