"""Torch modules as models: they are exported to ONNX, then read as a file is.

A module can only be passed by a program that has imported torch, so modules are recognised without
importing it. The export does not change the module: it is in evaluation mode meanwhile, and no
weight, statistic, hook or random state changes.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from latbench.errors import InvalidValueError, LatbenchError
from latbench.files import write_atomically
from latbench.lazy import needing
from latbench.models.onnx_model import OnnxModel
from latbench.models.reading import Shapes, read_model

if TYPE_CHECKING:
    import torch

TorchModule: TypeAlias = "torch.nn.Module"

Example: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]"
"""Inputs of a module: one, several in the order of ``forward``, or by name of its arguments."""

_SHOWN = 300  # characters of torch's error


def is_torch_module(model: object) -> TypeGuard[TorchModule]:
    """Whether something is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def require_example(models: Iterable[object], example: Example | None) -> None:
    """Refuse a torch module without an example of its input, and an example without a module.

    Raises:
        InvalidValueError: The one is there without the other.
    """
    modules = [type(model).__name__ for model in models if is_torch_module(model)]
    if modules and example is None:
        raise InvalidValueError(
            f"{modules[0]} is a torch module, whose input is unknown: give an example of it, such "
            "as example=torch.rand(1, 3, 224, 224)"
        )
    if example is not None and not modules:
        raise InvalidValueError(
            "an example is the input of a torch module, and there is no module: leave it out"
        )


def read_module(
    module: TorchModule,
    example: Example,
    *,
    shapes: Shapes | None = None,
    batch_size: int | None = None,
) -> OnnxModel:
    """Export a module with the shapes of an example, and read what was exported.

    Args:
        module: A module in training or evaluation mode; it is exported in evaluation mode.
        example: Its input; the values do not matter.
        shapes: Shapes of inputs by name, which must be those of the example.
        batch_size: First dimension of the inputs, which must be the example's.

    Raises:
        InvalidValueError: The module cannot be exported with this example, or a shape differs.
        InvalidFileError: What was exported cannot be measured, such as weights that are NaN.
        MissingExtraError: What torch needs to export is not installed.
    """
    name = type(module).__name__
    arguments, named = _arguments(example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        with needing("nas"), _quiet(), _evaluating(module):
            _export(module, arguments, named, path)
        try:
            read = read_model(path, shapes=shapes, batch_size=batch_size)
        except LatbenchError as error:
            raise type(error)(error.message.replace(str(path), name)) from error
    return replace(read, name=name, path=Path())


def export_module(module: TorchModule, example: Example, output: Path) -> None:
    """Write a module as one ONNX file, with the shapes of an example, in evaluation mode.

    Raises:
        InvalidValueError: The module cannot be exported with this example.
        InvalidFileError: The file cannot be written.
        MissingExtraError: What torch needs to export is not installed.
    """
    arguments, named = _arguments(example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        with needing("nas"), _quiet(), _evaluating(module):
            _export(module, arguments, named, path, in_one_file=True)
        write_atomically(output, path.read_bytes())


def _arguments(
    example: Example,
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Inputs by position and by name."""
    import torch

    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        arguments = tuple(example) if isinstance(example, tuple | list) else (example,)
    inputs = [*arguments, *named.values()]
    wrong = [type(each).__name__ for each in inputs if not isinstance(each, torch.Tensor)]
    if wrong or not inputs:
        raise InvalidValueError(
            f"the example has {wrong[0] if wrong else 'no tensor'}: give a tensor, a tuple of "
            "tensors, or a dict of tensors by the names of forward's arguments"
        )
    return arguments, named


@contextmanager
def _evaluating(module: TorchModule) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule has the mode that it had."""
    training = {each: each.training for each in module.modules()}
    if not any(training.values()):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train(training[module])  # a module may undo here what its eval() did
        for each, mode in training.items():
            each.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing printed, warned or logged reaches the user: what matters is in the error."""
    disabled = logging.root.manager.disable
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(StringIO()))
        stack.enter_context(redirect_stderr(StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, disabled)
        logging.disable(logging.CRITICAL)
        yield


def _export(
    module: TorchModule,
    arguments: tuple[torch.Tensor, ...],
    named: dict[str, torch.Tensor],
    path: Path,
    *,
    in_one_file: bool = False,
) -> None:
    """Write a module as an ONNX file.

    Raises:
        ModuleNotFoundError: What torch needs to export is not installed.
        InvalidValueError: torch cannot export the module with these inputs.
    """
    import torch

    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.onnx.export(
                module,
                arguments,
                path,
                kwargs=named or None,
                dynamo=True,
                verbose=False,
                external_data=not in_one_file,
            )
    except ModuleNotFoundError:
        raise
    except Exception as error:  # code of the module runs here, and may raise anything
        cause = _first_cause(error)
        said = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise InvalidValueError(
            f"{type(module).__name__} cannot be exported to ONNX with this example "
            f"({type(cause).__name__}{_place(cause)}: {said[:_SHOWN]}): check the example, and "
            "avoid control flow that depends on values; or export the network yourself and give "
            "the file"
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """The error that caused all others; torch's own ones say which step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _place(error: BaseException) -> str:
    """File and line of the last method of a module, outside of torch, that an error passed."""
    import torch

    library = str(Path(torch.__file__).parent)
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        called_on = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if isinstance(called_on, torch.nn.Module) and not code.co_filename.startswith(library):
            place = f" at {Path(code.co_filename).name}:{line}"
    return place
