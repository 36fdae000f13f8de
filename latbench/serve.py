"""Server of a device: makes visits for a client elsewhere that speaks over its standard streams.

    ssh pi@board '~/latbench/bin/python -m latbench.serve'

The client is ``latbench.profilers.remote``. The server opens no port, keeps no file but the caches
of the runtimes, and ends when its input ends. What the runtimes print goes to the error stream.
See ``latbench.profilers.remote_messages`` for the messages.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from latbench import __version__
from latbench.blocks import Network, parse_block
from latbench.conditions import Conditions
from latbench.environment import memory_bytes
from latbench.errors import InvalidValueError, LatbenchError, RuntimeFailure, in_one_line
from latbench.measure.load import LoadMeter
from latbench.measure.lock import device_lock
from latbench.measure.noise import check_noise
from latbench.measure.visiting import Target, visits_here
from latbench.models.onnx_model import OnnxModel, Tensor
from latbench.profilers import Profiler, make_profiler
from latbench.profilers.remote_messages import (
    LENGTH_BYTES,
    MARK,
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    AddModel,
    AddNetwork,
    AddWeights,
    Answer,
    AskConditions,
    AskEnvironment,
    AskFootprint,
    AskLoad,
    AskNoise,
    Beat,
    Begin,
    ConditionsNow,
    Done,
    EnvironmentNow,
    Failed,
    FootprintNow,
    Forget,
    Hold,
    Load,
    LoadNow,
    NoiseNow,
    Open,
    Opened,
    Release,
    Request,
    Taken,
    TakenVisit,
    TensorHeader,
    Visits,
    Welcome,
    packed,
)
from latbench.workflows.footprint import measure_footprint

_BEAT_S = 2.0  # between two signs of life, which are given between visits only
_MOST_MEMORY = 0.8  # of the machine, for the weights of models
_UNANSWERED = (AddNetwork, AddModel, AddWeights, Forget)


class Line:
    """The stream of requests and answers."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink

    def requests(self) -> Iterator[Request]:
        """Requests until the input ends.

        Raises:
            InvalidValueError: What came is no message.
        """
        while True:
            head = self._source.read(LENGTH_BYTES)
            if len(head) < LENGTH_BYTES:
                return
            length = int.from_bytes(head, "big")
            if length > MAX_MESSAGE_BYTES:
                raise InvalidValueError(f"a message of {length} bytes is too long")
            body = self._source.read(length)
            if len(body) < length:
                return
            try:
                yield msgspec.msgpack.decode(body, type=Request)
            except ValueError as error:
                raise InvalidValueError(f"that is no message: {error}") from error

    def answer(self, message: Answer) -> None:
        self._sink.write(packed(message))
        self._sink.flush()


class Server:
    """State of one client: its profiler, its networks and whether it holds the device."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._profiler: Profiler | None = None
        self._client = "a client"
        self._networks: dict[int, Network | OnnxModel] = {}
        self._refused: dict[int, str] = {}  # networks that could not be registered, and why
        self._weights: dict[tuple[int, str], NDArray[np.uint8]] = {}
        self._hold = ExitStack()
        self._meter = LoadMeter()
        self._follow: dict[type, Callable[[Any], Answer | None]] = {
            Open: self._open,
            Hold: self._take,
            Release: self._release,
            AskEnvironment: self._environment,
            AskLoad: self._load,
            AskConditions: self._conditions,
            AddNetwork: self._add_network,
            AddModel: self._add_model,
            AddWeights: self._add_weights,
            Forget: self._forget,
            Begin: self._begin,
            Visits: self._visits,
            AskFootprint: self._footprint,
            AskNoise: self._noise,
        }

    def run(self) -> None:
        """Follow requests until the client is gone."""
        with self._hold:
            for request in self._line.requests():
                try:
                    answer = self._follow[type(request)](request)
                except LatbenchError as error:
                    answer = Failed(error.kind, error.message)
                except Exception as error:  # the client is told: without an answer it asks again
                    what = f"{type(error).__name__}: {in_one_line(error)}".removesuffix(": ")
                    answer = Failed(RuntimeFailure.kind, what)
                if isinstance(request, _UNANSWERED):  # the request that needs the network fails
                    if isinstance(answer, Failed):
                        self._refused.setdefault(request.number, answer.message)
                elif answer is not None:
                    self._line.answer(answer)

    @property
    def profiler(self) -> Profiler:
        if self._profiler is None:
            raise InvalidValueError("no device profile has been opened")
        return self._profiler

    def _open(self, request: Open) -> Answer:
        self._profiler, self._client = make_profiler(request.profile), request.client
        return Opened({name: str(version) for name, version in self.profiler.versions().items()})

    def _take(self, request: Hold) -> Answer:
        self._hold.close()
        self._hold.enter_context(device_lock(self.profiler.profile.device, holder=self._client))
        return Done()

    def _release(self, request: Release) -> Answer:
        self._hold.close()
        return Done()

    def _environment(self, request: AskEnvironment) -> Answer:
        return EnvironmentNow(self.profiler.environment())

    def _load(self, request: AskLoad) -> Answer:
        load = self._meter.read()
        return LoadNow(None if load is None else Load(load.others, load.idle, load.cores))

    def _conditions(self, request: AskConditions) -> Answer:
        return self._now(self.profiler.conditions())

    def _begin(self, request: Begin) -> Answer:
        conditions = self.profiler.begin()
        if request.meter:
            self._meter = LoadMeter()
        return self._now(conditions)

    def _now(self, conditions: Conditions) -> Answer:
        return ConditionsNow(conditions, tuple(self.profiler.remarks()))

    def _add_network(self, request: AddNetwork) -> None:
        self._networks[request.number] = tuple(parse_block(key) for key in request.blocks)

    def _add_model(self, request: AddModel) -> None:
        sizes = {each.name: _checked_bytes(each) for each in request.weights}
        own = sum(sizes.values())
        others = sum(value.nbytes for value in self._weights.values())
        if own + others > _MOST_MEMORY * memory_bytes():
            raise InvalidValueError(
                f"{request.name} takes {own / 1e6:.0f} MB beside {others / 1e6:.0f} MB of other "
                f"models, and this device has {memory_bytes() / 1e6:.0f} MB of memory"
            )
        weights = {}
        for each in request.weights:
            raw = np.zeros(sizes[each.name], dtype=np.uint8)
            self._weights[request.number, each.name] = raw
            weights[each.name] = raw.view(np.dtype(each.dtype)).reshape(each.shape)
        inputs = tuple(Tensor(i.name, i.shape, np.dtype(i.dtype)) for i in request.inputs)
        self._networks[request.number] = OnnxModel(
            request.name, Path(request.name), request.graph, weights, inputs
        )

    def _add_weights(self, request: AddWeights) -> None:
        raw = self._weights.get((request.number, request.name))
        end = request.offset + len(request.data)
        if raw is None or request.offset < 0 or end > len(raw):
            raise InvalidValueError(f"{request.name} is no weight of that size")
        raw[request.offset : end] = np.frombuffer(request.data, dtype=np.uint8)

    def _forget(self, request: Forget) -> None:
        self._networks.pop(request.number, None)
        self._refused.pop(request.number, None)
        for key in [key for key in self._weights if key[0] == request.number]:
            del self._weights[key]

    def _network(self, number: int) -> Network | OnnxModel:
        if number in self._refused:
            raise InvalidValueError(self._refused[number])
        if number not in self._networks:
            raise InvalidValueError(f"there is no network {number}")
        return self._networks[number]

    def _visits(self, request: Visits) -> Answer:
        targets = [
            Target(number, self._network(each.number), 1, each.dwell_ms, each.cold)
            for number, each in enumerate(request.requests)
        ]
        taken, beat_s = [], monotonic()
        for _, made in visits_here(self.profiler, targets):
            visit = made.visit
            taken.append(TakenVisit(visit.hot_ns, visit.cold_ns, made.open_s, made.distrust))
            if monotonic() > beat_s + _BEAT_S:
                self._line.answer(Beat())  # fails if the client is gone, and ends the server
                beat_s = monotonic()
        return Taken(tuple(taken))

    def _footprint(self, request: AskFootprint) -> Answer:
        network = self._network(request.number)
        found = measure_footprint(self.profiler, network, progress=self._beat)
        return FootprintNow(found.load_ms, found.peak_mb)

    def _noise(self, request: AskNoise) -> Answer:
        found = check_noise(
            self.profiler,
            self.profiler.environment(),
            seconds=request.seconds,
            progress=self._beat,
        )
        return NoiseNow(asdict(found))

    def _beat(self, done: float, words: str) -> None:
        self._line.answer(Beat(done, words))


def _checked_bytes(tensor: TensorHeader) -> int:
    """Size of a tensor in bytes.

    Raises:
        InvalidValueError: Its type is no number, or its shape is no shape.
    """
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:
        raise InvalidValueError(f"{tensor.dtype} is no type of numbers") from None
    if dtype.hasobject or min(tensor.shape, default=0) < 0:
        raise InvalidValueError(f"{tensor.name} is no tensor of numbers")
    return prod(tensor.shape) * dtype.itemsize


def main() -> None:
    """Serve the client at the standard streams."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a runtime prints is no answer
    line = Line(os.fdopen(os.dup(sys.stdin.fileno()), "rb"), sink)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    try:
        sink.write(MARK)
        line.answer(Welcome(PROTOCOL, __version__, platform.python_version()))
        Server(line).run()
    except (BrokenPipeError, ConnectionResetError):  # the client is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sink.fileno())
    except LatbenchError as error:
        sys.exit(f"latbench.serve: {error.message}")


if __name__ == "__main__":
    main()
