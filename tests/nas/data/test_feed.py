"""Batches on their way to a device: drawn ahead by a thread that ends, copied, passed on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from latbench.errors import InvalidFileError
from nas.data.feed import ahead, feed
from nas.data.images import Split, batches, generator

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("latbench-feed")}


def failing(count: int) -> Iterator[int]:
    yield from range(count)
    raise InvalidFileError("cannot read n0/x.jpg")


def closable(closed: list[bool]) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        while True:
            yield torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    finally:
        closed.append(True)


def test_a_cpu_gets_the_very_same_batches() -> None:
    drawn = [(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2)) for _ in range(3)]
    given = list(feed(drawn, CPU))
    assert all(ours is theirs for ours, theirs in zip(given, drawn, strict=True))
    closed: list[bool] = []
    iterator = feed(closable(closed), CPU)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_items_come_in_order_and_no_more_than_so_many_ahead() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for i in range(10):
            drawn.append(i)
            yield i

    for count in (1, 3):
        drawn.clear()
        for number, item in enumerate(ahead(source(), lambda i: i * i, count=count)):
            assert item == number**2
            assert len(drawn) <= number + 1 + count
    assert not threads()


def test_the_next_item_is_drawn_while_one_is_used() -> None:
    begun = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        begun.set()
        yield 1

    items = ahead(source(), lambda i: i)
    assert next(items) == 0
    assert begun.wait(timeout=30)
    assert list(items) == [1]


@pytest.mark.parametrize("end", ["exhausted", "closed", "user fails"])
def test_the_thread_ends_with_the_iterator(end: str) -> None:
    items = ahead(iter(range(4)), lambda i: i)
    assert next(items) == 0
    assert len(threads()) == 1
    if end == "exhausted":
        assert list(items) == [1, 2, 3]
    elif end == "closed":
        items.close()
    else:
        with pytest.raises(ZeroDivisionError):
            items.throw(ZeroDivisionError())
    assert not threads()


def test_errors_of_drawing_and_of_preparing_arrive_in_their_place() -> None:
    def prepare(item: int) -> NoReturn:
        raise ArithmeticError(str(item))

    items = ahead(failing(3), lambda i: i)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InvalidFileError, match=r"n0/x\.jpg"):
        next(items)
    assert not threads()
    with pytest.raises(ArithmeticError, match="0"):
        next(ahead(iter(range(3)), prepare))
    assert not threads()


def test_batches_that_lie_on_the_device_are_passed_on_and_closed() -> None:
    closed: list[bool] = []
    with FakeTensorMode():
        images = torch.zeros(24, 1, 2, 2, dtype=torch.uint8, device=GPU)
        labels = torch.zeros(24, device=GPU)

        def source() -> Iterator[tuple[Tensor, Tensor]]:
            try:
                while True:
                    yield images, labels
            finally:
                closed.append(True)

        iterator = feed(source(), GPU)
        for _ in range(3):
            ours = next(iterator)
            assert ours[0] is images
            assert ours[1] is labels
            assert not threads()
        iterator.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert list(feed([], GPU)) == []


@pytest.mark.gpu
def test_batches_copied_ahead_are_those_that_were_drawn() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    split = Split(torch.arange(512 * 4096).view(512, 1, 64, 64).to(torch.uint8), torch.arange(512))
    drawn = list(batches(split, 32, generator(0)))
    for _ in range(3):
        for (images, labels), (theirs, their_labels) in zip(
            feed(iter(drawn), GPU), drawn, strict=True
        ):
            assert images.device == labels.device == GPU
            torch.cuda._sleep(1_000_000)  # the copies of the next batches overtake this one
            assert torch.equal(images.clone().cpu(), theirs)
            assert torch.equal(labels.cpu(), their_labels)
    assert not threads()
