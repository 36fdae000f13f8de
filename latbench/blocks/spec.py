"""Interface of block specs: a block with its shapes, which is the key of every table."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import msgspec

from latbench.blocks.graph import Graph, Shape


@runtime_checkable
class BlockSpec(Protocol):
    """One block with its shapes. Equal specs are the same block at any position of a network.

    Implementations are frozen ``msgspec.Struct`` classes with the tag field ``block``. They are
    hashable, comparable and convertible to JSON. ``input_size`` is the side of the square input map
    in pixels. ``str`` gives a short readable name, which is different for different blocks.
    """

    @property
    def input_size(self) -> int: ...

    def __hash__(self) -> int: ...

    def graph(self) -> Graph:
        """Graph of the block's layers."""
        ...


Network = tuple[BlockSpec, ...]
"""A whole network: block specs in the order of execution."""


def block_key(spec: BlockSpec) -> str:
    """Canonical JSON of a block spec; equal specs give equal text. Default values are omitted."""
    return msgspec.json.encode(spec).decode()


def block_width(spec: BlockSpec) -> int | None:
    """Elastic width of a block in channels; None if its width is not elastic."""
    width: int | None = getattr(spec, "width", None)
    return width if getattr(spec, "expand", True) else None


def with_width(spec: BlockSpec, width: int) -> BlockSpec:
    """The same block at another width; width 0 stands for the shape that all widths share."""
    return cast(BlockSpec, msgspec.structs.replace(cast(msgspec.Struct, spec), width=width))


def output_shape(spec: BlockSpec) -> Shape:
    """Output shape ``(C, H, W)`` of a block."""
    return spec.graph().output_shape
