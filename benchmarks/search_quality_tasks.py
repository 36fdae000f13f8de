"""One search of ``search_quality.py``: its scores, the searchers of other libraries, its time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from time import perf_counter

import numpy as np

from nas.optimize.blackbox import BLACK_BOXES
from nas.optimize.encoding import Code, EncodedSpace

_FREE = 40  # proposals of pymoo for each evaluation, after which it is ended
_TPE_PROPOSALS = 1_500  # in all: 20 s; the time of a proposal grows with their number

Outsider = Callable[["Task", int], None]


class Task:
    """One search: scores by code, and the best feasible one so far after every evaluation."""

    def __init__(self, encoded: EncodedSpace, table: dict[Code, float], evaluations: int) -> None:
        self.encoded = encoded
        self.table = table
        self.evaluations = evaluations
        feasible = [score for code, score in table.items() if encoded.feasible(code)]
        self.optimum = max(feasible)
        self.known: dict[Code, float] = {}
        self.regrets: list[float] = []

    def score(self, code: Code) -> float:
        """Charged once a network."""
        code = self.encoded.canonical(code)
        if code not in self.known:
            self.known[code] = self.table[code]
            best = max(self.known.values())
            self.regrets.append(100 * (self.optimum - best))
        return self.known[code]

    @property
    def over(self) -> bool:
        return len(self.regrets) >= self.evaluations


def optuna_tpe(task: Task, seed: int) -> None:
    """Optuna's TPE, multivariate, constrained; the layers are categorical."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of multivariate
    sampler = optuna.samplers.TPESampler(
        seed=seed,
        multivariate=True,
        n_startup_trials=10,
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(_TPE_PROPOSALS):
        if task.over:
            return
        trial = study.ask()
        sizes = [len(choices) for choices in task.encoded.choices]
        code = tuple(trial.suggest_categorical(str(i), range(n)) for i, n in enumerate(sizes))
        trial.set_constraint("budget", task.encoded.load(code) - 1)
        study.tell(trial, task.score(code) if task.encoded.feasible(code) else 0.0)


def pymoo_nsga2(task: Task, seed: int) -> None:
    """pymoo's NSGA-II on integers with its own operators; the budget is its constraint."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    top = np.array([len(choices) - 1 for choices in task.encoded.choices])
    problem = Problem(len(top), n_obj=1, n_ieq_constr=1, xl=0 * top, xu=top, vtype=int)
    algorithm = NSGA2(
        pop_size=20,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=RoundingRepair()),
        mutation=PM(repair=RoundingRepair()),
    )
    algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
    for _ in range(_FREE * task.evaluations // 20):
        if task.over:
            return
        children = algorithm.ask()
        if children is None:
            return
        for child in children:
            code = tuple(int(n) for n in child.X)
            fits = task.encoded.feasible(code) and not task.over
            child.F = np.array([-task.score(code) if fits else 0.0])
            child.G = np.array([task.encoded.load(code) - 1])
            child.evaluated = {"F", "G"}
        algorithm.tell(infills=children)


OUTSIDERS: dict[str, Outsider] = {"Optuna TPE": optuna_tpe, "pymoo NSGA-II": pymoo_nsga2}


def search(name: str, task: Task, seed: int) -> float:
    """Run one search; return what its proposals took for each evaluation, in ms."""
    begin = perf_counter()
    if name in OUTSIDERS:
        OUTSIDERS[name](task, seed)
    else:
        family, _, at_once = name.partition("@")
        black_box = BLACK_BOXES[family](task.encoded, seed=seed)
        while not task.over and (codes := black_box.ask_several(int(at_once or 1))):
            for code in codes[: task.evaluations - len(task.regrets)]:
                black_box.tell(code, task.score(code))
    return 1e3 * (perf_counter() - begin) / max(1, len(task.regrets))
