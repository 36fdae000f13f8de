"""Evaluators: one interface, scores that repeat, files that are checked, journals that resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from latbench.device_files import load_device
from latbench.errors import (
    BudgetError,
    InvalidFileError,
    InvalidValueError,
    LatbenchError,
    MismatchError,
)
from nas.evaluators import EVALUATORS, Evaluator, Journaled
from nas.evaluators.by_training import ScratchEvaluator
from nas.evaluators.operations import OperationsEvaluator
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.evaluators.tabular import TabularEvaluator
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import one_hot
from nas.optimize.blackbox import BLACK_BOXES, one_by_one, run
from nas.optimize.constraints import latency_limits
from nas.optimize.encoding import Code, EncodedSpace
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.one_shot_recipe import OneShotRecipe
from nas.spaces import Choice, SearchSpace, make_space
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.mixed_operations import Supernet, fixed_supernet, searchable_supernet
from nas.supernet.unified_mixture import THRESHOLD
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.strategies.base import relaxed_of
from tests.conftest import make_small_space, make_tiny_space, write_table
from tests.nas.runs import tiny_data


def _benchmark(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """A file like the benchmark's, with accuracies of its own."""
    rows: dict[str, Any] = {}
    for digits in product("012", repeat=8):
        name = "".join(digits)
        accuracy = 50 + int(name, 3) / 200
        rows[name] = {
            "test_acc": [accuracy] * 3,
            "mean_acc": accuracy,
            "std": 0.0,
            "params": 1000,
            "flops": 2000,
        }
    path.write_text(json.dumps(rows | (changes or {})))
    return path


def _supernet(space: SearchSpace) -> Supernet:
    return searchable_supernet(space, seed=0)


def _make_tabular(folder: Path) -> tuple[Evaluator, SearchSpace]:
    return TabularEvaluator(_benchmark(folder / "b.json")), make_space("nasbench-macro")


def _make_supernet(folder: Path) -> tuple[Evaluator, SearchSpace]:
    space, data = make_small_space(), tiny_data()
    train, selection = data.held_out(0.3, seed=0)
    made = SupernetEvaluator(
        _supernet(space),
        data,
        criterion=nn.CrossEntropyLoss(),
        calibration=train,
        selection=selection,
    )
    return made, space


def _make_scratch(folder: Path) -> tuple[Evaluator, SearchSpace]:
    space, recipe = make_small_space(), TrainingRecipe(epochs=1, batch_size=16, shift=0)
    return ScratchEvaluator(space, tiny_data(), recipe=recipe, folder=folder / "runs"), space


MAKERS: dict[str, Callable[[Path], tuple[Evaluator, SearchSpace]]] = {
    "tabular": _make_tabular,
    "supernet": _make_supernet,
    "scratch": _make_scratch,
}


class _Operations(OperationsEvaluator):
    """The evaluator of a supernet, without the data that it was trained on."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet


def test_operations_keep_their_weights_when_the_others_are_left_out() -> None:
    """Value and gradient equal the sum over all operations, with 0 for the improbable ones."""
    space = make_small_space()
    supernet = fixed_supernet(space, seed=0).eval().requires_grad_(False)
    images, most = torch.randn(2, 3, 8, 8), max(len(layer.ops) for layer in space.layers)
    logits = torch.zeros(len(space.layers), 1, most)
    logits[0, 0, 1] = 7.0  # the others of this layer are below the threshold
    found = []
    for is_reference in (False, True):
        given = logits.clone().requires_grad_()
        valid = torch.tensor([[n < len(layer.ops) for n in range(most)] for layer in space.layers])
        probabilities = given.masked_fill(~valid[:, None], -math.inf).softmax(-1)
        if is_reference:
            kept = torch.where(probabilities > THRESHOLD, probabilities, 0.0)[:, 0]
            rows = [
                dict(enumerate(row[: len(layer.ops)]))
                for row, layer in zip(kept, space.layers, strict=True)
            ]
            depths = [{len(stage): 1.0} for stage in space.stages]
            outputs = supernet(images, relaxed_of(space, rows, depths))
        else:
            outputs = _Operations(supernet).outputs(images, probabilities)
        outputs[0, 0].backward()
        found.append((outputs.detach(), given.grad))
    assert 0.98 < float(probabilities.detach()[0].max()) < 1
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1] is not None and bool(found[0][1][0].any())


@pytest.mark.parametrize("name", list(EVALUATORS))
def test_scores_are_fractions_that_repeat_and_are_counted(name: str, tmp_path: Path) -> None:
    evaluator, space = MAKERS[name](tmp_path)
    assert isinstance(evaluator, EVALUATORS[name])
    drawn = [space.smallest(), space.random(np.random.default_rng(0)), space.largest()]
    scores = [evaluator.score(architecture) for architecture in drawn]
    assert all(0 <= score <= 1 for score in scores)
    assert [evaluator.score(architecture) for architecture in drawn] == scores
    assert evaluator.evaluations == 6


def test_a_training_under_another_recipe_or_on_other_data_is_refused(tmp_path: Path) -> None:
    """Its score would be that of the first recipe and data."""
    space, recipe = make_small_space(), TrainingRecipe(epochs=1, batch_size=16, shift=0)
    data, smallest = tiny_data(), space.smallest()
    score = ScratchEvaluator(space, data, recipe=recipe, folder=tmp_path).score(smallest)
    again = ScratchEvaluator(space, tiny_data(), recipe=recipe, folder=tmp_path)
    assert again.score(smallest) == score
    longer = msgspec.structs.replace(recipe, epochs=2)
    order = torch.arange(len(data.train)).flip(0)
    for other, asked, held_out, differs in (
        (data, longer, 0.2, r"recipe\.epochs is 1 there and 2 here"),
        (replace(data, train=data.train.take(order)), recipe, 0.2, r"data\."),
        (replace(data, mean=0.25), recipe, 0.2, r"data\."),
        (data, recipe, 0.3, r"data\."),
    ):
        evaluator = ScratchEvaluator(space, other, recipe=asked, folder=tmp_path, held_out=held_out)
        with pytest.raises(MismatchError, match=differs):
            evaluator.score(smallest)


def test_the_benchmark_has_its_published_optimum(reference: Path) -> None:
    """The best of NAS-Bench-Macro, as the paper states: 93.13 %."""
    file = reference / "nasbench_macro" / "nas-bench-macro_cifar10.json"
    evaluator = TabularEvaluator(file)
    best = max(evaluator.entries.values(), key=lambda entry: entry.mean_acc)
    assert best.mean_acc == pytest.approx(93.13, abs=0.01)
    space = make_space("nasbench-macro")
    entry = evaluator.entry(space.largest())
    assert evaluator.score(space.largest()) == pytest.approx(entry.mean_acc / 100)
    assert entry == evaluator.entries["22222222"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"01201201": {"test_acc": [1.0]}}, "$.01201201"),
        ({"x": 1}, "$.x"),
        (
            {
                "00000002": {
                    "test_acc": [90.0],
                    "mean_acc": 190.0,
                    "std": 0.1,
                    "params": 1,
                    "flops": 1,
                }
            },
            "$.00000002.mean_acc",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_the_place(
    changes: dict[str, Any], path: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFileError) as caught:
        TabularEvaluator(_benchmark(tmp_path / "b.json", changes))
    assert caught.value.path is not None
    assert caught.value.path.startswith(path)


def test_other_files_and_other_spaces_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x80PNG")
    with pytest.raises(InvalidFileError, match=r"no table|not a table"):
        TabularEvaluator(tmp_path / "x")
    (tmp_path / "y").write_text("{}")
    with pytest.raises(InvalidFileError, match="lacks architecture 00000000"):
        TabularEvaluator(tmp_path / "y")
    with pytest.raises(InvalidFileError, match="cannot read"):
        TabularEvaluator(tmp_path / "absent")
    evaluator, _ = _make_tabular(tmp_path)
    with pytest.raises(LatbenchError, match="space"):
        evaluator.score(make_space("tfnas").smallest())


@pytest.mark.parametrize("space", [make_small_space(), make_tiny_space()], ids=["small", "tiny"])
def test_a_network_that_is_cut_out_is_the_path_of_the_supernet(space: SearchSpace) -> None:
    """In training mode both normalise by the batch: equal outputs for equal widths."""
    supernet, rng = _supernet(space).train(), np.random.default_rng(0)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        architecture = space.random(rng)
        before = supernet.widths()
        model = supernet.cut(architecture).train()
        assert supernet.widths() == before
        for s, stage in enumerate(architecture.stages):
            for i, choice in enumerate(stage):
                block = supernet.block(s, i, space.stages[s][i].ops.index(choice.op))
                if isinstance(block, ElasticInvertedResidual):
                    assert choice.width is not None
                    block.use_first(choice.width)
        with torch.no_grad():
            expected = supernet(images, one_hot(space, architecture))
            assert torch.allclose(model(images), expected, atol=1e-4)


def test_the_journal_answers_what_it_knows(tmp_path: Path) -> None:
    """Also after a kill in the middle of a line."""
    inner, space = _make_tabular(tmp_path)
    journal = tmp_path / "evaluations.jsonl"
    drawn = [space.random(np.random.default_rng(seed)) for seed in range(5)]
    first = Journaled(inner, journal)
    scores = [first.score(architecture) for architecture in drawn]
    journal.write_bytes(journal.read_bytes()[:-9])
    fresh, _ = _make_tabular(tmp_path)
    again = Journaled(fresh, journal)
    assert [again.score(architecture) for architecture in drawn] == scores
    assert fresh.evaluations == 1
    assert len(journal.read_bytes().splitlines()) == 5
    journal.write_text("{}\n" + journal.read_text())
    with pytest.raises(InvalidFileError, match="line 1"):
        Journaled(inner, journal)


@pytest.mark.parametrize("name", list(BLACK_BOXES))
def test_a_search_goes_on_from_its_journal(name: str, tmp_path: Path) -> None:
    """Cut short and repeated it takes the same path, and evaluates nothing again."""
    space = make_space("nasbench-macro")
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    low_ms, high_ms = priced.feasible_ms()
    encoded = EncodedSpace(latency_limits([priced], (low_ms + high_ms) / 2))

    def search(journal: str, evaluations: int) -> tuple[list[tuple[Code, float]], int]:
        inner, _ = _make_tabular(tmp_path)
        evaluator = Journaled(inner, tmp_path / journal)
        black_box = BLACK_BOXES[name](encoded, seed=5)
        run(black_box, one_by_one(lambda code: evaluator.score(encoded.decode(code))), evaluations)
        return list(black_box.scores.items()), inner.evaluations

    whole, _ = search("whole.jsonl", 30)
    search("cut.jsonl", 17)
    assert search("cut.jsonl", 30) == (whole, 13)


ONE_SHOT = [name for name in SEARCHERS if SEARCHERS[name].recipe_kind is OneShotRecipe]


def _searched(
    name: str, tables: list[PricedSpace], targets: list[float], folder: Path
) -> list[dict[str, Any]]:
    recipe = OneShotRecipe(evaluations=14, epochs=2, batch_size=16, shift=0)
    settings = SearchSettings(recipe=recipe, others=tuple(tables[1:]))
    made = SEARCHERS[name](tables[0], settings)
    found = made.search(tiny_data(), targets, RunFolder(folder, {}))
    return [result.as_dict() for result in found]


@pytest.mark.parametrize("name", ONE_SHOT)
def test_a_target_holds_on_every_device(name: str, tmp_path: Path) -> None:
    """On a space without widths, two devices that price blocks in opposite ways."""
    space = make_small_space()
    devices = ("cpu-onnxruntime", "cpu-pytorch")
    signs = (0.02, -0.02)
    tables = [
        PricedSpace(
            space,
            write_table(
                tmp_path / f"{device}.sqlite",
                space,
                load_device(device),
                prices=lambda spec, sign=sign: 0.5 + sign * spec.input_size,  # type: ignore[misc]
            ),
        )
        for device, sign in zip(devices, signs, strict=True)
    ]
    encoded = EncodedSpace(latency_limits(tables, 1e3))
    least_ms = encoded.load(encoded.lightest) * 1e3
    targets = [1.6 * least_ms, 1.3 * least_ms]
    found = _searched(name, tables, targets, tmp_path / "run")
    assert [result["target_ms"] for result in found] == targets
    for result, target_ms in zip(found, targets, strict=True):
        architecture = encoded.space.architecture(
            [[Choice(**c) for c in stage] for stage in result["architecture"]["stages"]]
        )
        worst_ms = max(priced.latency_ms(architecture) for priced in tables)
        assert result["latency_ms"] == pytest.approx(worst_ms)
        assert result["latency_ms"] <= target_ms
    with pytest.raises(BudgetError) as caught:
        _searched(name, tables, [0.9 * least_ms], tmp_path / "other")
    assert caught.value.nearest_ms == pytest.approx(least_ms)


def test_searchers_of_one_device_refuse_several(tmp_path: Path) -> None:
    space = make_tiny_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    with pytest.raises(InvalidValueError, match="one --table"):
        SEARCHERS["tfnas"](priced, SearchSettings(others=(priced,)))
    with pytest.raises(InvalidValueError, match="one --table"):
        SEARCHERS["softmax"](priced, SearchSettings(others=(priced,)))


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_differentiable_search_works_without_widths(name: str, tmp_path: Path) -> None:
    space = make_small_space()
    table = write_table(tmp_path / "t.sqlite", space, load_device("cpu-onnxruntime"))
    priced = PricedSpace(space, table)
    low_ms, high_ms = priced.feasible_ms()
    target_ms = (low_ms + high_ms) / 2
    made = SEARCHERS[name](priced, SearchSettings(epochs=3, batch_size=16))
    (found,) = made.search(tiny_data(), [target_ms], RunFolder(tmp_path / "run", {}))
    assert found.latency_ms <= target_ms
    assert priced.latency_ms(found.architecture) == pytest.approx(found.latency_ms)
