"""Memory that training frees is kept for the next step.

A training step frees and allocates hundreds of megabytes of activations. glibc gives large blocks
back to the system at once, and every step pays for mapping and clearing them again: half of the
processor's time on networks of small images. Told to keep them, it reuses the pages it has.
"""

from __future__ import annotations

import ctypes
import sys

# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 2**31 - 1  # freed memory at the top of the heap that is not given back
_STEP_BYTES = 64 << 20  # by how much the heap grows at once


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory; does nothing where it is not glibc.

    Call it before the first tensor of a long run; memory is given back at the end of the process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_TOP_PAD, _STEP_BYTES),
        (_M_ARENA_MAX, 1),
    ):
        mallopt(option, value)
