"""A process that decodes images for another one: ``nas.data.decoders`` starts it.

    python -m nas.data.decoding_process FD

FD is the process's end of a socket. A request is a pickled tuple of a store, numbers, framing and
key; None for the store means the previous one. An answer starts with four bytes, big-endian. They
are the length of the message of an InvalidFileError, and the message follows; or they are 0, and
the pixels follow. The process ends when the socket closes.
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
"""Format of the length of the message, or 0."""

TEXT = ("utf-8", "surrogateescape")  # messages contain file names, which may be any bytes


def main() -> None:
    """Answer requests until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the main process
    connection = socket.socket(fileno=int(sys.argv[1]))
    with connection, suppress(EOFError, ConnectionError):  # the main process has ended
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
