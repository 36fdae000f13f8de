"""Images decoded by threads and by processes: the same pixels, and nothing left running."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latbench.errors import InvalidFileError, RuntimeFailure
from nas.data.decoders import Decoders, DecodingProcesses, DecodingThreads, available_cores
from nas.data.decoding import Framing, Job
from nas.data.imagenet import imagenet, pack_imagenet
from nas.data.images import batches, generator
from nas.data.stored import StoredSplit
from nas.data.stores import FileStore

GPU = torch.device("cuda", 0)
IMAGES = 12
CROPPED = Framing(16, margin=4, least_area=0.2)


def write_images(folder: Path, *, name: str = "{}.jpg") -> FileStore:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((60, 40), Image.Resampling.BICUBIC)
        picture.save(folder / name.format(number))
    return FileStore(folder, tuple(name.format(number) for number in range(IMAGES)))


def split_of(store: FileStore, processes: DecodingProcesses) -> StoredSplit:
    numbers = torch.arange(IMAGES)
    split = StoredSplit(store, numbers, numbers % 3, 16, 4, 0.2, processes)
    return split.to(GPU)


def decoded(decoders: Decoders, job: Job) -> np.ndarray:
    pixels = np.zeros(job.shape, dtype=np.uint8)
    decoders.submit(job, pixels).result()
    return pixels


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("latbench-decode")]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("cropped", [False, True])
def test_processes_decode_what_threads_decode(tmp_path: Path, count: int, cropped: bool) -> None:
    """Whatever their number, and in every epoch."""
    processes = DecodingProcesses(count)
    on_gpu = split_of(write_images(tmp_path), processes)
    split = on_gpu if cropped else on_gpu.plain()
    for seed in (1, 2):
        expected = list(batches(split.to(torch.device("cpu")), 5, generator(seed)))
        made = list(batches(split, 5, generator(seed)))
        for (images, labels), (theirs, their_labels) in zip(made, expected, strict=True):
            assert images.shape == (5, 3, 16, 16)
            assert torch.equal(images, theirs)
            assert torch.equal(labels, their_labels)
    processes.close()
    assert torch.equal(next(batches(split, 5, generator(2)))[0], made[0][0])
    processes.close()
    assert not threads()


def test_packed_and_listed_images_reach_the_processes(tmp_path: Path) -> None:
    """Both parts of a data set share the processes, and each its store."""
    for part in ("train", "val"):
        for label in ("a", "b"):
            write_images(tmp_path / "f" / part / label, name=f"{part}{{}}.jpg")
    pack_imagenet(tmp_path / "f", tmp_path / "p", progress=lambda fraction, words: None)
    for folder in ("f", "p"):
        data = imagenet(16, tmp_path / folder)
        placed = data.to(GPU)
        assert isinstance(placed.train, StoredSplit)
        assert isinstance(placed.test, StoredSplit)
        assert placed.train.gpu_decoders is placed.test.gpu_decoders
        for _ in range(2):
            for ours, theirs in ((placed.train, data.train), (placed.test, data.test)):
                for a, b in zip(
                    batches(ours, 8, generator(0)), batches(theirs, 8, generator(0)), strict=True
                ):
                    assert torch.equal(a[0], b[0])
        placed.train.gpu_decoders.close()


@pytest.mark.parametrize("apart", [False, True])
def test_a_damaged_image_is_named_and_the_next_one_decoded(tmp_path: Path, apart: bool) -> None:
    """Names of files may be bytes that are no text."""
    store = write_images(tmp_path, name="{}\udcff.jpg")
    (tmp_path / store.paths[3]).write_bytes(b"\xff\xd8\xff nothing")
    (tmp_path / store.paths[4]).unlink()
    decoders = DecodingProcesses(1) if apart else DecodingThreads(1)
    for number in (3, 4):
        with pytest.raises(InvalidFileError) as raised:
            decoded(decoders, Job(store, (2, number), CROPPED, 7))
        assert str(tmp_path / store.paths[number]) in raised.value.message
        assert "replace or remove it" in raised.value.message
    expected = DecodingThreads(1)
    job = Job(store, (5, 6), CROPPED, 7)
    assert np.array_equal(decoded(decoders, job), decoded(expected, job))
    decoders.close()
    expected.close()
    assert not threads()


@pytest.mark.parametrize("for_gpu", [False, True])
def test_reading_that_fails_or_is_given_up_leaves_no_thread(tmp_path: Path, for_gpu: bool) -> None:
    store = write_images(tmp_path)
    processes = DecodingProcesses(1)
    split = split_of(store, processes).to(GPU if for_gpu else torch.device("cpu"))
    given_up = batches(split, 2, generator(0))
    next(given_up)
    given_up.close()  # type: ignore[attr-defined]
    (tmp_path / "7.jpg").write_bytes(b"nothing")
    with pytest.raises(InvalidFileError, match=r"7\.jpg"):
        list(batches(split, 2, generator(0)))
    processes.close()
    assert not threads()


def test_a_process_that_dies_is_an_error_and_no_wait(tmp_path: Path) -> None:
    store = write_images(tmp_path)
    processes = DecodingProcesses(1)
    job = Job(store, (0,), CROPPED, 7)
    decoded(processes, job)
    _kill(processes)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="has ended"):
            decoded(processes, job)
    processes.close()
    decoded(processes, job)
    processes.close()


def _kill(processes: DecodingProcesses) -> None:
    assert processes.programs
    for program in processes.programs:
        program.kill()
        program.wait()


def test_processes_end_when_nobody_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.data.decoders._END_S", 600.0)  # on a slow machine one still starts
    processes = DecodingProcesses(2)
    decoded(processes, Job(write_images(tmp_path), (0,), CROPPED, 7))
    programs = processes.programs
    assert [program.poll() for program in programs] == [None, None]
    copy = pickle.loads(pickle.dumps(processes))
    assert copy.count == 2
    assert copy.programs == ()
    del processes
    assert [program.returncode for program in programs] == [0, 0]
    assert not threads()


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from nas.data.decoders import DecodingProcesses
from nas.data.decoding import Framing, Job
from nas.data.stores import FileStore
processes = DecodingProcesses(2)
job = Job(FileStore(Path(sys.argv[1]), ("0.jpg",)), (0,), Framing(16, 4), 7)
processes.submit(job, np.zeros(job.shape, dtype=np.uint8)).result()
assert "torch" not in sys.modules
print("decoded", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_killed_parent_and_need_no_torch(tmp_path: Path) -> None:
    """They hold the pipe of its output: reading that to its end waits for all of them."""
    write_images(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, check=False
    )
    assert run.stdout == b"decoded\n"
    assert run.returncode < 0


def test_cores_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert available_cores() == 16
    assert DecodingProcesses().count == 15
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert DecodingProcesses().count == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert available_cores() == 1
