"""Packed files: every store of a file reads it, however many are open."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from latbench.errors import InvalidFileError, MismatchError
from nas.data import load_data
from nas.data.imagenet import pack_imagenet
from nas.data.images import generator
from nas.data.packed import LmdbStore
from tests.nas.data.test_data import write_image


def _packed(folder: Path, *, first: int = 0) -> Path:
    """A folder with two packed files of two classes with two images each."""
    for part in ("train", "val"):
        for number in range(4):
            file = folder / "images" / part / "ab"[number // 2] / f"{number}.png"
            write_image(file, seed=first + number)
    pack_imagenet(folder / "images", folder / "packed", progress=lambda fraction, words: None)
    return folder / "packed"


def test_a_file_is_read_by_several_data_sets_at_once(tmp_path: Path) -> None:
    """Also if its path leads over a link, and after another data set is gone."""
    folder = _packed(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    plain = load_data("imagenet", input_size=16, classes=2, data_dir=tmp_path / "images")
    expected = next(plain.test.read([torch.arange(4)], generator(0)))
    for place, size in ((folder, 32), (folder, 16), (tmp_path / "link", 16)):
        opened = load_data("imagenet", input_size=size, classes=2, data_dir=place)
        found = next(opened.test.read([torch.arange(4)], generator(0)))
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[0], expected[0]) == (size == 16)


def test_threads_and_copies_open_one_file(tmp_path: Path) -> None:
    file = _packed(tmp_path) / "train.lmdb"
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(LmdbStore, [file] * 32))
    stores.append(pickle.loads(pickle.dumps(stores[0])))
    assert {store.read(3) for store in stores} == {
        (tmp_path / "images" / "train" / "b" / "3.png").read_bytes()
    }


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_and_opens_it_too(tmp_path: Path) -> None:
    file = _packed(tmp_path) / "train.lmdb"
    store = LmdbStore(file)
    child = os.fork()
    if not child:  # no assertion may leave the child
        try:
            os._exit(0 if store.read(1) == LmdbStore(file).read(1) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read(1) == LmdbStore(file).read(1)


def test_a_file_that_replaces_an_open_one_is_read(tmp_path: Path) -> None:
    old = LmdbStore(_packed(tmp_path / "old") / "train.lmdb")
    new = _packed(tmp_path / "new", first=9) / "train.lmdb"
    expected = LmdbStore(new).read(0)
    new.replace(old.path)
    assert LmdbStore(old.path).read(0) == expected != old.read(0)


def test_a_folder_with_other_images_is_not_taken_for_the_packed_ones(tmp_path: Path) -> None:
    packed = _packed(tmp_path)
    assert _packed(tmp_path) == packed  # the same images: nothing to do
    write_image(tmp_path / "images" / "train" / "b" / "9.png", seed=9)
    with pytest.raises(MismatchError, match=r"train\.lmdb exists and holds other images"):
        pack_imagenet(tmp_path / "images", packed, progress=lambda fraction, words: None)
    (tmp_path / "images" / "train" / "b" / "9.png").unlink()
    write_image(tmp_path / "images" / "train" / "b" / "3.png", seed=9)  # the same labels
    with pytest.raises(MismatchError, match=r"train\.lmdb exists and holds other images"):
        pack_imagenet(tmp_path / "images", packed, progress=lambda fraction, words: None)


def test_a_missing_or_other_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.lmdb").write_text("no database")
    for name in ("missing.lmdb", "other.lmdb"):
        with pytest.raises(InvalidFileError, match=rf"cannot read .*{name}"):
            LmdbStore(tmp_path / name)
