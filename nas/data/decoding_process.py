"""A process that decodes images for another one: ``nas.data.decoders`` starts it.

    python -m nas.data.decoding_process FD

FD is its end of a socket. A request is a pickled tuple of a store, numbers, framing and key; None
for the store means the one before. An answer is four bytes, big-endian: the length of the message
of an InvalidFileError, which follows, or 0, and the pixels follow. The process ends when the socket
closes.
"""

from __future__ import annotations

import pickle
import signal
import socket
import struct
import sys
from contextlib import suppress

import numpy as np

from latbench.errors import InvalidFileError
from nas.data.decoding import Job, decode
from nas.data.stores import Store

ANSWER = struct.Struct("!I")
"""Length of the message, or 0."""

TEXT = ("utf-8", "surrogateescape")  # messages name files, whose names may be any bytes


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    connection = socket.socket(fileno=int(sys.argv[1]))
    with connection, suppress(EOFError, ConnectionError):  # nobody asks any more
        _serve(connection)


def _serve(connection: socket.socket) -> None:
    requests = connection.makefile("rb")
    known: Store | None = None
    while True:
        store, numbers, framing, key = pickle.load(requests)
        known = store or known
        assert known is not None, "the first request brings a store"
        job = Job(known, numbers, framing, key)
        pixels = np.empty(job.shape, dtype=np.uint8)
        try:
            decode(job, pixels)
        except InvalidFileError as error:
            message = error.message.encode(*TEXT)
            connection.sendall(ANSWER.pack(len(message)) + message)
        else:
            connection.sendall(ANSWER.pack(0))
            connection.sendall(pixels.data)


if __name__ == "__main__":
    main()
