"""Reading of an ONNX file: checks, static shapes, weights apart.

Nothing in the file is executed, and no library of custom operators is loaded. Sizes that the file
claims are compared with the bytes that are there before memory is allocated. What cannot be
measured is refused in one line that names the node or tensor and the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper, numpy_helper

from latbench.environment import memory_bytes
from latbench.errors import InvalidFileError, InvalidValueError, in_one_line
from latbench.files import require_file, utf8
from latbench.models.onnx_model import (
    KEPT_ELEMENTS,
    OnnxModel,
    Tensor,
    Values,
    element_count,
    name_constants,
)
from latbench.render.onnx import reference

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of inputs, by name."""

_WHAT = "an ONNX model"
_HALF_BYTES = {"int4", "uint4", "float4_e2m1fn"}  # types of two elements a byte
_CONTROL_FLOW = {"Loop", "If", "Scan", "SequenceMap"}
_MOST = (1 << 31) - 1  # elements along one dimension
_SHOWN = 300  # characters of another library's error
_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_SIZE = re.compile(r"[0-9]{1,18}")


def read_model(
    path: str | Path, *, shapes: Shapes | None = None, batch_size: int | None = None
) -> OnnxModel:
    """Read an ONNX file.

    Args:
        path: File of the model; external data lies beside it.
        shapes: Shapes of inputs whose shape the file leaves open, by name. Names of other models'
            inputs are ignored.
        batch_size: First dimension of inputs whose first dimension alone is open.

    Raises:
        InvalidFileError: The file is not an ONNX model, is damaged, or has something that cannot be
            measured: no weights, weights that are NaN, control flow, text.
        InvalidValueError: A shape is missing or does not fit.
    """
    path = Path(path)
    model = _parse(path)
    _refuse_unmeasurable(model, path)
    name_constants(model)
    weights = _take_weights(model, path)
    inputs = _fix_inputs(model, path, shapes or {}, batch_size)
    model = _infer_shapes(model, path)
    return OnnxModel(path.name, path, model.SerializeToString(), weights, inputs)


def require_inputs(names: Iterable[str], models: Sequence[OnnxModel]) -> None:
    """Check that every name is one of an input.

    Raises:
        InvalidValueError: No model has an input of this name.
    """
    known = sorted({each.name for model in models for each in model.inputs})
    for name in names:
        if name not in known:
            raise InvalidValueError(
                f"no model has an input {name!r}: the inputs are {', '.join(known)}", choices=known
            )


def _parse(path: Path) -> ModelProto:
    """The model without external data, after the checks of the ``onnx`` package."""
    require_file(path, what=_WHAT)
    name = utf8(str(path))
    if name != str(path):
        raise InvalidFileError(f"the path {name} is not UTF-8, which onnx needs: rename it")
    if path.stat().st_size == 0:
        raise InvalidFileError(f"{path} is not {_WHAT}: it is empty")
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise InvalidFileError(
            f"{path} is not {_WHAT}, or it is truncated: it cannot be decoded"
        ) from error
    if not model.graph.node:
        raise InvalidFileError(f"{path} is not {_WHAT}: it has no nodes")
    _require_external_files(model, path)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InvalidFileError(
            f"{path} is not a valid ONNX model: {in_one_line(error, most=_SHOWN)}"
        ) from error
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _require_external_files(model: ModelProto, path: Path) -> None:
    """Refuse a model whose external data is missing, shorter than claimed, or elsewhere."""
    folder = path.resolve().parent
    for tensor in _tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location, begin, length = _extent(tensor, path)
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise InvalidFileError(
                f"{path} reads the weight {tensor.name} from {location}, outside of its folder"
            )
        if not file.is_file():
            raise InvalidFileError(
                f"{path} has no weights: its file {location} is missing; put it beside the model"
            )
        length = file.stat().st_size - begin if length is None else length
        if length < _claimed_bytes(tensor) or begin + length > file.stat().st_size:
            raise InvalidFileError(
                f"{path} is damaged: its weight {tensor.name} is longer than its data in {location}"
            )


def _extent(tensor: TensorProto, path: Path) -> tuple[str, int, int | None]:
    """File of a tensor's external data, its first byte and its number of bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, sizes = entries.get("location", ""), [entries.get(k) for k in ("offset", "length")]
    if not location or "\0" in location or not all(s is None or _SIZE.fullmatch(s) for s in sizes):
        raise InvalidFileError(
            f"{path} is damaged: its weight {tensor.name} has no valid file, offset and length"
        )
    offset, length = (None if size is None else int(size) for size in sizes)
    return location, offset or 0, length


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of the graph: initializers and constants."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def _claimed_bytes(tensor: TensorProto) -> int:
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        return 0
    if dtype.name in _HALF_BYTES:
        return element_count(tensor) // 2
    return element_count(tensor) * dtype.itemsize


def _refuse_unmeasurable(model: ModelProto, path: Path) -> None:
    for index, node in enumerate(model.graph.node):
        if node.op_type in _CONTROL_FLOW and node.domain in ("", "ai.onnx"):
            raise InvalidFileError(
                f"{path} has control flow, node {node.name or index} ({node.op_type}): its latency "
                "depends on its input; export the model without it"
            )
    if not any(map(_is_weight, _tensors(model))):
        raise InvalidFileError(
            f"{path} has no weights: export it with its parameters (torch: export_params=True)"
        )
    own = {tensor.name for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.WhichOneof("value")
        if value.name in own:
            continue
        if kind != "tensor_type":
            raise InvalidFileError(f"{path} has {value.name}, which is not a tensor but {kind}")
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            raise InvalidFileError(
                f"{path} has text in {value.name}: export the network without its tokenizer"
            )


def _is_weight(tensor: TensorProto) -> bool:
    return element_count(tensor) > 1 and tensor.data_type not in (
        TensorProto.INT64,
        TensorProto.STRING,
        TensorProto.BOOL,
    )


def _take_weights(model: ModelProto, path: Path) -> dict[str, Values]:
    """Take large initializers out of the graph, which then refers to them by name.

    Types of 4 bits stay: numpy has a byte for each of their elements.
    """
    weights: dict[str, Values] = {}
    folder = str(path.resolve().parent)
    for tensor in model.graph.initializer:
        try:
            if not tensor.HasField("raw_data") and element_count(tensor) > memory_bytes():
                raise ValueError("it claims more elements than there is memory")
            values = numpy_helper.to_array(tensor, folder)
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise InvalidFileError(
                f"{path} is damaged: its weight {tensor.name} has a size or type that does not "
                f"fit its data ({in_one_line(error, most=_SHOWN)})"
            ) from error
        if tensor.data_type in _FLOATS and np.isnan(values).any():
            raise InvalidFileError(
                f"{path} has a weight {tensor.name} that is not a number (NaN): its training "
                "diverged or its export failed"
            )
        if element_count(tensor) >= KEPT_ELEMENTS and values.dtype.name not in _HALF_BYTES:
            weights[tensor.name] = values
            tensor.CopyFrom(reference(tensor.name, tuple(tensor.dims), tensor.data_type))
        elif external_data_helper.uses_external_data(tensor):
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return weights


def _fix_inputs(
    model: ModelProto, path: Path, shapes: Shapes, batch_size: int | None
) -> tuple[Tensor, ...]:
    """Give every input its static shape, in place."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in weights:
            shape = _static_shape(value, path, shapes.get(value.name), batch_size)
            element = value.type.tensor_type.elem_type
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, shape, strict=True):
                dim.dim_value = size
            inputs.append(Tensor(value.name, shape, helper.tensor_dtype_to_np_dtype(element)))
    if not inputs:
        raise InvalidFileError(f"{path} has no input: there is nothing to compute")
    _require_batch_size([each for each in inputs if each.name not in shapes], path, batch_size)
    return tuple(inputs)


def _require_batch_size(inputs: Sequence[Tensor], path: Path, batch_size: int | None) -> None:
    """Check that one input has the batch size; the others may be tables or positions."""
    batches = [each for each in inputs if len(each.shape) > 1]
    if batch_size is None or not batches or batch_size in [each.shape[0] for each in batches]:
        return
    size = batches[0].shape[0]
    raise InvalidValueError(
        f"{path} has the fixed batch size {size} at its input {batches[0].name} "
        f"({'x'.join(map(str, batches[0].shape))}), not {batch_size}: give {size} (--batch-size "
        f"{size}, or batch_size in the device profile), or export the model with an open one"
    )


def _require_sizes(sizes: Sequence[int], what: str) -> None:
    """Refuse sizes that are no positive integers."""
    if not all(isinstance(size, int) and 0 < size <= _MOST for size in sizes):
        raise InvalidValueError(
            f"{sizes!r} is not {what}: sizes are integers from 1 to {_MOST}, such as (1, 3, 224, "
            "224)"
        )


def _static_shape(
    value: ValueInfoProto, path: Path, given: tuple[int, ...] | None, batch_size: int | None
) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    stated = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    stated = [size if size is None or size > 0 else None for size in stated]
    words = "x".join(
        str(size) if size is not None else dim.dim_param or "?"
        for size, dim in zip(stated, tensor.shape.dim, strict=True)
    )
    if batch_size is not None:
        _require_sizes((batch_size,), "a batch size")
    if given is not None:
        _require_sizes(given, f"a shape of the input {value.name}")
        fits = len(given) == len(stated) and all(
            size in (None, wanted) for size, wanted in zip(stated, given, strict=True)
        )
        if not fits:
            raise InvalidValueError(
                f"{path}: the shape {'x'.join(map(str, given))} does not fit the input "
                f"{value.name}, which is {words}"
            )
        return given
    if batch_size is not None and stated and stated[0] is None:
        stated[0] = batch_size
    if None in stated:
        example = "x".join(str(size or (224 if at else 1)) for at, size in enumerate(stated))
        raise InvalidValueError(
            f"{path} leaves the shape of its input {value.name} open ({words}): give it, such as "
            f"--shape {value.name}={example}"
        )
    return tuple(size for size in stated if size is not None)


def _infer_shapes(model: ModelProto, path: Path) -> ModelProto:
    """The model with the static shapes of all tensors that ``onnx`` can infer.

    Raises:
        InvalidValueError: The shapes of the inputs do not fit the graph.
        InvalidFileError: A tensor is larger than the memory.
    """
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise InvalidValueError(
            f"{path}: the shapes of its inputs do not fit its layers: "
            f"{in_one_line(error, most=_SHOWN)}"
        ) from error
    limit = memory_bytes()
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        if prod(sizes) > limit:
            raise InvalidFileError(
                f"{path} has a tensor {value.name} of {'x'.join(map(str, sizes))} elements, which "
                "is more than the memory of this machine"
            )
    return inferred
