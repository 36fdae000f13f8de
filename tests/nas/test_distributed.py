"""Processes that train together: their gradients are those of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from latbench.errors import InvalidValueError
from nas.training.distributed import ALONE, Workers, workers
from tests.nas.runs import require_loopback

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

WORK = """
import sys, torch
from torch import nn
from nas.training.distributed import workers

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
    torch.save({
        "grads": [p.grad for p in model.parameters()],
        "buffers": dict(model.named_buffers()),
        "unused": unused.grad,
        "total": total,
        "leads": group.leads,
    }, f"{sys.argv[1]}/{group.rank}.pt")
"""


def test_two_processes_average_what_one_computes_in_two_halves(tmp_path: Path) -> None:
    require_loopback()
    script = tmp_path / "work.py"
    script.write_text(WORK)
    subprocess.run(
        [sys.executable, *LAUNCH, str(script), str(tmp_path)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
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
