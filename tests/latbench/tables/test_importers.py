"""Foreign latency tables: what they say is kept, what is wrong is counted, nothing is run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections import OrderedDict, defaultdict
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from latbench.blocks import Classifier, ConvBlock, InvertedResidual, output_shape
from latbench.device import DeviceProfile
from latbench.errors import InvalidFileError, UnknownNameError
from latbench.tables import LatencyTable, Origin, SpaceLabel, TableStore
from latbench.tables.foreign import import_table
from latbench.tables.importers import IMPORTERS, MAX_FILE_BYTES, ForeignTable, read_foreign_table
from latbench.tables.importers.base import Pairs
from latbench.tables.importers.pickles import read_pickle
from nas.spaces import Choice, SearchSpace, make_space
from nas.spaces.architecture import parse_architecture
from tests.conftest import write_table

KINDS = list(IMPORTERS)

TFNAS_KEY = "MBInvertedResBlock_56_24_48_40_k5_s2_swish"
TFNAS_BLOCK = InvertedResidual(24, 40, 96, 5, 2, "swish", 56, se_channels=48)
PROXYLESS = """\
Conv-input:224x224x3-output:112x112x32: {count: 9, mean: 4.4, var: 0.1}
Conv_1-input:7x7x320-output:7x7x1280: {count: 9, mean: 6.3}
Logits-input:7x7x1280-output:1000: {count: 9, mean: 0.9}
expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0:
  count: 9
  mean: 4.0
expanded_conv-input:14x14x80-output:14x14x80-expand:3-kernel:7-stride:1-idskip:1:
  count: 9
  mean: 2.5
"""
MOBILENET_V3 = """\
AvgPool2D-input:5x5x1152-output:1x1x1152: {count: 9, mean: 0.01, std: 0.001}
Conv-input:160x160x3-output:80x80x24: {count: 9, mean: 0.5}
Conv_1-input:5x5x192-output:5x5x1152: {count: 9, mean: 0.4}
Conv_2-input:1x1x1152-output:1x1x1536: {count: 9, mean: 0.7}
Logits-input:1x1x1536-output:1000: {count: 9, mean: 0.6}
expanded_conv-input:80x80x24-output:80x80x24-expand:24-kernel:3-stride:1-idskip:1-se:0-hs:0:
  mean: 0.8
expanded_conv-input:20x20x48-output:10x10x96-expand:144-kernel:5-stride:2-idskip:0-se:0-hs:1:
  mean: 0.43
expanded_conv-input:5x5x192-output:5x5x192-expand:576-kernel:3-stride:1-idskip:1-se:1-hs:1:
  mean: 0.62
"""


def hardcore_content() -> dict[str, float]:
    """What HardCoRe-NAS pickles for its space: all keys, a made-up latency in seconds."""
    channels, strides, sizes = (16, 24, 40, 80, 112, 192), (2, 2, 2, 1, 2), (112, 56, 28, 14, 14)
    layers = []
    for ins, outs, stride, size in zip(channels, channels[1:], strides, sizes, strict=False):
        act = 1 if outs <= 40 else 0
        layers += [(ins, outs, stride, size, act), (outs, outs, 1, size // stride, act)]
    content = {
        f"in_channels_{i}_out_channels_{o}_stride_{s}_resolution_{r}_er_{e}_k_{k}_se_{q}_act_{a}": (
            1e-6 * i * e
        )
        for i, o, s, r, a in layers
        for e, k, q in product((3, 4, 6), (3, 5), (0, 0.25))
    }
    return content | {"general": 0.004}


SAMPLES = {
    "tfnas": pickle.dumps(
        OrderedDict(base=2.0, **{TFNAS_KEY: OrderedDict({95: -0.5, 96: 1.5})}), protocol=3
    ),
    "ofa": PROXYLESS.encode(),
    "osnaslib": json.dumps(
        {"flops": [[1.0, 0.0]], "latency": [[0.001, 0.0], [0.002, 1e-6]], "base_latency": 0.003}
    ).encode(),
    "hardcore": pickle.dumps(hardcore_content(), protocol=4),
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write bytes to a file, or pickle a value there, and read it as a table."""

    def _read(kind: str, content: object, **options: Any) -> ForeignTable:
        path = tmp_path / "foreign"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        return read_foreign_table(path, kind, **options)

    return _read


# Every format


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_the_format_is_read(kind: str, read: Any) -> None:
    table = read(kind, SAMPLES[kind])
    assert table.entries
    assert table.duplicates == 0
    assert table.defects == ()
    in_seconds, in_ms = (read(kind, SAMPLES[kind], unit=unit) for unit in ("s", "ms"))
    assert table in (in_seconds, in_ms)
    assert in_seconds.base_ms == pytest.approx(1000 * in_ms.base_ms)
    for slow, fast in zip(in_seconds.entries, in_ms.entries, strict=True):
        assert slow.latency_ms == pytest.approx(1000 * fast.latency_ms)


@pytest.mark.parametrize(("kind", "other"), list(permutations(KINDS, 2)))
def test_a_table_of_another_format_is_refused_in_one_line(kind: str, other: str, read: Any) -> None:
    with pytest.raises(InvalidFileError, match=f"in format {kind}: .*; expected the") as error:
        read(kind, SAMPLES[other])
    assert "\n" not in error.value.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"no table", b"{}", b"[]", b"null", b"a: b", b"\x80\x04N.", b"\x80\x04}."]
)
def test_what_is_no_table_is_refused(kind: str, raw: bytes, read: Any) -> None:
    with pytest.raises(InvalidFileError, match="expected"):
        read(kind, raw)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_or_shorter(kind: str, read: Any) -> None:
    """YAML that is cut may still be YAML; the others have an end that would be missing."""
    whole = SAMPLES[kind]
    keys = [entry.key for entry in read(kind, whole).entries]
    for length in range(0, len(whole), max(1, len(whole) // 200)):
        try:
            table = read(kind, whole[:length])
        except InvalidFileError:
            continue
        assert kind == "ofa"
        assert [entry.key for entry in table.entries] == keys[: len(table.entries)]


@pytest.mark.parametrize("kind", KINDS)
@given(raw=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(
    kind: str, raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _read_or_refuse(kind, raw, tmp_path_factory)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_no_damage_raises_anything_but_a_refusal(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = SAMPLES[kind]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 20)))
    raw = whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:]
    _read_or_refuse(kind, raw, tmp_path_factory)


def _read_or_refuse(kind: str, raw: bytes, factory: pytest.TempPathFactory) -> None:
    path = factory.getbasetemp() / f"damaged-{kind}"
    path.write_bytes(raw)
    with contextlib.suppress(InvalidFileError):
        assert read_foreign_table(path, kind).entries


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_and_too_large_a_file_are_refused(kind: str, tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "a directory"), (tmp_path / "absent", "No such file")):
        with pytest.raises(InvalidFileError, match=reason):
            read_foreign_table(path, kind)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidFileError, match="larger than"):
        read_foreign_table(large, kind)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InvalidFileError, match="a named pipe"):
        read_foreign_table(fifo, kind)


def test_an_unknown_format_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tfnas'"):
        read_foreign_table(tmp_path, "tf-nas")


# TF-NAS


@pytest.mark.parametrize(
    ("device", "negative", "base_ms"), [("gpu", 88, 1.985808), ("cpu", 84, 9.356470)]
)
def test_the_published_tables_of_tfnas_price_the_whole_space(
    device: str, negative: int, base_ms: float, reference: Path
) -> None:
    table = read_foreign_table(reference / "tfnas" / f"latency_{device}.pkl", "tfnas")
    assert len(table.entries) == 36_480
    assert table.not_positive == negative
    assert (table.not_finite, table.unmapped, table.duplicates) == (0, 0, 0)
    assert table.base_ms == pytest.approx(base_ms, abs=1e-6)
    assert table.space == SpaceLabel("tfnas", 224, 1000)
    priced = {entry.spec for entry in table.entries}
    for layer in (layer for stage in make_space("tfnas").stages for layer in stage):
        for op in layer.ops:
            assert all(layer.block(Choice(op, width)) in priced for width in layer.widths(op))


def test_the_interval_of_a_negative_price_is_that_price(
    tmp_path: Path, profile: DeviceProfile, tiny_space: SearchSpace
) -> None:
    spec = tiny_space.blocks()[0]
    table = write_table(tmp_path / "t.sqlite", tiny_space, profile, prices=lambda _: -0.3)
    price = table.price(spec)
    assert price.low_ms <= price.price_ms == pytest.approx(-0.3)


@pytest.mark.parametrize(
    ("device", "column"), [("gpu", "titan_rtx_b32_ms"), ("cpu", "xeon_gold_6130_b1_ms")]
)
def test_prices_of_tfnas_networks_add_up_to_the_published_ones(
    device: str, column: str, reference: Path
) -> None:
    table = read_foreign_table(reference / "tfnas" / f"latency_{device}.pkl", "tfnas")
    price_ms = {entry.spec: entry.latency_ms for entry in table.entries}
    space = make_space("tfnas")
    for sample in json.loads((reference / "tfnas" / "cost_samples.json").read_text()):
        architecture = parse_architecture(json.dumps(sample["architecture"]), source="sample")
        searched = space.lower(architecture)[len(space.stem) : -len(space.head)]
        total_ms = table.base_ms + sum(price_ms[spec] for spec in searched)
        assert total_ms == pytest.approx(sample[column])


def test_defects_of_tfnas_are_counted_and_their_entries_kept(read: Any) -> None:
    widths = {1: -0.1, 2: 0.0, 3: float("nan"), 4: float("inf"), 96: 1.5}
    foreign = "MBInvertedResBlock_56_24_48_40_k5_s2_gelu"
    table = read("tfnas", {"base": 2.0, TFNAS_KEY: widths, foreign: {0: 1.0, 8: 1}})
    assert [entry.width for entry in table.entries] == [1, 2, 3, 4, 96, 0, 8]
    assert (table.not_positive, table.not_finite, table.unmapped) == (2, 2, 2)
    assert table.entries[4].spec == TFNAS_BLOCK
    assert table.entries[5].spec is None


def test_a_tfnas_block_as_wide_as_its_input_has_no_expansion(read: Any) -> None:
    entries = read("tfnas", {TFNAS_KEY: {23: 1.0, 24: 1.0, 25: 1.0}}).entries
    assert [entry.spec.expand for entry in entries] == [True, False, True]


def test_repeated_keys_are_counted_and_the_last_stands(read: Any) -> None:
    """No dict can be pickled so, but files can be written so."""
    raw = io.BytesIO()
    raw.write(b"\x80\x02}(")
    for value in (1.0, 2.0):
        raw.write(pickle.dumps(TFNAS_KEY, 2)[2:-1] + b"}(")
        for width in (95, 96, 96):
            raw.write(pickle.dumps(width, 2)[2:-1] + pickle.dumps(value, 2)[2:-1])
        raw.write(b"u" + pickle.dumps("base", 2)[2:-1] + pickle.dumps(value, 2)[2:-1])
    raw.write(b"u.")
    table = read("tfnas", raw.getvalue())
    assert [(e.width, e.latency_ms) for e in table.entries] == [(95, 2.0), (96, 2.0)]
    assert (table.base_ms, table.duplicates) == (2.0, 5)


@pytest.mark.parametrize("base", [{}, {"base": -2.0}, {"base": float("nan")}])
def test_a_base_that_cannot_be_is_a_defect(base: dict[str, float], read: Any) -> None:
    table = read("tfnas", base | {TFNAS_KEY: {96: 1.5}})
    assert table.base_ms == 0
    assert "base" in table.defects[0]


@pytest.mark.parametrize(
    "content",
    [
        [TFNAS_KEY, 1.0],
        {TFNAS_KEY: 1.0},
        {TFNAS_KEY: {96: "1.5"}},
        {TFNAS_KEY: {96: True}},
        {TFNAS_KEY: {96: {1: 2}}},
        {TFNAS_KEY: {"96": 1.5}},
        {TFNAS_KEY: {2**70: 1.5}},
        {TFNAS_KEY: {}},
        {TFNAS_KEY: {96: 1.5}, 7: 2.0},
        {"base": 2.0},
    ],
)
def test_a_pickle_of_another_structure_is_refused(content: object, read: Any) -> None:
    with pytest.raises(InvalidFileError, match="in format tfnas"):
        read("tfnas", content)


# HardCoRe-NAS


def test_hardcore_blocks_without_squeeze_excite_are_mapped(read: Any) -> None:
    table = read("hardcore", SAMPLES["hardcore"])
    assert len(table.entries) == 120
    assert table.unmapped == 60
    assert table.base_ms == pytest.approx(4.0)
    assert table.space is None
    for entry in table.entries:
        assert entry.width is not None
        assert entry.width % 8 == 0
        assert (entry.spec is None) == ("se_0.25" in entry.key)
    key = "in_channels_24_out_channels_40_stride_2_resolution_56_er_6_k_5_se_0_act_1"
    entry = next(entry for entry in table.entries if entry.key == key)
    assert entry.spec == InvertedResidual(24, 40, 144, 5, 2, "relu", 56)
    assert entry.latency_ms == pytest.approx(0.144)


def test_the_hardcore_sample_is_as_large_as_tables_made_with_the_published_code() -> None:
    """Both tables in thanquannguyen/HardCoReNAS_pi have 10,499 bytes, as their LFS pointers say."""
    assert len(SAMPLES["hardcore"]) == 10_499


@pytest.mark.parametrize(("er", "width"), [("2", 48), ("2.5", 64), ("3", 72), ("0.4", 16)])
def test_hardcore_widths_are_rounded_as_the_network_does(er: str, width: int, read: Any) -> None:
    key = f"in_channels_24_out_channels_24_stride_1_resolution_56_er_{er}_k_3_se_0.25_act_0"
    table = read("hardcore", {key: 0.001, "general": 0.001, "another": -1.0})
    assert [entry.width for entry in table.entries] == [width, None]
    assert (table.unmapped, table.not_positive) == (2, 1)


def test_keys_that_mean_one_block_are_duplicates(read: Any) -> None:
    key = "in_channels_24_out_channels_24_stride_1_resolution_56_er_{}_k_3_se_0_act_0"
    table = read("hardcore", {key.format("3"): 0.001, key.format("3.0"): 0.002, "general": 0.001})
    assert [entry.latency_ms for entry in table.entries] == [2.0]
    assert table.duplicates == 1


# Once-for-All and ProxylessNAS


def test_proxyless_blocks_expand_by_a_ratio_and_have_relu6(read: Any) -> None:
    table = read("ofa", PROXYLESS.encode())
    assert [entry.spec for entry in table.entries] == [
        ConvBlock(3, 32, 3, 2, "relu6", 224),
        ConvBlock(320, 1280, 1, 1, "relu6", 7),
        Classifier(1280, 1000, 7),
        InvertedResidual(32, 16, 32, 3, 1, "relu6", 112, expand=False),
        InvertedResidual(80, 80, 240, 7, 1, "relu6", 14),
    ]
    assert [entry.width for entry in table.entries] == [None, None, None, 32, 240]
    assert [entry.latency_ms for entry in table.entries] == [4.4, 6.3, 0.9, 4.0, 2.5]
    assert (table.base_ms, table.space) == (0, None)


def test_once_for_all_blocks_name_their_width_and_activation(read: Any) -> None:
    table = read("ofa", MOBILENET_V3.encode())
    pool, stem, last, mix, logits, first, plain, excited = table.entries
    assert stem.spec == ConvBlock(3, 24, 3, 2, "hswish", 160)
    assert last.spec == ConvBlock(192, 1152, 1, 1, "hswish", 5)
    assert first.spec == InvertedResidual(24, 24, 24, 3, 1, "relu", 80, expand=False)
    assert plain.spec == InvertedResidual(48, 96, 144, 5, 2, "hswish", 20)
    assert {e.spec for e in (pool, mix, logits, excited)} == {None}
    assert (excited.width, table.unmapped) == (576, 4)


@pytest.mark.parametrize("text", [PROXYLESS, MOBILENET_V3])
def test_blocks_of_ofa_keys_produce_the_shape_of_the_key(text: str, read: Any) -> None:
    for entry in read("ofa", text.encode()).entries:
        if entry.spec is not None and "Logits" not in entry.key:
            channels, *size = output_shape(entry.spec)
            assert f"-output:{size[0]}x{size[1]}x{channels}" in entry.key


def test_the_same_table_as_json_is_read(read: Any) -> None:
    key = "expanded_conv-input:14x14x80-output:14x14x80-expand:3-kernel:7-stride:1-idskip:1"
    as_json = json.dumps({key: {"count": 9, "mean": 2.5, "std": 1e-05}}).encode()
    assert read("ofa", as_json).entries == read("ofa", PROXYLESS.encode()).entries[-1:]


def test_defects_of_ofa_are_counted(read: Any) -> None:
    line = "expanded_conv-input:14x14x80-output:{}-expand:3-kernel:7-stride:1-idskip:{}: {}"
    lines = [
        line.format("14x14x80", 1, "{mean: -1e-05}"),
        line.format("14x14x80", 1, "{mean: .nan}"),  # again: the last stands
        line.format("14x14x80", 0, "{mean: 1.0}"),  # a residual that the key denies
        line.format("7x7x96", 0, "{mean: 0}"),  # a size that stride 1 does not produce
        "Sigmoid-input:7x7x96: {mean: 1.0, mean: 2.0}",
    ]
    table = read("ofa", "\n".join(lines).encode())
    assert (len(table.entries), table.duplicates, table.unmapped) == (4, 2, 3)
    assert (table.not_finite, table.not_positive) == (1, 1)
    assert table.entries[-1].latency_ms == 2.0


def test_stems_beside_blocks_of_both_kinds_stay_unmapped(read: Any) -> None:
    table = read("ofa", (PROXYLESS + MOBILENET_V3).encode())
    assert {e.spec for e in table.entries if not e.key.startswith("expanded")} == {None}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a {mean: 1}\nb: *a", "anchors"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors"),
        ("a: !!python/object/apply:os.system [exit]", "tag"),
        ("a: {mean: !!float 1}", "tag"),
        ("a: {mean: {b: 1}}", "nested"),
        ("a: [1, 2]", "nested"),
        ("? [a]\n: 1", "nested"),
        ("- a", "no YAML mapping"),
        ("a: {mean: 1}\n---\nb: {mean: 1}", "more than one"),
        ("a: {mean: 1", "truncated"),
        ('"\\UFFFFFFFF": 1', "not YAML"),
        (PROXYLESS + "b: {count: 1}", "without a mean"),
        (PROXYLESS + "b: {mean: fast}", "where a latency should be"),
        (PROXYLESS + "b: 1.0", "without a mean"),
        pytest.param("[" * 100_000, "no YAML mapping|nested", id="deep lists"),
        pytest.param("{" * 100_000, "nested", id="deep mappings"),
        pytest.param("{a: " * 100_000, "nested", id="deep values"),
        pytest.param("a:\n" + "- " * 2_000, "nested", id="deep blocks"),
    ],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", None)])
def test_yaml_that_is_more_than_a_table_is_refused(
    text: str, reason: str, loader: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the parser has a limit of depth: of PyYAML 6.0.4's two, one has."""
    if loader is None:
        pytest.skip("this PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "CSafeLoader", loader, raising=False)
    with pytest.raises(InvalidFileError, match=reason):
        read("ofa", text.encode())


# OSNASLib


def test_osnaslib_entries_are_known_by_their_place_and_unmapped(read: Any) -> None:
    table = read("osnaslib", SAMPLES["osnaslib"])
    assert [entry.key for entry in table.entries] == [
        f"latency[{layer}][{candidate}]" for layer in (0, 1) for candidate in (0, 1)
    ]
    assert [e.latency_ms for e in table.entries] == pytest.approx([1.0, 0.0, 2.0, 0.001])
    assert (table.base_ms, table.unmapped, table.not_positive) == (3.0, 4, 1)
    assert {(entry.width, entry.spec) for entry in table.entries} == {(None, None)}


def test_the_first_osnaslib_tables_had_no_base(read: Any) -> None:
    table = read("osnaslib", b'{"latency": [[NaN, -Infinity, -1, 1e400, 5]]}')
    assert table.base_ms == 0
    assert "missing" in table.defects[0]
    assert (table.not_finite, table.not_positive) == (3, 1)


def test_repeated_osnaslib_rows_are_counted(read: Any) -> None:
    table = read("osnaslib", b'{"latency": [[1, 2]], "base_latency": 1, "latency": [[3, 4]]}')
    assert [entry.latency_ms for entry in table.entries] == [3000.0, 4000.0]
    assert table.duplicates == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"flops": [[1.0]], "base_flops": 1.0}',
        '{"latency": 1.0}',
        '{"latency": [1.0]}',
        '{"latency": {"0": [1.0]}}',
        '{"latency": [[null]]}',
        '{"latency": [["1.0"]]}',
        '{"latency": [[true]]}',
        '{"latency": [[]]}',
        '{"latency": [[1.0]], "base_latency": "?"}',
        pytest.param('{"latency": [[' + "1," * 600_000 + "1]]}", id="too many entries"),
        pytest.param('{"latency": ' + "[" * 100_000, id="deep lists"),
        pytest.param('{"latency": [[' + "9" * 100_000 + "]]}", id="long number"),
    ],
)
def test_json_of_something_else_is_refused(text: str, read: Any) -> None:
    with pytest.raises(InvalidFileError, match="in format osnaslib"):
        read("osnaslib", text.encode())


# Pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(protocol: int) -> None:
    value = {"a": [1, 2.5, (None, True, False), 2**80, -7], "b": OrderedDict(c={}, d=())}
    assert read_pickle(pickle.dumps(value, protocol)) == _as_pairs(value)


SCALARS = {name: getattr(np, name)(3) for name in (
    *("float16", "float32", "float64", "longdouble", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)}  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_are_read_as_the_numbers_they_are(protocol: int, module: bytes) -> None:
    """NumPy 1 and 2 name the module differently, without any other difference."""
    values = [*SCALARS.values(), np.float32(0.1), np.float64(-1e-300), np.float64("inf")]
    raw = pickle.dumps([*values, np.str_("a key")], protocol)
    own = next(m for m in (b"numpy._core.multiarray", b"numpy.core.multiarray") if m in raw)
    if protocol < 4:  # later ones announce lengths
        raw = raw.replace(own, module)
    found = read_pickle(raw)
    assert found == [*map(float, values), "a key"]
    assert isinstance(found, list)
    assert {type(value) for value in found} == {int, float, str}


@pytest.mark.parametrize(("order", "code"), [(">", "f8"), ("<", "f8"), (">", "i4"), (">", "f2")])
def test_numpy_scalars_of_either_byte_order_are_read(order: str, code: str) -> None:
    """NumPy on a big-endian machine pickles its scalars so."""
    content = np.array([2.0]).astype(order + code).tobytes()
    raw = b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
    raw += pickle.dumps((code, False, True), 3)[2:-1] + b"R"
    raw += pickle.dumps((3, order, None, None, None, -1, -1, 0), 3)[2:-1] + b"b"
    raw += pickle.dumps(content, 3)[2:-1] + b"\x86R."
    assert pickle.loads(raw) == 2
    assert read_pickle(raw) == 2


@pytest.mark.parametrize(
    "value",
    [np.bool_(True), np.complex128(1), np.datetime64("2020-01-01"), np.zeros(1), np.array(1.0)],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_other_values_of_numpy_are_refused(value: object, protocol: int, read: Any) -> None:
    with pytest.raises(InvalidFileError, match="numpy") as error:
        read("tfnas", pickle.dumps({TFNAS_KEY: {96: value}}, protocol))
    assert len(error.value.message.splitlines()) == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tables_of_numpy_values_equal_plain_ones(protocol: int, read: Any) -> None:
    """Interpolated with numpy, and collected in whatever mapping."""
    plain = read("tfnas", {"base": 2.0, TFNAS_KEY: {95: 0.5, 96: 1.5}})
    table: dict[str, Any] = defaultdict(dict)
    table["base"] = np.float32(2)
    for width, latency in zip(np.arange(95, 97), np.interp([1, 3], [0, 4], [0, 2]), strict=True):
        table[np.str_(TFNAS_KEY)][width] = latency
    assert read("tfnas", pickle.dumps(table, protocol)) == plain
    table[TFNAS_KEY] = defaultdict(float, table[TFNAS_KEY])
    assert read("tfnas", pickle.dumps(table, protocol)) == plain
    content = {np.str_(key): np.float64(value) for key, value in hardcore_content().items()}
    in_numpy = read("hardcore", pickle.dumps(content, protocol))
    assert in_numpy == read("hardcore", SAMPLES["hardcore"])


@pytest.mark.parametrize("kind", ["ofa", "osnaslib"])
def test_a_byte_order_mark_changes_nothing(kind: str, read: Any) -> None:
    text = SAMPLES[kind].decode()
    assert read(kind, text.encode("utf-8-sig")) == read(kind, SAMPLES[kind])
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        with pytest.raises(InvalidFileError, match=r"it is UTF-.* text: save it as UTF-8"):
            read(kind, text.encode(encoding))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_an_import_add_up(kind: str, tmp_path: Path, read: Any) -> None:
    """Every entry counts once, also one that is unmapped and no number."""
    nothing = float("nan")
    unknown = "MBInvertedResBlock_56_24_48_40_k5_s2_gelu"
    line = "expanded_conv-input:14x14x80-output:14x14x80-expand:3-kernel:7-stride:1-idskip:{}:"
    same = "in_channels_24_out_channels_24_stride_1_resolution_56_er_3_k_3_se_{}_act_0"
    content: Any = {
        "tfnas": {"base": 1.0, TFNAS_KEY: {95: nothing, 96: 1.0}, unknown: {8: nothing, 9: 1.0}},
        "ofa": f"{line.format(1)} {{mean: .nan}}\n{line.format(0)} {{mean: .nan}}\n"
        "Conv_2: {mean: 1}\nConv_3: {mean: 1}".encode(),
        "osnaslib": b'{"latency": [[NaN, 1], [Infinity, 2]], "base_latency": 1}',
        "hardcore": {
            "general": 1.0, same.format(0): nothing, same.format(1): nothing, "a": 1.0, "b": 1.0
        },
    }[kind]  # fmt: skip
    table = read(kind, content)
    origin = Origin(kind, "x", table.duplicates, table.unmapped, table.not_finite, table.defects)
    path = tmp_path / "table.sqlite"
    import_table(table, path, origin=origin, device="x")
    found = LatencyTable.open(path).check(None)
    assert (found.entries, found.not_finite, found.duplicates) == (4, 2, 0)
    assert found.unmapped == {"tfnas": 2, "ofa": 3, "osnaslib": 4, "hardcore": 3}[kind]
    assert not found.passed


def test_an_entry_of_a_block_in_the_base_time_is_kept_apart(tmp_path: Path, read: Any) -> None:
    table = read("tfnas", {"base": 1.0, TFNAS_KEY: {95: 0.5, 96: 1.0}})
    included = next(each.spec for each in table.entries if each.width == 95)
    path = tmp_path / "table.sqlite"
    import_table(table, path, origin=Origin("tfnas", "x", 0, 0, 0), device="x", included=[included])
    found = LatencyTable.open(path)
    assert found.price(included).source == "included"
    assert (found.price_ms(included), found.price_ms(TFNAS_BLOCK)) == (0.0, 1.0)


def test_an_import_that_is_killed_leaves_no_table(
    tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table appears when it is complete, so the same command works again."""
    table, path = read("tfnas", SAMPLES["tfnas"]), tmp_path / "table.sqlite"
    origin = Origin("tfnas", "x", 0, 0, 0)

    def killed(*_: object) -> None:
        assert not path.exists()
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(TableStore, "set_results", killed)
        import_table(table, path, origin=origin, device="x")
    import_table(table, path, origin=origin, device="x")
    assert [each.name for each in tmp_path.iterdir() if "table" in each.name] == ["table.sqlite"]


def test_a_pickle_of_python_2_is_read() -> None:
    """As Python 2 wrote ``{'a': OrderedDict([('b', 1.5)])}``, protocol 2."""
    pairs = b"]q\x04]q\x05(U\x01bq\x06G?\xf8\0\0\0\0\0\0ea\x85q\x07R"
    raw = b"\x80\x02}q\x01U\x01aq\x02ccollections\nOrderedDict\nq\x03" + pairs + b"q\x08s."
    assert pickle.loads(raw) == {"a": OrderedDict(b=1.5)}
    assert read_pickle(raw) == _as_pairs({"a": {"b": 1.5}})


def _as_pairs(value: object) -> object:
    if isinstance(value, dict):
        return Pairs((key, _as_pairs(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_as_pairs(item) for item in value]
    return value


class _Runs:
    """Its pickle runs a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> object:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["tfnas", "hardcore"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_nothing(
    kind: str, protocol: int, tmp_path: Path, read: Any
) -> None:
    trace = tmp_path / "trace"
    content = {TFNAS_KEY: {96: 1.5}, "base": _Runs(f"touch {trace}")}
    raw = pickle.dumps(content, protocol)
    with pytest.raises(InvalidFileError, match=r"would use 'posix\.system'"):
        read(kind, raw)
    assert not trace.exists()
    pickle.loads(raw)
    assert trace.exists(), "the attack itself must work, or this test shows nothing"


SYSTEM = b"cos\nsystem\n"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"cbuiltins\neval\n(V1+1\ntR.", r"builtins\.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.", r"builtins\.exec"),
        (b"c__builtin__\nexecfile\n.", r"__builtin__\.execfile"),
        (b"ccollections\nOrderedDict.fromkeys\n.", r"OrderedDict\.fromkeys"),
        (b"ccollections\nOrderedDict\n)\x81}b.", "opcode NEWOBJ"),
        (b"(V1\nios\nsystem\n.", "opcode INST"),
        (b"(" + SYSTEM + b"V1\no.", r"os\.system"),
        (b"ccollections\nOrderedDict\n)R}b.", "opcode BUILD"),
        (b"Vid\nQ.", "opcode BINPERSID"),
        (b"Pid\n.", "opcode PERSID"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"cnumpy.core.multiarray\nscalar\n.", "holds a Callable"),
        (b"cnumpy.core.multiarray\n_reconstruct\n.", r"numpy\.core\.multiarray\._reconstruct"),
        (b"cnumpy\nload\n.", r"numpy\.load"),
        (b"c_codecs\nencode\n(V\\u20ac\nVlatin1\ntR.", "damaged"),
        (b"c_codecs\nencode\n(Va\nVzlib\ntR.", "damaged"),
        (b"c_codecs\nencode\n(V" + b"a" * 600 + b"\nVlatin1\ntR.", "damaged"),
        (b"cnumpy\ndtype\n(VO8\ntR.", "type 'O8'"),
        (b"cnumpy\ndtype\n(Vf8\ntR(V1\ntb.", "damaged"),
        (b"cnumpy\ndtype\n(Vf8\ntR(I3\nV?\ntb.", "damaged"),
        (b"cnumpy.core.multiarray\nscalar\n(Vf8\nVabcdefgh\ntR.", "damaged"),
        (b"cbuiltins\ndict\n(tR.", "damaged"),
        (b"ccollections\ndefaultdict\n(I1\nI2\ntR.", "damaged"),
        (b"V1\n)R.", "would call '1'"),
        (b"\x80\x04C\x01a.", "holds bytes"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"}2.", "opcode DUP"),
        (b"}q\x00h\x00.", "in several places"),
        (b"\x80\x02}q\x00(V1\nh\x00u.", "in several places"),
        pytest.param(b"N" * 2_100_000, "too large", id="long"),
        pytest.param(b"]" * 200_000 + b"a" * 199_999 + b".", "holds a list", id="deep list"),
        pytest.param(b"}]" + b"\x85" * 200_000 + b"Ns.", "none of its keys", id="deep tuple key"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "none of its keys"),
        (b"\x80\x04\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
        (b"S'\\d'\n.", r"holds '\\\\d'"),
        (b"ccollections\nOrderedDict\nV1\nR.", "damaged"),
        (b"ccollections\nOrderedDict\n.", "holds a"),
        (b"}V1\ns.", "damaged"),
        (b"}(V1\nu.", "damaged"),
        (b"(dV1\na.", "damaged"),
        (b"V1\n(u.", "damaged"),
        (b".", "damaged"),
        (b"e.", "damaged"),
        (b"g9\n.", "damaged"),
        (b"N", "damaged"),
    ],
)
def test_a_pickle_that_is_more_than_data_is_refused(raw: bytes, reason: str, read: Any) -> None:
    """Says what it would have built; bombs neither fill the memory nor end the process."""
    with pytest.raises(InvalidFileError, match=reason) as error:
        read("tfnas", raw)
    assert len(error.value.message.splitlines()) == 1
