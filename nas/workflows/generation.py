"""Using generators: generate architectures; load, save, import and adapt generators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import msgspec

from latbench.cost import Cost, network_cost
from latbench.progress import Phase, Phases, Progress, silent
from latbench.result import Result
from latbench.units import as_latency_ms, as_millions
from latbench.workflows.table_checks import open_table
from nas import generator as generators
from nas.generator import Generator, Kind, answering_space, answers, raw_answers, requests_for
from nas.recipes import changed
from nas.searchers.sgnas.adaptation import adapt
from nas.searchers.sgnas.recipe import read_run
from nas.spaces import Architecture
from nas.training.run_folder import RunFolder
from nas.training.torch_device import TorchDevice
from nas.workflows.data import as_data, data_identity
from nas.workflows.inputs import AnyTable, as_list, as_torch_device, priced_by

AnyGenerator = Generator | str | Path
"""A generator, or the path of its file."""


@dataclass(frozen=True, repr=False)
class GeneratedArchitecture(Result):
    """A generator's answer to a budget.

    Attributes:
        name: Name of the budget in file names, such as ``15ms``.
        targets: Budgets by kind: ``latency`` in ms, ``macs`` and ``params`` in millions.
        cost: Multiply-accumulates and parameters of the architecture.
        latency_ms: Predicted latency; None without a table.
        changes: Number of decisions that differ from the network's raw output; None for the
            architecture of lowest cost, which does not need the network.
        architecture: The generated architecture.
    """

    name: str
    targets: dict[str, float]
    cost: Cost
    latency_ms: float | None
    changes: int | None
    architecture: Architecture

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        millions = self.cost.in_millions()
        return {
            "target": next(iter(self.targets.values())),
            "targets": self.targets,
            "conv_macs_m": millions["conv_macs_m"],
            "params_m": millions["params_m"],
            "latency_ms": self.latency_ms,
            "changes": self.changes,
            "architecture": self.architecture.as_dict(),
        }


@dataclass(frozen=True, repr=False)
class GeneratedArchitectures(Result, Sequence[GeneratedArchitecture]):
    """A generator's answers: a sequence of ``GeneratedArchitecture``, in the order of the budgets.

    Attributes:
        found: The generated architectures.
    """

    found: tuple[GeneratedArchitecture, ...]

    @overload
    def __getitem__(self, index: int) -> GeneratedArchitecture: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[GeneratedArchitecture, ...]: ...
    def __getitem__(
        self, index: int | slice
    ) -> GeneratedArchitecture | tuple[GeneratedArchitecture, ...]:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[GeneratedArchitecture]:
        return iter(self.found)

    def save(self, folder: str | Path) -> None:
        """Write one file per architecture, named after its budget.

        Raises:
            InvalidFileError: A file cannot be written.
        """
        for answer in self.found:
            answer.architecture.save(Path(folder) / f"{answer.name}.json")

    def as_dict(self) -> dict[str, Any]:
        """All answers as plain JSON values."""
        return {"architectures": [answer.as_dict() for answer in self.found]}


def generate(
    generator: AnyGenerator,
    *,
    table: AnyTable | None = None,
    targets: str | float | Sequence[str | float] = (),
    target_macs: str | float | Sequence[str | float] = (),
    target_params: str | float | Sequence[str | float] = (),
    raw: bool = False,
    se: bool = False,
    activation: Literal["relu6", "hswish"] | None = None,
) -> GeneratedArchitectures:
    """Generate an architecture for every budget, all in one forward pass of a generator.

    Every answer meets its budget, with as few changes of the network's output as possible. Budgets
    of two kinds are paired: the first of one with the first of the other. See SGNAS (Huang and Chu,
    CVPR 2021) and docs/papers.md.

    Args:
        generator: A generator, or the path of its file.
        table: Latency table of the device, or its path; needed for latencies.
        targets: Latencies not to exceed, such as ``"15ms"``, or in ms; several or one.
        target_macs: Multiply-accumulates of convolutions not to exceed, such as ``"320M"``, or in
            millions.
        target_params: Parameters not to exceed, such as ``"3M"``, or in millions.
        raw: Return the raw network output, without the repair that enforces the budget.
        se: Whether every block has squeeze-excite.
        activation: Activation of every block; the generator's own if None.

    Raises:
        InvalidValueError: There is no budget, or budgets of two kinds do not pair.
        MismatchError: The generator was not trained on budgets of this kind, or the table is for
            another space.
        BudgetError: A budget is not feasible; carries the nearest feasible one.
    """
    loaded = generator if isinstance(generator, Generator) else load_generator(generator)
    opened = None if table is None else open_table(table)
    space = answering_space(loaded, opened, se=se, activation=activation)
    budgets: dict[Kind, list[float]] = {
        "latency": [as_latency_ms(target) for target in as_list(targets)],
        "macs": [as_millions(target) for target in as_list(target_macs)],
        "params": [as_millions(target) for target in as_list(target_params)],
    }
    requests = requests_for(loaded, space, opened, budgets)
    found = []
    for request, answer in zip(
        requests, (raw_answers if raw else answers)(loaded, space, requests), strict=True
    ):
        network = space.lower(answer.architecture)
        found.append(
            GeneratedArchitecture(
                str(request),
                {limit.costs.kind: limit.budget for limit in request.limits},
                network_cost(network),
                None if opened is None else opened.predict(network).latency_ms,
                answer.changes,
                answer.architecture,
            )
        )
    return GeneratedArchitectures(tuple(found))


def load_generator(path: str | Path) -> Generator:
    """Read a generator's file.

    Raises:
        InvalidFileError: The file is missing, damaged or not a generator.
    """
    return generators.load_generator(Path(path))


def save_generator(generator: Generator, path: str | Path) -> None:
    """Write a generator's file.

    Raises:
        InvalidFileError: The file cannot be written.
    """
    generators.save_generator(generator, Path(path))


def describe_generator(generator: Generator) -> dict[str, Any]:
    """Description of a generator as plain JSON values: space, kinds of budgets, devices."""
    plain: dict[str, Any] = msgspec.to_builtins(generator.label)
    return plain


def import_generator(weights: str | Path, prior: str | Path) -> Generator:
    """Import the published weights of an SGNAS generator.

    Args:
        weights: Arrays under their published names, ``.npz`` or ``.pth``.
        prior: The published prior pool, JSON.

    Raises:
        InvalidFileError: A file is missing, damaged or holds something else.
        MismatchError: The priors are outside all ranges for which generators were published.
    """
    return generators.import_generator(Path(weights), Path(prior))


def adapt_generator(
    run: str | Path,
    table: AnyTable,
    *,
    epochs: int = 5,
    data_dir: str | Path | None = None,
    torch_device: str | TorchDevice = "auto",
    progress: Progress = silent,
) -> Generator:
    """Train the generator of a search for one more device; the rest of it does not change.

    Only the vector of the device is trained, with the supernet of the run.

    Args:
        run: Folder of a search by ``sgnas``.
        table: Latency table of the new device, or its path.
        epochs: Number of epochs.
        data_dir: Folder of the data set's files, if the search was given one.
        torch_device: Device of the training: ``auto`` (the CUDA GPU if there is one, else the
            CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        progress: Callback with the fraction done and a short description.

    Raises:
        InvalidFileError: The folder holds no such search.
        MismatchError: The generator knows the device already, the table is for another space, or
            the data is not that of the search.
    """
    folder, trains_on = Path(run), as_torch_device(torch_device)
    with Phases(progress, [Phase("prepare"), Phase("train", share=20.0)]) as phases:
        phases["prepare"](0.0, "reading the run")
        config, recipe = read_run(folder)
        priced = priced_by(open_table(table), "any")
        loaded = as_data(config["data"], priced.space, data_dir=data_dir, images=config["images"])
        with trains_on.guarded(work="the training", kept="the run is as it was"):
            return adapt(
                RunFolder(folder, {**config, **data_identity(loaded)}),
                priced,
                loaded,
                changed(recipe, generator_epochs=epochs),
                seed=config["seed"],
                torch_device=trains_on,
                progress=phases["train"],
            )
