"""A folder with the parts of a demo, which the tests of reports share."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from latbench.device_files import load_device
from nas.latency.priced_space import PricedSpace
from nas.spaces import make_space
from tests.conftest import write_table

SPACE = "nasbench-macro"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a search for two budgets, and the training of its first network."""
    folder = tmp_path_factory.mktemp("demo")
    space = make_space(SPACE, 16, 10)
    table = write_table(folder / "table.sqlite", space, load_device("cpu-onnxruntime"))
    low_ms, high_ms = PricedSpace(space, table).feasible_ms()
    found = nas.search(
        space,
        table,
        data="digits",
        images=48,
        epochs=3,
        targets=[low_ms + share * (high_ms - low_ms) for share in (0.3, 0.8)],
        searcher="tfnas",
        settings=["batch_size=12"],
        output=folder / "search",
    )
    nas.train(found[0].architecture, "digits", images=48, epochs=1, output=folder / "train")
    return folder
