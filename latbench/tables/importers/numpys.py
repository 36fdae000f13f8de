"""NumPy's scalars in pickles, read as plain numbers and texts without running any code.

NumPy pickles a scalar as a call of ``numpy.core.multiarray.scalar`` (since NumPy 2
``numpy._core.multiarray.scalar``) with a ``numpy.dtype`` and the value's bytes; protocols 0 to 2
write the bytes as a call of ``_codecs.encode``. ``pickles`` recognises these calls by name, and
this module computes their results from the arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latbench.tables.importers.base import ForeignFormatError, shown

SCALAR = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
DTYPE = "numpy dtype"
ENCODE = "_codecs encode"

Order = Literal["<", ">", "=", "|"]
_ORDERS: dict[str, Order] = {"<": "<", ">": ">", "=": "=", "|": "|"}

_READ = re.compile(r"[<>=|]?(?:[fiu][1-9]\d?|U[1-9]\d{0,2})", re.ASCII)
_LONGEST = 512  # bytes of a scalar; one that is a key has four bytes a character


@dataclass
class DType:
    """Equivalent of ``numpy.dtype(code)``. Its byte order is set by a separate call."""

    code: str
    order: Order = "="

    def set_state(self, state: list[object]) -> None:
        """Take the byte order of the state that NumPy pickles: a version, the order, and more.

        Raises:
            LookupError: This is no such state.
        """
        self.order = _ORDERS[str(state[1])]


def make_dtype(arguments: list[object]) -> DType:
    """The dtype that ``numpy.dtype(*arguments)`` would make.

    Raises:
        ForeignFormatError: It is of no number and no text.
    """
    code = arguments[0]
    if not isinstance(code, str) or not _READ.fullmatch(code):
        raise ForeignFormatError(
            f"it has a numpy value of type {shown(code)}: of numpy's values only floats, integers "
            "and texts are read, so convert it to those"
        )
    return DType(code.lstrip("<>=|"), _ORDERS.get(code[0], "="))


def encode(arguments: list[object]) -> bytes:
    """The bytes that ``_codecs.encode(text, 'latin1')`` would make.

    Raises:
        ValueError: Other arguments, or longer than a scalar.
    """
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1" or len(text) > _LONGEST:
        raise ValueError("no bytes of a scalar")
    return text.encode("latin1")


def make_scalar(arguments: list[object]) -> float | int | str:
    """The plain value that ``scalar(dtype, raw)`` would make.

    Raises:
        ForeignFormatError: This machine has no such number.
        ValueError: Other arguments, or not as many bytes as the dtype says.
    """
    dtype, raw = arguments
    if isinstance(raw, str):  # Python 2 had no bytes
        raw = raw.encode("latin1")
    if not isinstance(dtype, DType) or not isinstance(raw, bytes) or len(raw) > _LONGEST:
        raise ValueError("no scalar")
    try:
        made = np.dtype(dtype.code).newbyteorder(dtype.order)
    except TypeError as error:  # such as f16 where long doubles are shorter
        raise ForeignFormatError(
            f"it has a numpy value of type {shown(dtype.code)}, which this machine does not know"
        ) from error
    if made.itemsize != len(raw):
        raise ValueError("not the bytes of such a value")
    value = np.frombuffer(raw, made)[0]
    if made.kind == "U":
        return str(value)
    return float(value) if made.kind == "f" else int(value)
