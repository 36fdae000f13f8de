"""Helpers for tests of trainings and searches: learnable images, interrupted runs, two
processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
import torch
from torch import Tensor

from nas.data.images import ImageData, Source, Split, image_data
from nas.training.distributed import Workers, workers
from nas.training.run_folder import RunFolder

TOGETHER_S = 600.0  # after which processes that wait for each other are ended
PRELOADED = (
    "nas.searchers.sgnas.searcher",
    "nas.searchers.tfnas.searcher",
    "nas.tasks.classification",
    "tests.conftest",
    # what is imported at the first use: by searches, by optimisers, by torchrun
    "rich.console",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.preprocessing",
    "torch._dynamo",
    "torch.distributed.run",
    "torch.utils.tensorboard.writer",
)


def tiny_data(
    count: int = 96, *, classes: int = 10, channels: int = 1, step: int = 20
) -> ImageData:
    """Images whose class is the brightness of their left half: learnable, and created quickly.

    Args:
        count: Number of images; the test images are the same.
        classes: Number of classes.
        channels: Number of channels of the images.
        step: Difference in brightness between a class and the previous one.
    """
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=rng)
    images = torch.randint(0, 20, (count, channels, 8, 8), generator=rng)
    images[..., :4] += labels[:, None, None, None] * step
    split = Split(images.to(torch.uint8), labels)
    return image_data("tiny", train=split, test=split, classes=classes, input_size=8, flip=False)


def numbered_data(count: int = 40, *, classes: int = 10) -> ImageData:
    """Training images whose pixels are their number, and 20 test images from 200 on."""

    def split(first: int, images: int) -> Split:
        numbers = torch.arange(first, first + images)
        pixels = numbers[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
        return Split(pixels, numbers % classes)

    parts = {"train": split(0, count), "test": split(200, 20)}
    return image_data("numbered", **parts, classes=classes, input_size=8, flip=False)


def numbers_of(x: Tensor, data: ImageData) -> list[int]:
    """Numbers of normalised images, read in their middle, which a shift of 3 px does not reach."""
    assert isinstance(data.mean, float) and isinstance(data.std, float)
    return ((x[:, 0, 4, 4] * data.std + data.mean) * 255).round().int().tolist()


def numbers_in(source: Source) -> list[int]:
    """Numbers of the images of a source, in its order."""
    ((images, _),) = source.read([torch.arange(len(source))], torch.Generator())
    return images[:, 0, 4, 4].tolist()


class Stop(Exception):
    """Raised in the middle of an epoch; simulates a kill."""


def stopping_after(calls: int | None) -> Callable[[float, str], None]:
    """A progress function that raises ``Stop`` at this call; with None it never does."""
    called = 0

    def progress(fraction: float, words: str) -> None:
        nonlocal called
        called += 1
        if called == calls:
            raise Stop

    return progress


def require_loopback() -> None:
    """Skip where processes of this machine cannot talk: some sandboxes have no network at all."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.settimeout(10)
        try:
            client.connect(server.getsockname())
        except OSError as error:
            pytest.skip(f"the loopback interface is down ({error}): processes cannot talk")


def run_together(work: Callable[..., None], *arguments: object) -> list[int]:
    """Exit codes of two processes that do this work, with torchrun's environment.

    They are forked from one that has imported what trains, which takes longer than tests do.

    Args:
        work: A function of a module; each process calls it in its group.
        arguments: Arguments for both processes.
    """
    port = free_port()
    return _exit_codes(_start, [(rank, port, work, arguments) for rank in range(2)])


def run_by_torchrun(output: Path, *options: Sequence[object]) -> list[int]:
    """Exit codes of ``torchrun``, once for each sequence of options and all at the same time.

    Its processes are forked from one that has imported what trains, as those of ``run_together``.

    Args:
        output: File for what they print.
        options: Options of ``torchrun``, the path of a script, and the script's arguments.
    """
    return _exit_codes(_torchrun, [(output, [*map(str, each)]) for each in options])


def free_port() -> int:
    """A port of the loopback interface that nobody listens at; skips where there is no network."""
    require_loopback()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _exit_codes(target: Callable[..., None], arguments: Sequence[tuple[object, ...]]) -> list[int]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    processes = [context.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    end = monotonic() + TOGETHER_S
    for process in processes:
        process.join(max(0.0, end - monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    return [code for code in codes if code is not None]


def _start(rank: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work(*arguments)


def _torchrun(output: Path, options: list[str]) -> None:
    from torch.distributed.run import main

    with output.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    main(["--start-method=fork", "--run-path", *options])


@contextmanager
def run_of_both(folder: Path) -> Iterator[tuple[Workers, RunFolder]]:
    """This process's group, and the run folder that the first of them makes."""
    with workers() as group:
        if not group.leads:
            group.wait()
        made = RunFolder(folder, {})
        if group.leads:
            group.wait()
        yield group, made
