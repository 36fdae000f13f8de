"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 px that ship with the package.

Alpaydin & Kaynak, UCI Machine Learning Repository, 1998. A fifth is the test set, always the same
one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from latbench.errors import MissingExtraError
from nas.data.images import ImageData, Split, generator, image_data

_TEST_FRACTION = 0.2
_BRIGHTEST = 16  # pixels are 0..16
_SPLIT_SEED = 0


def digits(input_size: int, data_dir: Path | None) -> ImageData:
    """The digits at an input size in pixels; ``data_dir`` is not used."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn, which ships the digits,", "nas") from None
    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(255 / _BRIGHTEST).to(torch.uint8)[:, None]
    everything = Split(images, torch.from_numpy(raw.target).long())
    order = torch.randperm(len(everything), generator=generator(_SPLIT_SEED))
    count = round(len(everything) * _TEST_FRACTION)
    return image_data(
        "digits",
        train=everything.take(order[count:]),
        test=everything.take(order[:count]),
        classes=10,
        input_size=input_size,
        flip=False,
    )
