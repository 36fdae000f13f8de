"""The tables of TF-NAS (Hu et al., ECCV 2020): AberHu/TF-NAS, ``latency_pkl/``.

A pickled OrderedDict with one composite entry, ``base``, and a mapping from mid width to latency
under each key

    MBInvertedResBlock_{input map size}_{in}_{SE channels}_{out}_k{kernel}_s{stride}_{activation}

where 0 SE channels mean no squeeze-excite. Latencies are in ms for the whole batch, at an input
size of 224 px. ``base`` is the summed latency of the parts without a key: stem, second block, last
convolution, pooling and the classifier for 1000 classes.

The published tables were measured at every eighth width from the number of input channels on, and
interpolated between these. Smaller widths are extrapolated and partly negative. All entries are
kept; the search space decides which widths are used. If the width equals the input channels, the
measured block has no expansion convolution (``MBInvertedResBlock`` in ``models/layers.py`` omits
it), so the entry is mapped to such a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

import msgspec

from latbench.blocks import InvertedResidual
from latbench.blocks.graph import Activation
from latbench.tables.importers.base import (
    ForeignEntry,
    ForeignFormatError,
    ForeignTable,
    Importer,
    Pairs,
    make_table,
    milliseconds,
    shown,
)
from latbench.tables.importers.pickles import read_pickle
from latbench.tables.records import SpaceLabel

SPACE = SpaceLabel("tfnas", 224, 1000)
_BASE = "base"
_MAX_WIDTH = 1 << 16  # channels; no network comes near it
_KEY = re.compile(
    r"MBInvertedResBlock_(?P<size>[1-9]\d{0,3})_(?P<ins>[1-9]\d{0,4})_(?P<se>0|[1-9]\d{0,4})"
    r"_(?P<outs>[1-9]\d{0,4})_k(?P<kernel>[13579])_s(?P<stride>[12])_(?P<activation>relu|swish)",
    re.ASCII,
)


def parse(raw: bytes, ms_per_unit: float) -> ForeignTable:
    """The table of a file's bytes."""
    content = read_pickle(raw)
    if not isinstance(content, Pairs):
        raise ForeignFormatError(f"it holds {shown(content)}")
    if not any(isinstance(key, str) and _KEY.fullmatch(key) for key, _ in content):
        raise ForeignFormatError("none of its keys begins with MBInvertedResBlock_")
    base = [milliseconds(v, ms_per_unit, key=_BASE) for key, v in content if key == _BASE]
    return make_table(_entries(content, ms_per_unit), base=base, space=SPACE)


def _entries(content: Pairs, ms_per_unit: float) -> Iterator[ForeignEntry]:
    for key, widths in content:
        if not isinstance(key, str) or not isinstance(widths, Pairs):
            if key != _BASE:
                raise ForeignFormatError(f"{shown(key)} has {shown(widths)} instead of widths")
            continue
        block = _narrowest(key)
        for width, latency in widths:
            if type(width) is not int or abs(width) > _MAX_WIDTH:
                raise ForeignFormatError(f"{shown(key)} has {shown(width)} where a width should be")
            spec = None
            if block is not None and width > 0:
                expand = width != block.in_channels
                spec = msgspec.structs.replace(block, width=width, expand=expand)
            yield ForeignEntry(key, width, spec, milliseconds(latency, ms_per_unit, key=key))


def _narrowest(key: str) -> InvertedResidual | None:
    """The block of a key at width 1; None if the key is another's."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    return InvertedResidual(
        in_channels=int(match["ins"]),
        out_channels=int(match["outs"]),
        width=1,
        kernel=int(match["kernel"]),
        stride=int(match["stride"]),
        activation=cast(Activation, match["activation"]),
        input_size=int(match["size"]),
        se_channels=int(match["se"]),
    )


IMPORTER = Importer(
    expects="the pickle of {key: {width: ms}} that TF-NAS publishes", unit="ms", parse=parse
)
