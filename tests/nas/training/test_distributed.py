"""Processes that train together: their gradients are those of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latbench.device_files import load_device
from latbench.errors import InvalidValueError, MismatchError
from latbench.tables import LatencyTable
from nas.data.images import generator
from nas.latency.priced_space import PricedSpace
from nas.searchers import SearchSettings
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.training import distributed
from nas.training import from_scratch as scratch
from nas.training.distributed import ALONE, Workers, workers
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.torch_device import TorchDevice
from nas.workflows.runs import run_folder
from tests.conftest import make_tiny_space, write_table
from tests.nas.pretend_gpu import DeviceTensor, on_pretend_gpu, pretend_gpu
from tests.nas.runs import free_port, run_by_torchrun, run_of_both, run_together, tiny_data
from tests.nas.training.test_from_scratch import NETWORK, make_data

ROOT = Path(__file__).parents[3]


def _average(folder: Path) -> None:
    """Gradients, statistics and sums of half a batch, averaged in the processes of this group."""
    with workers() as group:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        unused = nn.Parameter(torch.ones(3))
        x, y = torch.randn(8, 4), torch.randint(2, (8,))
        part = group.share(8)
        loss = nn.functional.cross_entropy(model(x[part]), y[part])
        loss.backward()
        group.average_gradients([*model.parameters(), unused])
        group.average_buffers(model)
        total = group.sum([loss.item(), 1.0])
        group.wait()
        found = {
            "grads": [p.grad for p in model.parameters()],
            "buffers": dict(model.named_buffers()),
            "unused": unused.grad,
            "total": total,
            "leads": group.leads,
        }
        torch.save(found, folder / f"{group.rank}.pt")


def test_two_processes_average_what_one_computes_in_two_halves(tmp_path: Path) -> None:
    assert run_together(_average, tmp_path) == [0, 0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x, y = torch.randn(8, 4), torch.randint(2, (8,))
    total = 0.0
    start = {name: buffer.clone() for name, buffer in model.named_buffers()}
    means = []
    for half in (slice(0, 4), slice(4, 8)):
        model.load_state_dict(start, strict=False)
        loss = nn.functional.cross_entropy(model(x[half]), y[half])
        (loss / 2).backward()
        total += loss.item()
        means.append(model[1].running_mean.clone())
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for one in found:
        for ours, theirs in zip(one["grads"], model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad)
        assert one["unused"] is None
        assert one["total"] == pytest.approx([total, 2.0])
        torch.testing.assert_close(one["buffers"]["1.running_mean"], (means[0] + means[1]) / 2)
        assert one["buffers"]["1.num_batches_tracked"] == 1
    assert [one["leads"] for one in found] == [True, False]


def test_one_process_is_a_group_of_its_own() -> None:
    with workers() as group:
        assert group is ALONE
    assert ALONE.share(7) == slice(0, 7)
    assert ALONE.sum([1.5]) == [1.5]
    ALONE.wait()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert Workers(1, 2).share(8) == slice(4, 8)
    with pytest.raises(InvalidValueError, match="multiple of 2"):
        Workers(1, 2).share(7)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (2, 2), (4, 4)])
def test_a_share_of_one_image_is_refused(batch: int, count: int) -> None:
    """Batch norm has no variance of one value."""
    with pytest.raises(InvalidValueError, match=f"{2 * count} or more"):
        Workers(0, count).share(batch)
    assert Workers(0, count).share(2 * batch) == slice(0, 2)


def _search_and_train(folder: Path, table: Path, target_ms: float) -> None:
    """A short search and a short training, in the processes of this group."""
    priced = PricedSpace(make_tiny_space(), LatencyTable.open(table))
    recipe = TrainingRecipe(epochs=2, batch_size=16, ema=0.5)
    with run_of_both(folder / "search") as (group, run):
        settings = SearchSettings(2, 16, 3, TFNASRecipe(shift=0), group)
        TFNASSearcher(priced, settings).search(tiny_data(), [target_ms], run)
        if group.leads:  # in the one group: a second one would meet at the first one's port
            RunFolder(folder / "train", {})
        group.wait()
        trained = RunFolder(folder / "train", {})
        scratch.train(NETWORK, make_data(), recipe, trained, group=group)


TWO_NODES = """
import sys
from pathlib import Path
from tests.nas.training.test_distributed import _search_and_train

_search_and_train(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
"""


def test_two_machines_end_as_two_processes_of_one(tmp_path: Path) -> None:
    """Two of ``torchrun`` meet on the loopback, each with one process: the same bit for bit."""
    space = make_tiny_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    target_ms = sum(PricedSpace(space, table).feasible_ms()) / 2
    given = (table.path, target_ms)
    assert run_together(_search_and_train, tmp_path / "one", *given) == [0, 0]

    script, printed, port = tmp_path / "work.py", tmp_path / "printed", free_port()
    script.write_text(TWO_NODES)
    machines = [
        (
            *("--nnodes=2", f"--node-rank={rank}", "--master-addr=127.0.0.1"),
            *(f"--master-port={port}", script, tmp_path / "two", *given),
        )
        for rank in range(2)
    ]
    assert run_by_torchrun(printed, *machines) == [0, 0], printed.read_text()

    files = sorted((tmp_path / "one").rglob("*.pt")) + sorted((tmp_path / "one").rglob("*.json"))
    assert len(files) >= 5
    for file in files:
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        if file.suffix == ".json":
            assert file.read_text() == other.read_text()
        else:
            _same(torch.load(file, weights_only=True), torch.load(other, weights_only=True))


def _same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            _same(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for pair in zip(ours, theirs, strict=True):
            _same(*pair)
    elif isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


class _Twins:
    """Stands for NCCL between two processes in the same state: what it adds up is doubled."""

    def __init__(self) -> None:
        self.summed: list[Tensor] = []

    def all_reduce(self, tensor: Tensor) -> None:
        self.summed.append(tensor)
        tensor *= 2


def test_only_tensors_of_the_device_are_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL takes no others: choices, losses and statistics go there, and come back."""
    twins = _Twins()
    monkeypatch.setattr(distributed.dist, "all_reduce", twins.all_reduce)
    space = make_tiny_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    target_ms = sum(priced.feasible_ms()) / 2
    with pretend_gpu():
        device = on_pretend_gpu()
        group = Workers(0, 2, device.device)
        ends = []
        for workers_of in (group, ALONE):
            settings = SearchSettings(recipe=TFNASRecipe(), workers=workers_of, torch_device=device)
            searcher = TFNASSearcher(priced, settings)
            state, noise = searcher.begin(), generator(0)
            x = torch.randn(8, 3, 8, 8, generator=generator(1)).to(device.device)
            labels = torch.arange(8).to(device.device)
            state.weight_step(x, labels, rng=noise)
            state.architecture_step(x, labels, searcher.objective_at(state, target_ms), rng=noise)
            workers_of.average_buffers(nn.BatchNorm2d(3))
            ends.append({**state.supernet.state_dict(), **state.choices.state_dict()})
        assert group.sum([1.5, 2.0]) == [3.0, 4.0]
        assert len(twins.summed) == 4
        assert all(isinstance(tensor, DeviceTensor) for tensor in twins.summed)
        for name, value in ends[0].items():  # the mean of two alike
            torch.testing.assert_close(value.cpu(), ends[1][name].cpu())


def test_gpus_meet_by_nccl_each_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, object]] = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    store = torch.distributed.HashStore()
    store.set("latbench/kind/0", "a GPU")
    monkeypatch.setattr(distributed, "rendezvous", lambda url: iter([(store, 1, 2)]))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("device", device)))
    monkeypatch.setattr(
        distributed.dist,
        "init_process_group",
        lambda backend, **given: calls.append((backend, (given["rank"], given["world_size"]))),
    )
    monkeypatch.setattr(
        distributed.dist, "barrier", lambda device_ids: calls.append(("barrier", device_ids))
    )
    monkeypatch.setattr(
        distributed.dist, "destroy_process_group", lambda: calls.append(("end", None))
    )
    device = torch.device("cuda", 1)
    with workers(TorchDevice(device)) as group:
        group.wait()
    assert group == Workers(1, 2, device)
    assert calls == [("device", device), ("nccl", (1, 2)), ("barrier", [1]), ("end", None)]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("NVIDIA A100", "NVIDIA H100"), "NVIDIA A100, NVIDIA H100"),
        (("CPU", "NVIDIA H100"), "CPU, NVIDIA H100"),
    ],
)
def test_devices_of_different_kinds_are_refused_in_every_process(
    kinds: Sequence[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: kinds[device.index])
    store = torch.distributed.HashStore()

    def join(rank: int) -> str:
        device = torch.device("cpu") if kinds[rank] == "CPU" else torch.device("cuda", rank)
        with pytest.raises(InvalidValueError) as refused:
            distributed.require_one_kind(store, rank, 2, device)
        return refused.value.message

    with ThreadPoolExecutor(2) as threads:
        messages = list(threads.map(join, range(2)))
    assert all(words in message and "--torch-device cpu" in message for message in messages)


def test_apple_gpus_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(InvalidValueError, match="on CPUs or on CUDA GPUs, not on mps"),
        workers(TorchDevice(torch.device("mps"))),
    ):
        pass


def _in_another_folder(folder: Path) -> None:
    """Open a folder that holds another run; write what was raised."""
    with workers() as group:
        try:
            run_folder(folder / "run", {"command": "train"}, group)
        except MismatchError as error:
            (folder / f"refused-{group.rank}").write_text(error.message)


def test_a_folder_is_refused_by_all_processes(tmp_path: Path) -> None:
    """None waits for the first one for ever."""
    RunFolder(tmp_path / "run", {"command": "search"})
    assert run_together(_in_another_folder, tmp_path) == [0, 0]
    refused = [(tmp_path / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert refused[0] == refused[1] and "holds another run" in refused[0]
