"""Arguments of all functions that make a search space: input size, classes, variant."""

from __future__ import annotations

from latbench.errors import InvalidValueError
from nas.spaces.architecture import PLAIN, Variant


def chosen_shape(
    input_size: int | None,
    classes: int | None,
    *,
    default: tuple[int, int],
    smallest_input: int = 16,
) -> tuple[int, int]:
    """Input size in pixels and number of classes; the default of the space where None is given.

    Raises:
        InvalidValueError: A value is out of range.
    """
    input_size = default[0] if input_size is None else input_size
    classes = default[1] if classes is None else classes
    if not smallest_input <= input_size <= 2048:
        raise InvalidValueError(
            f"input size {input_size} is out of range: choose {smallest_input} to 2048 pixels",
            path="$.input_size",
        )
    if not 1 <= classes <= 1_000_000:
        raise InvalidValueError(
            f"{classes} classes are out of range: choose 1 to 1000000", path="$.classes"
        )
    return input_size, classes


def check_plain(name: str, variant: Variant) -> None:
    """Refuse every variant but the plain one, for a space that has no variants.

    Raises:
        InvalidValueError: The variant is not the plain one.
    """
    if variant != PLAIN:
        field = "se" if variant.se else "activation"
        raise InvalidValueError(
            f"{name} has no variants: leave out --se and --activation", path=f"$.{field}"
        )
