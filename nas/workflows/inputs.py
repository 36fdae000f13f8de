"""Conversion of workflow inputs: objects, or their names and paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from latbench.device_files import AnyDevice, as_device
from latbench.errors import InvalidValueError, UnknownNameError
from latbench.files import is_onnx_file
from latbench.models import OnnxModel, read_model, require_inputs
from latbench.models.segments import Piece, cut
from latbench.models.torch_modules import (
    Example,
    TorchModule,
    is_torch_module,
    read_module,
    require_example,
)
from latbench.profilers import Profiler, make_profiler
from latbench.tables import LatencyTable
from nas.latency.priced_space import PricedSpace, labelled_space
from nas.spaces import Architecture, SearchSpace, load_architecture, make_space, space_of

if TYPE_CHECKING:
    from nas.training.torch_device import TorchDevice

AnyArchitecture = Architecture | str | Path
"""An architecture, or the path of its file."""

OwnModel: TypeAlias = "OnnxModel | TorchModule | str | Path"
"""An ONNX model, the path of its file, or a torch module."""

AnySpace = SearchSpace | str
"""A search space; or its name, which means its published input size and classes."""

_EFFICIENT = "efficient"
_WIDTHS = (_EFFICIENT, "any")

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of inputs that an ONNX file leaves open, by name of the input."""

AnyTable = LatencyTable | str | Path
"""A latency table, or the path of its file."""


def as_architecture(architecture: AnyArchitecture) -> tuple[Architecture, SearchSpace]:
    """An architecture and its space.

    Raises:
        LatbenchError: The file is not an architecture, or the space has no such architecture.
    """
    if not isinstance(architecture, Architecture):
        architecture = load_architecture(architecture)
    return architecture, space_of(architecture)


def require_no_shapes(shapes: Shapes | None) -> None:
    """Refuse shapes of inputs where no file of a model is read.

    Raises:
        InvalidValueError: There are some.
    """
    if shapes:
        raise InvalidValueError("--shape is for the inputs of an ONNX model: leave it out")


def is_own_model(given: object) -> TypeGuard[OwnModel]:
    """Whether an input is an ONNX model, the path of one, or a torch module."""
    if isinstance(given, str | Path):
        return is_onnx_file(Path(given))
    return isinstance(given, OnnxModel) or is_torch_module(given)


def as_pieces(
    model: OwnModel, *, shapes: Shapes | None, batch_size: int, example: Example | None = None
) -> tuple[Piece, ...]:
    """The segments of a model.

    Args:
        model: An ONNX model, the path of its file, or a torch module.
        shapes: Shapes of inputs that the file leaves open.
        batch_size: First dimension of inputs whose first dimension alone is open, and of the
            example.
        example: Input of a torch module, which is exported in evaluation mode.

    Raises:
        LatbenchError: The file cannot be read, or the model cannot be exported or cut.
    """
    require_example([model], example)
    if isinstance(model, str | Path):
        model = read_model(model, shapes=shapes, batch_size=batch_size)
        require_inputs(shapes or {}, [model])
    elif not isinstance(model, OnnxModel):
        assert example is not None
        model = read_module(model, example, shapes=shapes, batch_size=batch_size)
    return cut(model)


def as_profiler(device: AnyDevice, *, batch_size: int | None = None) -> Profiler:
    """A profiler for a device.

    Args:
        device: A device profile, its name or its path.
        batch_size: Number of images a call, instead of that of the profile.

    Raises:
        UnknownNameError: There is no such device profile.
        MissingExtraError: The device's runtime is not installed.
    """
    return make_profiler(as_device(device, batch_size=batch_size))


def as_space(space: AnySpace) -> SearchSpace:
    """A search space.

    Raises:
        UnknownNameError: There is no such space.
    """
    return space if isinstance(space, SearchSpace) else make_space(space)


def as_torch_device(torch_device: str | TorchDevice) -> TorchDevice:
    """The torch device with this name.

    Raises:
        InvalidValueError: There is no such device on this machine.
    """
    from nas.training.torch_device import find_torch_device

    return find_torch_device(torch_device) if isinstance(torch_device, str) else torch_device


def as_list(given: object) -> list[Any]:
    """Several objects as a list; a single object becomes a list of one.

    Text is one object, although it is a sequence of characters.
    """
    if isinstance(given, Iterable) and not isinstance(given, str):
        return list(given)
    return [given]


def repeated(names: Sequence[str]) -> list[str]:
    """Names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def is_efficient(widths: str) -> bool:
    """Whether only efficient widths are allowed; otherwise every width that has a price.

    Raises:
        UnknownNameError: ``widths`` is neither ``efficient`` nor ``any``.
    """
    if widths not in _WIDTHS:
        raise UnknownNameError("choice of widths", widths, _WIDTHS)
    return widths == _EFFICIENT


def priced_by(table: LatencyTable, widths: str) -> PricedSpace:
    """The space that a table was filled for, with its prices.

    Args:
        table: The table.
        widths: ``efficient`` allows only efficient widths; ``any`` allows every width with a price.

    Raises:
        UnknownNameError: There is no such choice of widths.
    """
    return PricedSpace(labelled_space(table.space), table, efficient=is_efficient(widths))
