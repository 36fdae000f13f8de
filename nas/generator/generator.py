"""A trained architecture generator: its network, its requests, its file.

There are two forms with the same network. The *published* form accepts one kind of budget, MACs.
Its condition is ``(target - low) / (high - low)``, not clipped: outside of the trained range the
network extrapolates, as in the authors' code. The *conditioned* form accepts up to three budgets,
each as a fraction of the feasible range (for latencies, that of the device), and a learned vector
of the device. Fractions outside of the trained range are clipped to it. The prior of a request is
the one whose costs are nearest to the budgets, on the same device. ``nas.generator.answers``
repairs the architectures of both forms, so that they keep budgets anywhere in the feasible range.

The file has the safetensors format: weights under their published names, priors as bytes, and the
rest as JSON in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from latbench.errors import InvalidFileError, MismatchError, UnknownNameError, in_one_line, offence
from latbench.files import read_bytes, write_atomically
from latbench.tables import LatencyTable, SpaceLabel
from nas.generator.expected_costs import Kind
from nas.generator.network import GeneratorNetwork
from nas.generator.planes import PLANES, PlaneName
from nas.generator.repair import PlaneLimit
from nas.spaces.sgnas import CHOICES, SUB_BLOCKS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS: tuple[Kind, ...] = ("latency", "macs", "params")
PUBLISHED_MAPS = 10  # number of maps that repeat the published condition
DEVICE_FEATURES = 8  # length of a device's vector
FIRST_STD = 0.5  # standard deviation of the vectors' initial values

_METADATA = "latbench-generator"
_MAX_FILE_BYTES = 64 << 20  # a generator takes 0.3 MB; a larger file is something else
_NEW_DEVICE = "or add this one with: latbench generator adapt"


class GeneratorLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Description of a generator in its file.

    Attributes:
        form: Form of the generator, published or conditioned.
        space: Space of its architectures.
        low: Lower end of the trained range: a budget in millions of MACs (published), or a
            fraction of the feasible range (conditioned).
        high: Upper end of the trained range, in the same unit.
        kinds: Kinds of budget that it was trained on.
        devices: Devices whose latencies it was trained on, in the order of their vectors.
        priors: Position of each prior in the range, in the unit of ``low``.
        plane: Decision plane, a name in ``nas.generator.planes.PLANES``.
    """

    format: Literal[1]
    form: Literal["published", "conditioned"]
    space: SpaceLabel
    low: float
    high: float
    kinds: tuple[Kind, ...]
    devices: tuple[str, ...]
    priors: tuple[float, ...]
    plane: PlaneName = "sub-blocks"  # files without this field are older than the other planes


@dataclass(frozen=True)
class Request:
    """Budgets that a generator finds an architecture for.

    Attributes:
        limits: One budget or two of different kinds.
        device: Device of the latency budget; None without one.
    """

    limits: tuple[PlaneLimit, ...]
    device: str | None = None

    def __str__(self) -> str:
        """A name for use in file names, such as ``15ms`` or ``15ms-320M-macs``."""
        suffixes = {"latency": "ms", "macs": "M-macs", "params": "M-params"}
        return "-".join(f"{limit.budget:.6g}{suffixes[limit.costs.kind]}" for limit in self.limits)


class Generator(nn.Module):
    """The network, and the conversion of requests into its inputs.

    Attributes:
        network: The published network.
        devices: Vectors of the devices, ``(D, DEVICE_FEATURES)``.
        priors: Priors as one-hot vectors, ``(priors, L, G * C)``.
    """

    priors: Tensor

    def __init__(self, label: GeneratorLabel, priors: Tensor) -> None:
        super().__init__()
        self.label = label
        self.decisions = PLANES[label.plane].decisions
        self.choices = priors.shape[-1] // self.decisions
        conditioned = label.form == "conditioned"
        maps = 2 * len(KINDS) + DEVICE_FEATURES if conditioned else PUBLISHED_MAPS
        self.network = GeneratorNetwork(maps)
        self.devices = nn.Parameter(torch.randn(len(label.devices), DEVICE_FEATURES) * FIRST_STD)
        self.register_buffer("priors", priors.to(torch.float32))
        self._read: tuple[Tensor, int, list[Ints]] | None = None

    def __repr__(self) -> str:
        label = self.label
        known = [label.form, str(label.space), f"budgets of {', '.join(label.kinds)}"]
        return f"Generator({'; '.join([*known, *label.devices])})"

    def forward(self, requests: Sequence[Request]) -> Tensor:
        """Logits of all requests in one pass, ``(N, L, G, C)``; see ``nas.generator.planes``.

        Raises:
            MismatchError: The generator was not trained on the kind of a request.
            UnknownNameError: The generator was not trained on the device of a request.
        """
        for request in requests:
            for limit in request.limits:
                self.require(limit.costs.kind)
        conditions, which = self._conditions(requests)
        logits: Tensor = self.network(conditions, self.priors, which)
        return logits.reshape(*logits.shape[:2], self.decisions, self.choices)

    def nearest_priors(self, requests: Sequence[Request]) -> Tensor:
        """Index of the prior for each request, ``(N,)``, on the CPU."""
        if self.label.form == "published":
            places = np.array(self.label.priors)
            off = [[places - limit.budget for limit in request.limits] for request in requests]
        else:
            known = self._prior_outcomes()
            off = [[_beyond(limit, known) for limit in request.limits] for request in requests]
        # the budget that a prior exceeds most counts, as in training
        return torch.tensor([int(np.abs(np.max(each, axis=0)).argmin()) for each in off])

    def _prior_outcomes(self) -> list[Ints]:
        """Outcomes of the priors, ``(L,)`` each.

        They are computed once for as long as the priors do not change. If every step read the
        priors, the CPU would wait for the GPU each time.
        """
        now = self.priors, self.priors._version
        if self._read is None or self._read[0] is not now[0] or self._read[1] != now[1]:
            outcomes_of = PLANES[self.label.plane].outcomes_of
            known = [outcomes_of(prior) for prior in self.prior_choices().cpu().numpy()]
            self._read = (*now, known)
        return self._read[2]

    def prior_choices(self) -> Tensor:
        """Choices of the priors, ``(priors, L, G)``."""
        shape = (*self.priors.shape[:2], self.decisions, self.choices)
        return self.priors.reshape(shape).argmax(-1)

    def require(self, kind: Kind | Literal["memory"]) -> None:
        """Refuse a kind of budget that the generator was not trained on.

        Raises:
            MismatchError: The generator was not trained on this kind.
        """
        if kind in self.label.kinds:
            return
        options = {"latency": "--target", "macs": "--target-macs", "params": "--target-params"}
        known = " or ".join(options[known] for known in self.label.kinds)
        raise MismatchError(
            f"this generator was trained on budgets of {' and '.join(self.label.kinds)} only, "
            f"not of {kind}: use {known}, or train one with `latbench search "
            f"{self.label.space.name} --searcher sgnas --table TABLE ...`"
        )

    def _conditions(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Conditions ``(N, K)`` and nearest priors ``(N,)``, sent to the GPU in one copy."""
        numbers = torch.tensor([self._numbers(request) for request in requests])
        sent = torch.cat([numbers, self.nearest_priors(requests)[:, None].float()], dim=1)
        sent = sent.to(self.devices.device, non_blocking=True)
        conditions, which = sent[:, :-1], sent[:, -1].long()
        if self.label.form == "conditioned":
            nowhere = self.devices.new_zeros(DEVICE_FEATURES)
            features = [self._features(request.device, nowhere) for request in requests]
            conditions = torch.cat([conditions, torch.stack(features)], dim=1)
        return conditions, which

    def _numbers(self, request: Request) -> list[float]:
        """The part of a condition that depends only on the budgets."""
        low, high = self.label.low, self.label.high
        if self.label.form == "published":
            return [(request.limits[0].budget - low) / (high - low)] * PUBLISHED_MAPS
        pairs = [[0.0, 0.0] for _ in KINDS]
        for limit in request.limits:
            place = min(max(limit.costs.place(limit.budget), low), high)
            pairs[KINDS.index(limit.costs.kind)] = [place, 1.0]
        return [number for pair in pairs for number in pair]

    def _features(self, device: str | None, nowhere: Tensor) -> Tensor:
        if device is None:
            return nowhere
        if device not in self.label.devices:
            raise UnknownNameError(
                f"device of this generator ({_NEW_DEVICE})", device, self.label.devices
            )
        return self.devices[self.label.devices.index(device)]

    def with_device(self, device: str) -> Generator:
        """A copy with a vector for one more device, which begins as the mean of the others.

        Raises:
            MismatchError: The generator was not trained on latencies, or knows the device already.
        """
        self.require("latency")
        if device in self.label.devices:
            raise MismatchError(f"the generator knows {device} already: ask it, with --target")
        label = msgspec.structs.replace(self.label, devices=(*self.label.devices, device))
        wider = Generator(label, self.priors).to(self.devices.device)
        state = self.state_dict()
        vectors = self.devices.detach()
        state["devices"] = torch.cat([vectors, vectors.mean(dim=0, keepdim=True)])
        wider.load_state_dict(state)
        return wider


def _beyond(limit: PlaneLimit, networks: Sequence[Ints]) -> Floats:
    """Excess of the costs of networks over a budget, as a fraction of the feasible range."""
    costs = limit.costs
    return np.array([costs.place(costs.of(row)) for row in networks]) - costs.place(limit.budget)


def device_of(table: LatencyTable) -> str:
    """The name that generators use for a table's device: name of the profile, and chip."""
    if table.origin is not None:  # measured elsewhere; the origin names the device
        return table.device.name
    return f"{table.device.name} on {table.environment.chip}"


def save_generator(generator: Generator, path: Path) -> None:
    """Write the file of a generator.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    state = generator.state_dict()
    tensors = {name: value.cpu().contiguous() for name, value in state.items()}
    tensors["priors"] = tensors["priors"].to(torch.uint8)
    metadata = {_METADATA: msgspec.json.encode(generator.label).decode()}
    write_atomically(path, save_tensors(tensors, metadata))


def load_generator(path: Path) -> Generator:
    """Read the file of a generator. The generator is on the CPU, wherever it was trained.

    Raises:
        InvalidFileError: The file is missing or damaged, or holds no generator.
    """
    raw = read_bytes(path, what="a generator", limit=_MAX_FILE_BYTES)
    text = _metadata(raw).get(_METADATA)
    if not isinstance(text, str):
        raise InvalidFileError(
            f"{path} is no generator: make one with `latbench generator import` or "
            "`latbench search SPACE --searcher sgnas`"
        )
    try:
        label = msgspec.json.decode(text, type=GeneratorLabel)
        tensors = load_tensors(raw)
        priors = tensors["priors"]
        if priors.ndim != 3 or len(priors) != len(label.priors) or not _fits(label.plane, priors):
            raise RuntimeError(f"its priors have the shape {tuple(priors.shape)}")
        generator = Generator(label, priors)
        generator.load_state_dict(tensors)
    except msgspec.DecodeError as error:
        raise InvalidFileError(
            f"{path} is no generator: {error}", path=offence(str(error))
        ) from error
    except (SafetensorError, KeyError, RuntimeError) as error:
        reason = in_one_line(error, most=200)
        raise InvalidFileError(f"{path} is a damaged generator: {reason}") from error
    return generator.eval()


def _fits(plane: PlaneName, priors: Tensor) -> bool:
    """Whether the priors have the shape that a plane needs."""
    width = priors.shape[-1]
    return width == SUB_BLOCKS * CHOICES if plane == "sub-blocks" else width > 0


def _metadata(raw: bytes) -> Mapping[str, Any]:
    """Metadata of a safetensors file; empty if the bytes are not such a file."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length]) if length <= len(raw) else {}
    except (ValueError, RecursionError):
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}
