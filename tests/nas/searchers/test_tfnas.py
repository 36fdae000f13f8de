"""Variants of TF-NAS: paths, relaxations, derivations and recipes."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latbench.blocks import Classifier, ConvBlock
from latbench.device import DeviceProfile
from latbench.device_files import load_device
from latbench.errors import InvalidFileError, InvalidValueError, UnknownNameError
from latbench.render.torch import NetworkModule
from latbench.tables import LatencyTable
from latbench.tables.price_model import Breakpoint, PriceModel
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Places, expected_latency_ms, path_of
from nas.recipes import load_recipe
from nas.searchers import SearchSettings
from nas.searchers.derivation import (
    CLOSE_ENOUGH,
    architecture_at,
    derive,
    most_probable,
)
from nas.searchers.scored_choices import LogProbabilities, ScoredChoices
from nas.searchers.tfnas.choices import Choices, DepthSearch
from nas.searchers.tfnas.searcher import TFNASRecipe, TFNASSearcher
from nas.spaces import Choice, SearchSpace
from nas.spaces.tfnas import TFNASLayer
from nas.supernet.mixed_operations import Supernet, start_widths
from nas.training.distributed import Workers
from nas.training.run_folder import RunFolder
from tests.conftest import make_tiny_space, write_table
from tests.nas.halves import in_halves
from tests.nas.runs import run_of_both, run_together, tiny_data

DEPTHS: tuple[DepthSearch, ...] = ("sink-connecting", "skip-among", "skip-beside")
EVERY_DEPTH = pytest.mark.parametrize("depth", DEPTHS)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> PricedSpace:
    space = make_tiny_space()
    path = tmp_path_factory.mktemp("tables") / "t.sqlite"
    return PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))


def _choices(space: SearchSpace, depth: DepthSearch, seed: int = 0) -> Choices:
    """Choices with random log probabilities."""
    made = Choices(space, depth)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    made.project()
    return made


@EVERY_DEPTH
def test_the_expected_latency_of_paths_equals_enumeration(
    depth: DepthSearch, priced: PricedSpace
) -> None:
    """The oracle sums over all operations and depths with their probabilities, without noise."""
    space, widths = priced.space, start_widths(priced.space)
    choices = _choices(space, depth)
    log = choices.joint_log_probabilities()
    per_layer = [
        [(op, p) for op, p in enumerate(row)] + [(None, log.skip(s, i))]
        for s, rows in enumerate(log.ops)
        for i, row in enumerate(rows)
    ]
    total = probability = 0.0
    for ops in product(*per_layer):
        for ends in product(*([*enumerate(row, start=1)] for row in log.depths)):
            path = iter(ops)
            places = tuple(
                tuple((op if i < end else None) for i, (op, _) in enumerate(row))
                for row, (end, _) in zip(
                    [[next(path) for _ in layers] for layers in space.stages], ends, strict=True
                )
            )
            weight = math.exp(sum(p for _, p in ops) + sum(p for _, p in ends))
            if weight > 0:
                total += weight * priced.latency_ms(architecture_at(space, places, widths))
                probability += weight
    assert probability == pytest.approx(1, rel=1e-5)
    rows = [dict(enumerate(alpha.detach().exp())) for alpha in choices.alphas]
    with torch.no_grad():
        relaxed = choices.relaxed(rows, lambda weight: weight)
    expected = float(expected_latency_ms(priced, relaxed, widths))
    assert expected == pytest.approx(total, rel=1e-5)


@EVERY_DEPTH
def test_probabilities_of_every_choice_add_up(depth: DepthSearch, tiny_space: SearchSpace) -> None:
    """Those of operations with leaving out a layer, and those of depths."""
    ops, depths = _choices(tiny_space, depth).by_stage()
    rows = [row for stage in ops for row in stage]
    assert [sum(row) for row in (*rows, *depths)] == pytest.approx([1] * (3 + 2), rel=1e-5)
    left_out = [
        len(row) - len(layer.ops) for row, layer in zip(rows, tiny_space.layers, strict=True)
    ]
    assert left_out == ([0, 0, 0] if depth == "sink-connecting" else [0, 1, 0])


def test_a_layer_beside_its_skip_is_kept_whatever_its_operations(priced: PricedSpace) -> None:
    """Undecided operations do not make a network shallow, with and without a budget."""
    space = priced.space
    choices = Choices(space, "skip-beside")
    assert list(choices.betas), "no layer can be left out"
    for kept in (0.6, 0.4):
        with torch.no_grad():
            for beta in choices.betas:
                beta.copy_(torch.tensor([kept, 1 - kept]).log())
        log = choices.log_probabilities()
        within = ScoredChoices.of_any_width(priced, log).most_probable((1e9, None))
        for places in (most_probable(log), within):
            assert places is not None
            layers = [op for stage in places for op in stage[1:]]
            assert all((op is None) == (kept < 0.5) for op in layers)


@EVERY_DEPTH
def test_a_path_through_the_supernet_equals_its_network(
    depth: DepthSearch, tiny_space: SearchSpace
) -> None:
    """With some layers left out, the network of the remaining blocks gives the same logits."""
    for seed in range(6):
        places = most_probable(_choices(tiny_space, depth, seed).log_probabilities())
        supernet = Supernet(tiny_space, start_widths=start_widths(tiny_space), seed=1)
        found = architecture_at(tiny_space, places, supernet.widths())
        network = NetworkModule(tiny_space.lower(found)).train()
        blocks: list[dict[str, Tensor]] = [dict(b.state_dict()) for b in supernet.stem]
        for s, stage in enumerate(places):
            kept = [(i, op) for i, op in enumerate(stage) if op is not None]
            blocks += [supernet.block(s, i, op).slice_parameters() for i, op in kept]  # type: ignore[operator]
        blocks += [dict(b.state_dict()) for b in supernet.tail]
        state = {f"blocks.{i}.{n}": v for i, block in enumerate(blocks) for n, v in block.items()}
        assert not network.load_state_dict(state, strict=False).unexpected_keys
        x = torch.randn(4, 3, 8, 8)
        assert torch.allclose(supernet(x, path_of(places)), network(x), atol=1e-4)


def test_the_second_path_differs_from_the_first_as_its_name_says(tiny_space: SearchSpace) -> None:
    choices = _choices(tiny_space, "skip-among")
    noise = torch.Generator().manual_seed(0)
    drawn: dict[str, list[list[int]]] = {}
    for second in ("gumbel", "min-alpha", "max-alpha", "random"):
        drawn[second] = []
        for _ in range(200):
            first = choices.draw_first(noise, 5.0)
            path = choices.draw_second(first, second, noise, 5.0)  # type: ignore[arg-type]
            assert all(a != b for a, b in zip(first, path, strict=True))
            drawn[second].append(path)
    for layer, alpha in enumerate(choices.alphas):
        order = alpha.argsort().tolist()
        assert {path[layer] for path in drawn["min-alpha"]} <= set(order[:2])
        assert {path[layer] for path in drawn["max-alpha"]} <= set(order[-2:])
        assert {path[layer] for path in drawn["random"]} == set(order)


@EVERY_DEPTH
def test_gradients_of_alphas_and_betas_equal_finite_differences(
    depth: DepthSearch, priced: PricedSpace
) -> None:
    """The gradient of the whole objective at one architecture step, in double precision."""
    priced = priced.only(lambda op: op in ("k3_e3", "k5_e6", "k3_e6_se"))
    space = priced.space
    torch.manual_seed(0)
    supernet = Supernet(space, start_widths=start_widths(space), seed=1).double()
    x, labels = torch.randn(8, 3, 8, 8).double(), torch.randint(10, (8,))
    choices = _choices(space, depth).double()

    def total() -> Tensor:
        relaxed = choices.soft(torch.Generator().manual_seed(4), 1.0)
        latency_ms = expected_latency_ms(priced, relaxed, supernet.widths())
        loss = torch.nn.functional.cross_entropy(supernet(x, relaxed), labels)
        return loss + 0.1 * abs(latency_ms / 1.0 - 1)

    total().backward()
    for parameter in choices.parameters():
        assert parameter.grad is not None
        for index in range(len(parameter)):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[index] += step
                    values.append(float(total()))
                    parameter[index] -= step
            difference = (values[0] - values[1]) / 2e-5
            assert float(parameter.grad[index]) == pytest.approx(difference, rel=1e-3, abs=1e-6)


def _scored(
    space: SearchSpace, depth: DepthSearch, log: LogProbabilities
) -> Iterator[tuple[float, Places]]:
    """All operations and depths with their log probabilities."""
    for choice in product(*[[*range(8), None] for _ in space.layers]):
        left = iter(choice)
        places = tuple(tuple(next(left) for _ in layers) for layers in space.stages)
        if any(stage[0] is None for stage in places):
            continue
        score = 0.0
        for s, stage in enumerate(places):
            if depth == "sink-connecting":
                score += log.depths[s][sum(op is not None for op in stage) - 1]
                score += sum(log.choice(s, i)[op] for i, op in enumerate(stage) if op is not None)
            else:
                score += sum(
                    log.choice(s, i)[-1 if op is None else op] for i, op in enumerate(stage)
                )
        if np.isfinite(score):
            yield score, places


MODELS = {
    "additive": PriceModel(0.0, 1.0, 0.0, 0.25),
    "with cache terms": PriceModel(
        0.0, 1.0, 0.0, 0.25, knees=(Breakpoint(12_000, 2e-6), Breakpoint(22_000, 1.5e-5))
    ),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@EVERY_DEPTH
@EVERY_MODEL
def test_the_derived_architecture_at_fixed_widths_is_the_most_probable_below_the_target(
    model: PriceModel, depth: DepthSearch, tmp_path: Path, profile: DeviceProfile
) -> None:
    """Against enumeration."""
    space = make_tiny_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile, model=model))
    widths = start_widths(space)
    log = _choices(space, depth, seed=3).log_probabilities()
    scored = {places: score for score, places in _scored(space, depth, log)}
    latency_ms = {
        places: priced.latency_ms(architecture_at(space, places, widths)) for places in scored
    }
    for target_ms in np.quantile(list(latency_ms.values()), [0.1, 0.5, 0.9]).tolist():
        found = derive(priced, log, widths=widths, target_ms=target_ms, elastic=False)
        assert found.latency_ms == pytest.approx(latency_ms[found.places])
        assert found.latency_ms <= target_ms
        best = max(scored[places] for places, ms in latency_ms.items() if ms <= target_ms)
        assert scored[found.places] == pytest.approx(best)


@EVERY_DEPTH
@EVERY_MODEL
def test_the_most_probable_whose_widths_cover_a_range_equals_enumeration(
    model: PriceModel, depth: DepthSearch, tmp_path: Path, profile: DeviceProfile
) -> None:
    """All operations and depths with their least and greatest latency over widths."""
    space = make_tiny_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile, model=model))
    log = _choices(space, depth, seed=4).log_probabilities()
    scored = {places: score for score, places in _scored(space, depth, log)}
    reaches = {places: _reach_ms(priced, places) for places in scored}
    candidates = ScoredChoices.of_any_width(priced, log)
    low_ms, high_ms = priced.feasible_ms()
    constrained = 0
    for share in (0.0, 0.05, 0.3, 0.7, 0.95, 1.0):
        for room in (0.0, 0.1, 0.4):
            target_ms = low_ms + share * (high_ms - low_ms)
            reach = (target_ms * (1 - room), target_ms * (1 + room))
            within = [
                places
                for places, (least_ms, most_ms) in reaches.items()
                if least_ms <= reach[0] * (1 + 1e-9) and most_ms >= reach[1] * (1 - 1e-9)
            ]
            found = candidates.most_probable(reach)
            if not within:
                assert found is None
                continue
            assert found in within
            assert scored[found] == pytest.approx(max(scored[places] for places in within))
            constrained += scored[found] < max(scored.values()) - 1e-9
    assert constrained > 3


@EVERY_MODEL
def test_no_budget_is_left_that_widths_could_use(
    model: PriceModel, tmp_path: Path, profile: DeviceProfile
) -> None:
    """The most probable is too fast at its widest; the derived one reaches the target."""
    space = make_tiny_space()
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile, model=model))
    widths = start_widths(space)
    log = LogProbabilities(
        ops=[[np.log(np.arange(8, 0, -1) / 36).tolist() for _ in ls] for ls in space.stages],
        depths=[np.log([0.9, 0.1]).tolist(), [0.0]],
    )
    _, widest_ms = _reach_ms(priced, most_probable(log))
    _, high_ms = priced.feasible_ms()
    for share in (0.2, 0.6, 1.0):
        target_ms = widest_ms + share * (high_ms - widest_ms)
        found = derive(priced, log, widths=widths, target_ms=target_ms)
        assert found.max_ms >= target_ms * (1 - CLOSE_ENOUGH)
        assert widest_ms < found.latency_ms <= target_ms * (1 + 1e-9)


def _reach_ms(priced: PricedSpace, places: Places) -> tuple[float, float]:
    """Least and greatest latency of operations and depths over all widths."""
    chosen = [
        [(layer, layer.ops[op])]
        for layers, stage in zip(priced.space.stages, places, strict=True)
        for layer, op in zip(layers, stage, strict=True)
        if op is not None
    ]
    return priced.fastest(chosen)[1], priced.slowest(chosen)[1]


def test_undecided_operations_do_not_make_the_derived_architecture_shallow(
    priced: PricedSpace,
) -> None:
    """With equal operations and betas for the deepest, it is kept if the target allows it."""
    space, widths = priced.space, start_widths(priced.space)
    log = LogProbabilities(
        ops=[[[math.log(1 / 8)] * 8 for _ in layers] for layers in space.stages],
        depths=[[math.log(0.4), math.log(0.6)], [0.0]],
    )
    deepest = [
        priced.latency_ms(
            space.architecture(
                [
                    [Choice(op, widths[s][i][op]) for i, _ in rows]
                    for s, rows in enumerate(list(enumerate(layers)) for layers in space.stages)
                ]
            )
        )
        for op in space.layers[0].ops
    ]
    target_ms = min(deepest) * 1.01
    found = derive(priced, log, widths=widths, target_ms=target_ms, elastic=False)
    assert [len(stage) for stage in found.architecture.stages] == [2, 1]


def test_eq_6_the_code_and_the_expectation_are_one_latency(priced: PricedSpace) -> None:
    """Eq. 6 weights a layer by the probability that the depth reaches it; the code sums, over
    depths, the depth's probability times the latency of its first layers; an expectation sums
    over networks. All three agree, as depth d costs layers 1..d."""
    space, widths = priced.space, start_widths(priced.space)
    choices = _choices(space, "sink-connecting", seed=5)
    log = choices.log_probabilities()
    layer_ms = [
        [
            sum(
                math.exp(p) * priced.addend_ms(layer, Choice(op, widths[s][i][op]))[0]
                for op, p in zip(layer.ops, log.ops[s][i], strict=True)
            )
            for i, layer in enumerate(layers)
        ]
        for s, layers in enumerate(space.stages)
    ]
    by_depth = by_layer = by_network = float(priced.base_ms[0])
    for stage_ms, row in zip(layer_ms, log.depths, strict=True):
        betas = [math.exp(p) for p in row]
        by_depth += sum(beta * sum(stage_ms[: d + 1]) for d, beta in enumerate(betas))
        by_layer += sum(ms * sum(betas[i:]) for i, ms in enumerate(stage_ms))
    for ends in product(*(range(len(row)) for row in log.depths)):
        weight = math.exp(sum(row[end] for row, end in zip(log.depths, ends, strict=True)))
        kept = zip(layer_ms, ends, strict=True)
        by_network += weight * sum(sum(stage_ms[: end + 1]) for stage_ms, end in kept)
    rows = [dict(enumerate(alpha.detach().exp())) for alpha in choices.alphas]
    with torch.no_grad():
        ours = float(
            expected_latency_ms(priced, choices.relaxed(rows, lambda weight: weight), widths)
        )
    for other in (by_depth, by_layer, by_network):
        assert ours == pytest.approx(other, rel=1e-6)


VARIANTS = [
    {"second_path": "none"},
    {"second_path": "min-alpha", "latency_objective": "c1"},
    {"second_path": "max-alpha", "latency_objective": "c2"},
    {"second_path": "gumbel", "latency_objective": "eq9"},
    {"depth": "skip-among"},
    {"depth": "skip-beside", "squeeze_excite": False},
    {"elasticity": False},
    {"initial": "he", "kept_channels": "in-use", "restart_optimizers": False, "alpha_clip": 0.0},
    {"tau_schedule": "linear", "jitter": 0.4, "hue": 0.2, "least_area": 0.08},
    {"autocast": True, "warmup": 0.0},
]


def test_results_are_scored_where_the_last_batch_would_be_a_single_image(
    profile: DeviceProfile, tmp_path: Path
) -> None:
    """On maps of one pixel a norm has no statistics of a single image."""
    last = TFNASLayer(8, 12, 2, "relu", 2)
    head = (ConvBlock(12, 16, 1, 1, "swish", 1), Classifier(16, 10, 1))
    space = SearchSpace("pixel", 8, 10, (ConvBlock(3, 8, 3, 4, "relu", 8),), ((last,),), head)
    priced = PricedSpace(space, write_table(tmp_path / "t.sqlite", space, profile))
    recipe = TFNASRecipe(shift=0, held_out=0.5)
    settings = SearchSettings(epochs=1, batch_size=64, seed=3, recipe=recipe)
    target_ms = sum(priced.feasible_ms()) / 2
    searcher = TFNASSearcher(priced, settings)
    (found,) = searcher.search(tiny_data(514), [target_ms], RunFolder(tmp_path / "run", {}))
    assert 0 <= found.score <= 1


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda c: " ".join(map(str, c.values())))
def test_every_variant_ends_below_its_target_and_reports_its_argmax(
    changes: dict[str, object], priced: PricedSpace, tmp_path: Path
) -> None:
    recipe = TFNASRecipe(shift=0, **changes)  # type: ignore[arg-type]
    settings = SearchSettings(epochs=3, batch_size=16, seed=3, recipe=recipe)
    searcher = TFNASSearcher(priced, settings)
    low, high = searcher.priced.feasible_ms()
    target_ms = (low + high) / 2
    folder = RunFolder(tmp_path / "run", {})
    (found,) = searcher.search(tiny_data(40), [target_ms], folder)
    assert found.latency_ms <= target_ms
    assert found.argmax is not None
    assert priced.latency_ms(found.argmax.architecture) == found.argmax.latency_ms
    if not recipe.squeeze_excite:
        assert not any(choice.op.endswith("_se") for choice in found.architecture.choices)
    if not recipe.elasticity:
        starts = [layer.start_width(c.op) for layer, c in _rows(priced.space, found)]
        assert [c.width for c in found.architecture.choices] == starts
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    *_, last, result = map(json.loads, lines)
    assert result["score"] == found.score
    ops = sum(value for key, value in last.items() if key.startswith("layers_of_"))
    assert ops == last["layers"] == len(found.argmax.architecture.choices)


def _rows(space: SearchSpace, found: object) -> list[tuple[object, object]]:
    return [
        (layer, choice)
        for layers, stage in zip(space.stages, found.architecture.stages, strict=True)  # type: ignore[attr-defined]
        for layer, choice in zip(layers, stage, strict=False)
    ]


def test_settings_change_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "tfnas"\nlr = 0.1\n')
    recipe = load_recipe(TFNASRecipe, str(file), ["second-path=none", "elasticity = false"])
    assert recipe == TFNASRecipe(lr=0.1, second_path="none", elasticity=False)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("learning_rate=1", UnknownNameError, "choose from"),
        ("second_path=best", InvalidValueError, "second_path"),
        ("lr=-1", InvalidValueError, "lr"),
        ("lr", InvalidValueError, "key=value"),
    ],
)
def test_a_wrong_setting_is_refused(change: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_recipe(TFNASRecipe, None, [change])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    for text in ('recipe = "cake"\n', 'recipe = "tfnas"\nsugar = 1\n', "recipe = \n"):
        file.write_text(text)
        with pytest.raises(InvalidFileError):
            load_recipe(TFNASRecipe, str(file))
    with pytest.raises(UnknownNameError, match="tfnas-imagenet100"):
        load_recipe(TFNASRecipe, "tfnas-imagenet10")


def test_layers_of_fixed_depth_cannot_be_left_out(tiny_space: SearchSpace) -> None:
    with pytest.raises(InvalidValueError, match="sink-connecting"):
        Choices(replace(tiny_space, elastic_depth=False), "skip-among")


def test_fewer_operations_are_a_space_of_their_own(priced: PricedSpace) -> None:
    fewer = priced.only(lambda op: op.startswith("k3"))
    assert all(op.startswith("k3") for layer in fewer.space.layers for op in layer.ops)
    drawn = fewer.space.random(np.random.default_rng(0))
    assert fewer.latency_ms(drawn) == priced.latency_ms(drawn)
    with pytest.raises(InvalidValueError, match="without operations"):
        priced.only(lambda op: False)


def _settings(group: Workers) -> SearchSettings:
    return SearchSettings(3, 16, 3, TFNASRecipe(shift=0), group)


def _search_together(folder: Path, table: Path, target_ms: float, kill_after: int) -> None:
    with run_of_both(folder) as (group, run):
        calls = 0

        def progress(fraction: float, words: str) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_after and not group.leads:
                os.kill(os.getpid(), signal.SIGKILL)

        priced = PricedSpace(make_tiny_space(), LatencyTable.open(table))
        searcher = TFNASSearcher(priced, _settings(group))
        searcher.search(tiny_data(), [target_ms], run, progress=progress)


def _in_halves(priced: PricedSpace, folder: Path, target_ms: float) -> None:
    """The same search in one process that averages the gradients of half batches."""
    run = RunFolder(folder, {})
    in_halves(
        lambda half: TFNASSearcher(priced, _settings(half)).search(tiny_data(), [target_ms], run)
    )


def test_two_processes_are_one_that_averages_half_batches_and_survive_a_kill(
    priced: PricedSpace, tmp_path: Path
) -> None:
    """Killed in the second epoch and started again, they end with the same result."""
    low, high = priced.feasible_ms()
    target_ms = (low + high) / 2
    table = priced.table.path
    assert run_together(_search_together, tmp_path / "whole", table, target_ms, 0) == [0, 0]
    ended = run_together(
        _search_together, tmp_path / "cut", table, target_ms, 7
    )  # 4 steps an epoch
    assert ended[1] == -signal.SIGKILL
    assert ended[0] != 0
    assert [f.stem for f in (tmp_path / "cut" / "checkpoint").iterdir()] == ["warmup"]
    assert run_together(_search_together, tmp_path / "cut", table, target_ms, 0) == [0, 0]
    _in_halves(priced, tmp_path / "halves", target_ms)
    for file in sorted((tmp_path / "whole" / "checkpoint").iterdir()):
        whole, cut, halves = (
            torch.load(tmp_path / run / "checkpoint" / file.name, weights_only=True)
            for run in ("whole", "cut", "halves")
        )
        for part in ("supernet", "choices"):
            for name, value in whole[part].items():
                assert torch.equal(value, cut[part][name]), name
                assert torch.allclose(value, halves[part][name], atol=1e-4), name
    texts = {
        next((tmp_path / run / "architectures").iterdir()).read_text()
        for run in ("whole", "cut", "halves")
    }
    assert len(texts) == 1
