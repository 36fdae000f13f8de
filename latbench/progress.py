"""How long work tells that it goes on: one protocol for both packages."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A function that long work calls now and then.

    It runs between measurements and steps of training, in the thread that does the work. An
    exception that it raises ends the work, as Ctrl-C does: what was finished is kept.
    """

    def __call__(self, fraction: float, words: str, /) -> None:
        """Take note.

        Args:
            fraction: Part of the work that is done, 0 to 1.
            words: What is going on, in a few words.
        """


def silent(fraction: float, words: str, /) -> None:
    """The progress that nobody sees, which every function of the library has by default."""
