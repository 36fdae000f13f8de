"""Channels followed through a model, with given widths of its convolutions and matrix products.

The model is traced twice: with its own widths, and with wider ones. What the second trace needs
changed (rows and columns of weights, the targets of reshapes, sizes of splits) it records.
``rules`` says what each operator does to channels. A tensor that reaches an operator
without a rule keeps its width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from latbench.models.channels.ledger import Ledger
from latbench.models.channels.slots import Ints, Slots, UnpaddableError
from latbench.models.channels.static_graph import (
    ARITHMETIC,
    MOST_NUMBERS,
    STANDARD,
    StaticGraph,
    attributes,
    evaluated,
)

_SIZED = {"Reshape", "Expand", "Resize", "Slice"}  # their rules compare sizes with the channels


class NotHandled(Exception):
    """An operator, or a use of it, for which there is no rule."""


@dataclass(frozen=True, eq=False)
class AxisUse:
    """Channels along a dimension of a constant.

    Attributes:
        axis: The dimension.
        slots: Channel of every position; for a grouped convolution's inputs, of all groups.
        fill: Value of the constant for channels that are added.
        groups: Number of groups that the positions are divided into.
    """

    axis: int
    slots: Slots
    fill: float
    groups: int


@dataclass(eq=False)
class Trace:
    """Channels of all tensors of a model.

    Attributes:
        graph: The model.
        widths: New widths, by number of the node that produces the channels.
        infinite: Tensors that may be infinite; channels that meet them are not followed.
        reference: Trace with the model's own widths; None for that trace itself.
        ledger: All slots.
        slots: Channels by tensor; tensors that cannot become wider are missing.
        uses: Channels along the dimensions of constants, by node and input.
        operands: Changed integer constants, by node and input.
        attributes: Changed attributes, by node and name.
        numbers: Values of tensors that follow from shapes.
        links: Channels whose producers must grow together.
        fixed: Channels that must stay as they are.
        made: Widths by number of the node that produces the channels.
    """

    graph: StaticGraph
    widths: Mapping[int, int] = field(default_factory=dict)
    infinite: Set[str] = frozenset()
    reference: Trace | None = None
    ledger: Ledger = field(default_factory=Ledger)
    slots: dict[str, Slots] = field(default_factory=dict)
    uses: dict[tuple[int, int], list[AxisUse]] = field(default_factory=dict)
    operands: dict[tuple[int, int], Ints] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Any] = field(default_factory=dict)
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    links: list[Ints] = field(default_factory=list)
    fixed: list[Ints] = field(default_factory=list)
    made: dict[int, int] = field(default_factory=dict)

    def static(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor in the model as it is."""
        if tensor in self.graph.constants:
            return self.graph.constants[tensor].shape
        if tensor not in self.graph.shapes:
            raise NotHandled
        return self.graph.shapes[tensor]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor with the new widths."""
        own, slots = self.static(tensor), self.slots.get(tensor)
        if slots is None:
            return own
        return tuple(
            wide if wide > 1 else size for size, wide in zip(own, slots.ids.shape, strict=True)
        )

    def constant(self, node: NodeProto, place: int) -> NDArray[Any]:
        """Constant that a node reads.

        Raises:
            NotHandled: The input is missing or is computed.
        """
        name = node.input[place] if len(node.input) > place else ""
        if name not in self.graph.constants:
            raise NotHandled
        return self.graph.constants[name]

    def integers(self, node: NodeProto, place: int) -> Ints:
        """Integers that a node reads, constant or following from shapes."""
        name = node.input[place] if len(node.input) > place else ""
        value = self.numbers.get(name)
        return np.asarray(self.constant(node, place) if value is None else value, np.int64)

    def produce(self, number: int, width: int, groups: int = 1) -> Ints | None:
        """New channels of a node; None for a single one, which is never padded.

        Args:
            number: Number of the node.
            width: Number of channels in the model as it is.
            groups: Number of groups, which must divide the number of channels.
        """
        if width < 2:
            return None
        self.made[number] = self.widths.get(number, width)
        if self.made[number] % groups:
            raise UnpaddableError("groups do not divide the channels")
        return self.ledger.new(self.made[number], number)

    def use(
        self,
        number: int,
        place: int,
        axis: int,
        slots: Slots,
        *,
        fill: float = 0.0,
        groups: int = 1,
    ) -> None:
        """Record that a dimension of a constant has an element for each of these channels."""
        flat = slots.flat()
        if len(flat.ids) % groups:
            raise UnpaddableError("groups do not divide the channels")
        length = self.constant(self.graph.nodes[number], place).shape[axis]
        if self.reference is None and length * (groups if axis == 1 else 1) != len(flat.ids):
            raise NotHandled
        group = np.repeat(np.arange(groups), len(flat.ids) // groups)
        self.ledger.role(flat, number, place, axis, number=group)
        if self.reference is None and len(set(flat.positions())) < len(flat.ids):
            self.fixed.append(flat.ids)  # nothing distinguishes two positions
        self.uses.setdefault((number, place), []).append(AxisUse(axis, flat, fill, groups))

    def source(self, tensor: str, axis: int) -> Slots:
        """Channels of a tensor that cannot become wider, each with a place of its own."""
        shape = [1] * len(self.static(tensor))
        shape[axis] = self.static(tensor)[axis]
        slots = Slots.of(self.ledger.new(shape[axis], -1))
        self.ledger.role(slots, "source", tensor, number=np.arange(len(slots.ids)))
        return slots.changed(lambda each: each.reshape(shape))

    def fix(self, tensor: str) -> None:
        """Keep the channels of a tensor in number and order."""
        slots = self.slots.get(tensor)
        if slots is None:
            return
        own = slots if self.reference is None else self.reference.slots.get(tensor)
        if own is None or own.ids.shape != slots.ids.shape:
            raise UnpaddableError(f"{tensor} must keep its width")
        numbers = np.arange(slots.ids.size).reshape(slots.ids.shape)
        self.ledger.role(slots, "fixed", tensor, number=numbers)
        self.fixed.append(slots.ids.ravel())

    def run(self, rules: Mapping[str, Rule]) -> Trace:
        """Follow the channels through all nodes.

        Args:
            rules: Rule of every operator that is known: a function of the trace, the node's number
                and the node.

        Raises:
            UnpaddableError: The widths do not fit the model.
        """
        for number, node in enumerate(self.graph.nodes):
            if self._is_constant(node) or self._computed(node):
                continue
            known = rules.get(node.op_type) if node.domain in STANDARD else None
            if node.op_type not in _SIZED or node.input[0] not in self.slots:
                self._require_same_numbers(node)
            try:
                if known is None or not self.infinite.isdisjoint(node.output):
                    raise NotHandled
                known(self, number, node)
                self._leave(number, node)
            except UnpaddableError:
                if self.reference is not None:
                    raise
                self._forget(number, node)
            except (NotHandled, ValueError, LookupError):  # a use that no rule foresees
                self._forget(number, node)
        for name in self.graph.outputs:
            self.fix(name)
        if self.reference is not None:
            self._require_same_uses(self.reference)
        return self

    def _leave(self, number: int, node: NodeProto) -> None:
        """Give the channels behind a node a role there, so that each keeps its path."""
        for place, name in enumerate(node.output):
            slots = self.slots.get(name)
            if slots is None:
                continue
            sizes = zip(self.static(name), slots.ids.shape, strict=True)
            if self.reference is None and any(wide not in (1, size) for size, wide in sizes):
                raise NotHandled
            self.slots[name] = slots.passed(number, place)
            self.ledger.role(self.slots[name], "output", number, place)

    def _forget(self, number: int, node: NodeProto) -> None:
        """Keep what a node reads as it is, and follow no channels behind it."""
        for name in node.input:
            self.fix(name)
        for name in node.output:
            self.slots.pop(name, None)
        recorded: tuple[dict[Any, Any], ...] = (self.uses, self.operands, self.attributes)
        for found in (*recorded, self.ledger.joins):
            for key in [key for key in found if key[0] == number]:
                del found[key]
        if self.made.pop(number, None) is not None:
            self.ledger.disown(number)

    def _require_same_uses(self, other: Trace) -> None:
        """Refuse widths with which other rules hold for the nodes."""
        same = (
            self.slots.keys() == other.slots.keys()
            and self.uses.keys() == other.uses.keys()
            and self.operands.keys() == other.operands.keys()
            and self.attributes.keys() == other.attributes.keys()
            and self.ledger.joins.keys() == other.ledger.joins.keys()
        )
        if not same:
            raise UnpaddableError("an operator does something else with these widths")

    def _is_constant(self, node: NodeProto) -> bool:
        return node.op_type == "Constant" or node.output[0] in self.graph.constants

    def _computed(self, node: NodeProto) -> bool:
        """Whether the node computes with shapes; its value is then known."""
        if node.op_type == "Shape" and node.input[0] in self.graph.shapes:
            limits = attributes(node)
            shape = self.shape(node.input[0])[limits.get("start", 0) : limits.get("end")]
            self.numbers[node.output[0]] = np.array(shape, np.int64)
            return True
        follows = any(name in self.numbers for name in node.input)
        if node.op_type not in ARITHMETIC or node.domain not in STANDARD or not follows:
            return False
        feeds = {name: self._number(name) for name in node.input if name}
        if any(value is None for value in feeds.values()):
            return False
        found = evaluated(node, self.graph.proto, feeds)
        if found is None or found.size > MOST_NUMBERS or found.dtype.kind not in "ib":
            return False
        self.numbers[node.output[0]] = found
        return True

    def _number(self, name: str) -> NDArray[Any] | None:
        value = self.numbers.get(name, self.graph.constants.get(name))
        return value if value is not None and value.size <= MOST_NUMBERS else None

    def _require_same_numbers(self, node: NodeProto) -> None:
        """Refuse widths that change a size that is read as a number."""
        for name in node.input:
            if self.reference is None or name not in self.numbers:
                continue
            if not np.array_equal(self.numbers[name], self.reference.numbers.get(name, ())):
                raise UnpaddableError(f"{node.op_type} computes with the number of channels")


Rule = Callable[[Trace, int, NodeProto], None]
"""What an operator does to channels, given the number of the node and the node.

Raises:
    NotHandled: The rule does not hold for this use of the operator.
    UnpaddableError: The widths do not fit.
"""


def slots_of(trace: Trace, node: NodeProto) -> Slots:
    """Channels of the first input; without any there is nothing to follow."""
    found = trace.slots.get(node.input[0])
    if found is None:
        raise NotHandled
    return found


def has_input(node: NodeProto, place: int) -> bool:
    """Whether a node has an input that may be left out."""
    return len(node.input) > place and bool(node.input[place])
