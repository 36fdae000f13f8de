"""A load on all cores, as other programs of the machine would be."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def load() -> Iterator[Callable[[], None]]:
    """A function that starts one process for each core, which all end with the context."""
    processes: list[multiprocessing.Process] = []

    def start() -> None:
        if not processes:
            for _ in range(multiprocessing.cpu_count()):
                processes.append(multiprocessing.Process(target=_compute, daemon=True))
                processes[-1].start()

    try:
        yield start
    finally:
        for process in processes:
            process.kill()


def _compute() -> None:
    """Keep a core and the shared cache busy."""
    values = np.ones((1024, 1024), np.float32)
    while True:
        values = values @ values * 0
