"""What a block spec is: a block with its shapes, the key of everything."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import msgspec

from latbench.blocks.graph import Graph, Shape


@runtime_checkable
class BlockSpec(Protocol):
    """One block with its shapes. Equal specs are one block wherever they stand in a network.

    Members are frozen ``msgspec.Struct`` classes tagged with ``block``: hashable, comparable,
    read from and written to JSON. ``input_size`` is the side of the square input map in pixels.
    As text, a block is its name for people: short, and another one for every other block.
    """

    @property
    def input_size(self) -> int: ...

    def __hash__(self) -> int: ...

    def graph(self) -> Graph:
        """The block's layers."""
        ...


Network = tuple[BlockSpec, ...]
"""A whole network: block specs in the order of execution."""


def block_key(spec: BlockSpec) -> str:
    """Canonical JSON of a block spec: equal specs, equal text; defaults are left out."""
    return msgspec.json.encode(spec).decode()


def block_width(spec: BlockSpec) -> int | None:
    """The elastic width of a block in channels, or None where it has none."""
    width: int | None = getattr(spec, "width", None)
    return width if getattr(spec, "expand", True) else None


def with_width(spec: BlockSpec, width: int) -> BlockSpec:
    """An elastic block at another width; at width 0 it names what all its widths share."""
    return cast(BlockSpec, msgspec.structs.replace(cast(msgspec.Struct, spec), width=width))


def output_shape(spec: BlockSpec) -> Shape:
    """Shape ``(C, H, W)`` of what a block produces."""
    return spec.graph().output_shape
