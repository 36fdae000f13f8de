"""Keep memory that a training step frees, for the next step.

A training step frees and allocates hundreds of megabytes of activations. glibc returns large blocks
to the system at once, and every step maps and clears them again: half of the processor's time for
networks of small images. With the settings below glibc keeps the blocks and reuses them.
"""

from __future__ import annotations

import ctypes
import sys

# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEPT_BYTES = 2**31 - 1  # freed memory at the top of the heap that is not returned
_STEP_BYTES = 64 << 20  # by how much the heap grows at once


def keep_freed_memory() -> None:
    """Make the C library keep freed memory; does nothing if it is not glibc.

    Call it before the first tensor of a long run; memory is returned at the end of the process.
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
