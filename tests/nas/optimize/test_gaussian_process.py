"""The process that predicts scores, against its equations, also when scores come and go."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from latbench.cost import network_cost
from nas.optimize.blackbox.features import Features, squared_distances
from nas.optimize.blackbox.gaussian_process import Codes, GaussianProcess, expected_improvement
from nas.optimize.constraints import Constraint, Count, Floats, Limit
from nas.optimize.encoding import EncodedSpace
from nas.optimize.enumeration import all_codes
from tests.conftest import make_small_space

SPACE = make_small_space()
MOST_MACS = 2.0 * network_cost(SPACE.lower(SPACE.largest())).macs
ENCODED = EncodedSpace(Constraint((Limit(Count(SPACE, "macs"), MOST_MACS),)))
LISTED = all_codes(ENCODED, 10_000)


def _listed() -> Codes:
    assert LISTED is not None
    return LISTED


def _scores(codes: Codes) -> Floats:
    return np.asarray(np.sin(codes).sum(axis=1) + 0.1 * np.cos(codes[:, 0] * codes[:, 1]))


def _posterior(process: GaussianProcess, codes: Codes, scores: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation at all listed encodings, by the textbook's equations."""
    theta = np.exp(process.log_weights[:-1])[process.features.layer_of]
    known, others = (process.features.of(c) * np.sqrt(theta) for c in (codes, _listed()))
    kernel = np.exp(-squared_distances(known, known))
    inverse = np.linalg.inv(kernel + np.exp(process.log_weights[-1]) * np.eye(len(codes)))
    cross = np.exp(-squared_distances(others, known))
    z = (scores - scores.mean()) / scores.std()
    mean = scores.mean() + scores.std() * cross @ inverse @ z
    variance = (z @ inverse @ z / len(z)) * (1 - np.einsum("ij,jk,ik->i", cross, inverse, cross))
    return mean, scores.std() * np.sqrt(np.maximum(variance, 0))


def test_predictions_are_those_of_the_equations_whatever_came_before() -> None:
    """Scores are added, replaced and taken back, as proposals without scores do."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(_listed()))
    process = GaussianProcess(Features(ENCODED), _listed())
    lists = [order[:n] for n in (5, 6, 7, 7, 12, 13)]
    lists += [order[:9], order[:10], np.append(order[:9], order[40:44]), order[:30], order[:31]]
    for chosen in lists:
        codes = _listed()[chosen]
        scores = _scores(codes) + 0.01 * rng.standard_normal(len(codes))
        process.fit(codes, scores)
        expected = _posterior(process, codes, scores)
        for found in (process.predict_listed(), process.predict(_listed())):
            assert found[0] == pytest.approx(expected[0], abs=1e-7)
            assert found[1] == pytest.approx(expected[1], abs=1e-5)


def test_the_process_learns_which_layers_matter() -> None:
    process = GaussianProcess(Features(ENCODED), _listed())
    codes = np.random.default_rng(1).permutation(_listed())[:60]
    process.fit(codes, codes[:, 2].astype(float))
    weights = process.log_weights[:-1]
    assert weights[2] == weights.max()


def test_the_expected_improvement_is_its_integral() -> None:
    mean, deviation, best = 0.3, 0.2, 0.4

    def gain(score: float) -> float:
        return float(max(score - best, 0.0) * norm.pdf(score, mean, deviation))

    found = expected_improvement((np.array([mean]), np.array([deviation])), best)
    assert found[0] == pytest.approx(quad(gain, best, best + 10 * deviation)[0], abs=1e-9)
