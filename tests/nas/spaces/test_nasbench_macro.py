"""The space of NAS-Bench-Macro has the networks that the benchmark trained."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from latbench.cost import Cost, block_cost
from nas.spaces import FixedLayer, make_space


def test_macs_and_parameters_of_all_networks_are_the_benchmarks(reference: Path) -> None:
    """Costs add up over layers; the sum is taken over all 6,561 networks."""
    file = reference / "nasbench_macro" / "nas-bench-macro_cifar10.json"
    rows = json.loads(file.read_text())
    space = make_space("nasbench-macro")
    fixed = sum((block_cost(spec) for spec in (*space.stem, *space.head)), Cost())
    by_layer: list[list[Cost]] = []
    for layer in space.layers:
        assert isinstance(layer, FixedLayer)
        by_layer.append([Cost() if b is None else block_cost(b) for _, b in layer.blocks])
    assert space.size() == len(rows) == 6561
    for ops in product(range(3), repeat=8):
        row = rows["".join(map(str, ops))]
        cost = sum((costs[op] for costs, op in zip(by_layer, ops, strict=True)), fixed)
        assert (cost.macs, cost.params) == (row["flops"], row["params"])


def test_the_shape_of_the_space() -> None:
    space = make_space("nasbench-macro")
    assert tuple(len(stage) for stage in space.stages) == (2, 3, 3)
    assert all(layer.ops == ("identity", "k3_e3", "k5_e6") for layer in space.layers)
    shortest = space.lower(space.smallest())
    assert [spec.input_size for spec in shortest] == [32, 32, 16, 8, 4, 4]
    assert len(space.lower(space.largest())) == len(space.layers) + 3
    assert (space.input_size, space.classes) == (32, 10)
