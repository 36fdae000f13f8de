"""Evaluation of an architecture generator during its training.

The answers within their budgets are evaluated on images that no training has used. The raw output,
before it is repaired, is compared with its budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nas.evaluators.base import Evaluator
from nas.generator import DecisionPlane, Generator, Request, answers
from nas.searchers.sgnas.budgets import Budgets
from nas.searchers.sgnas.recipe import SGNASRecipe
from nas.spaces import SearchSpace

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GeneratorScores:
    """Results of an evaluation, under the names that they have in metrics.

    Attributes:
        score: Mean fitness of the answers.
        kendall_tau: Rank correlation between budgets and costs of the raw output, averaged over
            kinds of cost; None if the costs of each kind are all equal.
        raw_error: Mean relative distance of the costs of the raw output from the budgets.
    """

    score: float
    kendall_tau: float | None
    raw_error: float


def evaluate_generator(
    generator: Generator,
    evaluator: Evaluator,
    *,
    space: SearchSpace,
    budgets: Budgets,
    recipe: SGNASRecipe,
) -> GeneratorScores:
    """Evaluate the answers and the raw output of a generator.

    Args:
        generator: Generator to evaluate.
        evaluator: Evaluator that scores the answers.
        space: Space of the answers, in the variant of the tables.
        budgets: Budgets of the requests.
        recipe: Settings of the training: the budget grid, and the number of answers.
    """
    taus, errors = [], []
    for row in budgets.grid(recipe.budgets):
        costs = row[0].limits[0].costs
        asked = [request.limits[0].budget for request in row]
        decoded = _decoded(generator, row, budgets.plane)
        raw = [costs.of(budgets.plane.outcomes_of(each)) for each in decoded]
        taus.append(float(kendalltau(asked, raw).statistic))
        errors += [abs(r / a - 1) for r, a in zip(raw, asked, strict=True)]
    made = answers(generator, space, budgets.selected(recipe.selected_on))
    finite = [tau for tau in taus if math.isfinite(tau)]  # undefined if all costs are equal
    return GeneratorScores(
        score=sum(evaluator.score(a.architecture) for a in made) / len(made),
        kendall_tau=sum(finite) / len(finite) if finite else None,
        raw_error=sum(errors) / len(errors),
    )


@torch.no_grad()
def _decoded(generator: Generator, requests: Sequence[Request], plane: DecisionPlane) -> Ints:
    """Choices of the raw output, ``(N, L, G)``."""
    choices: Ints = plane.decode(generator(requests)).cpu().numpy()
    return choices
