"""Files of JSON lines, also after a killed process."""

from __future__ import annotations

from pathlib import Path

import pytest

from latbench.errors import InvalidFileError
from latbench.json_lines import read_json_lines


@pytest.mark.parametrize("cuts", [False, True])
def test_half_a_line_is_left_out_and_cut_off_only_on_request(tmp_path: Path, cuts: bool) -> None:
    path = tmp_path / "lines.jsonl"
    raw = b'{"x": 1}\n{"x": 2}\n{"x": 3'
    path.write_bytes(raw)
    assert read_json_lines(path, dict[str, int], cuts=cuts) == [{"x": 1}, {"x": 2}]
    assert path.read_bytes() == (raw[:18] if cuts else raw)


def test_no_file_and_an_empty_one_have_no_values(tmp_path: Path) -> None:
    assert read_json_lines(tmp_path / "absent.jsonl", int, cuts=True) == []
    (tmp_path / "empty.jsonl").touch()
    assert read_json_lines(tmp_path / "empty.jsonl", int, cuts=True) == []


@pytest.mark.parametrize("line", [b"{", b'{"x": "two"}', b"\xff", b"3"])
def test_a_damaged_line_is_named_and_the_file_stays(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    raw = b'{"x": 1}\n' + line + b'\n{"x": 3}\n{"x"'
    path.write_bytes(raw)
    with pytest.raises(InvalidFileError, match=r"damaged in line 2: .*; mend it") as error:
        read_json_lines(path, dict[str, int], cuts=True, remedy="mend it")
    assert error.value.path == "$[1]"
    assert path.read_bytes() == raw
