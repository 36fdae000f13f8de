"""The tables of HardCoRe-NAS (Nayman et al., ICML 2021): Alibaba-MIIL/HardCoReNAS.

``generate_latency_dict`` in ``timm/models/mobilenasnet.py`` pickles one flat dict of floats: a
key a block,

    in_channels_{in}_out_channels_{out}_stride_{s}_resolution_{input map size}_er_{expansion}
    _k_{kernel}_se_{ratio}_act_{1: ReLU, 0: hard swish}

without the line break, and ``general`` for what every network has: stem, first block, head. The
published space has 120 blocks. Latencies are in seconds, per image on CPUs. On GPUs, the published
code divides ``general`` by the batch size, but not the blocks. The file does not show this.

The width is the expansion times the input channels, rounded to a multiple of 8. Blocks with
squeeze-excite are not mapped to block specs: their squeeze-excite always uses a ReLU and a hard
sigmoid gate, and no block spec has this combination.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from latbench.blocks import InvertedResidual
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

_BASE = "general"
_KEY = re.compile(
    r"in_channels_(?P<ins>[1-9]\d{0,4})_out_channels_(?P<outs>[1-9]\d{0,4})_stride_(?P<stride>[12])"
    r"_resolution_(?P<size>[1-9]\d{0,3})_er_(?P<expansion>\d{1,2}(?:\.\d{1,3})?)"
    r"_k_(?P<kernel>[13579])_se_(?P<se>\d(?:\.\d{1,3})?)_act_(?P<relu>[01])",
    re.ASCII,
)
_DIVISOR = 8  # divisor of the widths, see make_divisible in timm/models/efficientnet_blocks.py
_LEAST_KEPT = 0.9  # rounding down may take a tenth of the channels, no more


def parse(raw: bytes, ms_per_unit: float) -> ForeignTable:
    """The table of a file's bytes."""
    content = read_pickle(raw)
    if not isinstance(content, Pairs):
        raise ForeignFormatError(f"it holds {shown(content)}")
    if not any(isinstance(key, str) and _KEY.fullmatch(key) for key, _ in content):
        raise ForeignFormatError("none of its keys begins with in_channels_")
    base = [milliseconds(v, ms_per_unit, key=_BASE) for key, v in content if key == _BASE]
    return make_table(_entries(content, ms_per_unit), base=base)


def _entries(content: Pairs, ms_per_unit: float) -> Iterator[ForeignEntry]:
    for key, latency in content:
        if not isinstance(key, str):
            raise ForeignFormatError(f"it has {shown(key)} as a key")
        if key != _BASE:
            width, spec = _block(key)
            yield ForeignEntry(key, width, spec, milliseconds(latency, ms_per_unit, key=key))


def _block(key: str) -> tuple[int | None, InvertedResidual | None]:
    """Width and block of a key, each None where there is none."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None, None
    in_channels = int(match["ins"])
    width = _divisible(in_channels * float(match["expansion"]))
    if float(match["se"]) > 0:
        return width, None
    block = InvertedResidual(
        in_channels=in_channels,
        out_channels=int(match["outs"]),
        width=width,
        kernel=int(match["kernel"]),
        stride=int(match["stride"]),
        activation="relu" if match["relu"] == "1" else "hswish",
        input_size=int(match["size"]),
    )
    return width, block


def _divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, half up, as the network rounds."""
    nearest = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest if nearest >= _LEAST_KEPT * channels else nearest + _DIVISOR


IMPORTER = Importer(
    expects="the pickle of {key: seconds} that HardCoRe-NAS writes", unit="s", parse=parse
)
