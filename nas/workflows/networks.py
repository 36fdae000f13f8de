"""Descriptions, costs and predicted latencies of spaces and architectures; nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latbench.cost import Cost, network_cost
from latbench.models.torch_modules import Example
from latbench.result import Result
from latbench.tables import Prediction
from latbench.workflows.model_tables import predict_model
from latbench.workflows.table_checks import open_table
from nas.latency.priced_space import space_label
from nas.spaces import PLAIN, SPACES, SearchSpace, Variant, make_space
from nas.workflows.inputs import (
    AnyArchitecture,
    AnyTable,
    OwnModel,
    Shapes,
    as_architecture,
    as_pieces,
    is_own_model,
    require_no_shapes,
)


@dataclass(frozen=True, repr=False)
class SpaceSummary(Result):
    """Summary of a search space.

    Attributes:
        name: Name of the space.
        input_size: Side of the input image in pixels.
        classes: Outputs of the classifier, or size of the embedding.
        size: Number of architectures, every integer width counted.
        layers: Number of layers with a choice.
        depths: Number of layers of each stage.
        ops: Operations of the layers.
        blocks: Number of distinct blocks that can be chosen, at widths divisible by 8.
    """

    name: str
    input_size: int
    classes: int
    size: int
    layers: int
    depths: tuple[int, ...]
    ops: tuple[str, ...]
    blocks: int

    @classmethod
    def of(cls, space: SearchSpace) -> SpaceSummary:
        """The summary of a space."""
        return cls(
            space.name,
            space.input_size,
            space.classes,
            space.size(),
            len(space.layers),
            tuple(len(stage) for stage in space.stages),
            tuple(dict.fromkeys(op for layer in space.layers for op in layer.ops)),
            space.searchable_blocks(),
        )

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values; the size is text, as it is too large for a float."""
        return super().as_dict() | {"size": str(self.size)}


def list_spaces(
    names: Sequence[str] = (),
    *,
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
) -> list[SpaceSummary]:
    """Summaries of search spaces.

    Args:
        names: Names of the spaces; all spaces if empty.
        input_size: Side of the input image in pixels; each space's published one if None.
        classes: Number of classes; each space's published one if None.
        variant: Settings of all blocks, for spaces that leave them open.

    Raises:
        UnknownNameError: There is no such space.
        InvalidValueError: A value is out of range, or a space has no such variant.
    """
    found = names or list(SPACES)
    return [SpaceSummary.of(make_space(name, input_size, classes, variant)) for name in found]


def cost(architecture: AnyArchitecture) -> Cost:
    """Multiply-accumulates and parameters of an architecture.

    MACs are counted for convolutions and linear layers only.

    Args:
        architecture: An architecture, or the path of its file.

    Raises:
        LatbenchError: The file is not an architecture, or the space has no such architecture.
    """
    found, space = as_architecture(architecture)
    return network_cost(space.lower(found))


def predict(
    network: AnyArchitecture | OwnModel,
    table: AnyTable,
    *,
    shapes: Shapes | None = None,
    example: Example | None = None,
) -> Prediction:
    """Latency of a network in ms according to a table, with its 90 % interval.

    The latency is for the whole batch of the device profile. There is no interval before a
    calibration (``nas.calibrate``).

    Args:
        network: An architecture, an ONNX model, the path of the file of one, or a torch module.
        table: A latency table of the architecture's space or of the model, or its path.
        shapes: Shapes of inputs that an ONNX file leaves open, by name of the input.
        example: Input of a torch module, of the table's batch size.

    Raises:
        LatbenchError: A file cannot be read, or is not an architecture or a table.
        MismatchError: The table is for another space, has no price for a block, or errs by more
            than 5 % on parts of the model that were left out of its fit.
    """
    opened = open_table(table)
    if is_own_model(network):
        batch_size = opened.device.batch_size
        pieces = as_pieces(network, shapes=shapes, batch_size=batch_size, example=example)
        return predict_model(pieces, opened)
    require_no_shapes(shapes)
    found, space = as_architecture(network)  # type: ignore[arg-type]
    opened.require_space(space_label(space))
    return opened.predict(space.lower(found))
