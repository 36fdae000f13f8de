"""Images placed on a device, drawn there and changed there.

A GPU stands here as fake tensors of a CUDA device: they have shapes and devices and no values, and
run on every machine. They do so in a process of their own, because PyTorch has one stand-in for a
GPU a process, and other tests have another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional

from nas.data.augmentation import augment
from nas.data.colours import all_at_once, change_colours, draw_changes
from nas.data.feed import feed
from nas.data.images import (
    WHOLE,
    ImageData,
    Pairs,
    Split,
    batches,
    endless_batches,
    generator,
)

ROOT = Path(__file__).parents[3]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_split(count: int = 24, *, size: int = 8, channels: int = 3) -> Split:
    rng = generator(count, size, channels)
    shape = (count, channels, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    return Split(images, torch.arange(count) % 3)


def data_of(split: Split, *, colour: bool) -> ImageData:
    mean, std = (CHANNEL_MEAN, CHANNEL_STD) if colour else (0.5, 0.3)
    return ImageData("x", 3, split, split, mean, std, flip=True)


class OnTheDevice(TorchDispatchMode):
    """Refuses operations on tensors of CPU and GPU, and what comes back from the GPU.

    Counts the copies to the GPU, and those that wait for it.
    """

    copies = waits = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given, got = _device_types((args, kwargs)), _device_types(made)
        name = func.overloadpacket.__name__
        if name == "_to_copy" and given == {"cpu"} and got == {"cuda"}:
            self.copies += 1
            self.waits += not kwargs.get("non_blocking")
        elif name == "device":  # asks where a tensor lies
            pass
        elif len(given) > 1 or (given == {"cuda"} and got != {"cuda"}):
            raise AssertionError(f"{name} of tensors on {given} gives {got or 'a number'}")
        return made


def _device_types(values: Any) -> set[str]:
    tensors = (v for v in torch.utils._pytree.tree_leaves(values) if isinstance(v, Tensor))
    return {tensor.device.type for tensor in tensors}


CHECKS = {
    "an epoch of grey images stays on the device": "check_an_epoch(1)",
    "an epoch of colour images stays on the device": "check_an_epoch(3)",
    "the watch sees a tensor left on the CPU and a wait": "check_the_watch()",
    "a data set is placed once, and whole or not at all": "check_placing()",
}


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Tracebacks of the checks that fail, by call. One fresh process makes all checks."""
    code = f"from {__name__} import check_all; check_all()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    assert list(made) == list(CHECKS.values())
    return {call: words for call, words in made.items() if words is not None}


@pytest.mark.parametrize("call", CHECKS.values(), ids=CHECKS)
def test_on_a_device(call: str, failures: dict[str, str]) -> None:
    assert call not in failures, failures[call]


def check_all() -> None:
    """Print the traceback of every check, or null, as JSON."""
    calls: dict[str, Callable[[], None]] = {
        "check_an_epoch(1)": lambda: check_an_epoch(1),
        "check_an_epoch(3)": lambda: check_an_epoch(3),
        "check_the_watch()": check_the_watch,
        "check_placing()": check_placing,
    }
    made: dict[str, str | None] = {}
    for call, check in calls.items():
        try:
            check()
            made[call] = None
        except Exception:
            made[call] = traceback.format_exc()
    sys.stdout.write(json.dumps(made) + "\n")


def check_an_epoch(channels: int) -> None:
    """One copy of indices an epoch and one of draws a batch, and of means and deviations."""
    with FakeTensorMode(), OnTheDevice() as watch:
        data = data_of(random_split(channels=channels), colour=channels == 3).to(GPU)
        watch.copies = watch.waits = steps = 0
        for images, labels in feed(batches(data.train, 8, generator(0)), GPU):
            x = augment(images, generator(1), flip=True, shift=2, strength=0.4, hue=0.2)
            x = augment(x, generator(1), flip=False, shift=1, fill="black")
            assert data.to_input(x).shape == (8, 3, 8, 8)
            assert labels.device == images.device == x.device == GPU
            steps += 1
        assert steps == 3
        assert watch.copies == 1 + steps * (3 if channels == 3 else 2)
        assert watch.waits == 0
        part, held_out = data.held_out(0.25, seed=0)
        assert isinstance(held_out, Split)
        assert held_out.images.device == held_out.labels.device == GPU
        drawn = endless_batches(part, 8, generator(0), share=WHOLE, per_class=0)
        assert next(drawn)[0].device == GPU


def check_the_watch() -> None:
    with FakeTensorMode(), OnTheDevice() as watch:
        images = random_split().images.to(GPU, non_blocking=True)
        assert (watch.copies, watch.waits) == (1, 0)
        with pytest.raises(AssertionError, match="index"):
            images[torch.arange(3)]
        torch.arange(3).to(GPU)
        assert (watch.copies, watch.waits) == (2, 1)
        with pytest.raises(AssertionError, match="cpu"):
            images.cpu()
        with pytest.raises(DataDependentOutputException):
            float(images.float().mean())


def check_placing() -> None:
    with FakeTensorMode():
        split, test = random_split(24), random_split(8)
        pairs = Pairs(test, *(torch.zeros(4, dtype=torch.int64) for _ in range(4)))
        data = replace(data_of(split, colour=False), test=test, pairs=pairs)
        size = split.image_bytes + test.image_bytes
        assert data.to(GPU, limit_bytes=size - 1) is data
        placed = data.to(GPU, limit_bytes=size)
        assert placed.pairs is not None
        assert placed.pairs.images is placed.test
        for part in (placed.train, placed.test):
            assert isinstance(part, Split)
            assert part.images.device == part.labels.device == GPU
    split = random_split()
    same = data_of(split, colour=False).to(CPU)
    assert isinstance(same.train, Split)
    assert same.train.images is split.images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["noise", "smooth", "few levels"])
def test_colours_changed_at_once_are_those_changed_one_by_one(channels: int, kind: str) -> None:
    rng = generator(channels)
    images = torch.randint(0, 256, (32, channels, 16, 16), dtype=torch.uint8, generator=rng)
    if kind == "smooth":
        images = functional.gaussian_blur(images, [7, 7])
    if kind == "few levels":  # with greys, black, white and equal channels
        images = (images // 86 * 127).clamp(0, 255).to(torch.uint8)
    changes = draw_changes(32, rng, strength=0.4, hue=0.2)
    expected = change_colours(images, changes)
    made = all_at_once(images, changes)
    assert made.dtype == torch.uint8
    difference = (made.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 1e-3


@pytest.mark.parametrize(
    ("column", "one"),
    [
        (0, functional.adjust_brightness),
        (1, functional.adjust_contrast),
        (2, functional.adjust_saturation),
        (3, functional.adjust_hue),
    ],
)
def test_each_change_is_torchvisions(column: int, one: Callable[[Tensor, float], Tensor]) -> None:
    images = random_split(32, size=16).images
    changes = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(32, 1)
    assert torch.equal(all_at_once(images, changes), images)
    changes[:, column] = draw_changes(32, generator(column), strength=0.9, hue=0.5)[:, column]
    expected = torch.stack(
        [
            one(image, factor)
            for image, factor in zip(images, changes[:, column].tolist(), strict=True)
        ]
    )
    difference = (all_at_once(images, changes).int() - expected.int()).abs()
    assert difference.max() <= (1 if column == 3 else 0)
    assert difference.float().mean() < 1e-3


@pytest.mark.gpu
def test_a_gpu_draws_and_changes_images_as_a_cpu_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    split = random_split(512, size=64)
    resident = random_split(512, size=64).to(GPU)
    for per_class in (0, 16):
        both = [batches(part, 32, generator(0), per_class=per_class) for part in (split, resident)]
        for expected, given in zip(*both, strict=True):
            assert torch.equal(given[0].cpu(), expected[0])
            assert torch.equal(given[1].cpu(), expected[1])
    torch.cuda.set_sync_debug_mode("error")
    try:
        data = data_of(resident, colour=True)
        for images, _ in feed(batches(resident, 32, generator(0)), GPU):
            data.to_input(augment(images, generator(1), flip=True, shift=2, strength=0.4, hue=0.2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for shift, fill in ((2, "edge"), (2, "black")):
        made = [
            augment(part.images, generator(1), flip=True, shift=shift, fill=fill)  # type: ignore[arg-type]
            for part in (split, resident)
        ]
        assert torch.equal(made[0], made[1].cpu())
    made = [
        augment(part.images, generator(1), flip=False, shift=0, strength=0.4, hue=0.2)  # type: ignore[arg-type]
        for part in (split, resident)
    ]
    assert (made[0].int() - made[1].cpu().int()).abs().max() <= 3
