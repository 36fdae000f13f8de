"""Groups of channels of a model whose number can be raised together without changing its function.

A group consists of the convolutions and matrix products whose output channels are added, split or
shuffled together, so that they must have fitting widths. Their new channels have weights of zero,
and so have the new inputs of everything that reads them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from latbench.errors import InvalidFileError
from latbench.models.channels.finite import possibly_infinite
from latbench.models.channels.ledger import embed
from latbench.models.channels.rules import RULES
from latbench.models.channels.slots import Ints, UnpaddableError
from latbench.models.channels.static_graph import StaticGraph
from latbench.models.channels.trace import Trace
from latbench.models.onnx_model import OnnxModel
from latbench.models.quantised import is_quantised


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only become wider together.

    Attributes:
        tensor: First tensor of these channels.
        width: Its number of channels.
        producers: Numbers of the nodes that produce the channels, each with its width as a
            multiple of ``width``.
        nodes: Names of all nodes that read or write these channels.
    """

    tensor: str
    width: int
    producers: tuple[tuple[int, int], ...]
    nodes: frozenset[str]


@dataclass(frozen=True, eq=False)
class Widening:
    """A model before and after some groups become wider.

    Attributes:
        before: Channels of the model as it is.
        after: Channels with the new widths.
        places: Slot of the wider model for every slot of the model.
    """

    before: Trace
    after: Trace
    places: Ints


@dataclass(frozen=True, eq=False)
class Channels:
    """Groups of channels of a model.

    Attributes:
        trace: Channels of the model with its own widths.
        groups: Groups that can become wider.
    """

    trace: Trace
    groups: tuple[ChannelGroup, ...]

    def widen(self, widths: Mapping[ChannelGroup, int]) -> Widening:
        """Channels with new widths of some groups.

        Raises:
            UnpaddableError: The widths do not fit the model.
        """
        made = {
            number: times * width
            for group, width in widths.items()
            for number, times in group.producers
        }
        before = self.trace
        after = Trace(before.graph, made, before.infinite, before).run(RULES)
        return Widening(before, after, embed(before.ledger, after.ledger))

    def fits(self, widths: Mapping[ChannelGroup, int]) -> bool:
        """Whether some groups can have these widths."""
        try:
            self.widen(widths)
        except UnpaddableError:
            return False
        return True


def find_channels(model: OnnxModel) -> Channels:
    """Find the groups of channels of a model that can become wider.

    Raises:
        InvalidFileError: The model is quantised.
        RuntimeFailure: ONNX Runtime refused the model when an unknown shape was looked up.
    """
    graph = StaticGraph.of(model)
    for number, node in enumerate(graph.nodes):
        if is_quantised(node):
            raise InvalidFileError(
                f"{model.name} is quantised, node {node.name or number} ({node.op_type}): change "
                "its widths before it is quantised"
            )
    trace = Trace(graph, infinite=possibly_infinite(graph)).run(RULES)
    return Channels(trace, _groups(trace))


def _groups(trace: Trace) -> tuple[ChannelGroup, ...]:
    channels, producers = trace.ledger.channels(), trace.ledger.producers
    makers: dict[int, set[int]] = defaultdict(set)  # by channel: nodes that produce a part of it
    for channel, number in zip(channels.tolist(), producers, strict=True):
        if number >= 0:
            makers[channel].add(number)

    def makers_of(ids: Ints) -> set[int]:
        return {number for channel in set(channels[ids].tolist()) for number in makers[channel]}

    links = [makers_of(ids) for ids in trace.links]
    roots = _tied(trace.made, [*makers.values(), *links])
    fixed = [*trace.fixed, trace.ledger.alike()]
    kept = {roots[number] for ids in fixed for number in makers_of(ids)}
    nodes = _nodes(trace, {slot: roots[n] for slot, n in enumerate(producers) if n >= 0})
    members: dict[int, list[int]] = defaultdict(list)
    for number, root in roots.items():
        members[root].append(number)
    found = []
    for root, numbers in members.items():
        width = min(trace.made[number] for number in numbers)
        if root in kept or any(trace.made[number] % width for number in numbers):
            continue
        first = next(number for number in numbers if trace.made[number] == width)
        found.append(
            ChannelGroup(
                trace.graph.nodes[first].output[0],
                width,
                tuple((number, trace.made[number] // width) for number in numbers),
                frozenset(nodes.get(root, ())),
            )
        )
    return tuple(found)


def _tied(numbers: Iterable[int], together: Iterable[set[int]]) -> dict[int, int]:
    """Smallest number that each number is tied to, over one set or several."""
    parent = {number: number for number in numbers}

    def find(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    for tied in together:
        first, *others = sorted({find(number) for number in tied}) or [-1]
        parent.update(dict.fromkeys(others, first))
    return {number: find(number) for number in parent}


def _nodes(trace: Trace, roots: Mapping[int, int]) -> dict[int, set[str]]:
    """Names of the nodes that read or write channels, by group; ``roots`` has a slot's group."""
    by_slot = np.full(len(trace.ledger.producers), -1, np.int64)
    by_slot[list(roots)] = list(roots.values())
    found: dict[int, set[str]] = defaultdict(set)
    for node in trace.graph.nodes:
        for name in (*node.input, *node.output):
            if name in trace.slots:
                for root in np.unique(by_slot[trace.slots[name].ids]).tolist():
                    found[root].add(node.name)
    return found
