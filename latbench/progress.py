"""Progress callbacks of long computations: one protocol for both packages."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Callback that a long computation calls from time to time.

    It runs between measurements or training steps, in the thread of the computation. An exception
    that it raises ends the computation in the same way as Ctrl-C: finished parts are kept.
    """

    def __call__(self, fraction: float, words: str, /) -> None:
        """Report progress.

        Args:
            fraction: Finished part of the work, 0 to 1.
            words: Short description of the current work.
        """


def silent(fraction: float, words: str, /) -> None:
    """Ignore the progress; this is the default of every function of the library."""
