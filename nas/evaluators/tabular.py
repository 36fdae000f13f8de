"""Accuracies from a benchmark's file: NAS-Bench-Macro (Su et al., CVPR 2021).

The file maps the digits of eight layers (0 identity, 1 kernel 3 expansion 3, 2 kernel 5 expansion
6) to CIFAR-10 test accuracies in percent of three trainings, their mean and standard deviation,
parameters and multiply-accumulates.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec

from latbench.errors import InvalidFileError, offence
from latbench.files import read_text
from nas.evaluators.base import Evaluator
from nas.spaces import Architecture, make_space

_MAX_FILE_BYTES = 16 << 20  # the published table takes 1.2 MB

Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Count = Annotated[int, msgspec.Meta(gt=0)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Benchmark entry of one architecture; accuracies in percent."""

    test_acc: Annotated[tuple[Percent, ...], msgspec.Meta(min_length=1)]
    mean_acc: Percent
    std: Annotated[float, msgspec.Meta(ge=0)]
    params: Count
    flops: Count


class TabularEvaluator(Evaluator):
    """The mean test accuracy that the benchmark measured, as a fraction.

    Args:
        path: The benchmark's JSON file.

    Raises:
        InvalidFileError: The file is missing or is not the benchmark's; carries the path of the
            invalid value.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.space = make_space("nasbench-macro")
        self.entries = _read(path, layers=len(self.space.layers))

    def entry(self, architecture: Architecture) -> Entry:
        """The benchmark's entry of an architecture.

        Raises:
            LatbenchError: The architecture has another space, input size or number of classes.
        """
        if architecture.space != self.space.name:
            raise InvalidFileError(
                f"the benchmark has the space {self.space.name}, not {architecture.space}",
                path="$.space",
            )
        self.space.check(architecture)
        layers = zip(self.space.layers, architecture.choices, strict=True)
        return self.entries["".join(str(layer.ops.index(choice.op)) for layer, choice in layers)]

    def _score(self, architecture: Architecture) -> float:
        return self.entry(architecture).mean_acc / 100


def _read(path: Path, *, layers: int) -> dict[str, Entry]:
    text = read_text(path, what="a table of NAS-Bench-Macro, JSON", limit=_MAX_FILE_BYTES)
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidFileError(f"{path} is not a table of NAS-Bench-Macro: {error}") from error
    entries = {}
    for digits in map("".join, product("012", repeat=layers)):
        if digits not in raw:
            raise InvalidFileError(
                f"{path} is no whole table of NAS-Bench-Macro: it lacks architecture {digits}",
                path=f"$.{digits}",
            )
        try:
            entries[digits] = msgspec.json.decode(raw.pop(digits), type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = (offence(str(error)) or "$").replace("$", f"$.{digits}", 1)
            raise InvalidFileError(
                f"{path} does not fit at {place}: {error}", path=place
            ) from error
    for unknown in raw:
        raise InvalidFileError(
            f"{path} is not a table of NAS-Bench-Macro: it has no architecture {unknown[:20]!r}",
            path=f"$.{unknown[:20]}",
        )
    return entries
