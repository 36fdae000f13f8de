"""What search spaces and architectures are, cost and take, without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latbench.cost import Cost, network_cost
from latbench.result import Result
from latbench.tables import Prediction
from latbench.workflows.tables import open_table
from nas.latency.priced_space import space_label
from nas.spaces import PLAIN, SPACES, SearchSpace, Variant, make_space
from nas.workflows.inputs import AnyArchitecture, AnyTable, as_architecture


@dataclass(frozen=True, repr=False)
class SpaceSummary(Result):
    """A search space in numbers.

    Attributes:
        name: Name of the space.
        input_size: Side of the input image in pixels.
        classes: Outputs of the classifier, or size of the embedding.
        size: Number of architectures, every integer width counted.
        layers: Number of layers to choose.
        depths: Number of layers by stage.
        ops: Operations of the first layer.
        blocks: Number of distinct blocks that stand for a choice, at widths divisible by 8.
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
        """The numbers of a space."""
        return cls(
            space.name,
            space.input_size,
            space.classes,
            space.size(),
            len(space.layers),
            tuple(len(stage) for stage in space.stages),
            tuple(space.layers[0].ops),
            space.searchable_blocks(),
        )

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values; the size as text, as it exceeds what floats count."""
        return super().as_dict() | {"size": str(self.size)}


def list_spaces(
    names: Sequence[str] = (),
    *,
    input_size: int | None = None,
    classes: int | None = None,
    variant: Variant = PLAIN,
) -> list[SpaceSummary]:
    """Search spaces in numbers.

    Args:
        names: Which spaces; all without any.
        input_size: Side of the input image in pixels; each space's published one if None.
        classes: Number of classes; each space's published one if None.
        variant: What holds for all blocks, in spaces that leave it open.

    Raises:
        UnknownNameError: No such space.
        InvalidValueError: A value is out of range, or a space has no such variant.
    """
    found = names or list(SPACES)
    return [SpaceSummary.of(make_space(name, input_size, classes, variant)) for name in found]


def cost(architecture: AnyArchitecture) -> Cost:
    """Multiply-accumulates and parameters of an architecture.

    MACs are those of convolutions and linear layers, nothing else.

    Args:
        architecture: An architecture, or the path of its file.

    Raises:
        LatbenchError: The file is no architecture, or the space has no such architecture.
    """
    found, space = as_architecture(architecture)
    return network_cost(space.lower(found))


def predict(architecture: AnyArchitecture, table: AnyTable) -> Prediction:
    """Latency of an architecture in ms according to a table, with its 90 % interval.

    The latency is of the device profile's whole batch. Without a calibration
    (``nas.calibrate``) there is no interval.

    Args:
        architecture: An architecture, or the path of its file.
        table: A latency table of the architecture's space, or its path.

    Raises:
        LatbenchError: A file is no architecture or no table.
        MismatchError: The table is of another space, or does not price a block.
    """
    found, space = as_architecture(architecture)
    opened = open_table(table)
    opened.require_space(space_label(space))
    return opened.predict(space.lower(found))
