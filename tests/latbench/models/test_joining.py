"""Models of chains of segments, and segments of two."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from latbench.cost import block_cost
from latbench.device_files import load_device
from latbench.models import read_model
from latbench.models.joining import empty_segment, join, merge
from latbench.models.segments import cut
from latbench.profilers import make_profiler, open_session
from tests.latbench.models.small import save
from tests.latbench.models.test_segments import residual_network


def _output(*network: object) -> np.ndarray:
    session = open_session(make_profiler(load_device("cpu-onnxruntime")), tuple(network))  # type: ignore[arg-type]
    session.call()
    found = session.output().copy()
    session.close()
    return found


def test_a_merged_segment_computes_what_its_parts_compute(tmp_path: Path) -> None:
    specs = [p.segment for p in cut(read_model(save(residual_network(), tmp_path / "m.onnx")))]
    for first, second in pairwise(specs):
        both = merge(first, second)
        np.testing.assert_allclose(_output(both), _output(first, second), rtol=1e-5, atol=1e-6)
        cost = block_cost(both)
        assert cost.macs == block_cost(first).macs + block_cost(second).macs
        assert cost.weight_bytes == block_cost(first).weight_bytes + block_cost(second).weight_bytes
        assert (both.input_shape, both.output_shape) == (first.input_shape, second.output_shape)


def test_equal_pairs_merge_into_equal_segments(tmp_path: Path) -> None:
    specs = [p.segment for p in cut(read_model(save(residual_network(), tmp_path / "m.onnx")))]
    first, second, *_ = specs
    assert merge(first, second) == merge(first, second)
    assert merge(merge(first, second), specs[2]).macs == sum(s.macs for s in specs[:3])
    whole = join([merge(first, second), specs[2]])
    assert whole.weight_bytes == join(specs[:3]).weight_bytes


def test_a_segment_of_nothing_is_one_operator_on_one_number() -> None:
    assert _output(empty_segment()).shape == (1,)
    assert empty_segment().macs == 0
