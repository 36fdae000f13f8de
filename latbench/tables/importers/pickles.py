"""Safe reader of pickles: nothing that a pickle names is imported or called.

``pickle.loads`` runs any code that the file names. An ``Unpickler`` with a strict ``find_class``
does not, but a few bytes can make it reserve gigabytes (with a huge memo index or length) or
exhaust the stack (by hashing a tuple nested a million deep). Its dicts also hide repeated keys. A
latency table needs only mappings, sequences, texts and numbers. This reader accepts the opcodes for
these and refuses all others by name. It also reads NumPy's numbers, which come from interpolation.

A container may be used in one place only, as in YAML without aliases. With shared containers, a
small file could become a huge table or one that contains itself. Texts may be shared.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from latbench.tables.importers import numpys
from latbench.tables.importers.base import ForeignFormatError, Pairs, shown

# opcodes, each of which makes at most one object; a published table of 0.4 MB has 74,000
_MAX_OPCODES = 2_000_000
_PLAIN = (
    "only dicts, lists, texts, numbers and numpy's scalars are read, so convert it to those (an "
    "array by .tolist())"
)

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),  # texts written by Python 2
    *("SHORT_BINBYTES", "BINBYTES"),  # what numpy's scalars are made of
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME"}


@dataclass(frozen=True)
class _Callable:
    """Stands for a class or a function that a pickle may name.

    Attributes:
        make: Function that computes the result of its call from the arguments.
    """

    make: Callable[[list[object]], object]


def _mapping(arguments: list[object]) -> Pairs:
    """Pairs of an ordered dictionary: none, or the list of pairs that Python 2 wrote."""
    content = Pairs()
    for argument in arguments:
        for pair in _list(argument):
            key, value = _list(pair)
            content.append((key, value))
    return content


def _mapping_with_default(arguments: list[object]) -> Pairs:
    """Pairs of a defaultdict; its default for missing keys is ignored."""
    if len(arguments) > 1:
        raise ValueError("no arguments of a defaultdict")
    return Pairs()


def _nothing(arguments: list[object]) -> object:
    raise ValueError("a class that is only named")


_CALLABLES = {
    "collections OrderedDict": _Callable(_mapping),
    "collections defaultdict": _Callable(_mapping_with_default),
    **{
        f"{module} {name}": _Callable(_nothing)  # default factories of a defaultdict
        for module in ("builtins", "__builtin__")
        for name in ("dict", "list", "float", "int")
    },
    numpys.DTYPE: _Callable(numpys.make_dtype),
    numpys.ENCODE: _Callable(numpys.encode),
    **dict.fromkeys(numpys.SCALAR, _Callable(numpys.make_scalar)),
}


def read_pickle(raw: bytes) -> object:
    """Read the value of a pickle, with mappings as ``Pairs``.

    Raises:
        ForeignFormatError: The bytes are truncated, not a pickle, or a pickle of other objects than
            plain data, which the message names.
    """
    machine = _Machine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about invalid escapes in a foreign text
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
                if number >= _MAX_OPCODES:
                    raise ForeignFormatError("it is too large to be a latency table")
                if opcode.name == "STOP":
                    return machine.pop()
                machine.step(opcode.name, argument)
        except (ValueError, IndexError, KeyError) as error:
            raise ForeignFormatError("it is not a pickle, or it is truncated or damaged") from error
    raise ForeignFormatError("it is a truncated pickle")


class _Machine:
    """Stack machine of pickles, without the opcodes that can run code."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # what lies under each open mark
        self._memo: dict[int, object] = {}
        self._steps: dict[str, Callable[[object], None]] = {
            "MARK": self._mark,
            "EMPTY_DICT": lambda _: self.push(Pairs()),
            "EMPTY_LIST": lambda _: self.push([]),
            "EMPTY_TUPLE": lambda _: self.push([]),
            "DICT": lambda _: self.push(_pairs(self._marked())),
            "LIST": lambda _: self.push(self._marked()),
            "TUPLE": lambda _: self.push(self._marked()),
            "TUPLE1": lambda _: self.push(self._last(1)),
            "TUPLE2": lambda _: self.push(self._last(2)),
            "TUPLE3": lambda _: self.push(self._last(3)),
            "SETITEM": lambda _: self._set_items(self._last(2)),
            "SETITEMS": lambda _: self._set_items(self._marked()),
            "APPEND": lambda _: self._append(self._last(1)),
            "APPENDS": lambda _: self._append(self._marked()),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            "GLOBAL": self._name_class,
            "STACK_GLOBAL": lambda _: self._name_class(" ".join(map(_text, self._last(2)))),
            "REDUCE": self._call,
            "BUILD": self._set_state,
        }

    def step(self, name: str, argument: object) -> None:
        if name in _LITERALS:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif name in self._steps:
            self._steps[name](argument)
        elif name not in _IGNORED:
            raise ForeignFormatError(f"it is a pickle of objects (opcode {name}): {_PLAIN}")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> object:
        return self._stack.pop()

    def _mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[object]:
        marked, self._stack = self._stack, self._below.pop()
        return marked

    def _last(self, count: int) -> list[object]:
        taken = [self._stack.pop() for _ in range(count)]
        return taken[::-1]

    def _set_items(self, items: list[object]) -> None:
        mapping = self._stack[-1]
        if not isinstance(mapping, Pairs):
            raise ValueError("no mapping to set items of")
        mapping.extend(_pairs(items))

    def _append(self, items: list[object]) -> None:
        sequence = self._stack[-1]
        if not isinstance(sequence, list) or isinstance(sequence, Pairs):
            raise ValueError("no list to append to")
        sequence.extend(items)

    def _put(self, index: object) -> None:
        assert isinstance(index, int)
        self._memo[index] = self._stack[-1]

    def _get(self, index: object) -> None:
        assert isinstance(index, int)
        value = self._memo[index]
        if isinstance(value, list):
            raise ForeignFormatError(
                "it uses one container in several places: save it with a copy in each"
            )
        self.push(value)

    def _name_class(self, place: object) -> None:
        name = _text(place)
        if name not in _CALLABLES:
            name = shown(name.replace(" ", "."))
            raise ForeignFormatError(f"it is a pickle that would use {name}: {_PLAIN}")
        self.push(_CALLABLES[name])

    def _call(self, _: object) -> None:
        called, arguments = self._last(2)
        if not isinstance(called, _Callable):
            raise ForeignFormatError(f"it is a pickle that would call {shown(called)}: {_PLAIN}")
        self.push(called.make(_list(arguments)))

    def _set_state(self, _: object) -> None:
        state = self._stack.pop()
        changed = self._stack[-1]
        if not isinstance(changed, numpys.DType):
            raise ForeignFormatError(f"it is a pickle of objects (opcode BUILD): {_PLAIN}")
        changed.set_state(_list(state))


def _pairs(items: list[object]) -> Pairs:
    if len(items) % 2:
        raise ValueError("a key without its value")
    return Pairs(zip(items[::2], items[1::2], strict=True))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("no sequence")
    return value
