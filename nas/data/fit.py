"""Checks that a data set fits the networks that it trains, and that its parts are large enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latbench.errors import InvalidValueError, MismatchError

if TYPE_CHECKING:  # decoding processes import this package without torch
    from nas.data.images import ImageData, Source

_FEWEST_IMAGES = 8  # in each part of divided images, because batch norm needs a batch


def require_fit(data: ImageData, *, input_size: int, classes: int) -> None:
    """Refuse a data set that networks of this input size and these classes cannot be tested on.

    A network that recognises identities gives an embedding; its outputs are not classes.

    Args:
        data: The data set.
        input_size: Side of the networks' input in pixels.
        classes: Number of the networks' outputs.

    Raises:
        MismatchError: Classes or image sizes differ.
        InvalidValueError: There are no images or pairs to test networks on.
    """
    if data.task == "classification" and data.classes != classes:
        raise MismatchError(
            f"{data.name} has {data.classes} classes, but the networks have {classes}: profile or "
            f"draw them with --classes {data.classes}, or give the data that a trained network is "
            "for"
        )
    if data.task == "face-recognition" and (data.pairs is None or not len(data.pairs.first)):
        raise InvalidValueError(
            f"{data.name} has no pairs: give ImageData some, trained networks are verified on them"
        )
    tested = data.test if data.pairs is None else data.pairs.images
    if not len(tested):
        raise InvalidValueError(
            f"{data.name} has no test images: set some aside, trained networks are tested on them"
        )
    for part in (data.train, data.test, tested):
        if part.input_size != input_size:
            raise MismatchError(
                f"images of {data.name} have {part.input_size} px, but the networks take "
                f"{input_size} px: load the data at an input size of {input_size}"
            )


def divided(data: ImageData, fraction: float, *, seed: int) -> tuple[Source, Source]:
    """The training images, divided at random into those that train weights and a held-out fraction.

    Raises:
        InvalidValueError: A part has fewer than 8 images.
    """
    train, held_out = data.held_out(fraction, seed=seed)
    require_images(data, train, held_out)
    return train, held_out


def require_images(data: ImageData, *parts: Source) -> None:
    """Refuse parts of the training images that are too small for training or evaluation.

    Raises:
        InvalidValueError: A part has fewer than 8 images.
    """
    if min(map(len, parts)) < _FEWEST_IMAGES:
        raise InvalidValueError(
            f"{len(data.train)} training images are too few to search on: they are divided into "
            f"{len(parts)} parts, and each part needs {_FEWEST_IMAGES}"
        )
