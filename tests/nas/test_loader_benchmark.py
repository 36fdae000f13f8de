"""The benchmark of the loader compares ways that show the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.loader import KINDS, WAYS, measure, write_images
from nas.data.decoding import Framing, Job

pytestmark = pytest.mark.filterwarnings(
    "ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning"
)


def test_every_way_is_measured_as_often_as_asked(tmp_path: Path) -> None:
    found = measure(tmp_path, torch.device("cpu"), workers=2, images=4, repetitions=2, count_s=0.0)
    assert {(figures.way, figures.kind) for figures in found} == {
        (way, kind) for way in WAYS for kind in KINDS
    }
    for figures in found:
        assert len(figures.images_per_s) == len(figures.operations) == 2
        assert min(figures.images_per_s + figures.operations) > 0


@pytest.mark.parametrize("least_area", [None, 0.2])
def test_all_ways_show_the_same_part_of_an_image(tmp_path: Path, least_area: float | None) -> None:
    """Decoders differ by a few levels; another crop differs by dozens."""
    job = Job(write_images(tmp_path), (0, 1), Framing(64, 8, least_area), key=3)
    shown = []
    for way in WAYS.values():
        decoders = way(1)
        pixels = np.zeros(job.shape, dtype=np.uint8)
        decoders.submit(job, pixels).result()
        decoders.close()
        shown.append(pixels.astype(float))
    assert np.array_equal(shown[0], shown[1])
    assert np.abs(shown[0] - shown[2]).mean() < 6  # torchvision never decodes at a part of the size
    assert np.abs(shown[0][0] - shown[0][1]).mean() > 20
