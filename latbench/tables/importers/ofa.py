"""The tables of ProxylessNAS and Once-for-All: mit-han-lab/proxylessnas, mit-han-lab/once-for-all.

YAML (or JSON, which is YAML too): under each key the ``mean`` of ``count`` runs in ms, and their
spread. Both projects share the form of the keys; see ``ofa/nas/efficiency_predictor/
latency_lookup_table.py``, the published tables in ``tutorial/checkpoints/latency_table@note10/``
and ProxylessNAS's ``mobile_trim.yaml``:

    expanded_conv-input:56x56x24-output:28x28x40-expand:3-kernel:5-stride:2-idskip:0
    expanded_conv-input:56x56x32-output:28x28x48-expand:96-kernel:3-stride:2-idskip:0-se:1-hs:0

The first key is from ProxylessNAS: the activation is ReLU6, and ``expand`` is a ratio. The second
key is from OFA's MobileNetV3: ``expand`` is the number of mid channels, ``se`` is squeeze-excite,
``hs`` is hard swish instead of ReLU. Blocks without expansion have no expansion convolution.
``Conv`` is the stem and ``Conv_1`` the last convolution. ``Logits`` is pooling and the classifier
in ProxylessNAS, and the classifier alone in OFA.

Some entries are not mapped to block specs: blocks with squeeze-excite, because no block spec has a
ReLU inside and a hard sigmoid gate, and the rest of OFA's head, which is ``AvgPool2D``, ``Conv_2``
(without batch norm) and ``Logits``. The keys of the stem and the last convolution do not give an
activation. It is taken from the blocks beside them. If these have both activations or are missing,
the entry is not mapped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from latbench.blocks import BlockSpec, Classifier, ConvBlock, InvertedResidual, output_shape
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
from latbench.tables.importers.yamls import read_yaml, yaml_number

_SHAPE = r"(?P<{0}>[1-9]\d{{0,3}})x(?P={0})x(?P<{0}_channels>[1-9]\d{{0,4}})"
_INPUT, _OUTPUT = f"-input:{_SHAPE.format('ins')}", f"-output:{_SHAPE.format('outs')}"
_BLOCK = re.compile(
    rf"expanded_conv{_INPUT}{_OUTPUT}-expand:(?P<expand>[1-9]\d{{0,4}})-kernel:(?P<kernel>[13579])"
    r"-stride:(?P<stride>[12])-idskip:(?P<skip>[01])(?:-se:(?P<se>[01])-hs:(?P<hs>[01]))?",
    re.ASCII,
)
_CONV = re.compile(rf"(?P<kind>Conv|Conv_1){_INPUT}{_OUTPUT}", re.ASCII)
_LOGITS = re.compile(rf"Logits{_INPUT}-output:(?P<classes>[1-9]\d{{0,5}})", re.ASCII)


def parse(raw: bytes, ms_per_unit: float) -> ForeignTable:
    """The table of a file's bytes."""
    content = read_yaml(raw)
    blocks = [match for key, _ in content if (match := _BLOCK.fullmatch(str(key)))]
    if not blocks:
        raise ForeignFormatError("none of its keys begins with expanded_conv-input:")
    kinds = {match["se"] is None for match in blocks}
    proxyless = kinds.pop() if len(kinds) == 1 else None
    fields = [value for _, value in content if isinstance(value, Pairs)]
    repeated = sum(len(pairs) - len({name for name, _ in pairs}) for pairs in fields)
    return make_table(_entries(content, ms_per_unit, proxyless=proxyless), repeated=repeated)


def _entries(
    content: Pairs, ms_per_unit: float, *, proxyless: bool | None
) -> Iterator[ForeignEntry]:
    for key, fields in content:
        text = str(key)
        means = [v for name, v in fields if name == "mean"] if isinstance(fields, Pairs) else []
        if not means:
            raise ForeignFormatError(f"{shown(text)} has {shown(fields)} without a mean")
        latency_ms = milliseconds(yaml_number(means[-1]), ms_per_unit, key=text)
        match = _BLOCK.fullmatch(text)
        width, spec = (None, _end(text, proxyless)) if match is None else _block(match)
        yield ForeignEntry(text, width, spec, latency_ms)


def _block(match: re.Match[str]) -> tuple[int, BlockSpec | None]:
    """Width and block of a key, the block None where it fits none here."""
    in_channels, out_channels = int(match["ins_channels"]), int(match["outs_channels"])
    stride = int(match["stride"])
    proxyless = match["se"] is None
    width = int(match["expand"]) * (in_channels if proxyless else 1)
    activation: Activation = "hswish" if match["hs"] == "1" else "relu"
    block = InvertedResidual(
        in_channels=in_channels,
        out_channels=out_channels,
        width=width,
        kernel=int(match["kernel"]),
        stride=stride,
        activation="relu6" if proxyless else activation,
        input_size=int(match["ins"]),
        expand=width != in_channels,
    )
    residual = stride == 1 and in_channels == out_channels
    fits = match["se"] != "1" and residual == (match["skip"] == "1") and _agrees(block, match)
    return width, block if fits else None


def _end(key: str, proxyless: bool | None) -> BlockSpec | None:
    """Stem, last convolution or classifier; None where the key does not say which."""
    if proxyless is None:
        return None
    logits = _LOGITS.fullmatch(key)
    if logits is not None:
        shape = int(logits["ins_channels"]), int(logits["classes"]), int(logits["ins"])
        return Classifier(*shape) if proxyless else None
    match = _CONV.fullmatch(key)
    if match is None:
        return None
    stem = match["kind"] == "Conv"
    conv = ConvBlock(
        in_channels=int(match["ins_channels"]),
        out_channels=int(match["outs_channels"]),
        kernel=3 if stem else 1,
        stride=2 if stem else 1,
        activation="relu6" if proxyless else "hswish",
        input_size=int(match["ins"]),
    )
    return conv if _agrees(conv, match) else None


def _agrees(spec: BlockSpec, match: re.Match[str]) -> bool:
    """Whether a block produces the shape that the key says."""
    size = int(match["outs"])
    return output_shape(spec) == (int(match["outs_channels"]), size, size)


IMPORTER = Importer(
    expects="the YAML of {key: {mean: ms}} that ProxylessNAS and Once-for-All publish",
    unit="ms",
    parse=parse,
)
