"""Cutting of an ONNX model into segments, where exactly one activation is live.

A cut is a tensor that every path from input to output passes. Residual blocks, squeeze-excite and
branches therefore stay whole. Segments without a convolution, a matrix product or a pooling join
their predecessor, because runtimes fuse them. Before the cut, ONNX Runtime's own optimiser folds
constants and batch norms; it is a dependency already and keeps to standard operators at the level
used here. The first segment reads all inputs of the model, and the last one makes all outputs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from latbench.blocks import BlockSpec, Segment
from latbench.errors import InvalidFileError
from latbench.models.onnx_model import OnnxModel, element_count
from latbench.models.optimised import optimised
from latbench.models.quantised import meaningful_values
from latbench.render.onnx import reference

_INPUT, _OUTPUT = "input", "output"
_HEAVY = {
    *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "DeformConv"),
    *("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Einsum", "Attention"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"),
    *("ReduceMean", "ReduceMax", "ReduceSum", "Resize", "LSTM", "GRU", "RNN"),
}
_FEW = 3  # segments, fewer of which cannot be told apart by chains of them
_SHOWN_OPERATORS = 4
_ALIGNED = 4  # channels, the narrowest blocks of channels that CPU runtimes compute at once


@dataclass(frozen=True)
class Piece:
    """A segment at its place in a model, or a block in a network.

    Attributes:
        name: Name of the place.
        nodes: Names of the model's nodes, in the order of execution; none for a block.
        segment: What is computed there.
    """

    name: str
    nodes: tuple[str, ...]
    segment: BlockSpec


def cut(model: OnnxModel) -> tuple[Piece, ...]:
    """Cut a model into segments.

    Raises:
        InvalidFileError: The model has a tensor of unknown shape, an output that depends on no
            input, or several inputs or outputs whose tensors live through most of it.
        RuntimeFailure: ONNX Runtime cannot read the model.
    """
    graph = _Graph(optimised(model), model)
    runs = _joined(graph, _runs(graph))
    if len(runs) < _FEW and len(graph.inputs) + len(graph.outputs) > 2:
        raise InvalidFileError(
            f"{model.name} is cut where one tensor is live, which gives {len(runs)} of at least "
            f"{_FEW} segments: {graph.lives()}; measure the whole with `latbench bench`"
        )
    names = _names(graph, runs)
    return tuple(
        Piece(name, tuple(graph.label(number) for number in run), graph.segment(run))
        for name, run in zip(names, runs, strict=True)
    )


class _Graph:
    """A model as nodes that depend on its inputs, with the shapes of all tensors."""

    def __init__(self, proto: ModelProto, model: OnnxModel) -> None:
        self.name, self.proto = model.name, proto
        graph = proto.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.kept = meaningful_values(graph)
        self.values: dict[str, ValueInfoProto] = {
            value.name: value for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.inputs = [value.name for value in graph.input if value.name not in self.weights]
        self.outputs = [value.name for value in graph.output]
        live = set(self.inputs)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NodeProto] = {}  # by output: nodes that no input reaches
        for node in graph.node:
            if live.intersection(node.input):
                self.nodes.append(node)
                live.update(node.output)
            else:
                self.constants.update(dict.fromkeys(node.output, node))
        self.live = live
        self.readers: dict[str, set[int]] = defaultdict(set)  # by tensor: nodes that read it
        for number, node in enumerate(self.nodes):
            for name in node.input:
                self.readers[name].add(number)

    def label(self, number: int) -> str:
        """Name of a node; its operator and number if it has none."""
        node = self.nodes[number]
        return node.name or f"{node.op_type}_{number}"

    def lives(self) -> str:
        """Last readers of the inputs and makers of the outputs, in words."""
        last = {name: max(self.readers[name]) for name in self.inputs if self.readers[name]}
        made = {name: at for at, node in enumerate(self.nodes) for name in node.output}
        words = [f"the input {name} is read until {self.label(at)}" for name, at in last.items()]
        given = [name for name in self.outputs if name in made]
        words += [f"the output {name} is made at {self.label(made[name])}" for name in given]
        return ", ".join(words)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Static shape of an activation."""
        value = self.values.get(tensor)
        known = value is not None and value.type.tensor_type.HasField("shape")
        dims = value.type.tensor_type.shape.dim if value is not None else ()
        if not known or not all(dim.HasField("dim_value") for dim in dims):
            raise InvalidFileError(
                f"{self.name} has a tensor {tensor} whose shape depends on values, or is that of "
                "an operator which onnx does not know: it cannot be cut; measure the whole with "
                "`latbench bench`"
            )
        return tuple(dim.dim_value for dim in dims)

    def _described(self, tensor: str) -> tuple[int, tuple[int, ...]]:
        """Type of an activation's elements, and its shape."""
        shape = self.shape(tensor)
        return self.values[tensor].type.tensor_type.elem_type, shape

    def ends(self, run: Sequence[int]) -> tuple[list[str], list[str]]:
        """Activations that a run of nodes reads from outside, and those it gives to others."""
        inside = set(run)
        made = {name for number in run for name in self.nodes[number].output}
        read = dict.fromkeys(
            name
            for number in run
            for name in self.nodes[number].input
            if name in self.live and name not in made
        )
        given = [
            name
            for number in run
            for name in self.nodes[number].output
            if name in self.outputs or not self.readers[name] <= inside
        ]
        return list(read), given

    def segment(self, run: Sequence[int]) -> Segment:
        """The segment of a run of nodes, with canonical names."""
        read, given = self.ends(run)
        if not read or not given:
            raise InvalidFileError(
                f"{self.name} has outputs that depend on no input, at {self.label(run[0])}: it "
                "cannot be cut"
            )
        inputs, outputs = _numbered(_INPUT, read), _numbered(_OUTPUT, given)
        renamed = {**inputs, **outputs}
        nodes: list[NodeProto] = []
        weights: list[TensorProto] = []

        def rename(name: str) -> str:
            if not name:
                return name
            if name not in renamed:
                renamed[name] = f"t{len(renamed)}"
                if name in self.weights:
                    weights.append(self._weight(name, renamed[name]))
                elif name in self.constants:
                    add(self.constants[name])
            return renamed[name]

        def add(node: NodeProto) -> None:
            copied = NodeProto()
            copied.CopyFrom(node)
            copied.name, copied.doc_string = "", ""
            del copied.metadata_props[:]
            copied.input[:] = [rename(name) for name in node.input]
            copied.output[:] = [rename(name) for name in node.output]
            nodes.append(copied)

        for number in run:
            add(self.nodes[number])
        ops = [self.nodes[number].op_type for number in run]
        made = {name for number in run for name in self.nodes[number].output if name}
        conv_macs, linear_macs = self._macs(run)
        return Segment(
            self._serialised(nodes, weights, inputs, outputs),
            self.shape(read[0]),
            self.shape(given[0]),
            _in_words(ops),
            conv_macs,
            linear_macs,
            sum(element_count(weight) for weight in weights if element_count(weight) > 1),
            sum(4 * prod(self.shape(name)) for name in made),
        )

    def _weight(self, name: str, canonical: str) -> TensorProto:
        """A weight as reference; with its values where these have meaning."""
        tensor = self.weights[name]
        if name not in self.kept:
            return reference(canonical, tuple(tensor.dims), tensor.data_type)
        kept = TensorProto()
        kept.CopyFrom(tensor)
        kept.name = canonical
        return kept

    def _serialised(
        self, nodes: list[NodeProto], weights: list[TensorProto], *ends: dict[str, str]
    ) -> bytes:
        inputs, outputs = (
            [
                helper.make_tensor_value_info(canonical, *self._described(name))
                for name, canonical in each.items()
            ]
            for each in ends
        )
        graph = helper.make_graph(nodes, "segment", inputs, outputs, weights)
        model: ModelProto = helper.make_model(
            graph, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version
        )
        serialised: bytes = model.SerializeToString(deterministic=True)
        return serialised

    def _macs(self, run: Iterable[int]) -> tuple[int, int]:
        """Multiply-accumulates of convolutions and of matrix products, for the whole batch."""
        conv = linear = 0
        for number in run:
            node = self.nodes[number]
            if node.op_type in ("Conv", "FusedConv"):
                conv += prod(self.shape(node.output[0])) * prod(self._dims(node.input[1])[1:])
            elif node.op_type in ("Gemm", "MatMul"):
                attributes = {a.name: a.i for a in node.attribute}
                read = self._dims(node.input[0])
                shared = read[-2] if attributes.get("transA") else read[-1]
                linear += prod(self.shape(node.output[0])) * shared
        return conv, linear

    def _dims(self, name: str) -> tuple[int, ...]:
        """Shape of an operand, which may be a weight."""
        weight = self.weights.get(name)
        return tuple(weight.dims) if weight is not None else self.shape(name)


def _numbered(name: str, names: Sequence[str]) -> dict[str, str]:
    """Canonical names of tensors, by their names: ``input``, ``input_2``, ``input_3``."""
    return {each: f"{name}_{at}" if at > 1 else name for at, each in enumerate(names, start=1)}


def _runs(graph: _Graph) -> list[list[int]]:
    """Nodes between cuts, in the order of execution."""
    left = Counter(name for node in graph.nodes for name in set(node.input) if name in graph.live)
    left.update(graph.outputs)  # outputs stay live to the end
    live = {name for name in graph.inputs if left[name]}
    runs: list[list[int]] = []
    run: list[int] = []
    for number, node in enumerate(graph.nodes):
        run.append(number)
        live.update(name for name in node.output if left[name])
        for name in set(node.input):
            if name in live:
                left[name] -= 1
                if not left[name]:
                    live.discard(name)
        if len(live) == 1:
            runs.append(run)
            run = []
    if run:
        runs.append(run)
    return runs


def _joined(graph: _Graph, runs: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs, those without a heavy operator joined to their predecessor."""
    joined: list[list[int]] = []
    for run in runs:
        heavy = any(graph.nodes[number].op_type in _HEAVY for number in run)
        first_is_light = len(joined) == 1 and not any(
            graph.nodes[number].op_type in _HEAVY for number in joined[0]
        )
        if joined and (not heavy or first_is_light):
            joined[-1].extend(run)
        else:
            joined.append(list(run))
    return joined


def _names(graph: _Graph, runs: Sequence[Sequence[int]]) -> list[str]:
    """Distinct names of runs: the name of their first heavy node, else of their first node."""
    names = []
    for run in runs:
        heavy = [number for number in run if graph.nodes[number].op_type in _HEAVY]
        names.append(graph.label((heavy or list(run))[0]))
    repeated = Counter(names)
    return [
        name if repeated[name] == 1 else f"{name} ({place})"
        for place, name in enumerate(names, start=1)
    ]


def _in_words(ops: Sequence[str]) -> str:
    """Operators in words, repetitions once: ``Conv Clip Add``."""
    distinct = list(dict.fromkeys(ops))
    shown = " ".join(distinct[:_SHOWN_OPERATORS])
    more = len(ops) - min(len(distinct), _SHOWN_OPERATORS)
    return shown + (f" and {more} more" if more else "")


def misaligned_channels(segment: Segment) -> list[int]:
    """Numbers of channels of a segment's convolutions that are not multiples of 4.

    The three channels of an image do not count.
    """
    graph = onnx.load_model_from_string(segment.model).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = [weights.get(node.input[1], ()) for node in graph.node if node.op_type == "Conv"]
    channels = {size for shape in shapes for size in shape[:2] if size > 3}
    return sorted(size for size in channels if size % _ALIGNED)
