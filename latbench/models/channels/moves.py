"""Rules of a ``Trace`` for operators that move channels and do not compute with them."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from latbench.models.channels.slots import Slots, UnpaddableError, along_axis, ranked, reshaped
from latbench.models.channels.static_graph import attributes
from latbench.models.channels.trace import NotHandled, Rule, Trace, has_input, slots_of


def _concat(trace: Trace, number: int, node: NodeProto) -> None:
    rank = len(trace.static(node.output[0]))
    axis = attributes(node)["axis"] % rank
    wide = [trace.slots[name] for name in node.input if name in trace.slots]
    if not wide:
        raise NotHandled
    if all(slots.along(axis) for slots in wide):
        parts = [
            (trace.slots[name] if name in trace.slots else trace.source(name, axis)).passed(place)
            for place, name in enumerate(node.input)
        ]
        trace.slots[node.output[0]] = Slots(
            np.concatenate([part.ids for part in parts], axis),
            np.concatenate([part.offsets for part in parts], axis),
            np.concatenate([part.trails for part in parts], axis),
        )
        return
    first = wide[0]
    if len(wide) < len(node.input) or axis in first.axes:
        raise NotHandled
    for slots in wide[1:]:
        if slots.ids.shape != first.ids.shape or (slots.offsets != first.offsets).any():
            raise NotHandled
    for place, slots in enumerate(wide[1:], start=1):
        first = trace.ledger.join(first, slots, number, place)
    trace.slots[node.output[0]] = first


def _split(trace: Trace, number: int, node: NodeProto) -> None:
    said, slots = attributes(node), slots_of(trace, node)
    axis = said.get("axis", 0) % slots.ids.ndim
    if axis not in slots.axes:
        trace.slots.update(dict.fromkeys(node.output, slots))
        return
    if not slots.along(axis) or (has_input(node, 1) and node.input[1] not in trace.graph.constants):
        raise NotHandled
    old = [trace.static(name)[axis] for name in node.output]
    total, before = slots.ids.size, sum(old)
    if len(set(old)) == 1:
        if total % len(old):
            raise UnpaddableError("a split cannot divide the channels")
        sizes = [total // len(old)] * len(old)
    elif not has_input(node, 1) and "split" not in said:
        raise NotHandled
    else:
        sizes = [size * total // before for size in old]
        sizes[-1] = total - sum(sizes[:-1])
    if has_input(node, 1):
        trace.operands[number, 1] = np.array(sizes, np.int64)
    elif "split" in said:
        trace.attributes[number, "split"] = sizes
    trace.links.append(slots.ids.ravel())
    begin = 0
    for name, size in zip(node.output, sizes, strict=True):
        part = slice(begin, begin + size)
        begin += size
        cut = slots.changed(lambda ids, part=part: along_axis(ids.ravel()[part], axis, ids.ndim))
        if (trace.static(name)[axis] == 1) != (size == 1):
            raise UnpaddableError("a split leaves a single channel, or pads one")
        if size > 1:
            trace.slots[name] = cut
        else:
            trace.ledger.role(cut, "single", name)


def _slice(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    rank = slots.ids.ndim
    count = len(trace.integers(node, 1))
    axes = trace.integers(node, 3).tolist() if has_input(node, 3) else list(range(count))
    steps = trace.integers(node, 4).tolist() if has_input(node, 4) else [1] * count
    cut = [place for place, axis in enumerate(axes) if axis % rank in slots.axes]
    if not cut:
        trace.slots[node.output[0]] = slots
        return
    axis = axes[cut[0]] % rank
    if len(cut) > 1 or not slots.along(axis) or steps[cut[0]] != 1:
        raise NotHandled
    begin, end = _limits(trace, number, node, cut[0], axis)
    trace.links.append(slots.ids.ravel())
    trace.slots[node.output[0]] = slots.changed(
        lambda ids: along_axis(ids.ravel()[begin:end], axis, ids.ndim)
    )


def _limits(trace: Trace, number: int, node: NodeProto, cut: int, axis: int) -> tuple[int, int]:
    """New limits of a slice along channels: at the same fractions of their number."""
    size, total = trace.static(node.input[0])[axis], trace.shape(node.input[0])[axis]
    stated = [int(trace.integers(node, place)[cut]) for place in (1, 2)]
    if any(node.input[place] in trace.numbers for place in (1, 2)):
        begin, end, _ = slice(*stated).indices(total)
        if end - begin < 2:
            raise NotHandled
        before = trace.reference or trace
        own = [int(before.integers(node, place)[cut]) for place in (1, 2)]
        first, last, _ = slice(*own).indices(size)
        if (begin * size, end * size) != (first * total, last * total):
            raise UnpaddableError("a slice does not follow the number of channels")
        return begin, end
    first, last, _ = slice(*stated).indices(size)
    if last - first < 2:
        raise NotHandled
    if first * total % size or last * total % size:
        raise UnpaddableError("a slice cannot divide the channels")
    for place, limit in ((1, first), (2, last)):
        changed = trace.integers(node, place).copy()
        changed[cut] = limit * total // size
        trace.operands[number, place] = changed
    return first * total // size, last * total // size


def _reshape(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    now = trace.shape(node.input[0])
    old, new = trace.static(node.input[0]), trace.static(node.output[0])
    target = trace.integers(node, 1)
    if len(target) != len(new) or (attributes(node).get("allowzero") and 0 in target):
        raise NotHandled
    found, sizes = reshaped(slots, old, new)
    if node.input[1] in trace.graph.constants:
        stated = [
            size if was > 0 and size != before else was
            for was, size, before in zip(target.tolist(), sizes, new, strict=True)
        ]
        trace.operands[number, 1] = np.array(stated, np.int64)
    else:
        stated = target.tolist()
    if _resolved(stated, now) != sizes:
        raise UnpaddableError("a reshape does not follow the number of channels")
    if len(found.axes) > 1:  # groups of channels are shuffled, all together
        trace.links.append(slots.ids.ravel())
    trace.slots[node.output[0]] = found


def _resolved(target: list[int], now: tuple[int, ...]) -> list[int]:
    """Sizes that a reshape gives: 0 keeps a size, -1 follows from the others."""
    sizes = [now[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = int(np.prod(now)) // max(known, 1)
    return sizes


def _rearranged(trace: Trace, number: int, node: NodeProto) -> None:
    """Flatten, Squeeze and Unsqueeze: their arguments do not name sizes."""
    slots = slots_of(trace, node)
    old, new = trace.static(node.input[0]), trace.static(node.output[0])
    trace.slots[node.output[0]] = reshaped(slots, old, new)[0]


def _transpose(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    order = attributes(node).get("perm", list(range(slots.ids.ndim))[::-1])
    trace.slots[node.output[0]] = slots.changed(lambda ids: ids.transpose(order))


def _pad(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    rank = slots.ids.ndim
    said = attributes(node)
    pads = said["pads"] if "pads" in said else trace.integers(node, 1).tolist()
    axes = trace.integers(node, 3).tolist() if has_input(node, 3) else list(range(rank))
    if has_input(node, 2):
        trace.constant(node, 2)
    for place, axis in enumerate(axes):
        if axis % rank in slots.axes and (pads[place] or pads[place + len(axes)]):
            raise NotHandled
    trace.slots[node.output[0]] = slots


def _resize(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    if not slots.along(1) or "axes" in attributes(node):
        raise NotHandled
    if has_input(node, 1) and trace.constant(node, 1).size:
        raise NotHandled
    if trace.static(node.output[0])[1] != trace.static(node.input[0])[1]:
        raise NotHandled  # channels are interpolated
    if has_input(node, 3):
        _name_sizes(trace, number, node, 3, slots)
    elif trace.constant(node, 2)[1] != 1:
        raise NotHandled
    trace.slots[node.output[0]] = slots


def _expand(trace: Trace, number: int, node: NodeProto) -> None:
    slots = ranked(slots_of(trace, node), len(trace.static(node.output[0])))
    _name_sizes(trace, number, node, 1, slots)
    trace.slots[node.output[0]] = slots


def _name_sizes(trace: Trace, number: int, node: NodeProto, place: int, slots: Slots) -> None:
    """Let a list of sizes name the number of channels, or check that it does."""
    sizes, rank = trace.integers(node, place).copy(), slots.ids.ndim
    for axis in slots.axes:
        own = axis - rank + len(sizes)
        if own < 0 or sizes[own] == 1:
            continue
        if node.input[place] in trace.graph.constants:
            sizes[own] = slots.ids.shape[axis]
        elif sizes[own] != slots.ids.shape[axis]:
            raise UnpaddableError(f"a size of {node.op_type} does not follow the channels")
    if node.input[place] in trace.graph.constants:
        trace.operands[number, place] = sizes


MOVES: dict[str, Rule] = {
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Reshape": _reshape,
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), _rearranged),
    "Transpose": _transpose,
    "Pad": _pad,
    "Resize": _resize,
    "Expand": _expand,
}
"""Rule of every operator that moves channels."""
