"""Data sets in their real formats, written here: what is read is what was written."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import random
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from latbench.errors import InvalidFileError, InvalidValueError
from nas.data import DATASETS, load_data
from nas.data.augmentation import augment
from nas.data.cifar import cifar10, cifar100
from nas.data.decoding import decode_centre, decode_crop, random_crop
from nas.data.faces import faces
from nas.data.folders import downloads
from nas.data.imagenet import imagenet, pack_imagenet
from nas.data.images import Source, Split, batches, generator
from nas.data.stored import StoredSplit
from tests.nas.runs import tiny_data


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 48)) -> None:
    """A picture of few frequencies, so that JPEG keeps it; the class tints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def write_imagenet(root: Path, *, classes: int = 3, each: int = 4) -> None:
    for part in ("train", "val"):
        for c in range(classes):
            for i in range(each):
                write_image(root / part / f"n{c:08d}" / f"{part}_{i}.JPEG", seed=100 * c + i)


def _batch(name: bytes, images: np.ndarray, labels: list[int]) -> dict[bytes, Any]:
    return {b"batch_label": b"of a test", name: labels, b"data": images}


def write_cifar(folder: Path, *, fine: bool, seed: int = 0) -> dict[str, Any]:
    """The published layout: pickles of protocol 2 with keys in bytes, as Python 2 wrote them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    written = {}
    for name in names:
        images = rng.integers(0, 256, (6, 3072), dtype=np.uint8)
        labels = rng.integers(0, 100 if fine else 10, 6).tolist()
        key = b"fine_labels" if fine else b"labels"
        (folder / name).write_bytes(pickle.dumps(_batch(key, images, labels), protocol=2))
        written[name] = (images.reshape(6, 3, 32, 32), labels)
    return written


def test_cifar_is_read_from_the_published_pickles(tmp_path: Path) -> None:
    written = write_cifar(tmp_path / "cifar-10-batches-py", fine=False)
    data = cifar10(32, tmp_path)
    assert isinstance(data.train, Split)
    assert data.train.images.shape == (30, 3, 32, 32)
    for i in range(5):
        images, labels = written[f"data_batch_{i + 1}"]
        assert np.array_equal(data.train.images[6 * i : 6 * i + 6].numpy(), images)
        assert data.train.labels[6 * i : 6 * i + 6].tolist() == labels
    fine = write_cifar(tmp_path / "100", fine=True)
    data = cifar100(16, tmp_path / "100")
    assert data.classes == 100
    assert data.test.labels.tolist() == fine["test"][1]
    assert next(data.test.read([torch.arange(2)], generator(0)))[0].shape == (2, 3, 16, 16)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "c", fine=True)
    (tmp_path / "c" / "train").write_bytes(pickle.dumps({b"data": _Runs()}, protocol=2))
    with pytest.raises(InvalidFileError, match="which no array needs"):
        cifar100(32, tmp_path / "c")
    assert not Path("was-run").exists()


@pytest.mark.parametrize("name", ["truncated", "labels", "shape", "missing"])
def test_damaged_cifar_files_are_named(tmp_path: Path, name: str) -> None:
    write_cifar(tmp_path / "c", fine=True)
    file = tmp_path / "c" / "test"
    images = np.zeros((2, 3072), dtype=np.uint8)
    if name == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    elif name == "labels":
        file.write_bytes(pickle.dumps(_batch(b"fine_labels", images, [3, 100])))
    elif name == "shape":
        file.write_bytes(pickle.dumps(_batch(b"fine_labels", images[:, :-1], [3, 4])))
    else:
        file.unlink()
    with pytest.raises(InvalidFileError, match=r"test.*(unpack|--data-dir)"):
        cifar100(32, tmp_path / "c")


def _first(source: Source, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return next(source.read([torch.arange(count)], generator(5)))


def test_imagenet_is_the_same_from_folders_lists_and_lmdb(tmp_path: Path) -> None:
    folders, lists, packed = tmp_path / "f", tmp_path / "l", tmp_path / "p"
    write_imagenet(folders)
    write_imagenet(lists)
    for part in ("train", "val"):
        files = sorted((lists / part).rglob("*.JPEG"))
        lines = [f"{f.relative_to(lists / part)} {int(f.parent.name[1:])}" for f in files]
        (lists / f"Images-3_{part}_list.txt").write_text("\n".join(lines) + "\n")
    counts = pack_imagenet(folders, packed, progress=lambda fraction, words: None)
    assert counts == {"train": 12, "val": 12}
    reference = imagenet(24, folders)
    assert reference.classes == 3
    assert len(reference.train) == 12
    for folder in (lists, packed):
        data = imagenet(24, folder)
        assert data.classes == 3
        for ours, theirs in ((data.train, reference.train), (data.test, reference.test)):
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(_first(ours, 12)[0], _first(theirs, 12)[0])


def test_lists_of_the_training_images_alone_are_found_there(tmp_path: Path) -> None:
    """TF-NAS's two lists of 100 classes both divide the training images."""
    write_imagenet(tmp_path)
    (tmp_path / "subset_train.txt").write_text("n00000000/train_0.JPEG 0\n")
    (tmp_path / "subset_val.txt").write_text("n00000002/train_1.JPEG 1\n")
    data = imagenet(24, tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (1, 1, 2)


def test_test_images_are_resized_and_cropped_as_torchvision_does(tmp_path: Path) -> None:
    for size in ((60, 75), (90, 50), (20, 20)):
        write_image(tmp_path / "i.png", seed=1, size=size)
        expected = v2.Compose([v2.Resize(24 + 32), v2.CenterCrop(24)])(
            Image.open(tmp_path / "i.png")
        )
        made = decode_centre((tmp_path / "i.png").read_bytes(), 24, margin=32)
        assert np.array_equal(made, np.array(expected))


@pytest.mark.parametrize("size", [8, 16, 32, 224])
def test_test_images_show_the_published_part_at_every_size(tmp_path: Path, size: int) -> None:
    """7/8 of each side. White is 16/28 of the width of the part that is shown."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[16:48, 16:48] = 255
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "a" / "i.png")
    shown = _first(imagenet(size, tmp_path).test, 1)[0].float() / 255
    assert float(shown.mean()) == pytest.approx((16 / 28) ** 2, rel=0.04)


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_grey_images_of_16_bits_look_as_in_8_bits(kind: str) -> None:
    """Pillow opens such a PNG in mode I;16, and such a PGM in mode I."""
    grey = np.arange(64 * 64).reshape(64, 64) // 16
    deep, plain = io.BytesIO(), io.BytesIO()
    Image.fromarray((grey * 257).astype(np.uint16)).save(deep, kind)
    Image.fromarray(grey.astype(np.uint8)).save(plain, kind)
    assert Image.open(deep).mode == {"PNG": "I;16", "PPM": "I"}[kind]
    centres = [decode_centre(file.getvalue(), 32, margin=4) for file in (deep, plain)]
    assert np.array_equal(*centres)
    crops = [
        decode_crop(file.getvalue(), 32, random.Random(0), least_area=0.2) for file in (deep, plain)
    ]
    assert np.array_equal(*crops)
    assert np.ptp(centres[0]) > 192


def test_a_training_crop_shows_the_part_that_was_drawn(tmp_path: Path) -> None:
    """Against a crop of the whole image, decoded in full."""
    write_image(tmp_path / "i.jpg", seed=2, size=(400, 300))
    raw = (tmp_path / "i.jpg").read_bytes()
    for seed in range(6):
        made = decode_crop(raw, 16, random.Random(seed), least_area=0.2)
        left, top, width, height = random_crop(400, 300, random.Random(seed), least_area=0.2)
        assert 0.2 * 0.98 <= width * height / 120_000 <= 1
        assert 0.74 < width / height < 1.35
        box = (left, top, left + width, top + height)
        whole = Image.open(io.BytesIO(raw)).crop(box).resize((16, 16), Image.Resampling.BILINEAR)
        difference = made.astype(float) - np.array(whole)
        assert np.abs(difference).mean() < 6  # JPEG at a part of its size differs a little
        other = decode_crop(raw, 16, random.Random(seed + 1), least_area=0.2)
        assert np.abs(made.astype(float) - other).mean() > 12


def test_a_narrow_image_is_cropped_to_an_allowed_aspect() -> None:
    left, top, width, height = random_crop(10, 1000, random.Random(0), least_area=0.9)
    assert (width, height) == (10, 13)
    assert left == 0
    assert top == (1000 - 13) // 2


def test_stored_images_depend_on_the_generator_alone(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    train = imagenet(24, tmp_path).train

    def epoch(seed: int, share: slice = slice(None)) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(batches(train, 4, generator(seed), share=share))

    whole = epoch(1)
    assert [len(labels) for _, labels in whole] == [4, 4, 4]
    for (ours, a), (theirs, b) in zip(whole, epoch(1), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(a, b)
    halves = [epoch(1, slice(0, 2)), epoch(1, slice(2, 4))]
    for (images, _), (first, _), (second, _) in zip(whole, *halves, strict=True):
        assert torch.equal(images, torch.cat([first, second]))
    assert not torch.equal(whole[0][0], epoch(2)[0][0])
    plain = train.plain()
    assert torch.equal(_first(plain, 4)[0], _first(plain, 4)[0])
    assert not torch.equal(_first(train, 4)[0], _first(plain, 4)[0])


def test_held_out_images_are_not_cropped_at_random(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    data = imagenet(24, tmp_path)
    train, held_out = data.held_out(0.25, seed=3)
    assert isinstance(train, StoredSplit)
    assert isinstance(held_out, StoredSplit)
    assert (len(train), len(held_out)) == (9, 3)
    assert train.least_area == 0.2
    assert held_out.least_area is None
    assert train.cropped(0.08).least_area == 0.08
    assert held_out.cropped(0.08).least_area is None
    assert not set(train.numbers.tolist()) & set(held_out.numbers.tolist())


def test_colour_images_are_normalised_by_channel(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    data = imagenet(24, tmp_path)
    images, _ = _first(data.test, 2)
    assert isinstance(data.mean, tuple)
    expected = v2.functional.normalize(images.float() / 255, list(data.mean), list(data.std))
    torch.testing.assert_close(data.to_input(images), expected)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    file = tmp_path / "train" / "n00000001" / "train_2.JPEG"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InvalidFileError, match=r"train_2\.JPEG.*replace or remove"):
        list(batches(imagenet(24, tmp_path).train, 4, generator(0)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds no images in a known layout"),
        (["train/a/1.JPEG", "val/b/1.JPEG"], "different classes, such as a"),
        (["train/a/1.JPEG", "val/a/readme.md"], "val/a holds no images"),
        (["x_train.txt", "y_train.txt"], "several lists of train"),
        (["train.lmdb", "val.lmdb"], "latbench pack"),
    ],
)
def test_another_layout_is_answered_with_what_is_needed(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("nothing")
    with pytest.raises(InvalidFileError, match=words):
        imagenet(24, tmp_path)


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    """In folders, in lists and in what is packed; nor is anything that is no image."""
    write_imagenet(tmp_path / "clean")
    write_imagenet(tmp_path / "mixed")
    for part in ("train", "val"):
        folder = tmp_path / "mixed" / part
        for place in (folder, *list(folder.iterdir())):
            for name in ("._a.JPEG", ".DS_Store", ".a.JPEG", "Thumbs.db", "desktop.ini", "x.txt"):
                (place / name).write_bytes(b"\0\5\26\7")
            (place / "folder.jpg").mkdir()
        shutil.rmtree(folder / "folder.jpg")
    (tmp_path / "mixed" / "train" / ".ipynb_checkpoints").mkdir()
    clean, mixed = (imagenet(24, tmp_path / name) for name in ("clean", "mixed"))
    assert clean.classes == mixed.classes
    for ours, theirs in ((mixed.train, clean.train), (mixed.test, clean.test)):
        assert isinstance(ours, StoredSplit)
        assert isinstance(theirs, StoredSplit)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.store.paths == theirs.store.paths  # type: ignore[attr-defined]
    counts = pack_imagenet(tmp_path / "mixed", tmp_path, progress=lambda fraction, words: None)
    assert counts == {"train": 12, "val": 12}


def test_a_list_is_read_with_a_mark_and_without_hidden_files(tmp_path: Path) -> None:
    write_imagenet(tmp_path, classes=2, each=3)
    for part in ("train", "val"):
        files = sorted((tmp_path / part).rglob("*.JPEG"))
        lines = [f"./{f.relative_to(tmp_path / part)} {int(f.parent.name[1:])}" for f in files]
        text = "\r\n".join(["n00000000/._x.JPEG 0", ".trash/x.JPEG 1", *lines])
        (tmp_path / f"{part}.txt").write_text(text, "utf-8-sig")
        (tmp_path / f"._{part}.txt").write_bytes(b"\0\5\26\7")
    assert imagenet(24, tmp_path).train.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("line", ["n0/a.JPEG", "n0/a.JPEG one", "1", "gone.JPEG 0"])
def test_a_wrong_line_of_a_list_is_named(tmp_path: Path, line: str) -> None:
    write_imagenet(tmp_path, classes=1, each=1)
    (tmp_path / "train.txt").write_text(f"{line}\n")
    (tmp_path / "val.txt").write_text("n00000000/val_0.JPEG 0\n")
    with pytest.raises(InvalidFileError, match=r"train\.txt"):
        imagenet(24, tmp_path)


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_data_set_without_its_files_says_what_to_do(name: str, tmp_path: Path) -> None:
    if name == "digits":
        pytest.skip("digits ship with scikit-learn")
    with pytest.raises(InvalidFileError, match=r"--data-dir|needs"):
        load_data(name, input_size=32, classes=10, data_dir=tmp_path / "nowhere")


def write_identities(root: Path, *, identities: int, each: int) -> None:
    """Images of an identity are alike: they share their seed but for a little noise."""
    for person in range(identities):
        rng = np.random.default_rng(person)
        coarse = rng.integers(0, 256, (4, 4, 3))
        for i in range(1, each + 1):
            noisy = np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
            path = root / f"Person_{person}" / f"Person_{person}_{i:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).resize((24, 24), Image.Resampling.BICUBIC).save(path)


def write_pairs(file: Path, *, folds: int, each: int) -> None:
    lines = [f"{folds}\t{each}"]
    for fold in range(folds):
        lines += [f"Person_{(fold + i) % 4}\t1\t{i % 2 + 2}" for i in range(each)]
        lines += [
            f"Person_{(fold + i) % 4}\t1\tPerson_{(fold + i + 1) % 4}\t2" for i in range(each)
        ]
    file.write_text("\n".join(lines) + "\n")


def test_faces_are_read_with_the_pairs_of_lfw(tmp_path: Path) -> None:
    write_identities(tmp_path / "train", identities=5, each=3)
    write_identities(tmp_path / "test", identities=4, each=3)
    write_pairs(tmp_path / "pairs.txt", folds=10, each=3)
    data = load_data("faces", input_size=16, classes=64, data_dir=tmp_path)
    assert data.classes == 5
    assert len(data.train) == 15
    assert data.pairs is not None
    assert data.pairs.same.tolist() == ([True] * 3 + [False] * 3) * 10
    assert data.pairs.fold.tolist() == [fold for fold in range(10) for _ in range(6)]
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "Person_0" / "._Person_0_0001.jpg").touch()
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "pairs.txt").read_bytes())
    again = load_data("faces", input_size=16, classes=64, data_dir=tmp_path)
    assert (again.classes, len(again.train)) == (5, 15)
    assert again.pairs is not None
    assert torch.equal(again.pairs.first, data.pairs.first)
    images = data.pairs.images
    assert isinstance(images, StoredSplit)
    one, two = int(data.pairs.first[3]), int(data.pairs.second[3])
    assert images.store.name(one).endswith("Person_0/Person_0_0001.jpg")
    assert images.store.name(two).endswith("Person_1/Person_1_0002.jpg")


def test_identities_alone_are_divided_and_paired(tmp_path: Path) -> None:
    write_identities(tmp_path, identities=8, each=8)
    data = faces(16, tmp_path)
    assert data.classes == 6
    assert data.pairs is not None
    same = data.pairs.same
    assert int(same.sum()) * 2 == len(same) > 20
    labels = data.pairs.images.labels
    assert torch.equal(labels[data.pairs.first] == labels[data.pairs.second], same)
    assert len(set(zip(data.pairs.first.tolist(), data.pairs.second.tolist(), strict=True))) == len(
        same
    )
    for fold in range(10):
        assert abs(int(same[data.pairs.fold == fold].sum()) * 2 - len(same) / 10) <= 2
    assert isinstance(data.train, StoredSplit)
    assert isinstance(data.pairs.images, StoredSplit)
    names = [{s.store.name(int(n)) for n in s.numbers} for s in (data.train, data.pairs.images)]
    assert not names[0] & names[1]


def test_wrong_pairs_are_named(tmp_path: Path) -> None:
    write_identities(tmp_path / "train", identities=2, each=2)
    write_identities(tmp_path / "test", identities=4, each=3)
    for text, words in (
        ("ten pairs\n", "line 1"),
        ("2\t1\nPerson_0\t1\t2\n", "has 1"),
        (
            "2 1\nPerson_0 1 2\nPerson_0 1 Person_1 2\nPerson_0 1 9\nPerson_0 1 Person_1 2\n",
            "line 4",
        ),
        ("2 1\nPerson_0 1 2\nPerson_0 1 Person_1 2\nPerson_0 1\nPerson_0 1 Person_1 2\n", "line 4"),
    ):
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(InvalidFileError, match=words):
            faces(16, tmp_path)
    (tmp_path / "pairs.txt").unlink()
    with pytest.raises(InvalidFileError, match=r"no pairs\.txt"):
        faces(16, tmp_path)


def test_balanced_batches_show_classes_side_by_side() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3 + [3] * 12 + [4] * 2)
    split = Split(torch.arange(24, dtype=torch.uint8).view(-1, 1, 1, 1), labels)
    drawn = list(batches(split, 12, generator(2), per_class=4))
    assert len(drawn) == 2
    for images, found in drawn:
        groups = found.view(3, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 3
        for group, members in zip(groups, images.view(3, 4), strict=True):
            count = int((labels == group[0]).sum())
            assert len(set(members.tolist())) == min(4, count)
    assert {int(x) for _, found in drawn for x in found} == {0, 1, 3, 4}
    with pytest.raises(InvalidValueError, match="2 to 4 classes"):
        list(batches(split, 20, generator(0), per_class=4))


def test_the_border_of_a_shifted_image_is_its_edge_or_black() -> None:
    white = torch.full((32, 1, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(augment(white, generator(0), flip=False, shift=2), white)
    black = augment(white, generator(0), flip=False, shift=2, fill="black")
    assert set(black.unique().tolist()) == {0, 255}


def test_colours_of_each_image_change_within_the_strength() -> None:
    images = torch.full((20, 3, 4, 4), 100, dtype=torch.uint8)

    def changed(given: Tensor, *, strength: float, hue: float) -> Tensor:
        return augment(given, generator(0), flip=False, shift=0, strength=strength, hue=hue)

    made = changed(images, strength=0.4, hue=0.0)
    levels = made.float().mean((1, 2, 3))
    assert 59 <= levels.min() < 75  # 20 draws come near both ends
    assert 125 < levels.max() <= 141
    assert len(levels.unique()) > 5
    assert torch.equal(made, changed(images, strength=0.4, hue=0.0))
    assert torch.equal(changed(images, strength=0.0, hue=0.0), images)
    assert changed(images[:, :1], strength=0.4, hue=0.1).shape == (20, 1, 4, 4)


def test_a_subset_has_as_many_images_as_there_are() -> None:
    data = tiny_data(40)
    assert data.subset(30, seed=0).images == 30
    assert data.subset(50, seed=0).images == 40


def test_a_forked_process_does_not_keep_the_lock_of_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a copy of the open file, and may outlive the download."""
    monkeypatch.chdir(tmp_path)
    with downloads() as root:
        with warnings.catch_warnings(action="ignore"):  # of threads, which this child has not
            child = os.fork()
        if not child:
            signal.pause()
    try:
        with (root / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError if held
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
