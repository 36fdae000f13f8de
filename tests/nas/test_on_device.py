"""Searches and trainings on another device: no tensor stays on the CPU, nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latbench.device_files import load_device
from nas.criteria.triplet import Triplet
from nas.data.images import ImageData, generator
from nas.evaluators.shared_weights import SupernetEvaluator
from nas.latency.priced_space import PricedSpace
from nas.latency.relaxation import Relaxed
from nas.searchers import SEARCHERS, SearchSettings
from nas.searchers.tfnas.bi_sampling import BiSampling
from nas.searchers.tfnas.searcher import SearchState, TFNASRecipe, TFNASSearcher
from nas.spaces import SearchSpace
from nas.supernet.elastic import ElasticInvertedResidual
from nas.supernet.mixed_operations import fixed_supernet, searchable_supernet
from nas.training import from_scratch as scratch
from nas.training import module_training
from nas.training.bilevel import Bilevel
from nas.training.bilevel_settings import Objective
from nas.training.calibration import calibrate
from nas.training.distributed import ALONE
from nas.training.recipe import TrainingRecipe
from nas.training.run_folder import RunFolder
from nas.training.steps import Losses
from nas.training.strategies import STRATEGIES, Relaxation
from nas.training.strategies.base import on_device
from nas.training.strategies.widths import RandomWidths
from nas.training.supernet_training import SupernetRecipe, supernet_state
from nas.training.torch_device import CPU, TorchDevice
from tests.conftest import make_small_space, make_tiny_space, write_table
from tests.nas.pretend_gpu import DeviceTensor, Recorder, on_pretend_gpu, pretend_gpu
from tests.nas.runs import Stop, stopping_after, tiny_data
from tests.nas.training.test_from_scratch import FULL, NETWORK, make_data

BATCH = 8
FEW_OPS = ("k3_e3", "k5_e6", "k3_e6_se")  # of the tiny space's eight, so that steps are short


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with pretend_gpu() as recorder:
        yield recorder


def _priced(space: SearchSpace, folder: Path) -> PricedSpace:
    path = folder / f"{space.name}.sqlite"
    whole = PricedSpace(space, write_table(path, space, load_device("cpu-onnxruntime")))
    return whole.only(lambda op: op in FEW_OPS) if space.elastic_width else whole


@pytest.fixture
def priced(tmp_path: Path) -> PricedSpace:
    return _priced(make_tiny_space(), tmp_path)


def _batch(device: TorchDevice) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 3, 8, 8, generator=rng).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 4
    return x.to(device.device), labels.to(device.device)


def _held(values: Any) -> Tensor:
    return values.held if isinstance(values, DeviceTensor) else values


def _close(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(_held(value), theirs[name], atol=1e-4, rtol=1e-3)


def _tfnas(priced: PricedSpace, device: TorchDevice, **changes: Any) -> TFNASSearcher:
    settings = SearchSettings(recipe=TFNASRecipe(**changes), torch_device=device)
    return TFNASSearcher(priced, settings)


def _take_tfnas_steps(
    searcher: TFNASSearcher, device: TorchDevice, watch: Callable[[str], None] = lambda step: None
) -> SearchState:
    """Steps of both kinds, and a scaling between them."""
    state, noise = searcher.begin(), generator(0)
    state.strategy.tau = 2.0
    x, labels = _batch(device)
    low, high = searcher.priced.feasible_ms()
    for _ in range(2):
        watch("begin")
        state.weight_step(x, labels, rng=noise)
        watch("weights")
        state.architecture_step(
            x, labels, searcher.objective_at(state, (low + high) / 2), rng=noise
        )
        watch("choices")
        searcher.scale(state, (low + high) / 2)
        watch("scale")
    return state


@pytest.mark.parametrize("depth", ["sink-connecting", "skip-among", "skip-beside"])
def test_steps_of_tfnas_wait_for_nothing_but_the_gradient_of_the_choices(
    depth: str, priced: PricedSpace, recorder: Recorder
) -> None:
    """One copy brings all weights and the latency there, and one their gradients back."""
    device = on_pretend_gpu()

    def watch(step: str) -> None:
        if step == "weights":
            assert (recorder.sent, recorder.waits) == ([], [])
        elif step == "choices":
            assert len(recorder.sent) == 1
            assert recorder.waits == ["_to_copy to the CPU"]
        recorder.clear()

    state = _take_tfnas_steps(_tfnas(priced, device, depth=depth), device, watch)
    expected = _take_tfnas_steps(_tfnas(priced, CPU, depth=depth), CPU)
    assert state.supernet.widths() == expected.supernet.widths()
    _close(state.supernet, expected.supernet)
    _close(state.choices, expected.choices)
    assert all(parameter.device.type == "cpu" for parameter in state.choices.parameters())


@pytest.mark.parametrize("objective", ["c1", "c2", "eq9", "hinge", "squared", "sgnas"])
def test_every_objective_joins_loss_and_latency_of_a_device(
    objective: str, priced: PricedSpace, recorder: Recorder
) -> None:
    device = on_pretend_gpu()
    states = [
        _take_tfnas_steps(_tfnas(priced, each, latency_objective=objective), each)
        for each in (device, CPU)
    ]
    _close(states[0].choices, states[1].choices)


def test_a_scaled_loss_gives_the_steps_of_one_that_is_not(
    priced: PricedSpace, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without autocast, what is left of fp16 is the scaling of both kinds of step."""
    monkeypatch.setattr(TorchDevice, "autocast", lambda self: nullcontext())
    device = on_pretend_gpu()
    states = [
        _take_tfnas_steps(_tfnas(priced, each, precision=precision), each)
        for each, precision in ((device, "fp16"), (CPU, "fp32"))
    ]
    assert states[0].scaler.is_enabled()
    _close(states[0].supernet, states[1].supernet)
    _close(states[0].choices, states[1].choices)


def test_an_infinite_gradient_of_choices_is_skipped_and_lowers_the_scale(
    priced: PricedSpace, recorder: Recorder
) -> None:
    device = on_pretend_gpu()
    state = _tfnas(priced, device, precision="fp16").begin()
    state.scaler.scale(torch.ones((), device=device.device))
    alphas, scale = list(state.choices.parameters()), state.scaler.get_scale()
    before = [alpha.detach().clone() for alpha in alphas]
    assert state.adam is not None
    for value, steps in ((float("inf"), False), (scale, True)):
        for alpha in alphas:
            alpha.grad = torch.full_like(alpha, value)
        state._update(state.adam, alphas, 0.0)
        assert torch.equal(alphas[0], before[0]) != steps
        assert state.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("second", ["none", "gumbel", "min-alpha", "max-alpha", "random"])
def test_one_seed_draws_the_same_paths_on_every_device(
    second: str, priced: PricedSpace, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[Relaxed]] = [[], []]
    draw = BiSampling.draw
    for paths, device in zip(drawn, (on_pretend_gpu(), CPU), strict=True):
        searcher = _tfnas(priced, device, second_path=second)

        def remember(strategy: BiSampling, *given: Any, paths: Any = paths) -> list[Relaxed]:
            found = draw(strategy, *given)
            paths.extend(found)
            return found

        with monkeypatch.context() as patched:
            patched.setattr(BiSampling, "draw", remember)
            _take_tfnas_steps(searcher, device)
    assert len(drawn[0]) == len(drawn[1]) == (2 if second == "none" else 4)
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.ops == theirs.ops


def _strategy_state(name: str, device: TorchDevice, *, clip: float = 0.0) -> Bilevel:
    recipe = SupernetRecipe(epochs=2, batch_size=BATCH, lr=0.1, alpha_lr=0.1, clip=clip)
    space = make_small_space()
    supernet = fixed_supernet(space, seed=3)
    return supernet_state(
        supernet, STRATEGIES[name](space), nn.CrossEntropyLoss(), recipe, torch_device=device
    )


@pytest.mark.parametrize(
    ("name", "clip"), [(name, float(number % 2)) for number, name in enumerate(STRATEGIES)]
)
def test_steps_of_every_strategy_wait_for_nothing_but_the_gradient_of_the_choices(
    name: str, clip: float, recorder: Recorder
) -> None:
    device = on_pretend_gpu()
    ours, expected = (_strategy_state(name, each, clip=clip) for each in (device, CPU))
    objective = Objective(
        cost=lambda relaxed: sum(relaxed.ops[0][0].values()) * 0.5,
        total=lambda loss, cost: loss + cost**2,
    )
    steps = {ours: (device, generator(4)), expected: (CPU, generator(4))}
    for _ in range(2):
        losses = []
        for state, (where, rng) in steps.items():
            x, labels = _batch(where)
            recorder.clear()
            losses.append(state.weight_step(x, labels, rng=rng, progress=0.5))
            relaxes = isinstance(state.strategy, Relaxation)
            assert recorder.waits == []
            assert len(recorder.sent) == (relaxes and where is device)
            if relaxes:
                recorder.clear()
                state.architecture_step(x, labels, objective, rng=rng, progress=0.5)
                assert len(recorder.sent) == len(recorder.waits) == (where is device)
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-4)
    _close(ours.supernet, expected.supernet)
    _close(ours.strategy, expected.strategy)


def test_elastic_widths_are_drawn_and_trained_without_waiting(recorder: Recorder) -> None:
    space = make_tiny_space()
    recipe = SupernetRecipe(epochs=2, batch_size=BATCH, lr=0.05)
    states = []
    for device in (on_pretend_gpu(), CPU):
        supernet = searchable_supernet(space, seed=0)
        strategy = RandomWidths(STRATEGIES["sandwich"](space), lambda layer, op: [8, 16, 24])
        state = supernet_state(
            supernet, strategy, nn.CrossEntropyLoss(), recipe, torch_device=device
        )
        x, labels = _batch(device)
        recorder.clear()
        for seed in range(2):
            state.weight_step(x, labels, rng=generator(seed))
        assert (recorder.sent, recorder.waits) == ([], [])
        states.append(state)
    _close(states[0].supernet, states[1].supernet)


def test_a_width_comes_back_with_the_state(recorder: Recorder) -> None:
    """And is known to the processor, which does not ask the device in every pass."""
    space, device = make_tiny_space(), on_pretend_gpu()
    supernet = device.place(searchable_supernet(space, seed=0))
    block = supernet.block(0, 0, 0)
    assert isinstance(block, ElasticInvertedResidual)
    block.set_width(12)
    again = device.place(searchable_supernet(space, seed=1))
    again.load_state_dict(supernet.state_dict())
    assert again.widths() == supernet.widths()
    recorder.clear()
    assert supernet.widths()[0][0][space.stages[0][0].ops[0]] == 12
    supernet.selections()
    assert recorder.waits == []


def test_norms_are_calibrated_without_the_device(recorder: Recorder) -> None:
    """By the mean over batches as torch computes it, whose counter of batches lies on a GPU."""
    models = [scratch.make_model(NETWORK, seed=0) for _ in range(2)]
    batches = [torch.randn(4, 3, 8, 8, generator=generator(i)) for i in range(3)]
    for module in models[1].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    models[1].train()
    for batch in batches:
        models[1](batch)
    calibrate(models[0], batches)
    for ours, theirs in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)
    device = on_pretend_gpu()
    there = device.place(scratch.make_model(NETWORK, seed=0))
    shown = [batch.to(device.device) for batch in batches]
    recorder.clear()
    calibrate(there, shown)
    assert (recorder.sent, recorder.waits) == ([], [])
    _close(there, models[1])


def test_a_network_is_cut_out_and_evaluated_on_the_device(recorder: Recorder) -> None:
    """The processor waits for the scores of all batches together, and for nothing else."""
    space, device, data = make_small_space(), on_pretend_gpu(), tiny_data(40)
    supernet = device.place(fixed_supernet(space, seed=0))
    evaluator = SupernetEvaluator(
        supernet,
        data,
        criterion=nn.CrossEntropyLoss(),
        calibration=data.train,
        selection=data.test,
        batch_size=16,
    )
    network = supernet.cut(space.largest())
    assert all(isinstance(value, DeviceTensor) for value in network.state_dict().values())
    recorder.clear()
    score = evaluator.evaluate(network)
    assert recorder.waits == ["_to_copy to the CPU"]
    here = SupernetEvaluator(
        fixed_supernet(space, seed=0),
        data,
        criterion=nn.CrossEntropyLoss(),
        calibration=data.train,
        selection=data.test,
        batch_size=16,
    )
    assert score == pytest.approx(here.score(space.largest()), abs=0.03)


CRITERIA: dict[str, dict[str, Any]] = {
    "label-smoothing": {},
    "focal": {},
    "triplet": {"options": {"mining": "hard"}, "per_class": 4},
    "triplet semi-hard": {"options": {"mining": "semi-hard"}, "per_class": 4},
    "triplet random": {"options": {"mining": "random"}, "per_class": 4},
    "angular": {"options": {"margin": 0.2, "scale": 8.0}},
}


def _face_data() -> ImageData:
    return replace(make_data(), task="face-recognition")


@pytest.mark.parametrize(
    ("criterion", "optimizer"), list(zip(CRITERIA, ("sgd", "rmsprop") * 3, strict=True))
)
def test_steps_from_scratch_wait_for_nothing(
    criterion: str, optimizer: str, recorder: Recorder
) -> None:
    options = CRITERIA[criterion] | {"criterion": criterion.split(maxsplit=1)[0]}
    data = _face_data() if options["criterion"] in ("triplet", "angular") else make_data()
    given = FULL | {"dropout": 0.0, "drop_connect": 0.0} | options
    recipe = TrainingRecipe(epochs=1, batch_size=BATCH, optimizer=optimizer, **given)
    states = []
    for device in (on_pretend_gpu(), CPU):
        state = scratch.begin(NETWORK, data, recipe, device)
        x, labels = _batch(device)
        recorder.clear()
        for _ in range(2):
            for group in state.optimizer.param_groups:
                group["lr"] = 0.05
            state.step(x, labels, recipe, ALONE)
        assert (recorder.sent, recorder.waits) == ([], [])
        states.append(state)
    if "random" not in criterion:  # which draws on the device
        _close(states[0].model, states[1].model)
        _close(states[0].result, states[1].result)
        _close(states[0].criterion, states[1].criterion)


def test_dropped_features_and_blocks_are_drawn_on_the_device(recorder: Recorder) -> None:
    recipe = TrainingRecipe(epochs=1, batch_size=BATCH, **FULL)
    state = scratch.begin(NETWORK, make_data(), recipe, on_pretend_gpu())
    x, labels = _batch(on_pretend_gpu())
    recorder.clear()
    state.step(x, labels, recipe, ALONE)
    assert (recorder.sent, recorder.waits) == ([], [])


def test_a_tensor_left_on_the_cpu_is_found(priced: PricedSpace, recorder: Recorder) -> None:
    """The other tests depend on this: one weight, one statistic, a batch of labels."""
    device = on_pretend_gpu()
    x, labels = _batch(device)
    state = _strategy_state("uniform", device)
    stem = next(module for module in state.supernet.stem.modules() if "weight" in dir(module))
    left = nn.Parameter(torch.randn(tuple(stem.weight.shape)))  # type: ignore[union-attr,arg-type]
    stem.weight = left
    with pytest.raises(RuntimeError, match="lies on the CPU"):
        state.weight_step(x, labels, rng=generator(0))
    searcher = _tfnas(priced, device)
    with pytest.raises(RuntimeError, match="lies on the CPU"):
        searcher.begin().weight_step(x, labels.cpu(), rng=generator(0))
    space = make_small_space()
    relaxed = STRATEGIES["softmax"](space).draw(generator(0), 0.0)[0]
    there, (cost,) = on_device(relaxed, x.device, torch.ones(()))
    assert isinstance(cost, DeviceTensor)
    assert all(isinstance(w, DeviceTensor) for s in there.ops for row in s for w in row.values())


SEARCHES: dict[str, tuple[Callable[[], SearchSpace], tuple[str, dict[str, Any]]]] = {
    "tfnas": (make_tiny_space, ("tfnas", {"warmup": 0.5})),
    "evolution": (make_small_space, ("evolution", {"evaluations": 4, "strategy": "fair"})),
    "gumbel": (make_small_space, ("gumbel", {})),
}


def _search(
    name: str, priced: PricedSpace, folder: Path, device: TorchDevice, stop_after: int | None = None
) -> Any:
    searcher, changes = SEARCHES[name][1]
    kind = SEARCHERS[searcher].recipe_kind
    assert kind is not None
    recipe = kind(lr=0.01, **changes)  # type: ignore[call-arg]
    settings = SearchSettings(2, BATCH, 3, recipe, torch_device=device)
    low, high = priced.feasible_ms()
    return SEARCHERS[searcher](priced, settings).search(
        tiny_data(40),
        [low + 0.5 * (high - low)],
        RunFolder(folder, {}),
        progress=stopping_after(stop_after),
    )


def _checkpoints(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted((folder / "checkpoint").iterdir())
    return {file.name: torch.load(file, weights_only=True) for file in files}


def _compare(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            _compare(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            _compare(one, other)
    elif isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.05)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_a_search_begun_on_one_device_goes_on_on_another(name: str, tmp_path: Path) -> None:
    """Whole on either, and cut short on each to end on the other: the same, up to rounding."""
    priced = _priced(SEARCHES[name][0](), tmp_path)
    expected = _search(name, priced, tmp_path / "cpu", CPU)
    with pretend_gpu():
        device = on_pretend_gpu()
        found = _search(name, priced, tmp_path / "gpu", device)
        with pytest.raises(Stop):
            _search(name, priced, tmp_path / "begun there", device, stop_after=6)
        with pytest.raises(Stop):
            _search(name, priced, tmp_path / "begun here", CPU, stop_after=6)
        _search(name, priced, tmp_path / "begun here", device)
    _search(name, priced, tmp_path / "begun there", CPU)
    for run in ("gpu", "begun there", "begun here"):
        _compare(_checkpoints(tmp_path / run), _checkpoints(tmp_path / "cpu"))
    assert found[0].architecture == expected[0].architecture


def test_a_training_begun_on_one_device_goes_on_on_another(tmp_path: Path) -> None:
    recipe = TrainingRecipe(epochs=2, batch_size=16, ema=0.5, optimizer="rmsprop", lr_per_256=0.02)

    def run(name: str, device: TorchDevice, stop_after: int | None = None) -> dict[str, float]:
        folder = RunFolder(tmp_path / name, {})
        progress = stopping_after(stop_after)
        return scratch.train(
            NETWORK, make_data(), recipe, folder, torch_device=device, progress=progress
        )

    expected = run("cpu", CPU)
    with pretend_gpu():
        device = on_pretend_gpu()
        assert run("gpu", device).keys() == expected.keys()
        with pytest.raises(Stop):
            run("begun there", device, 6)
        with pytest.raises(Stop):
            run("begun here", CPU, 6)
        run("begun here", device)
    run("begun there", CPU)
    for name in ("gpu", "begun there", "begun here"):
        _compare(_checkpoints(tmp_path / name), _checkpoints(tmp_path / "cpu"))
        assert (tmp_path / name / module_training.WEIGHTS).exists()


def test_losses_of_a_gpu_are_read_twice_a_second_and_in_order(recorder: Recorder) -> None:
    now = [0.0]
    reported: list[tuple[float, float]] = []

    def report(done: float, loss: float) -> None:
        reported.append((done, loss))

    losses = Losses(report, on_pretend_gpu(), clock=lambda: now[0])
    device = on_pretend_gpu().device
    for step in range(1, 21):
        now[0] += 0.125  # exact
        losses.add(step / 20, torch.tensor(float(step)).to(device), over=2)
        assert len(recorder.waits) == step // 4
    assert losses.read() == [step / 2 for step in range(1, 21)]
    assert reported == [(step / 20, step / 2) for step in range(1, 21)]
    at_once = Losses(report, CPU, clock=lambda: now[0])
    at_once.add(1.0, torch.tensor(7.0))
    assert reported[-1] == (1.0, 7.0)


@pytest.mark.parametrize("mining", ["hard", "semi-hard", "random"])
@pytest.mark.parametrize("identities", [1, 3, 12])
def test_masked_triplets_are_the_listed_ones(mining: str, identities: int) -> None:
    """Loss and gradient; of random ones whether there are any, and their bounds."""
    rng = torch.Generator().manual_seed(identities)
    embeddings = torch.randn(12, 5, generator=rng)
    labels = torch.arange(12) % identities
    criterion = Triplet(5, 12, margin=0.4, mining=mining)
    listed = embeddings.clone().requires_grad_()
    expected = criterion(listed, labels)
    expected.backward()
    with pretend_gpu():
        device = on_pretend_gpu().device
        masked = embeddings.clone().requires_grad_()
        found = criterion(masked.to(device), labels.to(device))
        found.backward()
        value = float(found.detach().cpu())
    assert masked.grad is not None and listed.grad is not None
    if mining == "random" and identities == 3:
        assert 0 < value < 4.4 and masked.grad.isfinite().all()
        return
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(masked.grad, listed.grad)
