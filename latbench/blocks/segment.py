"""A segment: a piece of a user's own ONNX model between two points with one live tensor."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from latbench.blocks.graph import Graph


class Segment(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="block",
    tag="segment",
):
    """A piece of an ONNX model with one input and one output.

    The first piece of a model has all inputs of the model, and the last one all outputs.

    Equal segments have equal operators, attributes, shapes and types; the values of their weights
    may differ. Tensors have canonical names, so equal segments have equal bytes.

    Attributes:
        model: Serialised ``ModelProto`` without the values of its weights.
        input_shape: Shape of the input, of the first one if there are several.
        output_shape: Shape of the output, of the first one if there are several.
        operators: Operators in words, such as ``Conv Relu``.
        conv_macs: Multiply-accumulates of convolutions, for the whole batch.
        linear_macs: Multiply-accumulates of matrix products, for the whole batch.
        params: Number of weights.
        activation_bytes: Summed size of all outputs of operators.
    """

    model: bytes
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    operators: str
    conv_macs: int = 0
    linear_macs: int = 0
    params: int = 0
    activation_bytes: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates, for the whole batch."""
        return self.conv_macs + self.linear_macs

    @property
    def input_size(self) -> int:
        """Side of the input map in pixels; the last dimension for other tensors."""
        return self.input_shape[-1] if self.input_shape else 1

    @property
    def digest(self) -> str:
        """Short name of the segment, from its content."""
        return sha256(self.model).hexdigest()[:8]

    def __str__(self) -> str:
        shapes = " to ".join(
            "x".join(map(str, shape)) for shape in (self.input_shape, self.output_shape)
        )
        return f"{self.operators} {shapes} ({self.digest})"

    def graph(self) -> Graph:
        """Segments are not described by layers.

        Raises:
            TypeError: Always; ``latbench.models.joining`` makes the model of a segment.
        """
        raise TypeError("a segment of an ONNX model has no graph of layers")
