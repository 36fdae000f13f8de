"""What each operator does to the channels that it reads: the rules of a ``Trace``.

A rule is exact: channels that are padded with zeros change no other channel, and they stay finite,
because the consumers' weights for them are zero and zero times infinity is not a number. Operators
without a rule, such as a softmax or a norm over channels, keep the width of what they read.
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from latbench.models.channels.moves import MOVES
from latbench.models.channels.slots import Slots, along_axis, ranked
from latbench.models.channels.static_graph import attributes
from latbench.models.channels.trace import NotHandled, Rule, Trace, has_input, slots_of

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def _conv(trace: Trace, number: int, node: NodeProto) -> None:
    weight, groups = trace.constant(node, 1), attributes(node).get("group", 1)
    has_bias = has_input(node, 2)
    if has_bias:
        trace.constant(node, 2)
    slots = trace.slots.get(node.input[0])
    if slots is not None and not slots.along(1):
        raise NotHandled
    rank, rows, inputs = weight.ndim, len(weight), weight.shape[1] * groups
    if slots is not None and groups == inputs == rows:  # depthwise
        trace.use(number, 1, 0, slots)
        if has_bias:
            trace.use(number, 2, 0, slots)
        trace.attributes[number, "group"] = slots.ids.size
        trace.slots[node.output[0]] = slots
        return
    if slots is not None:
        trace.use(number, 1, 1, slots, groups=groups)
    made = trace.produce(number, rows, groups)
    if made is not None:
        own = Slots.of(made)
        trace.use(number, 1, 0, own, groups=groups)
        if has_bias:
            trace.use(number, 2, 0, own)
        trace.slots[node.output[0]] = own.changed(lambda ids: along_axis(ids, 1, rank))


def _conv_transpose(trace: Trace, number: int, node: NodeProto) -> None:
    weight = trace.constant(node, 1)
    if attributes(node).get("group", 1) != 1:
        raise NotHandled
    has_bias = has_input(node, 2)
    if has_bias:
        trace.constant(node, 2)
    slots = trace.slots.get(node.input[0])
    if slots is not None:
        if not slots.along(1):
            raise NotHandled
        trace.use(number, 1, 0, slots)
    made = trace.produce(number, weight.shape[1])
    if made is not None:
        trace.use(number, 1, 1, Slots.of(made))
        if has_bias:
            trace.use(number, 2, 0, Slots.of(made))
        trace.slots[node.output[0]] = Slots.of(along_axis(made, 1, weight.ndim))


def _gemm(trace: Trace, number: int, node: NodeProto) -> None:
    said = attributes(node)
    weight = trace.constant(node, 1)
    if said.get("transA") or weight.ndim != 2:
        raise NotHandled
    read, made = (1, 0) if said.get("transB") else (0, 1)
    if has_input(node, 2):
        bias = trace.constant(node, 2)
        if bias.ndim and bias.shape[-1] not in (1, weight.shape[made]):
            raise NotHandled
    _product(trace, number, node, read=read, made=made)


def _matmul(trace: Trace, number: int, node: NodeProto) -> None:
    if trace.constant(node, 1).ndim != 2 or node.input[0] in trace.graph.constants:
        raise NotHandled
    _product(trace, number, node, read=0, made=1)


def _product(trace: Trace, number: int, node: NodeProto, *, read: int, made: int) -> None:
    """A matrix product with a constant weight; ``read`` and ``made`` are the weight's axes."""
    rank = len(trace.static(node.output[0]))
    if rank < 2:
        raise NotHandled
    slots = trace.slots.get(node.input[0])
    if slots is not None:
        if not slots.along(-1):
            raise NotHandled
        trace.use(number, 1, read, slots)
    ids = trace.produce(number, trace.constant(node, 1).shape[made])
    if ids is not None:
        trace.use(number, 1, made, Slots.of(ids))
        if has_input(node, 2) and trace.constant(node, 2).size > 1:
            bias = trace.constant(node, 2)
            if bias.shape[-1] > 1:
                trace.use(number, 2, bias.ndim - 1, Slots.of(ids))
        trace.slots[node.output[0]] = Slots.of(along_axis(ids, rank - 1, rank))


def _norm(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    if attributes(node).get("training_mode") or len(node.output) > 1 or not slots.along(1):
        raise NotHandled
    for place in range(1, 5):
        trace.constant(node, place)
    for place, fill in ((1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0)):
        trace.use(number, place, 0, slots, fill=fill)
    trace.slots[node.output[0]] = slots


def _pointwise(trace: Trace, number: int, node: NodeProto) -> None:
    """An activation: finite, and each value depends on one value; other inputs are scalars."""
    slots = ranked(slots_of(trace, node), len(trace.static(node.output[0])))
    for place in range(1, len(node.input)):
        if has_input(node, place) and trace.constant(node, place).size != 1:
            raise NotHandled
    if len([name for name in node.output if name]) > 1:
        raise NotHandled
    if node.op_type == "Cast" and attributes(node)["to"] not in _FLOATS:
        raise NotHandled
    if node.op_type == "Dropout" and has_input(node, 2) and trace.constant(node, 2).any():
        raise NotHandled  # it is in training
    trace.slots[node.output[0]] = slots


def _prelu(trace: Trace, number: int, node: NodeProto) -> None:
    trace.slots[node.output[0]] = _with_constant(trace, number, node, fill=0.0)


def _divide(trace: Trace, number: int, node: NodeProto) -> None:
    if not trace.constant(node, 1).all():
        raise NotHandled
    trace.slots[node.output[0]] = _with_constant(trace, number, node, fill=1.0)


def _power(trace: Trace, number: int, node: NodeProto) -> None:
    exponent = trace.constant(node, 1)
    if exponent.size != 1 or float(exponent.ravel()[0]) not in (1.0, 2.0, 3.0, 4.0):
        raise NotHandled
    trace.slots[node.output[0]] = _with_constant(trace, number, node, fill=1.0)


def _elementwise(trace: Trace, number: int, node: NodeProto) -> None:
    """Sums, differences, products and extremes of tensors, scalars and constants by channel."""
    wide = [place for place, name in enumerate(node.input) if name in trace.slots]
    if not wide:
        raise NotHandled
    rank = len(trace.static(node.output[0]))
    first = ranked(trace.slots[node.input[wide[0]]], rank)
    for place, name in enumerate(node.input):
        if place in wide[1:]:
            other = ranked(trace.slots[name], rank)
            if other.ids.shape != first.ids.shape or (other.offsets != first.offsets).any():
                raise NotHandled
        elif place not in wide:
            _check_operand(trace, node, place, first)
    joined = first
    for place, name in enumerate(node.input):
        if place in wide[1:]:
            joined = trace.ledger.join(joined, ranked(trace.slots[name], rank), number, place)
        elif place not in wide and name in trace.graph.constants:
            _use_operand(trace, number, node, place, first, fill=0.0)
    trace.slots[node.output[0]] = joined


def _with_constant(trace: Trace, number: int, node: NodeProto, *, fill: float) -> Slots:
    """Channels of an operator of a tensor and a constant."""
    trace.constant(node, 1)
    slots = ranked(slots_of(trace, node), len(trace.static(node.output[0])))
    _check_operand(trace, node, 1, slots)
    _use_operand(trace, number, node, 1, slots, fill=fill)
    return slots


def _check_operand(trace: Trace, node: NodeProto, place: int, slots: Slots) -> None:
    """Refuse an operand without channels that varies along the dimensions of channels."""
    shape = trace.static(node.input[place])
    varies = [axis for axis in slots.axes if _operand_axis(shape, axis, slots) is not None]
    if not varies:
        return
    if node.input[place] not in trace.graph.constants or len(slots.axes) > 1:
        raise NotHandled


def _use_operand(
    trace: Trace, number: int, node: NodeProto, place: int, slots: Slots, *, fill: float
) -> None:
    shape = trace.static(node.input[place])
    for axis in slots.axes:
        own = _operand_axis(shape, axis, slots)
        if own is not None:
            trace.use(number, place, own, slots, fill=fill)


def _operand_axis(shape: tuple[int, ...], axis: int, slots: Slots) -> int | None:
    """Dimension of an operand that meets a dimension of a tensor; None if it is broadcast."""
    own = axis - slots.ids.ndim + len(shape)
    return own if own >= 0 and shape[own] > 1 else None


def _pool(trace: Trace, number: int, node: NodeProto) -> None:
    slots = slots_of(trace, node)
    if not slots.along(1) or len([name for name in node.output if name]) > 1:
        raise NotHandled
    trace.slots[node.output[0]] = slots


def _reduce(trace: Trace, number: int, node: NodeProto) -> None:
    said, slots = attributes(node), slots_of(trace, node)
    rank = slots.ids.ndim
    axes = said.get("axes") or (trace.integers(node, 1).tolist() if has_input(node, 1) else [])
    reduced = {axis % rank for axis in axes}
    if not reduced or reduced & set(slots.axes):
        raise NotHandled
    if not said.get("keepdims", 1):
        slots = slots.changed(lambda ids: ids.squeeze(tuple(reduced)))
    trace.slots[node.output[0]] = slots


_ACTIVATIONS = (
    *("Relu", "LeakyRelu", "ThresholdedRelu", "Clip", "Elu", "Selu", "Celu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh", "Gelu", "Erf", "Mish"),
    *("Softplus", "Softsign", "Neg", "Abs", "Identity", "Dropout", "Cast"),
)

RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    **dict.fromkeys(_ACTIVATIONS, _pointwise),
    "PRelu": _prelu,
    "Div": _divide,
    "Pow": _power,
    **dict.fromkeys(("Add", "Sub", "Mul", "Sum", "Max", "Min"), _elementwise),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **MOVES,
}
"""Rule of every operator that channels may pass."""
