"""Writing of ONNX models: a whole file or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from latbench.errors import InvalidFileError
from latbench.models import read_model
from latbench.models.agreement import largest_difference
from latbench.models.writing import require_writable, write_model
from tests.latbench.models.small import conv_model, save


def test_large_weights_lie_beside_the_model(tmp_path: Path) -> None:
    proto, path = conv_model(), tmp_path / "m.onnx"
    write_model(path, proto, most_bytes=100)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    inside = read_model(save(conv_model(), tmp_path / "inside.onnx"))
    assert largest_difference(inside, read_model(path)) == 0


@pytest.mark.parametrize("most_bytes", [100, 1 << 20])
def test_an_interrupt_leaves_no_file(tmp_path: Path, most_bytes: int) -> None:
    def interrupt(written: Path) -> None:
        assert written.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_model(tmp_path / "m.onnx", conv_model(), accept=interrupt, most_bytes=most_bytes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    for name, most_bytes in (("m.onnx", 1 << 20), ("n.onnx.data", 100)):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InvalidFileError, match="exists: choose another output"):
            write_model(tmp_path / name.removesuffix(".data"), conv_model(), most_bytes=most_bytes)
        assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFileError, match="cannot write"):
        write_model(tmp_path / "file" / "m.onnx", conv_model())


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidFileError, match=r"cannot write .*: .*; choose another output"):
        require_writable(tmp_path / "file" / "new" / "m.onnx")
    with pytest.raises(InvalidFileError, match="exists: choose another output"):
        require_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
