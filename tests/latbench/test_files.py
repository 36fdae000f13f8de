"""Units, names, profiles and writes: what people type, and what may go wrong."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latbench.device import DeviceProfile
from latbench.device_files import load_device, shipped_profiles
from latbench.environment import memory_bytes
from latbench.errors import InvalidFileError, InvalidValueError, LatbenchError, UnknownNameError
from latbench.files import (
    MAX_TEXT_BYTES,
    decode_text,
    read_text,
    require_writable,
    write_atomically,
)
from latbench.profilers import PROFILERS
from latbench.units import (
    format_ms,
    format_s,
    parse_bytes,
    parse_count,
    parse_duration_s,
    parse_latency_ms,
    parse_millions,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("15ms", 15), ("3.218ms", 3.218), ("0.8s", 800), ("250 us", 0.25), ("1e1ms", 10)],
)
def test_latencies_are_typed_with_a_unit(text: str, ms: float) -> None:
    assert parse_latency_ms(text) == pytest.approx(ms)


@pytest.mark.parametrize(
    ("text", "seconds"), [("150ms", 0.15), ("90s", 90), ("1.5min", 90), ("2h", 7200)]
)
def test_durations_are_typed_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("512B", 512), ("512KB", 512e3), ("2MB", 2e6), ("1.5GB", 1.5e9)),
        *(("3KiB", 3 * 2**10), ("1MiB", 2**20), ("2GiB", 2**31)),
    ],
)
def test_memory_has_units_of_a_thousand_and_of_1024(text: str, size: float) -> None:
    assert parse_bytes(text) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("1500\N{MICRO SIGN}s", "1500 \N{GREEK SMALL LETTER MU}s", "1500\N{SQUARE MU S}"),
        *(
            "\uff11.\uff15\uff4d\uff53",
            "1\uff0e5ms",
            "1.5\N{NO-BREAK SPACE}ms",
            "1.5\N{THIN SPACE}ms",
            "1.5\N{SQUARE MS}",
        ),
        *("1500US", "1.5Ms", ".0015s", "1.5e0ms", "15E-1ms", "1500\udcc2\udcb5s"),
    ],
)
def test_what_unicode_calls_the_same_is_the_same(text: str) -> None:
    """The last one is the micro sign as an ASCII locale hands it on."""
    assert parse_latency_ms(text) == pytest.approx(1.5, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["2²ms", "1½ms", "②ms", "\u0661ms", "2ₓms", "1,5ms", "2ms;", "0x2ms"]
)
def test_what_would_become_another_number_is_refused(text: str) -> None:
    for parse in (parse_latency_ms, parse_duration_s):
        with pytest.raises(InvalidValueError):
            parse(text)
    with pytest.raises(InvalidValueError):
        parse_count(text.replace("ms", "M"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(
            ("30M", 30e6),
            ("500K", 5e5),
            ("1.2G", 1.2e9),
            ("\uff13\uff10\uff2d", 30e6),
            ("30 m", 30e6),
        ),
        *(("30", 30e6), ("0.5", 5e5), ("\uff13\uff10", 30e6), ("99999", 99999e6)),
        *(("100000", 1e5), ("30000000", 3e7), ("3e7", 3e7)),
    ],
)
def test_a_bare_count_is_in_millions_unless_it_is_large(text: str, count: float) -> None:
    assert parse_count(text) == pytest.approx(count)
    if text[-1].isdecimal():
        assert parse_millions(text) == pytest.approx(count / 1e6)
    else:
        with pytest.raises(InvalidValueError, match="bare number"):
            parse_millions(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-5", "0", "1e400", "", "M", "3T", "1_000", "+5"])
def test_what_is_no_count_is_refused(text: str) -> None:
    for parse in (parse_count, parse_millions):
        with pytest.raises(InvalidValueError, match="is not a count"):
            parse(text)


@pytest.mark.parametrize("text", ["15", "ms", "", "-3ms", "0ms", "15 km", "1e999ms", "nanms"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="latency"):
        parse_latency_ms(text)


@given(st.text(max_size=12))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(InvalidValueError):
        assert parse_duration_s(text) > 0


@pytest.mark.parametrize(("text", "s"), [("150s", 150), ("20min", 1200), ("2h", 7200)])
def test_durations(text: str, s: float) -> None:
    assert parse_duration_s(text) == s


@pytest.mark.parametrize(
    ("s", "text"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_are_shown_in_words(s: float, text: str) -> None:
    assert format_s(s) == text


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_are_what_they_are_called(name: str) -> None:
    profile = load_device(name)
    assert profile.name == name
    assert profile.runtime in list(PROFILERS)


def test_every_runtime_has_a_shipped_profile() -> None:
    assert {load_device(name).runtime for name in shipped_profiles()} == set(PROFILERS.own)


def test_an_unknown_profile_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cpu-onnxruntime'") as caught:
        load_device("cpu-onxruntime")
    assert caught.value.choices == shipped_profiles()


@pytest.mark.parametrize(
    "text",
    [
        "name = ",
        'name = "x"',
        'name = "x"\nruntime = "onnxruntime"\nthreads = 0',
        'name = "x"\nruntime = "onnxruntime"\nthread = 1',
        'name = "x"\nruntime = "onnxruntime"\n[sweep]\nquantile = 2.0',
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(InvalidFileError, match="is not a device profile"):
        load_device(str(path))


def test_a_profile_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('name = "mine"\nruntime = "onnxruntime"\nthreads = 4')
    assert load_device(str(path)) == DeviceProfile("mine", "onnxruntime", threads=4)


def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InvalidFileError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_rewritten_file_keeps_its_permissions_and_a_new_one_has_the_users(tmp_path: Path) -> None:
    path, plain = tmp_path / "file", tmp_path / "plain"
    plain.touch()
    write_atomically(path, "a")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o600)
    write_atomically(path, "b")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("latency_ms", "text"),
    [(0.0123456, "12.35 µs"), (9999.0, "9999 ms"), (32140.0, "32.14 s"), (1e6, "1000 s")],
)
def test_latencies_are_shown_with_four_digits(latency_ms: float, text: str) -> None:
    assert format_ms(latency_ms) == text


def test_the_memory_of_a_container_is_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr("latbench.environment._MEMORY_LIMITS", (limit, none))
    for text, is_limit in (("1048576\n", True), ("max\n", False), (f"{1 << 60}\n", False)):
        limit.write_text(text)
        assert (memory_bytes() == 1 << 20) is is_limit


def test_a_file_that_could_not_be_written_is_refused_at_once(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder" / "file")
    (tmp_path / "text").write_text("")
    require_writable(tmp_path / "text")
    with pytest.raises(InvalidFileError, match=r"text is not a folder"):
        require_writable(tmp_path / "text" / "file")
    assert not (tmp_path / "new").exists()


def test_an_error_is_json_without_what_it_does_not_know() -> None:
    assert LatbenchError("no", nearest_ms=3.0).as_dict() == {
        "kind": "error",
        "message": "no",
        "nearest_ms": 3.0,
    }


@pytest.mark.parametrize("text", ["", "a", "Größe µ\n", "\0\0\0\0"])
def test_text_is_utf8_with_or_without_a_mark(text: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / encoding).write_bytes(text.encode(encoding))
        assert read_text(tmp_path / encoding, what="a text") == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_of_another_encoding_is_named(encoding: str) -> None:
    with pytest.raises(InvalidFileError, match=rf"x is {encoding[:6].upper()} text: save it as"):
        decode_text('{"format": 1}'.encode(encoding), source="x", what="a text")
    with pytest.raises(InvalidFileError, match=r"x is not a text: it is not UTF-8 text \(byte 2\)"):
        decode_text("Größe".encode("latin-1"), source="x", what="a text")


def test_what_is_no_file_or_never_ends_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * (MAX_TEXT_BYTES + 1))
    for path, reason in {
        tmp_path: "is a directory",
        tmp_path / "fifo": "is a named pipe",
        tmp_path / "absent": "No such file",
        tmp_path / "large" / "x": "Not a directory",
        tmp_path / "a\0b": "null",
        tmp_path / "large": "larger than 1 MiB",
        Path("/dev/zero"): "is a device",
    }.items():
        with pytest.raises(InvalidFileError, match=f"{reason}.*a text|a text.*{reason}"):
            read_text(path, what="a text")


def test_a_pipe_of_the_shell_is_read() -> None:
    source, sink = os.pipe()
    os.write(sink, b"text")
    os.close(sink)
    try:
        assert read_text(Path(f"/dev/fd/{source}"), what="a text") == "text"
    finally:
        os.close(source)


def test_hidden_profiles_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latbench.device_files.resources.files", lambda package: tmp_path)
    for name in ("mine.toml", "._mine.toml", "._x.txt", "README.md"):
        (tmp_path / name).touch()
    assert shipped_profiles() == ["mine"]


def test_a_profile_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes('name = "Größe"\nruntime = "onnxruntime"\n'.encode("utf-8-sig"))
    assert load_device(str(path)) == DeviceProfile(name="Größe", runtime="onnxruntime")
    path.write_bytes('name = "Größe"\nruntime = "onnxruntime"\n'.encode("utf-16"))
    with pytest.raises(InvalidFileError, match="UTF-16"):
        load_device(str(path))


@pytest.mark.parametrize(
    ("line", "words"),
    [('cache = "warm"', "as-is, cold, shared"), ('[sweep]\ndesign = "x"', "sequential, uniform")],
)
def test_a_word_that_a_profile_does_not_know_comes_with_those_that_it_does(
    line: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nruntime = "onnxruntime"\n{line}\n')
    with pytest.raises(InvalidFileError, match=f"choose from {words}$"):
        load_device(path)
