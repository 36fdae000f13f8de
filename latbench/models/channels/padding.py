"""Models with wider groups of channels: constants padded with zeros, and sizes changed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from latbench.models.channels.groups import Widening
from latbench.models.channels.static_graph import ARITHMETIC, REARRANGEMENTS
from latbench.models.channels.trace import AxisUse
from latbench.models.onnx_model import KEPT_ELEMENTS, OnnxModel, name_constants
from latbench.render.onnx import reference

Values = NDArray[Any]


def padded(model: OnnxModel, widening: Widening) -> OnnxModel:
    """The model with wider groups, to be measured; weights that are not padded are shared."""
    proto = onnx.load_model_from_string(model.graph)
    changed, unused = _rewrite(proto, widening)
    weights = {name: value for name, value in model.weights.items() if name not in unused}
    for tensor in proto.graph.initializer:
        if tensor.name not in changed:
            continue
        value = changed[tensor.name]
        if value.size >= KEPT_ELEMENTS:
            weights[tensor.name] = value
            tensor.CopyFrom(reference(tensor.name, value.shape, tensor.data_type))
        else:
            weights.pop(tensor.name, None)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return replace(model, graph=proto.SerializeToString(), weights=weights)


def padded_file(path: Path, widening: Widening) -> ModelProto:
    """The model of a file with wider groups and all its weights inside.

    Everything else, such as names, metadata and open dimensions, stays as it is in the file. Only
    large ``Constant`` nodes become initializers, as in the model that was read: the widening
    numbers its nodes.

    Args:
        path: File of the model that was read and widened.
        widening: The wider groups.
    """
    proto = onnx.load_model(path)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    name_constants(proto)
    changed, _ = _rewrite(proto, widening)
    for tensor in proto.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return proto


def _rewrite(proto: ModelProto, widening: Widening) -> tuple[dict[str, Values], set[str]]:
    """Change nodes in place; values of initializers that changed, names of tensors now unused."""
    graph, before, after = proto.graph, widening.before, widening.after
    for (number, name), value in after.attributes.items():
        if value == before.attributes[number, name]:
            continue
        node = graph.node[number]
        (attribute,) = (each for each in node.attribute if each.name == name)
        attribute.CopyFrom(helper.make_attribute(name, value))
    used = _used(proto)
    changed = _place(proto, _operands(widening))
    unused = used - _used(proto)
    while _drop(proto, unused):
        unused = used - _used(proto)
    _keep(graph.initializer, lambda tensor: tensor.name not in unused)
    _keep(graph.input, lambda value: value.name not in unused)
    wider = {
        name
        for name, slots in after.slots.items()
        if slots.ids.shape != before.slots[name].ids.shape
    }
    constants = {tensor.name for tensor in graph.initializer}  # some exporters describe them there
    outdated = wider | constants | before.graph.constants.keys() | unused
    _keep(graph.value_info, lambda value: value.name not in outdated)
    return changed, unused


def _drop(proto: ModelProto, unused: set[str]) -> bool:
    """Remove nodes that only gave constants which nothing reads any more; whether there were."""
    count, gives = len(proto.graph.node), {"Constant", *ARITHMETIC, *REARRANGEMENTS}
    _keep(
        proto.graph.node,
        lambda node: node.op_type not in gives or node.output[0] not in unused,
    )
    return len(proto.graph.node) < count


def _used(proto: ModelProto) -> set[str]:
    """Names of all tensors that a node reads or the model gives."""
    used = {name for node in proto.graph.node for name in node.input}
    return used | {value.name for value in proto.graph.output}


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Remove the unwanted messages of a repeated field."""
    kept = [message for message in field if wanted(message)]
    if len(kept) < len(field):
        del field[:]
        field.extend(kept)


def _operands(widening: Widening) -> dict[tuple[int, int], Values]:
    """New values of constants, by node and input, where they differ."""
    before, after = widening.before, widening.after
    found: dict[tuple[int, int], Values] = {}
    for key, integers in after.operands.items():
        if not np.array_equal(integers, before.operands[key]):
            found[key] = integers
    for key, uses in before.uses.items():
        number, place = key
        value = before.graph.constants[before.graph.nodes[number].input[place]]
        wider = _widened(value, uses, after.uses[key], widening)
        if wider.shape != value.shape or not np.array_equal(wider, value):
            found[key] = wider
    return found


def _widened(
    value: Values, before: list[AxisUse], after: list[AxisUse], widening: Widening
) -> Values:
    """A constant with elements for the new channels."""
    grouped = [old for old in before if old.axis == 1 and old.groups > 1]
    if grouped:
        return _widened_groups(value, before, after, widening)
    for old, new in zip(before, after, strict=True):
        places = _positions(old, new, widening)
        if len(new.slots.ids) == len(places) and (np.diff(places) == 1).all():
            continue
        shape = list(value.shape)
        shape[old.axis] = len(new.slots.ids)
        wider = np.full(shape, old.fill, value.dtype)
        np.moveaxis(wider, old.axis, 0)[places] = np.moveaxis(value, old.axis, 0)
        value = wider
    return value


def _widened_groups(
    value: Values, before: list[AxisUse], after: list[AxisUse], widening: Widening
) -> Values:
    """The weight of a grouped convolution, ``(out, in / groups, ...)``."""
    by_axis = {old.axis: (old, new) for old, new in zip(before, after, strict=True)}
    (old_in, new_in), groups = by_axis[1], by_axis[1][0].groups
    width = len(new_in.slots.ids) // groups
    columns = _positions(old_in, new_in, widening).reshape(groups, -1)
    rows = _positions(*by_axis[0], widening).reshape(groups, -1)
    if not all((columns[group] // width == group).all() for group in range(groups)):
        raise AssertionError("a channel changes its group")
    wider = np.zeros((len(by_axis[0][1].slots.ids), width, *value.shape[2:]), value.dtype)
    for group, part in enumerate(np.split(value, groups)):
        wider[np.ix_(rows[group], columns[group] % width)] = part
    return wider


def _positions(old: AxisUse, new: AxisUse, widening: Widening) -> NDArray[np.int64]:
    """New position of every position along a dimension."""
    free: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for position, key in enumerate(new.slots.positions()):
        free[key].append(position)
    for positions in free.values():
        positions.reverse()
    places = widening.places
    own = [(int(places[slot]), *rest) for slot, *rest in old.slots.positions()]
    return np.array([free[slot, offset, trail].pop() for slot, offset, trail in own], np.int64)


def _place(proto: ModelProto, operands: Mapping[tuple[int, int], Values]) -> dict[str, Values]:
    """Make nodes read new constants; returns their values by name of the initializer.

    A constant whose readers all need the same new value keeps its name. Otherwise the new values
    get names of their own.
    """
    graph = proto.graph
    readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, node in enumerate(graph.node):
        for place, name in enumerate(node.input):
            readers[name].append((number, place))
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    inputs = {value.name: value for value in graph.input}
    taken = {*tensors, *inputs, *readers, *(name for node in graph.node for name in node.output)}
    changed: dict[str, Values] = {}
    for number, place in operands:
        name = graph.node[number].input[place]
        if name in changed or (number, place) not in readers[name]:
            continue
        values = [operands.get(reader) for reader in readers[name]]
        first = operands[number, place]
        alike = all(value is not None and np.array_equal(value, first) for value in values)
        if alike and name in tensors and name not in outputs:
            changed[name] = first
            if name in inputs:
                shape = helper.make_tensor_type_proto(tensors[name].data_type, first.shape)
                inputs[name].type.CopyFrom(shape)
            continue
        for reader in readers[name]:
            if reader in operands:
                _add(proto, reader, operands[reader], changed, taken)
    return changed


def _add(
    proto: ModelProto,
    reader: tuple[int, int],
    value: Values,
    changed: dict[str, Values],
    taken: Set[str],
) -> None:
    """Add an initializer for one input of a node, or use an equal one that was added before.

    Args:
        proto: The model.
        reader: Number of the node, and of its input.
        value: The initializer.
        changed: Values of changed and added initializers; the new one is put there.
        taken: Names of the tensors of the model before.
    """
    graph, (number, place) = proto.graph, reader
    old = graph.node[number].input[place]
    names = (f"{old}.aligned{count or ''}" for count in itertools.count())
    for name in names:
        if name in taken:
            continue
        if name not in changed:
            break
        if np.array_equal(changed[name], value):
            graph.node[number].input[place] = name
            return
    changed[name] = value
    tensor: TensorProto = numpy_helper.from_array(value, name)
    graph.initializer.append(tensor)
    graph.node[number].input[place] = name
    if proto.ir_version < 4:  # initializers were inputs then
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, value.shape))
